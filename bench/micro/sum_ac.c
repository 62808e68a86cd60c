/* sum_ac.c: T4, both sides: the sum of a doubles by ac_sum(), and by the same
 * kernel run serially.
 *
 * The serial side is the tree of allcores/array.h written as a plain loop:
 * leaves of 1,024 elements, each in 16 lanes, the lanes halved, the leaves
 * combined pairwise by index. So both sides must give the same bits. Both read
 * the same memory, in one process; the driver gives them turns all the same, so
 * that the worker rests while the serial side runs.
 *
 *   clean  calls back to back, nothing written in between
 *   dirty  the caller writes all elements before each call, untimed
 *   awake  as clean, but the team's worker has just been used (untimed)
 */
#include "player.h"
#include <allcores/allcores.h>

enum { LANES = 16, LEAF = 1024, PATTERN = 4099, BURST = 20 };

typedef double (*sum_fn)(const double *x, int64_t n, const ac_site *site);

typedef double lanes4 __attribute__((vector_size(32), aligned(8), may_alias));

/* Add 16 elements to the lanes a0 … a15, held in four vectors. */
#define ADD_STEP(from)                                                         \
  {                                                                            \
    const lanes4 *const in = (const lanes4 *)(from);                           \
    a += in[0], b += in[1], c += in[2], d += in[3];                            \
  }

/* A leaf's sum; a macro, so that it is compiled anew for each target: vectors
 * that a target lacks are taken apart before anything is inlined. */
#define SUM_LEAF(name, target)                                                 \
  target static double name(const double *x, int64_t n) {                      \
    lanes4 a = {0}, b = {0}, c = {0}, d = {0};                                 \
    int64_t i = 0;                                                             \
    for (; i + LANES <= n; i += LANES)                                         \
      ADD_STEP(x + i)                                                          \
    if (i < n) {                                                               \
      double tail[LANES] = {0};                                                \
      memcpy(tail, x + i, sizeof *x * (size_t)(n - i));                        \
      ADD_STEP(tail)                                                           \
    }                                                                          \
    a += c, b += d, a += b;                                                    \
    return (a[0] + a[2]) + (a[1] + a[3]);                                      \
  }

SUM_LEAF(sum_leaf_any, )
#if defined(__x86_64__)
SUM_LEAF(sum_leaf_avx2, __attribute__((target("avx2"))))
#else
#define sum_leaf_avx2 sum_leaf_any
#endif

static double (*sum_leaf)(const double *x, int64_t n) = sum_leaf_any;

__attribute__((noinline)) static double sum_serial(const double *x, int64_t n,
                                                   const ac_site *site) {
  double stack[64];
  int top = 0;
  (void)site;
  for (int64_t leaf = 0; leaf * LEAF < n; leaf++) {
    const int64_t left = n - leaf * LEAF;
    double value = sum_leaf(x + leaf * LEAF, left < LEAF ? left : LEAF);
    for (int64_t bit = leaf; bit & 1; bit >>= 1)
      value = stack[--top] + value;
    stack[top++] = value;
  }
  while (top > 1) {
    stack[top - 2] += stack[top - 1];
    top--;
  }
  return top ? stack[0] : 0.0;
}

static double sum_ours(const double *x, int64_t n, const ac_site *site) {
  const ac_array array = {
      .data = x, .dtype = AC_FLOAT64, .ndim = 1, .shape = &n};
  ac_scalar sum = {.u64 = ~UINT64_C(0)};
  return ac_sum(NULL, &array, site, &sum) == AC_OK ? sum.f64 : -1.0;
}

/* ---- Data -------------------------------------------------------------- */

static double pattern[PATTERN];

static void fill(double *x, long n) {
  for (long i = 0; i < n; i += PATTERN)
    memcpy(x + i, pattern,
           sizeof *x * (size_t)(n - i < PATTERN ? n - i : PATTERN));
  touch(x);
}

/* One array for all cases, so that both sides read the same pages. */
static double *data(long n) {
  static double *x;
  static long size;
  uint64_t random = 88172645463325252u;
  if (size >= n)
    return x;
  for (int i = 0; i < PATTERN; i++) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    pattern[i] = (double)(random >> 11) * 0x1p-53 - 0.25;
  }
  free(x);
  size = n;
  x = aligned_alloc(4096, ((size_t)n * sizeof *x + 4095) / 4096 * 4096);
  if (x)
    fill(x, n);
  else
    size = 0;
  return x;
}

/* ---- Turns ------------------------------------------------------------- */

/* Calls that take about 2 ms serially. */
static long calls_for(long n) {
  const double calls = 2e-3 / (30e-9 + 0.13e-9 * (double)n);
  return calls < 1 ? 1 : (long)calls;
}

static void play_clean(turn *t, sum_fn sum, const ac_site *site) {
  const double *x = data(t->a);
  const long calls = calls_for(t->a);
  double value = 0;
  if (!x) {
    t->error = "no memory";
    return;
  }
  for (long i = 0; i < 3; i++)
    value = sum(x, t->a, site);
  const double start = seconds_now();
  for (long i = 0; i < calls; i++) {
    touch(x);
    value = sum(x, t->a, site);
  }
  t->seconds = (seconds_now() - start) / (double)calls;
  t->answer = bits_of(value);
}

/* What it costs to read the clock, in ticks. */
static double clock_cost(void) {
  double costs[1000];
  for (int i = 0; i < 1000; i++) {
    const int64_t start = ticks_now();
    costs[i] = (double)(ticks_now() - start);
  }
  return midmean_of(costs, 1000);
}

static void play_dirty(turn *t, sum_fn sum, const ac_site *site) {
  enum { CALLS_MAX = 2000 };
  static double times[CALLS_MAX];
  double *x = data(t->a);
  double value = 0;
  size_t calls = 0;
  if (!x) {
    t->error = "no memory";
    return;
  }
  const double clock = clock_cost(), tick = tick_seconds();
  const double until = seconds_now() + 10e-3;
  do {
    fill(x, t->a);
    const int64_t start = ticks_now();
    value = sum(x, t->a, site);
    times[calls++] = (double)(ticks_now() - start) - clock;
  } while (calls < CALLS_MAX && seconds_now() < until);
  t->seconds = tick * midmean_of(times, calls);
  t->answer = bits_of(value);
}

static ac_status nothing(ac_range range, void *ctx) {
  (void)range, (void)ctx;
  return AC_OK;
}

static void play_awake(turn *t, sum_fn sum, const ac_site *site) {
  double times[100], value = 0;
  const double *x = data(t->a);
  if (!x) {
    t->error = "no memory";
    return;
  }
  for (int burst = 0; burst < 100; burst++) {
    if (site && ac_team_each(NULL, 2, nothing, NULL) != AC_OK)
      t->error = "no worker";
    value = sum(x, t->a, site);
    const int64_t start = ticks_now();
    for (int i = 0; i < BURST; i++) {
      touch(x);
      value = sum(x, t->a, site);
    }
    times[burst] = (double)(ticks_now() - start) / BURST;
  }
  t->seconds = tick_seconds() * midmean_of(times, 100);
  t->answer = bits_of(value);
}

static const ac_site at_clean = AC_SITE("sum, clean");
static const ac_site at_dirty = AC_SITE("sum, dirty");
static const ac_site at_awake = AC_SITE("sum, awake");

static void clean(turn *t) { play_clean(t, sum_ours, &at_clean); }
static void dirty(turn *t) { play_dirty(t, sum_ours, &at_dirty); }
static void awake(turn *t) { play_awake(t, sum_ours, &at_awake); }
static void serial_clean(turn *t) { play_clean(t, sum_serial, NULL); }
static void serial_dirty(turn *t) { play_dirty(t, sum_serial, NULL); }
static void serial_awake(turn *t) { play_awake(t, sum_serial, NULL); }

int main(void) {
  static const player_case cases[] = {
      {"clean", clean},
      {"dirty", dirty},
      {"awake", awake},
      {"serial-clean", serial_clean},
      {"serial-dirty", serial_dirty},
      {"serial-awake", serial_awake},
  };
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2"))
    sum_leaf = sum_leaf_avx2;
#endif
  return player_main(cases, sizeof cases / sizeof *cases);
}
