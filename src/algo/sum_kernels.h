/* sum_kernels.h: the kernel of a leaf's sum, as a template.
 *
 * Included once for each element type and vector width, with these defined:
 *
 *   LEAF_NAME     name of the function
 *   LEAF_ELEMENT  type in memory
 *   LEAF_LANE     type of a lane: holds a leaf's sum
 *   LEAF_VALUE    type of the value added to
 *   LEAF_PARTS    numbers an element: 2 for complex, else 1
 *   LEAF_TAKE(v)  what is added for a vector v of elements
 *   LEAF_BYTES    bytes of a vector: 16 or 32
 *   LEAF_TARGET   attribute that allows such vectors
 *
 * All lanes together are 128 bytes, so their number is a function of the lane's
 * type alone: number k of the leaf goes to lane k mod V, whatever the vectors'
 * width. A tail is padded with zeros to one more step of all lanes. Lanes begin
 * at +0.0 and so never become -0.0; adding the padding's +0.0 changes nothing.
 * Then the upper half of the lanes is added to the lower, until one is left, or
 * a real and an imaginary one. There is no product, so nothing can be
 * contracted, and no order left to the compiler: the bits are the same for
 * every width, compiler and level of optimisation.
 *
 * Vectors are the compiler's own (gcc, clang), never wider than a register, and
 * each has a name, so that none depends on an unroller to stay in one.
 *
 * Knows nothing of: dispatch, strides. See sum.c.
 */
#define LEAF_JOIN_(a, b) a##b
#define LEAF_JOIN(a, b)  LEAF_JOIN_(a, b)
#define LEAF_ACC         LEAF_JOIN(LEAF_NAME, _acc)
#define LEAF_IN          LEAF_JOIN(LEAF_NAME, _in)

enum {
  LEAF_JOIN(LEAF_NAME, _lanes) = 128 / sizeof(LEAF_LANE),
  LEAF_JOIN(LEAF_NAME, _per) = LEAF_BYTES / sizeof(LEAF_LANE)
};
#define LEAF_LANES LEAF_JOIN(LEAF_NAME, _lanes) /* V × parts */
#define LEAF_PER   LEAF_JOIN(LEAF_NAME, _per)   /* lanes a vector */

typedef LEAF_LANE LEAF_ACC __attribute__((vector_size(LEAF_BYTES)));
typedef LEAF_ELEMENT LEAF_IN
    __attribute__((vector_size(sizeof(LEAF_ELEMENT) * LEAF_PER)));

/* acc_j += the j-th vector of the step at `from`. */
#define LEAF_ADD(j)                                                            \
  {                                                                            \
    LEAF_IN in;                                                                \
    memcpy(&in, from + (j) * sizeof in, sizeof in);                            \
    acc##j += __builtin_convertvector(LEAF_TAKE(in), LEAF_ACC);                \
  }
/* clang-format off */
#if LEAF_BYTES == 16
#define LEAF_STEP                                                              \
  LEAF_ADD(0) LEAF_ADD(1) LEAF_ADD(2) LEAF_ADD(3)                              \
  LEAF_ADD(4) LEAF_ADD(5) LEAF_ADD(6) LEAF_ADD(7)
#else
#define LEAF_STEP LEAF_ADD(0) LEAF_ADD(1) LEAF_ADD(2) LEAF_ADD(3)
#endif
/* clang-format on */

LEAF_TARGET static void LEAF_NAME(const void *data, int64_t count,
                                  void *value) {
  const size_t step_bytes = LEAF_LANES * sizeof(LEAF_ELEMENT);
  const char *from = data;
  size_t left = (size_t)count * LEAF_PARTS * sizeof(LEAF_ELEMENT);
  LEAF_ACC acc0 = {0}, acc1 = {0}, acc2 = {0}, acc3 = {0};
#if LEAF_BYTES == 16
  LEAF_ACC acc4 = {0}, acc5 = {0}, acc6 = {0}, acc7 = {0};
#endif
  for (; left >= step_bytes; left -= step_bytes, from += step_bytes) {
    LEAF_STEP
  }
  if (left > 0) {
    char padded[LEAF_LANES * sizeof(LEAF_ELEMENT)] = {0};
    memcpy(padded, from, left);
    from = padded;
    LEAF_STEP
  }
#if LEAF_BYTES == 16
  acc0 += acc4;
  acc1 += acc5;
  acc2 += acc6;
  acc3 += acc7;
#endif
  acc0 += acc2;
  acc1 += acc3;
  acc0 += acc1;
  LEAF_LANE lane[LEAF_PER];
  memcpy(lane, &acc0, sizeof lane);
  for (int width = LEAF_PER / 2; width >= LEAF_PARTS; width /= 2)
    for (int l = 0; l < width; l++)
      lane[l] += lane[l + width];
  LEAF_VALUE *sum = value;
  for (int part = 0; part < LEAF_PARTS; part++)
    sum[part] += (LEAF_VALUE)lane[part];
}

#undef LEAF_JOIN_
#undef LEAF_JOIN
#undef LEAF_ACC
#undef LEAF_IN
#undef LEAF_LANES
#undef LEAF_PER
#undef LEAF_ADD
#undef LEAF_STEP
#undef LEAF_NAME
#undef LEAF_ELEMENT
#undef LEAF_LANE
#undef LEAF_VALUE
#undef LEAF_PARTS
#undef LEAF_TAKE
