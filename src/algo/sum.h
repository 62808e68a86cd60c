/* sum.h (internal): the kernels of ac_sum(), one leaf at a time.
 *
 * Knows nothing of: teams, strides, shapes. See sum_kernels.h for the lanes.
 */
#ifndef AC_ALGO_SUM_H
#define AC_ALGO_SUM_H

#include <allcores/array.h>

enum { AC__SUM_LEAF = 1024 }; /* elements a leaf, for every type */

/** *value += the sum of `count` elements that lie one after another at `data`,
 * which may be unaligned. `value` points to the member of ac_scalar that
 * AC_DTYPE_TABLE gives; integers wrap. */
typedef void (*ac__sum_leaf_fn)(const void *data, int64_t count, void *value);

/** Bytes of the vectors that a kernel is written in; its bits do not depend on
 * it. */
typedef enum ac__sum_width {
  AC__SUM_W16, /**< what every machine has: SSE2, NEON */
  AC__SUM_W32, /**< AVX2; NULL where the machine lacks it */
  AC__SUM_BEST /**< the widest that this machine has */
} ac__sum_width;

/** The kernel of a type. Integer kernels take counts up to AC__SUM_LEAF, the
 * others any. */
ac__sum_leaf_fn ac__sum_leaf(ac_dtype dtype, ac__sum_width width);

#endif
