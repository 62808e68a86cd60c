/* Clocks. */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/os.h"

#include <pthread.h>

TEST("the clock never goes back") {
  enum { READS = 100000 };
  uint64_t last = ac__clock_ns();
  for (int i = 0; i < READS; i++) {
    uint64_t now = ac__clock_ns();
    if (!CHECK(now >= last))
      return;
    last = now;
  }
}

TEST("a thread's processor time grows while it works") {
  uint64_t begin = ac__clock_thread_ns();
  while (ac__clock_thread_ns() - begin < 1000000)
    continue;
  CHECK(ac__clock_thread_ns() > begin);
}

static void *read_tick_ns(void *arg) {
  *(double *)arg = ac__tick_ns();
  return NULL;
}

TEST("threads that measure the tick at once agree on its length") {
  enum { THREADS = 4 };
  double lengths[THREADS];
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    if (!CHECK(pthread_create(&threads[i], NULL, read_tick_ns, &lengths[i]) ==
               0))
      return;
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  for (int i = 0; i < THREADS; i++)
    CHECK(lengths[i] == lengths[0] && lengths[i] > 0);
}

TEST("ticks and the clock measure the same time to a hundredth") {
  enum { TRIES = 20, SPAN_NS = 5000000 };
  /* A thread that loses its processor between two reads sees a difference;
   * not each time. */
  for (int i = 0; i < TRIES; i++) {
    uint64_t ns = ac__clock_ns(), ticks = ac__ticks();
    while (ac__clock_ns() - ns < SPAN_NS)
      ac__cpu_relax();
    double by_clock = (double)(ac__clock_ns() - ns);
    double by_ticks = (double)(ac__ticks() - ticks) * ac__tick_ns();
    if (by_ticks > 0.99 * by_clock && by_ticks < 1.01 * by_clock)
      return;
  }
  CHECK(!"ticks and the clock agree");
}

CHECK_MAIN
