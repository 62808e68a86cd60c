/* sum_test.c: ac_sum() against the tree that array.h promises, against exact
 * references, and against itself for every way in which an array can lie in
 * memory.
 *
 * The reference below is the promise written down as plainly as it can be: one
 * element after another into its lane, lanes by halving, leaves by halving at
 * powers of two. The kernels have to give its bits.
 */
#include "algo/sum.h"
#include "check.h"

#include <allcores/allcores.h>
#include <math.h>
#include <string.h>

enum { CAPACITY = 40000 }; /* elements in the buffers below */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

/* xorshift64*: Vigna, ACM Trans. Math. Softw. 42, 2016. */
static uint64_t random_bits(void) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545f4914f6cdd1du;
}

static int64_t random_below(int64_t bound) {
  return (int64_t)(random_bits() >> 2) % bound;
}

#define ITEM_BYTES(suffix, type, sum)                                          \
  [AC_##suffix] = sizeof(type) * (AC_##suffix >= AC_COMPLEX64 ? 2 : 1),
static const int64_t item_bytes[AC_DTYPE_COUNT] = {AC_DTYPE_TABLE(ITEM_BYTES)};

static int64_t sum_bytes(int dtype) {
  return dtype == AC_COMPLEX128 ? 16 : dtype == AC_FLOAT32 ? 4 : 8;
}

static bool is_float(int dtype) { return dtype >= AC_FLOAT32; }

static double random_real(void) {
  double unit = (double)(int64_t)random_bits() / 9.3e18;
  return ldexp(unit, (int)random_below(20) - 10);
}

/* Fill `count` elements with values whose sums round. */
static void fill(void *data, int dtype, int64_t count) {
  char *to = data;
  if (!is_float(dtype)) {
    for (int64_t i = 0; i < count * item_bytes[dtype]; i++)
      to[i] = (char)random_bits();
    return;
  }
  bool is_single = dtype == AC_FLOAT32 || dtype == AC_COMPLEX64;
  int64_t reals = count * item_bytes[dtype] / (is_single ? 4 : 8);
  for (int64_t i = 0; i < reals; i++) {
    double real = random_real();
    float single = (float)real;
    if (is_single)
      memcpy(to + i * 4, &single, 4);
    else
      memcpy(to + i * 8, &real, 8);
  }
}

/* ---- The promised tree, for one part of float or double ------------------ */

#define REFERENCE(type, lanes_max)                                             \
  static type leaf_##type(const type *x, int64_t count, int parts) {           \
    type lane[lanes_max] = {0};                                                \
    int lanes = lanes_max / parts;                                             \
    for (int64_t i = 0; i < count; i++)                                        \
      lane[i % lanes] += x[i * parts];                                         \
    for (lanes /= 2; lanes >= 1; lanes /= 2)                                   \
      for (int l = 0; l < lanes; l++)                                          \
        lane[l] += lane[l + lanes];                                            \
    return lane[0];                                                            \
  }                                                                            \
  static type tree_##type(const type *x, int64_t count, int parts) {           \
    if (count <= 1024)                                                         \
      return leaf_##type(x, count, parts);                                     \
    int64_t half = 1024;                                                       \
    while (half * 2 < count)                                                   \
      half *= 2;                                                               \
    type left = tree_##type(x, half, parts);                                   \
    return left + tree_##type(x + half * parts, count - half, parts);          \
  }
REFERENCE(float, 32)
REFERENCE(double, 16)

/* The upper part of the tree, over the values of nodes of one rank. */
static float pairwise(const float *values, int64_t count) {
  if (count == 1)
    return values[0];
  int64_t half = 1;
  while (half * 2 < count)
    half *= 2;
  float left = pairwise(values, half);
  return left + pairwise(values + half, count - half);
}

static uint64_t whole(const void *data, int dtype, int64_t count) {
  uint64_t sum = 0;
#define ADD(suffix, type)                                                      \
  case AC_##suffix:                                                            \
    for (int64_t i = 0; i < count; i++)                                        \
      sum += (uint64_t)((const type *)data)[i];                                \
    break
  switch (dtype) {
    ADD(INT8, int8_t);
    ADD(INT16, int16_t);
    ADD(INT32, int32_t);
    ADD(INT64, int64_t);
    ADD(UINT8, uint8_t);
    ADD(UINT16, uint16_t);
    ADD(UINT32, uint32_t);
    ADD(UINT64, uint64_t);
  default:
    for (int64_t i = 0; i < count; i++)
      sum += ((const uint8_t *)data)[i] != 0;
  }
#undef ADD
  return sum;
}

static ac_scalar expected(const void *data, int dtype, int64_t count) {
  ac_scalar sum = {0};
  switch (dtype) {
  case AC_FLOAT32:
    sum.f32 = tree_float(data, count, 1);
    break;
  case AC_FLOAT64:
    sum.f64 = tree_double(data, count, 1);
    break;
  case AC_COMPLEX64:
    sum.c64[0] = tree_float(data, count, 2);
    sum.c64[1] = tree_float((const float *)data + 1, count, 2);
    break;
  case AC_COMPLEX128:
    sum.c128[0] = tree_double(data, count, 2);
    sum.c128[1] = tree_double((const double *)data + 1, count, 2);
    break;
  default:
    sum.u64 = whole(data, dtype, count);
  }
  return sum;
}

static bool same(const ac_scalar *a, const ac_scalar *b, int dtype) {
  return memcmp(a, b, (size_t)sum_bytes(dtype)) == 0;
}

static _Alignas(64) char buffer[CAPACITY * 16 + 64];
static _Alignas(64) char copy[CAPACITY * 16 + 64];

static ac_array vector_of(const void *data, int dtype, const int64_t *count) {
  return (ac_array){data, (ac_dtype)dtype, 1, count, NULL};
}

TEST("every kernel, of every width, gives the bits of the promised lanes") {
  printf("  seed %#llx\n", (unsigned long long)random_state);
  for (int dtype = 0; dtype < AC_DTYPE_COUNT; dtype++)
    for (int width = AC__SUM_W16; width <= AC__SUM_BEST; width++) {
      ac__sum_leaf_fn leaf = ac__sum_leaf((ac_dtype)dtype, width);
      fill(buffer, dtype, 1024);
      for (int64_t count = 0; leaf != NULL && count <= 1024;
           count += count < 140 ? 1 : 13) {
        ac_scalar sum = {0}, want = expected(buffer, dtype, count);
        leaf(buffer, count, &sum);
        if (!CHECK(same(&sum, &want, dtype)))
          printf("  type %d width %d count %d\n", dtype, width, (int)count);
      }
    }
}

TEST("a kernel reads unaligned elements and adds to what is there") {
  for (int dtype = 0; dtype < AC_DTYPE_COUNT; dtype++) {
    ac__sum_leaf_fn leaf = ac__sum_leaf((ac_dtype)dtype, AC__SUM_BEST);
    ac_scalar once = {0}, twice = {0};
    fill(buffer, dtype, 777);
    memcpy(copy + 1, buffer, (size_t)(777 * item_bytes[dtype]));
    leaf(buffer, 777, &once);
    leaf(buffer, 777, &twice);
    leaf(copy + 1, 777, &twice);
    if (dtype == AC_FLOAT64)
      CHECK(twice.f64 == once.f64 + once.f64);
    else if (!is_float(dtype))
      CHECK(twice.u64 == 2 * once.u64);
    ac_scalar unaligned = {0};
    leaf(copy + 1, 777, &unaligned);
    CHECK(same(&unaligned, &once, dtype));
  }
}

TEST("an array of any type and length has the bits of the promised tree") {
  static const int64_t counts[] = {1,    2,        31,    1023, 1024,
                                   1025, 2047,     2048,  2049, 3000,
                                   5120, 7 * 1024, 20000, 33333};
  for (int dtype = 0; dtype < AC_DTYPE_COUNT; dtype++) {
    fill(buffer, dtype, CAPACITY);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
      ac_array array = vector_of(buffer, dtype, &counts[c]);
      ac_scalar sum, want = expected(buffer, dtype, counts[c]);
      CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
      if (!CHECK(same(&sum, &want, dtype)))
        printf("  type %d count %d\n", dtype, (int)counts[c]);
    }
  }
}

TEST("the bits are the same on teams of 1, 2, 3 and 8") {
  static const int widths[] = {1, 2, 3, 8};
  for (int dtype = AC_FLOAT32; dtype < AC_DTYPE_COUNT; dtype++) {
    int64_t count = CAPACITY;
    fill(buffer, dtype, count);
    ac_array array = vector_of(buffer, dtype, &count);
    ac_scalar want = expected(buffer, dtype, count);
    for (int w = 0; w < 4; w++) {
      ac_team *team;
      ac_team_options options = {.width = widths[w]};
      if (!CHECK_INT(ac_team_create(&options, &team), AC_OK))
        return;
      for (int again = 0; again < 20; again++) {
        ac_scalar sum;
        CHECK_INT(ac_sum(team, &array, NULL, &sum), AC_OK);
        CHECK(same(&sum, &want, dtype));
      }
      ac_team_destroy(team);
    }
  }
}

/* A random array over `buffer`: up to 5 axes, steps, turned and repeated axes.
 * Returns its number of elements. */
static int64_t random_layout(int dtype, int64_t *shape, int64_t *strides,
                             int *ret_ndim, int64_t *ret_offset) {
  int ndim = (int)random_below(6), order[5] = {0, 1, 2, 3, 4};
  int64_t count = 1, room = CAPACITY, offset = 0, next = item_bytes[dtype];
  for (int i = ndim - 1; i > 0; i--) { /* a random order of the axes */
    int j = (int)random_below(i + 1), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  for (int i = 0; i < ndim; i++) {
    int a = order[i];
    int64_t step = random_below(3) == 0 ? 1 + random_below(3) : 1;
    int64_t most = room / step < 1 ? 1 : room / step;
    shape[a] = 1 + random_below(most < 60 ? most : 60);
    if (random_below(40) == 0)
      shape[a] = 0;
    strides[a] = next * step;
    int64_t span = shape[a] > 0 ? shape[a] * step : 1;
    next *= span;
    room /= span;
    if (random_below(6) == 0) {
      strides[a] = 0; /* repeated, as by broadcasting */
    } else if (random_below(3) == 0 && shape[a] > 0) {
      offset += strides[a] * (shape[a] - 1); /* turned */
      strides[a] = -strides[a];
    }
    count *= shape[a];
  }
  *ret_ndim = ndim;
  *ret_offset = offset + random_below(2); /* unaligned half of the time */
  return count;
}

/* Copy the array's elements in C order, one by one. */
static void flatten(const ac_array *array, char *to) {
  int64_t index[5] = {0}, bytes = item_bytes[array->dtype];
  for (;;) {
    const char *from = array->data;
    for (int a = 0; a < array->ndim; a++)
      from += index[a] * array->strides_bytes[a];
    memcpy(to, from, (size_t)bytes);
    to += bytes;
    int a = array->ndim - 1;
    while (a >= 0 && ++index[a] == array->shape[a])
      index[a--] = 0;
    if (a < 0)
      return;
  }
}

TEST("an array has the bits of its contiguous copy, whatever its strides") {
  for (int round = 0; round < 3000; round++) {
    int dtype = (int)random_below(AC_DTYPE_COUNT), ndim;
    int64_t shape[5], strides[5], offset;
    int64_t count = random_layout(dtype, shape, strides, &ndim, &offset);
    if (count > CAPACITY)
      continue;
    fill(buffer + 1, dtype, CAPACITY);
    ac_array array = {buffer + offset, (ac_dtype)dtype, ndim, shape, strides};
    ac_array flat = vector_of(copy, dtype, &count);
    ac_scalar sum, want;
    if (count > 0)
      flatten(&array, copy);
    CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
    CHECK_INT(ac_sum(NULL, &flat, NULL, &want), AC_OK);
    if (is_float(dtype) && count > 0) {
      /* Bytes off by one are any numbers, also NaN: compare with the tree only
       * where the copy is free of them. */
      ac_scalar tree = expected(copy, dtype, count);
      double part = sum_bytes(dtype) == 4 ? (double)tree.f32 : 0;
      if (dtype == AC_FLOAT64 && !isnan(tree.f64))
        CHECK(same(&want, &tree, dtype));
      if (dtype == AC_FLOAT32 && !isnan(part))
        CHECK(same(&want, &tree, dtype));
    }
    if (!CHECK(same(&sum, &want, dtype)))
      printf("  round %d type %d axes %d\n", round, dtype, ndim);
  }
}

TEST("a large array across memory has the bits of its contiguous copy") {
  enum { SIDE = 3000, LONG = SIDE * 300 };
  static double data[LONG + 1], flat[LONG];
  static const int64_t sides[] = {2, 7, 300, 1500, 3000, 90000, LONG / 2};
  fill(data, AC_FLOAT64, LONG + 1);
  for (int dtype = AC_FLOAT32; dtype < AC_DTYPE_COUNT; dtype++)
    for (size_t s = 0; s < sizeof sides / sizeof *sides; s++)
      for (int turned = 0; turned < 2; turned++) {
        int64_t item = item_bytes[dtype], rows = sides[s], head = 1;
        int64_t columns = LONG * 8 / item / rows, count = rows * columns;
        if (rows % 3 == 0) /* a third axis outside */
          rows /= head = 3;
        int64_t shape[3] = {head, rows, columns};
        int64_t strides[3] = {item * rows, item, item * rows * head};
        ac_array array = {data, (ac_dtype)dtype, 3, shape, strides};
        if (turned) {
          array.data = (const char *)data + item * (rows - 1);
          strides[1] = -item;
        }
        ac_array copied = vector_of(flat, dtype, &count);
        ac_scalar sum, want;
        flatten(&array, (char *)flat);
        CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
        CHECK_INT(ac_sum(NULL, &copied, NULL, &want), AC_OK);
        if (!CHECK(same(&sum, &want, dtype)))
          printf("  type %d rows %d\n", dtype, (int)rows);
      }
}

/* 2^26 elements and more are summed in segments: values that cannot be added in
 * another order without other bits, from one row that repeats. */
TEST("a long array has the bits of the promised tree across its segments") {
  enum { ROW = 1 << 16, ROWS = 5 * 1024 + 1 };
  static float row[ROW];
  static float sums[ROWS];
  int64_t shape[2] = {ROWS, ROW}, strides[2] = {0, sizeof(float)};
  int64_t dense = ROW, rows = ROWS - 1;
  fill(row, AC_FLOAT32, ROW);
  ac_array array = {row, AC_FLOAT32, 2, shape, strides};
  ac_array one = vector_of(row, AC_FLOAT32, &dense);
  ac_scalar sum, part;
  CHECK_INT(ac_sum(NULL, &one, NULL, &part), AC_OK);
  /* Each row is a node of the tree, so the rows' sums are its leaves. */
  for (int level = 0; level < ROWS; level++)
    sums[level] = part.f32;
  for (int64_t wanted = ROWS; wanted >= rows; wanted--) {
    shape[0] = wanted;
    CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
    CHECK(sum.f32 == pairwise(sums, wanted));
  }
}

TEST("axes of one element may have any stride") {
  double x[6] = {1, 2, 3, 4, 5, 6};
  int64_t shape[4] = {1, 3, 1, 2}, strides[4] = {12345, 16, -777, 8};
  ac_array array = {x, AC_FLOAT64, 4, shape, strides};
  ac_scalar sum;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(sum.f64 == 21);
}

TEST("the error stays within the bound that the header states") {
  for (int64_t count = 1; count <= CAPACITY; count = count * 3 + 1) {
    double *x = (double *)buffer;
    float *y = (float *)copy;
    long double exact = 0, size = 0, exact_y = 0, size_y = 0;
    for (int64_t i = 0; i < count; i++) {
      x[i] = random_real();
      y[i] = (float)random_real();
      exact += x[i];
      size += fabs(x[i]);
      exact_y += y[i];
      size_y += fabsf(y[i]);
    }
    ac_array wide = vector_of(x, AC_FLOAT64, &count);
    ac_array narrow = vector_of(y, AC_FLOAT32, &count);
    ac_scalar sum;
    long double steps = log2l((long double)count) + 64;
    CHECK_INT(ac_sum(NULL, &wide, NULL, &sum), AC_OK);
    CHECK(fabsl(sum.f64 - exact) <= steps * 0x1p-53L * size);
    CHECK_INT(ac_sum(NULL, &narrow, NULL, &sum), AC_OK);
    CHECK(fabsl(sum.f32 - exact_y) <= steps * 0x1p-24L * size_y);
  }
}

TEST("integers wrap in 64 bits and every true byte counts one") {
  int64_t large[3] = {INT64_MAX, 1, 1};
  uint8_t truths[4] = {0, 1, 255, 2};
  int64_t three = 3, four = 4;
  ac_array array = vector_of(large, AC_INT64, &three);
  ac_scalar sum;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(sum.i64 == INT64_MIN + 1);
  array = vector_of(truths, AC_BOOL, &four);
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK_INT(sum.i64, 3);
}

TEST("the narrowest integers at their extremes fill no lane") {
  int64_t count = CAPACITY;
  ac_scalar sum;
  memset(buffer, 0x80, CAPACITY * 2);
  ac_array array = vector_of(buffer, AC_INT8, &count);
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK_INT(sum.i64, -128 * count);
  memset(buffer, 0xff, CAPACITY * 4);
  array = vector_of(buffer, AC_UINT16, &count);
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK_INT(sum.u64, 65535 * count);
  array = vector_of(buffer, AC_UINT32, &count);
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK_INT(sum.u64, (int64_t)UINT32_MAX * count);
}

TEST("an empty array is zero, also where other extents are huge") {
  int64_t shape[3] = {INT64_MAX, 0, INT64_MAX};
  for (int dtype = 0; dtype < AC_DTYPE_COUNT; dtype++) {
    ac_array array = {NULL, (ac_dtype)dtype, 3, shape, NULL};
    ac_scalar sum, none = {0};
    memset(&sum, 0xff, sizeof sum);
    CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
    CHECK(same(&sum, &none, dtype));
  }
}

TEST("an array without axes is its one element") {
  double pair[2] = {3.5, -2};
  ac_array array = {pair, AC_COMPLEX128, 0, NULL, NULL};
  ac_scalar sum;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(sum.c128[0] == 3.5 && sum.c128[1] == -2);
}

TEST("infinities and NaN come through; NaN is always the same one") {
  double x[4] = {1, INFINITY, 2, 3}, nan_bits = (double)NAN;
  int64_t four = 4;
  ac_array array = vector_of(x, AC_FLOAT64, &four);
  ac_scalar sum;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(sum.f64 == INFINITY);
  x[2] = -INFINITY;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(memcmp(&sum.f64, &nan_bits, 8) == 0);
  x[0] = -nan_bits;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(memcmp(&sum.f64, &nan_bits, 8) == 0);
}

TEST("NaN in one part of a complex sum leaves the other alone") {
  float z[4] = {1, NAN, 2, 3};
  int64_t two = 2;
  ac_array array = vector_of(z, AC_COMPLEX64, &two);
  ac_scalar sum;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(sum.c64[0] == 3 && isnan(sum.c64[1]));
}

TEST("negative zeros sum to zero, as in NumPy") {
  double x[3] = {-0.0, -0.0, -0.0};
  int64_t three = 3;
  ac_array array = vector_of(x, AC_FLOAT64, &three);
  ac_scalar sum;
  CHECK_INT(ac_sum(NULL, &array, NULL, &sum), AC_OK);
  CHECK(sum.f64 == 0 && !signbit(sum.f64));
}

TEST("what is not an array is refused, and the result left alone") {
  int64_t shape[2] = {3, -1}, huge[2] = {INT64_C(1) << 40, INT64_C(1) << 40};
  int64_t strides[2] = {0, 0};
  double x[3] = {0};
  const ac_array bad[] = {
      {x, AC_DTYPE_COUNT, 1, shape, NULL},
      {x, (ac_dtype)-1, 1, shape, NULL},
      {x, AC_FLOAT64, -1, shape, NULL},
      {x, AC_FLOAT64, AC_RANK_MAX + 1, shape, NULL},
      {x, AC_FLOAT64, 2, shape, NULL},
      {x, AC_FLOAT64, 1, NULL, NULL},
      {NULL, AC_FLOAT64, 1, shape, NULL},
      {x, AC_FLOAT64, 2, huge, strides},
  };
  ac_scalar sum = {.f64 = 42};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    CHECK_INT(ac_sum(NULL, &bad[i], NULL, &sum), AC_E_INVAL);
    CHECK(sum.f64 == 42);
    CHECK(ac_last_error()->detail[0] != '\0');
  }
  CHECK_INT(ac_sum(NULL, NULL, NULL, &sum), AC_E_INVAL);
  CHECK_INT(ac_sum(NULL, &bad[0], NULL, NULL), AC_E_INVAL);
}

CHECK_MAIN
