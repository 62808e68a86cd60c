/* sum.c: ac_sum(), the sum of a typed array of any strides.
 *
 * Pairwise summation (Higham, SIAM J. Sci. Comput. 14, 1993) on a tree that the
 * number of elements fixes: leaves of 1,024 elements in C order, each summed in
 * virtual lanes (sum_kernels.h), the leaves combined by ac_reduce().
 *
 * Three ways to a leaf, the same bits from each:
 *   - it lies in one piece in memory: the kernel reads it there;
 *   - it does not: it is gathered into a buffer first, together with its
 *     neighbours if they share cache lines, as in a transposed array;
 *   - the array has a few leaves at most: the caller does it, and no team is
 *     asked.
 * Sums of integers do not depend on the order, so their axes are turned and
 * sorted until they lie as nearly in one piece as they can.
 *
 * Invariants: memory is allocated for gathered groups only; a NaN comes out as
 * the one quiet positive NaN, since which of two NaNs an addition keeps is the
 * compiler's choice.
 *
 * Knows nothing of: threads; ac_reduce() decides who runs which leaf.
 */
#include "algo/sum.h"
#include "algo/loop.h"
#include "base/status.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "sum.c needs additions in the order written: no -ffast-math"
#endif
_Static_assert(FLT_EVAL_METHOD == 0, "each addition rounds to its own type");

enum {
  COUNT_RANK_MAX = 58, /* an array has 2^58 elements at most */
  SEGMENT_RANK = 26,   /* one region sums 2^26 at most: 3 ms and more */
  TALLY_RANKS = COUNT_RANK_MAX - SEGMENT_RANK + 1,
  DENSE_ALONE = 4096, /* elements: 0.3 us */
  GROUPS_MAX = 512,   /* units of a loop over an array in one piece */
  LEAVES_MAX = (1 << (SEGMENT_RANK - 10)) / GROUPS_MAX, /* of one of them */
  TILE_ROWS = 8, /* read together where they are neighbours in memory */
  GROUP_BYTES_MAX = 1 << 20 /* gathered at a time */
};
#define SEGMENT (INT64_C(1) << SEGMENT_RANK)

/* ---- The kernels: every type in vectors of 16 bytes, and of 32 ---------- */

#define TAKE_AS_IS(v)   (v)
#define TAKE_IS_TRUE(v) (-((v) != 0)) /* a true comparison is -1 */
#define TAKE_I8(v)      __builtin_convertvector(v, LEAF_SUFFIX(sum_i8_half))
#define TAKE_U8(v)      __builtin_convertvector(v, LEAF_SUFFIX(sum_u8_half))

#define LEAF_BYTES 16
#define LEAF_TARGET
#define LEAF_SUFFIX(n) n##_w16
#include "algo/sum_types.h"
#undef LEAF_BYTES
#undef LEAF_TARGET
#undef LEAF_SUFFIX

#if defined(__x86_64__)
#define LEAF_BYTES     32
#define LEAF_TARGET    __attribute__((target("avx2")))
#define LEAF_SUFFIX(n) n##_w32
#include "algo/sum_types.h"
#undef LEAF_BYTES
#undef LEAF_TARGET
#undef LEAF_SUFFIX
#endif

#define KERNELS(width)                                                         \
  {                                                                            \
    [AC_BOOL] = sum_bool_##width, [AC_INT8] = sum_i8_##width,                  \
    [AC_INT16] = sum_i16_##width, [AC_INT32] = sum_i32_##width,                \
    [AC_INT64] = sum_u64_##width, [AC_UINT8] = sum_u8_##width,                 \
    [AC_UINT16] = sum_u16_##width, [AC_UINT32] = sum_u32_##width,              \
    [AC_UINT64] = sum_u64_##width, [AC_FLOAT32] = sum_f32_##width,             \
    [AC_FLOAT64] = sum_f64_##width, [AC_COMPLEX64] = sum_c64_##width,          \
    [AC_COMPLEX128] = sum_c128_##width,                                        \
  }

ac__sum_leaf_fn ac__sum_leaf(ac_dtype dtype, ac__sum_width width) {
  static const ac__sum_leaf_fn w16[AC_DTYPE_COUNT] = KERNELS(w16);
#if defined(__x86_64__)
  static const ac__sum_leaf_fn w32[AC_DTYPE_COUNT] = KERNELS(w32);
  if (width != AC__SUM_W16 && __builtin_cpu_supports("avx2"))
    return w32[dtype];
#endif
  return width == AC__SUM_W32 ? NULL : w16[dtype];
}

/* ---- Types -------------------------------------------------------------- */

static void add_u64(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(uint64_t *)left += *(const uint64_t *)right;
}

static void add_f32(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(float *)left += *(const float *)right;
}

static void add_f64(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(double *)left += *(const double *)right;
}

static void add_c64(void *left, const void *right, void *ctx) {
  add_f32(left, right, ctx);
  add_f32((float *)left + 1, (const float *)right + 1, ctx);
}

static void add_c128(void *left, const void *right, void *ctx) {
  add_f64(left, right, ctx);
  add_f64((double *)left + 1, (const double *)right + 1, ctx);
}

/* Sum `count` values by halving: neighbours, then neighbours of those, an odd
 * one at the end as it is. The same tree as ac_reduce()'s. The sum is sums[0].
 */
#define HALVE(name, type, parts)                                               \
  static void name(void *values, int64_t count) {                              \
    type *sums = values;                                                       \
    for (; count > 1; count = (count + 1) / 2) {                               \
      for (int64_t i = 0; i < count / 2; i++)                                  \
        for (int part = 0; part < (parts); part++)                             \
          sums[i * (parts) + part] = sums[2 * i * (parts) + part] +            \
                                     sums[(2 * i + 1) * (parts) + part];       \
      if (count % 2 == 1)                                                      \
        for (int part = 0; part < (parts); part++)                             \
          sums[count / 2 * (parts) + part] =                                   \
              sums[(count - 1) * (parts) + part];                              \
    }                                                                          \
  }
HALVE(halve_u64, uint64_t, 1)
HALVE(halve_f32, float, 1)
HALVE(halve_f64, double, 1)
HALVE(halve_c64, float, 2)
HALVE(halve_c128, double, 2)

static const ac_scalar zero;

/* What ac_sum() knows of an element type. */
typedef struct type_info {
  int64_t item_bytes;
  bool any_order; /* the sum does not depend on the order of elements */
  ac_monoid monoid;
  void (*halve)(void *values, int64_t count);
} type_info;

#define INTEGER(type)                                                          \
  { sizeof(type), true, {sizeof(int64_t), &zero, add_u64}, halve_u64 }
#define REAL(type, parts, suffix)                                              \
  {                                                                            \
    sizeof(type) * (parts), false,                                             \
        {sizeof(type) * (parts), &zero, add_##suffix}, halve_##suffix          \
  }

static const type_info types[AC_DTYPE_COUNT] = {
    [AC_BOOL] = INTEGER(uint8_t),
    [AC_INT8] = INTEGER(int8_t),
    [AC_INT16] = INTEGER(int16_t),
    [AC_INT32] = INTEGER(int32_t),
    [AC_INT64] = INTEGER(int64_t),
    [AC_UINT8] = INTEGER(uint8_t),
    [AC_UINT16] = INTEGER(uint16_t),
    [AC_UINT32] = INTEGER(uint32_t),
    [AC_UINT64] = INTEGER(uint64_t),
    [AC_FLOAT32] = REAL(float, 1, f32),
    [AC_FLOAT64] = REAL(double, 1, f64),
    [AC_COMPLEX64] = REAL(float, 2, c64),
    [AC_COMPLEX128] = REAL(double, 2, c128),
};

/* Where the cost of loops is learned if the caller names no place: by type, and
 * apart for arrays that have to be gathered. */
#define SITE(suffix, type, sum) [AC_##suffix] = AC_SITE("ac_sum " #suffix),
#define SITE_GATHERED(suffix, type, sum)                                       \
  [AC_##suffix] = AC_SITE("ac_sum " #suffix ", gathered"),
static const ac_site sites[AC_DTYPE_COUNT] = {AC_DTYPE_TABLE(SITE)};
static const ac_site sites_gathered[AC_DTYPE_COUNT] = {
    AC_DTYPE_TABLE(SITE_GATHERED)};

/* ---- Walking an array in C order ----------------------------------------- */

/* An array ready to be folded: axes of one element are gone, neighbours that
 * one stride can walk are one axis. */
typedef struct walk {
  const char *data;
  int64_t item_bytes;
  ac__sum_leaf_fn leaf;
  const ac_monoid *monoid;
  int64_t group; /* elements gathered at a time: 2^k leaves */
  int ndim;
  int64_t shape[AC_RANK_MAX];
  int64_t strides_bytes[AC_RANK_MAX];
} walk;

/* Put an axis behind the walk's last, or join it to that. */
static void walk_push(walk *w, int64_t extent, int64_t stride) {
  int last = w->ndim - 1;
  if (extent == 1)
    return;
  if (last >= 0 && w->strides_bytes[last] == stride * extent) {
    w->shape[last] *= extent;
    w->strides_bytes[last] = stride;
    return;
  }
  w->shape[w->ndim] = extent;
  w->strides_bytes[w->ndim++] = stride;
}

static bool is_wider(int64_t stride, int64_t other) {
  return other != 0 && (stride == 0 || stride > other);
}

/* For integers: make every stride positive and the widest first. An axis that
 * repeats counts as the widest, so that what it repeats stays in one piece. */
static void walk_straighten(walk *w) {
  int ndim = w->ndim;
  for (int a = 0; a < ndim; a++) {
    int64_t extent = w->shape[a], stride = w->strides_bytes[a];
    if (stride < 0) {
      w->data += stride * (extent - 1);
      stride = -stride;
    }
    int at = a;
    for (; at > 0 && is_wider(stride, w->strides_bytes[at - 1]); at--) {
      w->shape[at] = w->shape[at - 1];
      w->strides_bytes[at] = w->strides_bytes[at - 1];
    }
    w->shape[at] = extent;
    w->strides_bytes[at] = stride;
  }
  w->ndim = 0;
  for (int a = 0; a < ndim; a++)
    walk_push(w, w->shape[a], w->strides_bytes[a]);
}

/* True if neighbours in memory are rather of different rows than of one. */
static bool is_across_memory(const walk *w) {
  return w->ndim > 1 && llabs(w->strides_bytes[w->ndim - 2]) <
                            llabs(w->strides_bytes[w->ndim - 1]);
}

/* Elements of a group of leaves that holds a tile of whole rows; one leaf if
 * the rows are too long to be read together. */
static int64_t group_elements(int64_t row, int64_t item_bytes) {
  int64_t group = AC__SUM_LEAF;
  while (group < TILE_ROWS * row && group * item_bytes < GROUP_BYTES_MAX)
    group *= 2;
  return group < 2 * row ? AC__SUM_LEAF : group;
}

static void walk_init(walk *w, const ac_array *array, ac__sum_leaf_fn leaf) {
  const type_info *type = &types[array->dtype];
  w->data = array->data;
  w->item_bytes = type->item_bytes;
  w->leaf = leaf;
  w->monoid = &type->monoid;
  w->group = AC__SUM_LEAF;
  w->ndim = 0;
  for (int a = 0; a < array->ndim; a++)
    walk_push(w, array->shape[a], array->strides_bytes[a]);
  if (type->any_order)
    walk_straighten(w);
  if (is_across_memory(w))
    w->group = group_elements(w->shape[w->ndim - 1], w->item_bytes);
}

static bool walk_is_dense(const walk *w) {
  return w->ndim == 0 || (w->ndim == 1 && w->strides_bytes[0] == w->item_bytes);
}

/* Copy `count` items that lie `stride` bytes apart to places `step` bytes
 * apart.
 */
static inline void scatter(char *to, const char *from, int64_t count,
                           int64_t stride, int64_t step, int64_t item_bytes) {
#define SCATTER(size)                                                          \
  case size:                                                                   \
    for (int64_t i = 0; i < count; i++)                                        \
      memcpy(to + i * step, from + i * stride, size);                          \
    break
  switch (item_bytes) {
    SCATTER(1);
    SCATTER(2);
    SCATTER(4);
    SCATTER(8);
    SCATTER(16);
  }
#undef SCATTER
}

/* Copy `count` items that lie `stride` bytes apart to one piece. */
static void gather(char *to, const char *from, int64_t count, int64_t stride,
                   int64_t item_bytes) {
  if (stride == item_bytes)
    memcpy(to, from, (size_t)(count * item_bytes));
  else
    scatter(to, from, count, stride, item_bytes, item_bytes);
}

/* Where element `begin` lies, and its index on every axis. */
static const char *walk_seek(const walk *w, int64_t begin, int64_t *ret_index) {
  const char *from = w->data;
  for (int a = w->ndim - 1; a >= 0; a--) {
    ret_index[a] = begin % w->shape[a];
    begin /= w->shape[a];
    from += ret_index[a] * w->strides_bytes[a];
  }
  return from;
}

/* Copy `rows` whole rows of the last axis. Where neighbours in memory are of
 * different rows they are read together, TILE_ROWS at a time. */
static void gather_rows(const walk *w, char *to, const char *from,
                        int64_t rows) {
  int inner = w->ndim - 1;
  int64_t extent = w->shape[inner], item = w->item_bytes;
  int64_t across = w->strides_bytes[inner], down = w->strides_bytes[inner - 1];
  for (int64_t row = 0; row < rows; row += TILE_ROWS) {
    int64_t height = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
    const char *tile = from + row * down;
    char *out = to + row * extent * item;
    for (int64_t i = 0; i < extent; i++)
      scatter(out + i * item, tile + i * across, height, down, extent * item,
              item);
  }
}

/* Gather `count` elements in C order, from the one at `from` on. */
static void walk_gather(const walk *w, const char *from, int64_t *index,
                        int64_t count, char *to) {
  int inner = w->ndim - 1;
  int64_t extent = w->shape[inner];
  bool has_tiles = is_across_memory(w);
  while (count > 0) {
    int moved = inner; /* the axis along which elements are taken */
    int64_t steps = extent - index[inner], taken;
    if (has_tiles && index[inner] == 0 && count >= 2 * extent) {
      moved = inner - 1;
      steps = w->shape[moved] - index[moved];
      if (steps > count / extent)
        steps = count / extent;
      taken = steps * extent;
      gather_rows(w, to, from, steps);
    } else {
      taken = steps = steps < count ? steps : count;
      gather(to, from, steps, w->strides_bytes[inner], w->item_bytes);
    }
    to += taken * w->item_bytes;
    count -= taken;
    /* Carry, as an odometer does. */
    from += steps * w->strides_bytes[moved];
    index[moved] += steps;
    for (int a = moved; a > 0 && index[a] == w->shape[a]; a--) {
      from += w->strides_bytes[a - 1] - w->shape[a] * w->strides_bytes[a];
      index[a] = 0;
      index[a - 1]++;
    }
  }
}

/* ---- Combining pairwise by index ----------------------------------------- */

/* Sums of nodes of one rank, combined as ac_reduce() combines leaves: as a
 * binary counter carries, what is left at the end from the right. */
typedef struct tally {
  const ac_monoid *monoid;
  int64_t count;                /* its bits say which ranks hold a value */
  ac_scalar ranks[TALLY_RANKS]; /* ranks[r] sums 2^r nodes */
} tally;

/* The ranks are left alone: clearing them would cost as much as a short leaf.
 */
static void tally_init(tally *t, const ac_monoid *monoid) {
  t->monoid = monoid;
  t->count = 0;
}

static void tally_add(tally *t, ac_scalar value) {
  int rank = 0;
  for (; t->count >> rank & 1; rank++) {
    t->monoid->combine(&t->ranks[rank], &value, NULL);
    value = t->ranks[rank];
  }
  t->ranks[rank] = value;
  t->count++;
}

static ac_scalar tally_sum(tally *t) {
  int rank = __builtin_ctzll((unsigned long long)t->count);
  ac_scalar sum = t->ranks[rank];
  while (t->count >> ++rank != 0)
    if (t->count >> rank & 1) {
      t->monoid->combine(&t->ranks[rank], &sum, NULL);
      sum = t->ranks[rank];
    }
  return sum;
}

/* Copy a sum, in one move for each of its three sizes. */
static inline void put(void *to, const void *from, size_t size_bytes) {
  if (size_bytes == 8)
    memcpy(to, from, 8);
  else if (size_bytes == 4)
    memcpy(to, from, 4);
  else
    memcpy(to, from, 16);
}

/* ---- Folds --------------------------------------------------------------- */

/* *value = *value ∘ the sum of elements in one piece that begin with a leaf. */
static void sum_leaves(const char *data, int64_t count, int64_t item_bytes,
                       ac__sum_leaf_fn leaf, const ac_monoid *monoid,
                       void *value) {
  if (count <= AC__SUM_LEAF) {
    leaf(data, count, value);
    return;
  }
  tally leaves;
  tally_init(&leaves, monoid);
  for (int64_t at = 0; at < count; at += AC__SUM_LEAF) {
    int64_t left = count - at;
    ac_scalar sum = zero;
    leaf(data + at * item_bytes, left < AC__SUM_LEAF ? left : AC__SUM_LEAF,
         &sum);
    tally_add(&leaves, sum);
  }
  ac_scalar sum = tally_sum(&leaves);
  monoid->combine(value, &sum, NULL);
}

/* An array in one piece, and where the sums of its groups of leaves go. */
typedef struct dense {
  const char *data;
  int64_t count;
  int64_t group; /* elements a unit of the loop: 2^k leaves */
  const type_info *type;
  ac__sum_leaf_fn leaf;
  char *sums; /* one a group */
} dense;

/* Sum each leaf of [begin, end) to a place of its own. */
static void sum_leaves_apart(const dense *d, int64_t begin, int64_t end,
                             char *sums) {
  const ac__sum_leaf_fn leaf = d->leaf;
  const size_t size_bytes = d->type->monoid.size_bytes;
  const int64_t leaf_bytes = AC__SUM_LEAF * d->type->item_bytes;
  const char *data = d->data + begin * d->type->item_bytes;
  for (int64_t left = end - begin; left > 0; left -= AC__SUM_LEAF) {
    put(sums, &zero, size_bytes);
    leaf(data, left < AC__SUM_LEAF ? left : AC__SUM_LEAF, sums);
    sums += size_bytes;
    data += leaf_bytes;
  }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static ac_status run_groups(ac_range units, void *ctx) {
  const dense *d = ctx;
  const size_t size_bytes = d->type->monoid.size_bytes;
  char *sums = d->sums + (size_t)units.begin * size_bytes;
  if (d->group == AC__SUM_LEAF) {
    sum_leaves_apart(d, units.begin * AC__SUM_LEAF,
                     least(units.end * AC__SUM_LEAF, d->count), sums);
    return AC_OK;
  }
  for (int64_t unit = units.begin; unit < units.end; unit++) {
    _Alignas(64) char leaves[LEAVES_MAX * sizeof(ac_scalar)];
    int64_t begin = unit * d->group;
    int64_t end = least(begin + d->group, d->count);
    sum_leaves_apart(d, begin, end, leaves);
    d->type->halve(leaves, (end - begin - 1) / AC__SUM_LEAF + 1);
    put(sums, leaves, size_bytes);
    sums += size_bytes;
  }
  return AC_OK;
}

/* Sum at most SEGMENT elements: straight by the engine of loops, since folding
 * each leaf through ac_reduce() would cost a quarter of its time again. */
static ac_status sum_dense(ac_team *team, const ac_site *site, dense *d,
                           ac_scalar *ret_sum) {
  _Alignas(64) char sums[GROUPS_MAX * sizeof(ac_scalar)];
  d->sums = sums;
  d->group = AC__SUM_LEAF;
  while ((d->count - 1) / d->group >= GROUPS_MAX)
    d->group *= 2;
  const ac__work work = {.units = (d->count - 1) / d->group + 1,
                         .iterations = d->count,
                         .key = site,
                         .run = run_groups,
                         .ctx = d};
  ac_status status = d->count <= DENSE_ALONE
                         ? run_groups((ac_range){0, work.units}, d)
                         : ac__loop(team, &work);
  if (status != AC_OK)
    return status;
  d->type->halve(sums, work.units);
  put(ret_sum, sums, d->type->monoid.size_bytes);
  return AC_OK;
}

/* A longer one segment by segment, so that units stay short enough for the
 * caller's poll function to be asked in time. Segments are nodes of the tree.
 */
static ac_status sum_dense_segments(ac_team *team, const ac_site *site,
                                    dense whole, ac_scalar *ret_sum) {
  tally segments;
  tally_init(&segments, &whole.type->monoid);
  for (int64_t begin = 0; begin < whole.count; begin += SEGMENT) {
    ac_scalar value = zero;
    int64_t left = whole.count - begin;
    dense d = whole;
    d.data += begin * d.type->item_bytes;
    d.count = left < SEGMENT ? left : SEGMENT;
    ac_status status = sum_dense(team, site, &d, &value);
    if (status != AC_OK)
      return status;
    tally_add(&segments, value);
  }
  *ret_sum = tally_sum(&segments);
  return AC_OK;
}

static ac_status fold_gathered(ac_range range, void *ctx, void *value) {
  const walk *w = ctx;
  _Alignas(64) char buffer[AC__SUM_LEAF * 2 * sizeof(double)];
  int64_t index[AC_RANK_MAX], count = range.end - range.begin;
  const char *from = walk_seek(w, range.begin, index);
  int inner = w->ndim - 1;
  if (w->strides_bytes[inner] != w->item_bytes ||
      count > w->shape[inner] - index[inner]) {
    walk_gather(w, from, index, count, buffer);
    from = buffer;
  }
  w->leaf(from, count, value);
  return AC_OK;
}

/* Fold a group of leaves, a node of the tree, that is gathered as a whole: its
 * leaves share cache lines. */
static ac_status fold_group(ac_range range, void *ctx, void *value) {
  const walk *w = ctx;
  int64_t index[AC_RANK_MAX], count = range.end - range.begin;
  char *buffer = malloc((size_t)(count * w->item_bytes));
  if (buffer == NULL)
    return ac__fail(AC_E_NOMEM, "ac_sum", "Sum a copy in C order.",
                    "memory to turn %lld elements into C order was refused",
                    (long long)count);
  const char *from = walk_seek(w, range.begin, index);
  walk_gather(w, from, index, count, buffer);
  sum_leaves(buffer, count, w->item_bytes, w->leaf, w->monoid, value);
  free(buffer);
  return AC_OK;
}

/* ---- The call ------------------------------------------------------------ */

static ac_status check(const ac_array *array, const ac_scalar *ret_sum) {
  if (array == NULL || ret_sum == NULL)
    return ac__fail(AC_E_INVAL, "ac_sum", "Pass an array and a place for it.",
                    "%s is NULL", array == NULL ? "array" : "ret_sum");
  if ((unsigned)array->dtype >= AC_DTYPE_COUNT)
    return ac__fail(AC_E_INVAL, "ac_sum", "Use one of AC_DTYPE_TABLE.",
                    "the array has element type %d", (int)array->dtype);
  if (array->ndim < 0 || array->ndim > AC_RANK_MAX)
    return ac__fail(AC_E_INVAL, "ac_sum", "Arrays have 0 to 64 axes.",
                    "the array has %d axes", array->ndim);
  if (array->ndim > 0 && array->shape == NULL)
    return ac__fail(AC_E_INVAL, "ac_sum", "Give the extent of every axis.",
                    "the array has %d axes and no shape", array->ndim);
  return AC_OK;
}

/* Multiply the extents out; also say whether C order is memory order. */
static ac_status count_elements(const ac_array *array, int64_t *ret_count,
                                bool *ret_is_dense) {
  int64_t count = 1, stride = types[array->dtype].item_bytes;
  bool is_dense = true, is_empty = false, is_huge = false;
  for (int a = array->ndim - 1; a >= 0; a--) {
    int64_t extent = array->shape[a];
    if (extent < 0)
      return ac__fail(AC_E_INVAL, "ac_sum", "Extents are 0 or more.",
                      "axis %d has extent %lld", a, (long long)extent);
    if (extent != 1 && array->strides_bytes != NULL)
      is_dense &= array->strides_bytes[a] == stride * count;
    is_empty |= extent == 0;
    is_huge |= __builtin_mul_overflow(count, extent, &count) ||
               count > INT64_C(1) << COUNT_RANK_MAX;
    if (is_huge)
      count = 1;
  }
  if (is_huge && !is_empty)
    return ac__fail(AC_E_INVAL, "ac_sum", "Sum it in parts.",
                    "the array has over 2^58 elements");
  if (!is_empty && array->data == NULL)
    return ac__fail(AC_E_INVAL, "ac_sum", "Pass the first element's address.",
                    "the array has %lld elements at NULL", (long long)count);
  *ret_count = is_empty ? 0 : count;
  *ret_is_dense = is_dense;
  return AC_OK;
}

/* One NaN for all. */
static void settle(ac_dtype dtype, ac_scalar *sum) {
  switch (dtype) {
  case AC_COMPLEX64:
    sum->c64[1] = isnan(sum->c64[1]) ? NAN : sum->c64[1];
    __attribute__((fallthrough));
  case AC_FLOAT32:
    sum->f32 = isnan(sum->f32) ? NAN : sum->f32;
    break;
  case AC_COMPLEX128:
    sum->c128[1] = isnan(sum->c128[1]) ? (double)NAN : sum->c128[1];
    __attribute__((fallthrough));
  case AC_FLOAT64:
    sum->f64 = isnan(sum->f64) ? (double)NAN : sum->f64;
    break;
  default:
    break;
  }
}

/* A sum on its way to a fold. */
typedef struct job {
  ac_team *team;
  const ac_site *site;
  const ac_monoid *monoid;
  int64_t grain; /* elements a fold: 2^k leaves */
  ac_fold_fn fold;
  void *ctx;
} job;

static ac_status reduce(const job *work, int64_t begin, int64_t end,
                        ac_scalar *ret_sum) {
  return ac_reduce(work->team, (ac_range){begin, end}, work->grain, work->site,
                   work->monoid, work->fold, work->ctx, ret_sum);
}

/* Sum a long array segment by segment. A region's chunks grow with its length;
 * so they stay short enough for the caller's poll function to be asked in time
 * and for a cancelled sum to end. Segments are 2^k leaves: nodes of the tree.
 */
static ac_status reduce_segments(const job *work, int64_t count,
                                 ac_scalar *ret_sum) {
  tally segments;
  tally_init(&segments, work->monoid);
  for (int64_t begin = 0; begin < count; begin += SEGMENT) {
    ac_scalar value = zero;
    int64_t end = count - begin < SEGMENT ? count : begin + SEGMENT;
    ac_status st = reduce(work, begin, end, &value);
    if (st != AC_OK)
      return st;
    tally_add(&segments, value);
  }
  *ret_sum = tally_sum(&segments);
  return AC_OK;
}

/* Fold on the caller what is too short to be worth a question to the team. */
static ac_status run(const job *work, int64_t count, ac_scalar *sum) {
  if (count <= AC__SUM_LEAF)
    return work->fold((ac_range){0, count}, work->ctx, sum);
  if (count <= SEGMENT)
    return reduce(work, 0, count, sum);
  return reduce_segments(work, count, sum);
}

/* An array that does not lie in one piece; if it does but for the order of its
 * axes (*ret_is_dense), only d->data is set. */
static ac_status sum_walked(ac_team *team, const ac_site *site,
                            const ac_array *array, dense *d, bool *ret_is_dense,
                            ac_scalar *sum) {
  walk w;
  walk_init(&w, array, d->leaf);
  if (walk_is_dense(&w)) {
    d->data = w.data;
    *ret_is_dense = true;
    return AC_OK;
  }
  const job work = {.team = team,
                    .site = site != NULL ? site : &sites_gathered[array->dtype],
                    .monoid = w.monoid,
                    .grain = d->count <= AC__SUM_LEAF ? AC__SUM_LEAF : w.group,
                    .fold = w.group > AC__SUM_LEAF && d->count > AC__SUM_LEAF
                                ? fold_group
                                : fold_gathered,
                    .ctx = &w};
  return run(&work, d->count, sum);
}

ac_status ac_sum(ac_team *team, const ac_array *array, const ac_site *site,
                 ac_scalar *ret_sum) {
  int64_t count = 0;
  bool is_dense = true;
  ac_scalar sum = zero;
  ac_status st = check(array, ret_sum);
  if (st == AC_OK)
    st = count_elements(array, &count, &is_dense);
  if (st != AC_OK)
    return st;
  ac_dtype dtype = array->dtype;
  ac__sum_leaf_fn leaf = ac__sum_leaf(dtype, AC__SUM_BEST);
  dense d = {
      .data = array->data, .count = count, .type = &types[dtype], .leaf = leaf};
  if (count == 0) {
    *ret_sum = zero;
    return AC_OK;
  }
  if (!is_dense)
    st = sum_walked(team, site, array, &d, &is_dense, &sum);
  if (is_dense) {
    if (site == NULL)
      site = &sites[dtype];
    st = count <= AC__SUM_LEAF ? (leaf(d.data, count, &sum), AC_OK)
         : count <= SEGMENT    ? sum_dense(team, site, &d, &sum)
                               : sum_dense_segments(team, site, d, &sum);
  }
  if (st != AC_OK)
    return st;
  settle(dtype, &sum);
  *ret_sum = sum;
  return AC_OK;
}
