/* reduce_test.c: reductions against the documented tree, built by recursion;
 * bit for bit, on teams of several widths. */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 200, LENGTH_MAX = 300000, TEXT = 64 };

static const int widths[] = {1, 2, 3, 8, 64};
enum { TEAMS = sizeof widths / sizeof *widths };

static ac_team *team_of(int i) {
  static ac_team *teams[TEAMS];
  if (teams[i] == NULL) {
    ac_team_options options = {.width = widths[i]};
    CHECK_INT(ac_team_create(&options, &teams[i]), AC_OK);
  }
  return teams[i];
}

static uint64_t mix(uint64_t x) {
  x += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static uint64_t state;
static uint64_t draw(void) {
  if (state == 0) {
    state = ac__clock_ns() | 1;
    printf("seed %llu\n", (unsigned long long)state);
  }
  return state = mix(state);
}

/* ---- The reference ------------------------------------------------------- */

static int64_t leaf_of(int64_t length, int64_t grain) {
  int64_t leaf = length / 256;
  leaf = leaf < 1 ? 1 : leaf > 1024 ? 1024 : leaf;
  return grain > 0 ? grain : leaf;
}

typedef struct tree {
  ac_range range;
  int64_t leaf;
  const ac_monoid *monoid;
  ac_fold_fn fold;
  void *ctx;
} tree;

/* Leaves [first, last): split at the largest power of two below their number.
 */
static void reference(const tree *tree, int64_t first, int64_t last,
                      void *ret_value) {
  if (last - first == 1) {
    int64_t begin = tree->range.begin + first * tree->leaf;
    int64_t left = tree->range.end - begin;
    memcpy(ret_value, tree->monoid->identity, tree->monoid->size_bytes);
    (void)tree->fold(
        (ac_range){begin, begin + (left < tree->leaf ? left : tree->leaf)},
        tree->ctx, ret_value);
    return;
  }
  int64_t half = 1;
  while (half * 2 < last - first)
    half *= 2;
  void *right = malloc(tree->monoid->size_bytes);
  reference(tree, first, first + half, ret_value);
  reference(tree, first + half, last, right);
  tree->monoid->combine(ret_value, right, tree->ctx);
  free(right);
}

static void check_reduce(ac_range range, int64_t grain, const ac_site *site,
                         const ac_monoid *monoid, ac_fold_fn fold, void *ctx) {
  int64_t length = range.end - range.begin;
  char *want = calloc(1, monoid->size_bytes);
  char *got = calloc(1, monoid->size_bytes);
  tree tree = {range, leaf_of(length, grain), monoid, fold, ctx};
  if (length > 0)
    reference(&tree, 0, (length - 1) / tree.leaf + 1, want);
  else
    memcpy(want, monoid->identity, monoid->size_bytes);
  for (int i = 0; i < TEAMS; i++) {
    memset(got, 0x5a, monoid->size_bytes);
    CHECK_INT(ac_reduce(team_of(i), range, grain, site, monoid, fold, ctx, got),
              AC_OK);
    if (!CHECK(memcmp(got, want, monoid->size_bytes) == 0))
      printf("  length %lld, grain %lld, %d threads\n", (long long)length,
             (long long)grain, widths[i]);
  }
  free(want);
  free(got);
}

/* ---- Monoids ------------------------------------------------------------- */

/* A double and float sum, whose bits tell the tree. */
typedef struct sums {
  double wide;
  float narrow;
  uint32_t pad;
} sums;
static const sums sums_zero = {0};

static void sums_add(void *left, const void *right, void *ctx) {
  sums *a = left;
  const sums *b = right;
  (void)ctx;
  a->wide += b->wide;
  a->narrow += b->narrow;
}

static ac_status sums_fold(ac_range range, void *ctx, void *value) {
  sums *sums = value;
  for (int64_t i = range.begin; i < range.end; i++) {
    double x = (double)mix((uint64_t)i) * 0x1p-64 - 0.3;
    sums->wide += x;
    sums->narrow += (float)x;
  }
  (void)ctx;
  return AC_OK;
}

/* The shape itself: a hash of the tree, which tells left from right. It is no
 * monoid at all; so nothing but the documented order gives its value. */
static const uint64_t shape_identity = 17;

static void shape_combine(void *left, const void *right, void *ctx) {
  uint64_t a, b;
  (void)ctx;
  memcpy(&a, left, sizeof a);
  memcpy(&b, right, sizeof b);
  a = mix(a * 3 + mix(b));
  memcpy(left, &a, sizeof a);
}

static ac_status shape_fold(ac_range range, void *ctx, void *value) {
  uint64_t a;
  (void)ctx;
  memcpy(&a, value, sizeof a);
  for (int64_t i = range.begin; i < range.end; i++)
    a = mix(a ^ (uint64_t)i);
  memcpy(value, &a, sizeof a);
  return AC_OK;
}

/* Text: the first and last letters of what was put together, and its length. */
typedef struct text {
  int64_t length;
  char head[TEXT], tail[TEXT];
} text;
static const text text_empty = {0};

static void text_append(text *text, char letter) {
  if (text->length < TEXT)
    text->head[text->length] = letter;
  memmove(text->tail, text->tail + 1, TEXT - 1);
  text->tail[TEXT - 1] = letter;
  text->length++;
}

static void text_combine(void *left, const void *right, void *ctx) {
  text *a = left;
  const text *b = right;
  (void)ctx;
  int64_t heads = b->length < TEXT ? b->length : TEXT;
  for (int64_t i = 0; i < heads && a->length + i < TEXT; i++)
    a->head[a->length + i] = b->head[i];
  memmove(a->tail, a->tail + heads, (size_t)(TEXT - heads));
  memcpy(a->tail + TEXT - heads, b->tail + TEXT - heads, (size_t)heads);
  a->length += b->length;
}

static ac_status text_fold(ac_range range, void *ctx, void *value) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    text_append(value, (char)('a' + mix((uint64_t)i) % 26));
  return AC_OK;
}

/* ---- Tests --------------------------------------------------------------- */

static const ac_monoid sums_monoid = {sizeof(sums), &sums_zero, sums_add};
static const ac_monoid shape_monoid = {sizeof(uint64_t), &shape_identity,
                                       shape_combine};
static const ac_monoid text_monoid = {sizeof(text), &text_empty, text_combine};

static int64_t draw_length(void) {
  uint64_t kind = draw() % 4;
  return (int64_t)(draw() % (kind == 0   ? 20
                             : kind == 1 ? 600
                             : kind == 2 ? 5000
                                         : LENGTH_MAX));
}

TEST("a reduction is the documented tree, on any number of threads") {
  static const ac_site sites[2] = {AC_SITE("one"), AC_SITE("two")};
  for (int round = 0; round < ROUNDS; round++) {
    int64_t length = draw_length();
    int64_t begin = (int64_t)(draw() % 2000) - 1000;
    int64_t grain = draw() % 2 ? 0 : (int64_t)(1 + draw() % 3000);
    check_reduce((ac_range){begin, begin + length}, grain,
                 draw() % 2 ? NULL : &sites[0], &shape_monoid, shape_fold,
                 NULL);
  }
}

TEST("sums of doubles and floats have the same bits on any number of threads") {
  for (int round = 0; round < ROUNDS / 2; round++)
    check_reduce((ac_range){-5, draw_length()}, draw() % 3 ? 0 : 37, NULL,
                 &sums_monoid, sums_fold, NULL);
}

TEST("text is put together in order") {
  for (int round = 0; round < ROUNDS / 4; round++) {
    int64_t length = draw_length() / 8;
    check_reduce((ac_range){0, length}, 0, NULL, &text_monoid, text_fold, NULL);
    text whole = text_empty, got;
    (void)text_fold((ac_range){0, length}, NULL, &whole);
    CHECK_INT(ac_reduce(team_of(3), (ac_range){0, length}, 3, NULL,
                        &text_monoid, text_fold, NULL, &got),
              AC_OK);
    CHECK(memcmp(&got, &whole, sizeof got) == 0);
  }
}

TEST("lengths around leaves and blocks are reduced by the tree") {
  static const int64_t edges[] = {1,    2,      255,    256,     257,    511,
                                  512,  1023,   1024,   1025,    2047,   2048,
                                  4095, 262143, 262144, 1048575, 1048577};
  for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
    check_reduce((ac_range){INT64_MIN, INT64_MIN + edges[i]}, 0, NULL,
                 &shape_monoid, shape_fold, NULL);
    check_reduce((ac_range){INT64_MAX - edges[i], INT64_MAX}, edges[i], NULL,
                 &shape_monoid, shape_fold, NULL);
  }
}

TEST("an empty range gives the identity") {
  check_reduce((ac_range){3, 3}, 0, NULL, &shape_monoid, shape_fold, NULL);
  check_reduce((ac_range){-3, -3}, 9, NULL, &text_monoid, text_fold, NULL);
}

enum { LARGE = 1 << 20 };

static void large_combine(void *left, const void *right, void *ctx) {
  uint64_t *a = left;
  const uint64_t *b = right;
  (void)ctx;
  for (size_t i = 0; i < LARGE / sizeof *a; i += 1024)
    a[i] = a[i] * 31 + b[i];
}

static ac_status large_fold(ac_range range, void *ctx, void *value) {
  uint64_t *a = value;
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    for (size_t k = 0; k < LARGE / sizeof *a; k += 1024)
      a[k] += mix((uint64_t)i + k);
  return AC_OK;
}

TEST("values of 1 MiB are reduced; larger ones are refused") {
  void *zero = calloc(1, LARGE);
  ac_monoid monoid = {LARGE, zero, large_combine};
  check_reduce((ac_range){0, 40}, 3, NULL, &monoid, large_fold, NULL);
  check_reduce((ac_range){0, 9}, 0, NULL, &monoid, large_fold, NULL);
  monoid.size_bytes++;
  CHECK_INT(ac_reduce(NULL, (ac_range){0, 9}, 0, NULL, &monoid, large_fold,
                      NULL, zero),
            AC_E_INVAL);
  free(zero);
}

static ac_status bad_fold(ac_range range, void *ctx, void *value) {
  const int64_t *at = ctx;
  (void)value;
  return range.begin <= *at && *at < range.end ? 9 : AC_OK;
}

TEST("a fold's status comes out and leaves the result untouched") {
  for (int i = 0; i < TEAMS; i++)
    for (int round = 0; round < 20; round++) {
      uint64_t value = 5;
      int64_t at = (int64_t)(draw() % 5000);
      CHECK_INT(ac_reduce(team_of(i), (ac_range){0, 5000}, 0, NULL,
                          &shape_monoid, bad_fold, &at, &value),
                9);
      CHECK_INT(value, 5);
    }
}

TEST("arguments that are not allowed are refused") {
  uint64_t value = 5;
  ac_range range = {0, 9};
  ac_monoid monoid = shape_monoid;
#define REFUSED(range, grain, monoid, fold)                                    \
  CHECK_INT(ac_reduce(NULL, range, grain, NULL, monoid, fold, NULL, &value),   \
            AC_E_INVAL)
  REFUSED(((ac_range){1, 0}), 0, &monoid, shape_fold);
  REFUSED(((ac_range){INT64_MIN, INT64_MAX}), 0, &monoid, shape_fold);
  REFUSED(range, -1, &monoid, shape_fold);
  REFUSED(range, 0, NULL, shape_fold);
  REFUSED(range, 0, &monoid, NULL);
  monoid.size_bytes = 0;
  REFUSED(range, 0, &monoid, shape_fold);
  monoid = shape_monoid;
  monoid.combine = NULL;
  REFUSED(range, 0, &monoid, shape_fold);
  monoid = shape_monoid;
  monoid.identity = NULL;
  REFUSED(range, 0, &monoid, shape_fold);
  CHECK_INT(value, 5);
}

static ac_status nested_fold(ac_range range, void *ctx, void *value) {
  uint64_t a, b;
  memcpy(&a, value, sizeof a);
  for (int64_t i = range.begin; i < range.end; i++) {
    ac_status status = ac_reduce(ctx, (ac_range){i, i + 700}, 0, NULL,
                                 &shape_monoid, shape_fold, NULL, &b);
    if (status != AC_OK)
      return status;
    a = mix(a + b);
  }
  memcpy(value, &a, sizeof a);
  return AC_OK;
}

TEST("a reduction inside a reduction's fold keeps both trees") {
  for (int i = 0; i < TEAMS; i++)
    check_reduce((ac_range){0, 90}, 0, NULL, &shape_monoid, nested_fold,
                 team_of(i));
}

TEST("the teams end") {
  for (int i = 0; i < TEAMS; i++)
    ac_team_destroy(team_of(i));
}

CHECK_MAIN
