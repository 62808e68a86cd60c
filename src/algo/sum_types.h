/* sum_types.h: the kernels of ac_sum(), one for each element type.
 *
 * Included once for each width of vectors, with LEAF_BYTES, LEAF_TARGET and
 * LEAF_SUFFIX(name) defined. 8- and 16-bit integers are summed in 32 bits
 * within a leaf, which 1,024 of them cannot fill; 32-bit ones in 64. 8-bit ones
 * widen in two steps, for which gcc has instructions.
 */
typedef int16_t LEAF_SUFFIX(sum_i8_half)
    __attribute__((vector_size(LEAF_BYTES / 2)));
typedef uint16_t LEAF_SUFFIX(sum_u8_half)
    __attribute__((vector_size(LEAF_BYTES / 2)));

#define LEAF_NAME    LEAF_SUFFIX(sum_bool)
#define LEAF_ELEMENT uint8_t
#define LEAF_LANE    int32_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_IS_TRUE
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_i8)
#define LEAF_ELEMENT int8_t
#define LEAF_LANE    int32_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_I8
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_i16)
#define LEAF_ELEMENT int16_t
#define LEAF_LANE    int32_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_i32)
#define LEAF_ELEMENT int32_t
#define LEAF_LANE    int64_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_u8)
#define LEAF_ELEMENT uint8_t
#define LEAF_LANE    uint32_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_U8
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_u16)
#define LEAF_ELEMENT uint16_t
#define LEAF_LANE    uint32_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_u32)
#define LEAF_ELEMENT uint32_t
#define LEAF_LANE    uint64_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

/* Also for int64: the same bits, since both wrap. */
#define LEAF_NAME    LEAF_SUFFIX(sum_u64)
#define LEAF_ELEMENT uint64_t
#define LEAF_LANE    uint64_t
#define LEAF_VALUE   uint64_t
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_f32)
#define LEAF_ELEMENT float
#define LEAF_LANE    float
#define LEAF_VALUE   float
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_f64)
#define LEAF_ELEMENT double
#define LEAF_LANE    double
#define LEAF_VALUE   double
#define LEAF_PARTS   1
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_c64)
#define LEAF_ELEMENT float
#define LEAF_LANE    float
#define LEAF_VALUE   float
#define LEAF_PARTS   2
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"

#define LEAF_NAME    LEAF_SUFFIX(sum_c128)
#define LEAF_ELEMENT double
#define LEAF_LANE    double
#define LEAF_VALUE   double
#define LEAF_PARTS   2
#define LEAF_TAKE    TAKE_AS_IS
#include "algo/sum_kernels.h"
