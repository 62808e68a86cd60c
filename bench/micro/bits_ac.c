/* bits_ac.c: T9, prints the bits of many reductions on a team of a given width.
 *
 *   bits_ac <width>
 *
 * Standard output holds nothing that may depend on the width, the compiler or
 * the instruction set; lines that begin with '#' tell whether the team really
 * took part. Each reduction runs several times, since what thread gets what
 * changes from run to run; a difference between those is an error.
 */
#include "player.h"
#include <allcores/allcores.h>

enum { SIZE = 1000003, REPEATS = 5 };

static double f64[SIZE];
static float f32[SIZE];

static void fill(void) {
  uint64_t random = 88172645463325252u;
  for (int i = 0; i < SIZE; i++) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    f64[i] = ((double)(random >> 11) * 0x1p-53 - 0.4) *
             (double)(UINT64_C(1) << (random & 31));
    f32[i] = (float)f64[i];
  }
}

/* ---- Monoids ----------------------------------------------------------- */

static void add(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(double *)left += *(const double *)right;
}

static ac_status fold_add(ac_range range, void *ctx, void *value) {
  double s = *(double *)value;
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    s += f64[i] * 1.1;
  *(double *)value = s;
  return AC_OK;
}

/* x → scale · x + shift; combining is composition, which does not commute. */
typedef struct affine {
  double scale, shift;
} affine;

static void compose(void *left, const void *right, void *ctx) {
  affine *l = left;
  const affine *r = right;
  (void)ctx;
  l->shift = r->scale * l->shift + r->shift;
  l->scale = r->scale * l->scale;
}

static ac_status fold_affine(ac_range range, void *ctx, void *value) {
  for (int64_t i = range.begin; i < range.end; i++) {
    const affine step = {1 - 0x1p-10 * (double)f32[i] / 4294967296.0, f64[i]};
    compose(value, &step, ctx);
  }
  return AC_OK;
}

static const double zero = 0;
static const affine same = {1, 0};
static const ac_monoid monoid_add = {sizeof(double), &zero, add};
static const ac_monoid monoid_affine = {sizeof(affine), &same, compose};

/* ---- Printing ---------------------------------------------------------- */

static int failures;

/* What is reduced: an array if `monoid` is NULL. */
typedef struct reduction {
  const char *name;
  const ac_monoid *monoid;
  ac_fold_fn fold;
  const ac_array *array;
  size_t size_bytes;
} reduction;

static ac_status reduce(const reduction *r, ac_team *team, int64_t n,
                        int64_t grain, void *ret) {
  if (!r->monoid)
    return ac_sum(team, r->array, NULL, ret);
  return ac_reduce(team, (ac_range){0, n}, grain, NULL, r->monoid, r->fold,
                   NULL, ret);
}

static void print(const reduction *r, ac_team *team, int64_t n, int64_t grain) {
  unsigned char first[16] = {0}, value[16] = {0};
  for (int i = 0; i < REPEATS; i++) {
    if (reduce(r, team, n, grain, i ? value : first) != AC_OK ||
        (i && memcmp(first, value, sizeof first) != 0))
      failures++;
  }
  printf("%s n=%lld grain=%lld ", r->name, (long long)n, (long long)grain);
  for (size_t i = 0; i < r->size_bytes; i++)
    printf("%02x", first[i]);
  printf("\n");
}

static void print_sums(ac_team *team, int64_t n) {
  const int64_t half = n / 2, two = 16, back = -8;
  const ac_array arrays[] = {
      {.data = f64, .dtype = AC_FLOAT64, .ndim = 1, .shape = &n},
      {.data = f32, .dtype = AC_FLOAT32, .ndim = 1, .shape = &n},
      {.data = f64, .dtype = AC_COMPLEX128, .ndim = 1, .shape = &half},
      {f64, AC_FLOAT64, 1, &half, &two},
      {f64 + SIZE - 1, AC_FLOAT64, 1, &n, &back},
  };
  const reduction sums[] = {
      {"sum float64", NULL, NULL, &arrays[0], 8},
      {"sum float32", NULL, NULL, &arrays[1], 4},
      {"sum complex128", NULL, NULL, &arrays[2], 16},
      {"sum float64, every second", NULL, NULL, &arrays[3], 8},
      {"sum float64, backwards", NULL, NULL, &arrays[4], 8},
  };
  for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
    print(&sums[i], team, n, 0);
}

static void print_folds(ac_team *team, int64_t n) {
  const reduction folds[] = {
      {"fold sum", &monoid_add, fold_add, NULL, 8},
      {"fold affine", &monoid_affine, fold_affine, NULL, 16},
  };
  const int64_t grains[] = {0, 1, 7, 1000, n + 1};
  for (size_t i = 0; i < sizeof folds / sizeof *folds; i++)
    for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
      print(&folds[i], team, n, grains[g]);
}

int main(int argc, char **argv) {
  static const int64_t sizes[] = {0,    1,    2,    15,    16,    17,  100,
                                  1023, 1024, 1025, 10000, 65537, SIZE};
  const ac_team_options options = {.width = argc > 1 ? atoi(argv[1]) : 0};
  ac_team *team;
  ac_counters counters;
  if (ac_team_create(&options, &team) != AC_OK) {
    printf("# error: no team of %d threads\n", options.width);
    return 1;
  }
  fill();
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    print_sums(team, sizes[i]);
    print_folds(team, sizes[i]);
  }
  ac_counters_read(team, &counters);
  printf("# width=%d regions=%llu shared=%llu threads=%llu failures=%d\n",
         options.width, (unsigned long long)counters.regions,
         (unsigned long long)(counters.regions - counters.regions_serial),
         (unsigned long long)counters.threads_started, failures);
  ac_team_destroy(team);
  return failures != 0;
}
