/* clock_linux.c: clocks.
 *
 * The cheapest clock is the processor's time-stamp counter, where the kernel
 * itself keeps time by it: then it has one rate and one value on all cores.
 * The kernel says so in its current_clocksource ("tsc"). A guest that keeps
 * time by "kvm-clock" may use it too if the processor has an invariant counter
 * (Intel SDM vol. 3B, 18.17: CPUID 80000007h, EDX bit 8). Everywhere else ticks
 * are nanoseconds of CLOCK_MONOTONIC.
 *
 * Invariants: which of the two it is never changes in a process, nor does the
 * length of a tick once it is known.
 * Knows nothing of: what is timed.
 */
#define _GNU_SOURCE 1
#include "os/linux.h"
#include "os/os.h"

#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { NS_PER_S = 1000000000, CALIBRATION_NS = 500000, ANCHOR_TRIES = 8 };
enum { SOURCE_UNKNOWN, SOURCE_TSC, SOURCE_CLOCK };

static _Atomic uint32_t tick_source; /* SOURCE_… */
static _Atomic uint64_t tick_length; /* a double's bits, in ns; 0 = unknown */

static uint64_t read_clock_ns(clockid_t clock) {
  struct timespec now;
  (void)clock_gettime(clock, &now); /* cannot fail for these clocks */
  return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t ac__clock_ns(void) { return read_clock_ns(CLOCK_MONOTONIC); }

uint64_t ac__clock_thread_ns(void) {
  return read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

#if defined(__x86_64__)

static uint64_t read_counter(void) { return __builtin_ia32_rdtsc(); }

static bool counter_is_invariant(void) {
  unsigned a, b, c, d;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d >> 8 & 1) != 0;
}

static bool counter_is_trusted(void) {
  char name[64];
  if (ac__file_read(
          "/sys/devices/system/clocksource/clocksource0/current_clocksource",
          name, sizeof name) < 0)
    return false;
  return strcmp(name, "tsc\n") == 0 ||
         (strcmp(name, "kvm-clock\n") == 0 && counter_is_invariant());
}

#else

static uint64_t read_counter(void) { return ac__clock_ns(); }
static bool counter_is_trusted(void) { return false; }

#endif

/* Decide what ticks are. Threads that decide at once may see a different
 * answer (the clock source can change): the first to say so wins. */
static uint32_t decide_source(void) {
  uint32_t seen = SOURCE_UNKNOWN;
  uint32_t mine = counter_is_trusted() ? SOURCE_TSC : SOURCE_CLOCK;
  /* relaxed: the word is all there is to see. */
  if (atomic_compare_exchange_strong_explicit(&tick_source, &seen, mine,
                                              memory_order_relaxed,
                                              memory_order_relaxed))
    return mine;
  return seen;
}

uint64_t ac__ticks(void) {
  /* relaxed: as in decide_source(). */
  uint32_t source = atomic_load_explicit(&tick_source, memory_order_relaxed);
  if (__builtin_expect(source == SOURCE_UNKNOWN, 0))
    source = decide_source();
  return source == SOURCE_TSC ? read_counter() : ac__clock_ns();
}

typedef struct anchor {
  uint64_t ticks, ns;
} anchor;

/* Both clocks at one instant: of a few tries the one least disturbed. */
static anchor read_anchor(void) {
  anchor best = {0};
  uint64_t best_width = UINT64_MAX;
  for (int i = 0; i < ANCHOR_TRIES; i++) {
    uint64_t before = ac__ticks();
    uint64_t ns = ac__clock_ns();
    uint64_t width = ac__ticks() - before;
    if (width < best_width) {
      best_width = width;
      best = (anchor){.ticks = before + width / 2, .ns = ns};
    }
  }
  return best;
}

static double measure_tick_ns(void) {
  anchor begin = read_anchor();
  while (ac__clock_ns() - begin.ns < CALIBRATION_NS)
    ac__cpu_relax();
  anchor end = read_anchor();
  return (double)(end.ns - begin.ns) / (double)(end.ticks - begin.ticks);
}

double ac__tick_ns(void) {
  /* relaxed: the word is all there is to see. */
  uint64_t bits = atomic_load_explicit(&tick_length, memory_order_relaxed);
  double length = 1;
  if (bits == 0) {
    (void)ac__ticks(); /* decides the source */
    if (atomic_load_explicit(&tick_source, memory_order_relaxed) == SOURCE_TSC)
      length = measure_tick_ns();
    uint64_t mine;
    memcpy(&mine, &length, sizeof mine);
    /* relaxed: as above. Of threads that measure at once the first wins. */
    if (atomic_compare_exchange_strong_explicit(&tick_length, &bits, mine,
                                                memory_order_relaxed,
                                                memory_order_relaxed))
      bits = mine;
  }
  memcpy(&length, &bits, sizeof length);
  return length;
}
