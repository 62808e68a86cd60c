/* array.h: reductions over typed arrays in memory.
 *
 * An array is described as NumPy and the buffer protocol do: a pointer, a type,
 * a shape and strides in bytes. Nothing is copied.
 */
#ifndef ALLCORES_ARRAY_H
#define ALLCORES_ARRAY_H

#include <allcores/algo.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Element types: X(suffix, C type, type of its sum).
 * As in NumPy, integers and booleans are summed in 64 bits, wrapping. */
#define AC_DTYPE_TABLE(X)                                                      \
  X(BOOL, uint8_t, int64_t)                                                    \
  X(INT8, int8_t, int64_t)                                                     \
  X(INT16, int16_t, int64_t)                                                   \
  X(INT32, int32_t, int64_t)                                                   \
  X(INT64, int64_t, int64_t)                                                   \
  X(UINT8, uint8_t, uint64_t)                                                  \
  X(UINT16, uint16_t, uint64_t)                                                \
  X(UINT32, uint32_t, uint64_t)                                                \
  X(UINT64, uint64_t, uint64_t)                                                \
  X(FLOAT32, float, float)                                                     \
  X(FLOAT64, double, double)                                                   \
  X(COMPLEX64, float, float)                                                   \
  X(COMPLEX128, double, double)

#define AC__DTYPE_ENUM(suffix, type, sum) AC_##suffix,
typedef enum ac_dtype {
  AC_DTYPE_TABLE(AC__DTYPE_ENUM) AC_DTYPE_COUNT
} ac_dtype;
#undef AC__DTYPE_ENUM

#define AC_RANK_MAX 64

/** An n-dimensional array in memory, borrowed. */
typedef struct ac_array {
  const void *data;             /**< first element; may be unaligned */
  ac_dtype dtype;               /**< elements in the machine's byte order */
  int ndim;                     /**< 0 … AC_RANK_MAX; 0 = one element */
  const int64_t *shape;         /**< ndim extents, each >= 0 */
  const int64_t *strides_bytes; /**< ndim strides, of any sign, 0 too; NULL = C
                                     order */
} ac_array;

/** A sum, in the type that AC_DTYPE_TABLE gives for the element type. */
typedef union ac_scalar {
  int64_t i64;
  uint64_t u64;
  float f32;
  double f64;
  float c64[2];   /**< real, imaginary */
  double c128[2]; /**< real, imaginary */
} ac_scalar;

/** Sum all elements of an array, with the same bits on any number of threads,
 * vector width and compiler, and for any strides of the same logical array in
 * C order.
 *
 * The tree: the elements in C order (last axis fastest) are cut into leaves of
 * 1,024; each leaf is summed in V lanes (float64 16, float32 32; complex128 8
 * and complex64 16 for each part; element i of a leaf goes to lane i mod V),
 * the lanes by halving, the leaves pairwise by index. Error bound, of each part
 * and to first order: (log2 n + 64) u sum |x|, for complex (log2 n + 128) u sum
 * |x|, with u half an ulp of 1 in the type of the sum, after pairwise summation
 * (Higham, SIAM J. Sci. Comput. 14, 1993). Integers have no order; each nonzero
 * boolean counts one. An empty array gives zero, as do negative zeros alone;
 * NaN and infinity propagate, NaN as the positive quiet one.
 *
 * An array that does not lie in C order in memory is read in C order all the
 * same, so a transposed one of floats takes a few times as long, and up to 1
 * MiB of memory a thread for the while.
 *
 * @param team       Borrowed. NULL = the process's own.
 * @param array      Borrowed; not written to.
 * @param site       As in ac_for(). NULL = keyed by element type, and by
 *                   whether the array lies in one piece.
 * @param ret_sum    Written on success only.
 * @return AC_OK; AC_E_INVAL for an unknown dtype, a rank over AC_RANK_MAX, a
 *         negative extent, over 2^58 elements or NULL data with elements; else
 *         as ac_reduce().
 */
AC_API ac_status ac_sum(ac_team *team, const ac_array *array,
                        const ac_site *site, ac_scalar *ret_sum);

#ifdef __cplusplus
}
#endif
#endif
