/* fib.c: fork and join at the cost of a few calls (allcores/spawn.h).
 *
 *   fib [N from 1 to 40]      default: 30
 *
 * Every call of fib() spawns one of its two children: 1.3 million spawns for N
 * = 30, no cut-off. Nobody should compute Fibonacci numbers like that; but a
 * tree of unequal, tiny tasks is what searches, quicksorts and mesh refinements
 * are.
 */
#include "example.h"

enum { ROUNDS = 3 };

typedef struct call {
  int n;
  int64_t value;
} call;

static void fib(ac_worker *worker, void *arg) {
  call *f = arg;
  if (f->n < 2) {
    f->value = f->n;
    return;
  }
  call a = {.n = f->n - 1};
  call b = {.n = f->n - 2};
  ac_strand strand;
  ac_spawn(worker, &strand, fib, &a); /* may run on another thread */
  fib(worker, &b);
  ac_sync(worker, &strand, fib, &a); /* runs it here if nobody took it */
  f->value = a.value + b.value;
}

static void run_ours(void *ctx) { check(ac_run(NULL, fib, ctx)); }

static int64_t fib_serial(int n) {
  return n < 2 ? n : fib_serial(n - 1) + fib_serial(n - 2);
}

static void run_serial(void *ctx) {
  call *f = ctx;
  f->value = fib_serial(f->n);
}

#ifdef _OPENMP
static int64_t fib_openmp(int n) {
  if (n < 2)
    return n;
  int64_t a;
#pragma omp task shared(a)
  a = fib_openmp(n - 1);
  int64_t b = fib_openmp(n - 2);
#pragma omp taskwait
  return a + b;
}

static void run_openmp(void *ctx) {
  call *f = ctx;
#pragma omp parallel num_threads(ac_budget())
#pragma omp single
  f->value = fib_openmp(f->n);
}
#else
#define run_openmp NULL
#endif

int main(int argc, char **argv) {
  const int n = (int)size_argument(argc, argv, 30, 40);
  call serial = {.n = n};
  call ours = {.n = n};
  call openmp = {.n = n};
  char what[64];
  timing t = take_turns(ROUNDS, (side){run_serial, &serial},
                        (side){run_ours, &ours}, (side){run_openmp, &openmp});
  require(ours.value == serial.value, "ours and the serial number differ");
  require(!HAS_OPENMP || openmp.value == serial.value,
          "OpenMP's number and the serial one differ");
  (void)snprintf(what, sizeof what, "fib(%d), a task for each call", n);
  print_timing(what, &t);
  printf("  fib(%d) = %lld\n", n, (long long)ours.value);
  return 0;
}
