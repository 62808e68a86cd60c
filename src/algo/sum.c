/* sum.c: ac_sum(), the sum of a typed array of any strides.
 *
 * Pairwise summation (Higham, SIAM J. Sci. Comput. 14, 1993) on a tree that the
 * number of elements fixes: leaves of 1,024 elements in C order, each summed in
 * virtual lanes (sum_kernels.h), the leaves combined by ac_reduce().
 *
 * Three ways to a leaf, the same bits from each:
 *   - it lies in one piece in memory: the kernel reads it there;
 *   - it does not: it is gathered into a buffer on the stack first;
 *   - the array has one leaf at most: the caller does it, and no team is asked.
 * Sums of integers do not depend on the order, so their axes are turned and
 * sorted until they lie as nearly in one piece as they can.
 *
 * Invariants: nothing is allocated here; a NaN comes out as the one quiet
 * positive NaN, since which of two NaNs an addition keeps is the compiler's
 * choice.
 *
 * Knows nothing of: threads; ac_reduce() decides who runs which leaf.
 */
#include "algo/sum.h"
#include "base/status.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "sum.c needs additions in the order written: no -ffast-math"
#endif
_Static_assert(FLT_EVAL_METHOD == 0, "each addition rounds to its own type");

enum {
  COUNT_RANK_MAX = 58, /* an array has 2^58 elements at most */
  SEGMENT_RANK = 26,   /* one region sums 2^26 at most: 3 ms and more */
  SEGMENT_RANKS = COUNT_RANK_MAX - SEGMENT_RANK + 1
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

static const ac_scalar zero;

/* What ac_sum() knows of an element type. */
typedef struct type_info {
  int64_t item_bytes;
  bool any_order; /* the sum does not depend on the order of elements */
  ac_monoid monoid;
} type_info;

#define INTEGER(type)                                                          \
  {                                                                            \
    sizeof(type), true, { sizeof(int64_t), &zero, add_u64 }                    \
  }
#define REAL(type, parts, add)                                                 \
  {                                                                            \
    sizeof(type) * (parts), false, { sizeof(type) * (parts), &zero, add }      \
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
    [AC_FLOAT32] = REAL(float, 1, add_f32),
    [AC_FLOAT64] = REAL(double, 1, add_f64),
    [AC_COMPLEX64] = REAL(float, 2, add_c64),
    [AC_COMPLEX128] = REAL(double, 2, add_c128),
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

static void walk_init(walk *w, const ac_array *array, ac__sum_leaf_fn leaf) {
  const type_info *type = &types[array->dtype];
  w->data = array->data;
  w->item_bytes = type->item_bytes;
  w->leaf = leaf;
  w->ndim = 0;
  for (int a = 0; a < array->ndim; a++)
    walk_push(w, array->shape[a], array->strides_bytes[a]);
  if (type->any_order)
    walk_straighten(w);
}

static bool walk_is_dense(const walk *w) {
  return w->ndim == 0 || (w->ndim == 1 && w->strides_bytes[0] == w->item_bytes);
}

/* Copy `count` items that lie `stride` bytes apart. */
static void gather(char *to, const char *from, int64_t count, int64_t stride,
                   int64_t item_bytes) {
  if (stride == item_bytes) {
    memcpy(to, from, (size_t)(count * item_bytes));
    return;
  }
#define GATHER(size)                                                           \
  case size:                                                                   \
    for (int64_t i = 0; i < count; i++)                                        \
      memcpy(to + i * (size), from + i * stride, size);                        \
    break
  switch (item_bytes) {
    GATHER(1);
    GATHER(2);
    GATHER(4);
    GATHER(8);
    GATHER(16);
  }
#undef GATHER
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

/* Gather `count` elements in C order, from the one at `from` on. */
static void walk_gather(const walk *w, const char *from, int64_t *index,
                        int64_t count, char *to) {
  int inner = w->ndim - 1;
  for (;;) {
    int64_t run = w->shape[inner] - index[inner];
    if (run > count)
      run = count;
    gather(to, from, run, w->strides_bytes[inner], w->item_bytes);
    to += run * w->item_bytes;
    count -= run;
    if (count == 0)
      return;
    /* The run ended at the axis's end: carry, as an odometer does. */
    from -= index[inner] * w->strides_bytes[inner];
    index[inner] = 0;
    for (int a = inner - 1;; a--) {
      from += w->strides_bytes[a];
      if (++index[a] < w->shape[a])
        break;
      from -= index[a] * w->strides_bytes[a];
      index[a] = 0;
    }
  }
}

/* ---- Folds -----------------------------------------------------------------
 */

typedef struct dense {
  const char *data;
  int64_t item_bytes;
  ac__sum_leaf_fn leaf;
} dense;

static ac_status fold_dense(ac_range range, void *ctx, void *value) {
  const dense *d = ctx;
  d->leaf(d->data + range.begin * d->item_bytes, range.end - range.begin,
          value);
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

/* ---- The call --------------------------------------------------------------
 */

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
  ac_fold_fn fold;
  void *ctx;
} job;

static ac_status reduce(const job *work, int64_t begin, int64_t end,
                        ac_scalar *ret_sum) {
  return ac_reduce(work->team, (ac_range){begin, end}, AC__SUM_LEAF, work->site,
                   work->monoid, work->fold, work->ctx, ret_sum);
}

/* Sum a long array segment by segment. A region's chunks grow with its length;
 * so they stay short enough for the caller's poll function to be asked in time
 * and for a cancelled sum to end. Segments are 2^k leaves, hence nodes of the
 * tree, and are combined as ac_reduce() combines leaves. */
static ac_status reduce_segments(const job *work, int64_t count,
                                 ac_scalar *ret_sum) {
  ac_scalar ranks[SEGMENT_RANKS]; /* ranks[r] sums 2^r segments */
  int64_t done = 0;               /* segments; its bits say which ranks hold */
  for (int64_t begin = 0; begin < count; begin += SEGMENT, done++) {
    ac_scalar value = zero;
    int64_t end = count - begin < SEGMENT ? count : begin + SEGMENT;
    ac_status st = reduce(work, begin, end, &value);
    if (st != AC_OK)
      return st;
    int rank = 0;
    for (; done >> rank & 1; rank++) {
      work->monoid->combine(&ranks[rank], &value, work->ctx);
      value = ranks[rank];
    }
    ranks[rank] = value;
  }
  int rank = __builtin_ctzll((unsigned long long)done);
  ac_scalar sum = ranks[rank];
  while (done >> ++rank != 0)
    if (done >> rank & 1) {
      work->monoid->combine(&ranks[rank], &sum, work->ctx);
      sum = ranks[rank];
    }
  *ret_sum = sum;
  return AC_OK;
}

/* Fold on the caller if there is one leaf, else on the team. */
static ac_status run(const job *work, int64_t count, ac_scalar *sum) {
  if (count <= AC__SUM_LEAF)
    return work->fold((ac_range){0, count}, work->ctx, sum);
  if (count <= SEGMENT)
    return reduce(work, 0, count, sum);
  return reduce_segments(work, count, sum);
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
  dense d = {array->data, types[dtype].item_bytes, leaf};
  walk w;
  if (!is_dense && count > 0) {
    walk_init(&w, array, leaf);
    is_dense = walk_is_dense(&w);
    d.data = w.data;
  }
  job work = {.team = team, .monoid = &types[dtype].monoid};
  work.site = site != NULL ? site
              : is_dense   ? &sites[dtype]
                           : &sites_gathered[dtype];
  work.fold = is_dense ? fold_dense : fold_gathered;
  work.ctx = is_dense ? (void *)&d : (void *)&w;
  if (count > 0)
    st = run(&work, count, &sum);
  if (st != AC_OK)
    return st;
  settle(dtype, &sum);
  *ret_sum = sum;
  return AC_OK;
}
