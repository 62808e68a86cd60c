/* fib_openmp.c: T3, the side of OpenMP tasks: fib(a) on b threads. */
#include "player.h"

static long fib(long n) {
  if (n < 2)
    return n;
  long a, b;
#pragma omp task shared(a)
  a = fib(n - 1);
  b = fib(n - 2);
#pragma omp taskwait
  return a + b;
}

static void play(turn *t) {
  long value = 0;
  const double start = seconds_now();
#pragma omp parallel num_threads((int)t->b)
#pragma omp single
  value = fib(t->a);
  t->seconds = seconds_now() - start;
  t->answer = (uint64_t)value;
}

int main(void) {
  static const player_case cases[] = {{"fib", play}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
