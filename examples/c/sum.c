/* sum.c: two reductions over many numbers: their sum, by ac_sum(), and their
 * mean and variance, by ac_reduce() with a value type of our own.
 *
 *   sum [SIZE]      default: 100,000,000 doubles, 800 MB
 *
 * Beside each the serial loop and OpenMP's reduction, with the same inner
 * loops: eight sums side by side, so that the compiler may use vectors.
 * (ac_sum() has an inner loop of its own.) A loop with one sum must add in
 * order, and takes several times as long; it is printed too.
 */
#include "example.h"

#include <math.h>
#include <string.h>

enum { LANES = 8, BLOCK = 1024, ROUNDS = 3 };

typedef struct numbers {
  const double *x;
  int64_t count;
  double sum; /* what the last run found */
} numbers;

/* ---- The numbers: uniform in [0, 1), by a hash of their index ------------ */

static ac_status fill(ac_range range, void *ctx) {
  double *x = ctx;
  for (int64_t i = range.begin; i < range.end; i++) {
    uint64_t bits = ((uint64_t)i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    x[i] = (double)((bits ^ (bits >> 31)) >> 11) * 0x1p-53;
  }
  return AC_OK;
}

/* ---- The sum ------------------------------------------------------------- */

static double sum_range(const double *x, int64_t begin, int64_t end) {
  double lane[LANES] = {0};
  double sum = 0;
  int64_t i = begin;
  for (; i + LANES <= end; i += LANES)
    for (int k = 0; k < LANES; k++)
      lane[k] += x[i + k];
  for (; i < end; i++)
    sum += x[i];
  for (int k = 0; k < LANES; k++)
    sum += lane[k];
  return sum;
}

static void sum_in_order(void *ctx) {
  numbers *n = ctx;
  double sum = 0;
  for (int64_t i = 0; i < n->count; i++)
    sum += n->x[i];
  n->sum = sum;
}

static void sum_serial(void *ctx) {
  numbers *n = ctx;
  n->sum = sum_range(n->x, 0, n->count);
}

static void sum_ours(void *ctx) {
  numbers *n = ctx;
  const ac_array array = {n->x, AC_FLOAT64, 1, &n->count, NULL};
  ac_scalar sum;
  check(ac_sum(NULL, &array, NULL, &sum));
  n->sum = sum.f64;
}

#ifdef _OPENMP
static void sum_openmp(void *ctx) {
  numbers *n = ctx;
  double sum = 0;
  int64_t blocks = (n->count + BLOCK - 1) / BLOCK;
#pragma omp parallel for reduction(+ : sum) num_threads(ac_budget())
  for (int64_t block = 0; block < blocks; block++) {
    int64_t begin = block * BLOCK;
    int64_t end = begin + BLOCK < n->count ? begin + BLOCK : n->count;
    sum += sum_range(n->x, begin, end);
  }
  n->sum = sum;
}
#else
#define sum_openmp NULL
#endif

/* ---- Mean and variance ------------------------------------------------------
 * A value that can be put together from parts (Chan, Golub and LeVeque, The
 * American Statistician 37, 1983). */

typedef struct moments {
  double count, mean, squares; /* squares: of the distances from the mean */
} moments;

static void merge(moments *left, const moments *right) {
  double count = left->count + right->count;
  if (right->count == 0)
    return;
  double distance = right->mean - left->mean;
  left->mean += distance * right->count / count;
  left->squares +=
      right->squares + distance * distance * left->count * right->count / count;
  left->count = count;
}

/* The moments of at most BLOCK numbers, which stay in the first cache. */
static moments moments_of(const double *x, int64_t begin, int64_t end) {
  double count = (double)(end - begin);
  double mean = sum_range(x, begin, end) / count;
  double lane[LANES] = {0};
  double squares = 0;
  int64_t i = begin;
  for (; i + LANES <= end; i += LANES)
    for (int k = 0; k < LANES; k++)
      lane[k] += (x[i + k] - mean) * (x[i + k] - mean);
  for (; i < end; i++)
    squares += (x[i] - mean) * (x[i] - mean);
  for (int k = 0; k < LANES; k++)
    squares += lane[k];
  return (moments){count, mean, squares};
}

typedef struct survey {
  const double *x;
  int64_t count;
  moments found;
} survey;

static moments block_moments(const survey *s, int64_t block) {
  int64_t begin = block * BLOCK;
  int64_t end = begin + BLOCK < s->count ? begin + BLOCK : s->count;
  return moments_of(s->x, begin, end);
}

static void survey_serial(void *ctx) {
  survey *s = ctx;
  moments all = {0};
  for (int64_t block = 0; block * BLOCK < s->count; block++) {
    moments part = block_moments(s, block);
    merge(&all, &part);
  }
  s->found = all;
}

/* For ac_reduce(): *value = *value with the numbers of the range. The library
 * calls it for at most BLOCK numbers at a time, since that is the grain. */
static ac_status fold(ac_range range, void *ctx, void *value) {
  const survey *s = ctx;
  moments part = moments_of(s->x, range.begin, range.end);
  merge(value, &part);
  return AC_OK;
}

static void combine(void *left, const void *right, void *ctx) {
  (void)ctx;
  merge(left, right);
}

static void survey_ours(void *ctx) {
  static const moments none = {0};
  const ac_monoid monoid = {sizeof none, &none, combine};
  survey *s = ctx;
  check(ac_reduce(NULL, (ac_range){0, s->count}, BLOCK, NULL, &monoid, fold, s,
                  &s->found));
}

#ifdef _OPENMP
#pragma omp declare reduction(merge:moments                                    \
                              : merge(&omp_out, &omp_in))                      \
    initializer(omp_priv = {0})

static void survey_openmp(void *ctx) {
  survey *s = ctx;
  moments all = {0};
  int64_t blocks = (s->count + BLOCK - 1) / BLOCK;
#pragma omp parallel for reduction(merge : all) num_threads(ac_budget())
  for (int64_t block = 0; block < blocks; block++) {
    moments part = block_moments(s, block);
    merge(&all, &part);
  }
  s->found = all;
}
#else
#define survey_openmp NULL
#endif

/* ---- The program --------------------------------------------------------- */

static int is_near(double a, double b) {
  return fabs(a - b) <= 1e-9 * (1 + fabs(b));
}

/* One thread must find what the team found, to the last bit. */
static void require_same_bits(const numbers *n, const survey *s) {
  numbers one_sum = *n;
  survey one_survey = *s;
  ac_limit_token token;
  check(ac_limit_hold(1, &token));
  sum_ours(&one_sum);
  survey_ours(&one_survey);
  ac_limit_release(&token);
  require(memcmp(&one_sum.sum, &n->sum, sizeof n->sum) == 0,
          "ac_sum() on one thread has other bits");
  require(memcmp(&one_survey.found, &s->found, sizeof s->found) == 0,
          "ac_reduce() on one thread has other bits");
}

static void show_sum(numbers *ours) {
  numbers in_order = *ours;
  numbers serial = *ours;
  numbers openmp = *ours;
  double in_order_ms = 0;
  char what[64];
  take_turn(&(side){sum_in_order, &in_order}, &in_order_ms);
  timing t = take_turns(ROUNDS, (side){sum_serial, &serial},
                        (side){sum_ours, ours}, (side){sum_openmp, &openmp});
  require(is_near(serial.sum, in_order.sum), "the serial sums differ");
  require(is_near(ours->sum, in_order.sum), "ours and the serial sum differ");
  require(!HAS_OPENMP || is_near(openmp.sum, in_order.sum),
          "OpenMP's sum and the serial one differ");
  (void)snprintf(what, sizeof what, "sum of %lld doubles",
                 (long long)ours->count);
  print_timing(what, &t);
  printf("  serial with a single sum, in order: %.1f ms\n", in_order_ms);
  printf("  the sum: %.6f\n", ours->sum);
}

static int are_near(const moments *a, const moments *b) {
  return a->count == b->count && is_near(a->mean, b->mean) &&
         is_near(a->squares, b->squares);
}

static void show_survey(survey *ours) {
  survey serial = *ours;
  survey openmp = *ours;
  char what[64];
  timing t =
      take_turns(ROUNDS, (side){survey_serial, &serial},
                 (side){survey_ours, ours}, (side){survey_openmp, &openmp});
  require(are_near(&ours->found, &serial.found),
          "ours and the serial moments differ");
  require(!HAS_OPENMP || are_near(&openmp.found, &serial.found),
          "OpenMP's moments and the serial ones differ");
  (void)snprintf(what, sizeof what, "mean and variance of %lld doubles",
                 (long long)ours->count);
  print_timing(what, &t);
  printf("  mean %.6f, variance %.6f\n", ours->found.mean,
         ours->found.squares / ours->found.count);
}

int main(int argc, char **argv) {
  int64_t count = size_argument(argc, argv, 100000000, INT64_C(1) << 32);
  double *x = malloc((size_t)count * sizeof *x);
  require(x != NULL, "memory for the numbers was refused: give a smaller SIZE");
  check(ac_for(NULL, (ac_range){0, count}, 0, NULL, fill, x));
  numbers n = {.x = x, .count = count};
  survey s = {.x = x, .count = count};
  show_sum(&n);
  show_survey(&s);
  require_same_bits(&n, &s);
  printf("on one thread both have the same bits\n");
  free(x);
  return 0;
}
