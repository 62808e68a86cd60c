/* fib_tbb.cc: T3, the side of oneTBB: fib(a) in task_groups on b threads. */
#include "player.h"
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

static long fib(long n) {
  if (n < 2)
    return n;
  long a, b;
  tbb::task_group group;
  group.run([&a, n] { a = fib(n - 1); });
  b = fib(n - 2);
  group.wait();
  return a + b;
}

static void play(turn *t) {
  tbb::global_control threads(tbb::global_control::max_allowed_parallelism,
                              (size_t)t->b);
  static tbb::task_arena one(1), two(2);
  long value = 0;
  const double start = seconds_now();
  (t->b == 1 ? one : two).execute([&] { value = fib(t->a); });
  t->seconds = seconds_now() - start;
  t->answer = (uint64_t)value;
}

int main() {
  static const player_case cases[] = {{"fib", play}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
