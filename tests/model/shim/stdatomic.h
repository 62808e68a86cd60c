/* stdatomic.h, for the model: the operations that the sources use, as calls of
 * the checker. Included before anything else (-include), so that the builtins
 * of the sources that are shared with C++ are caught too. An operation that is
 * not here does not compile or link, rather than go unseen. */
#ifndef AC_MODEL_STDATOMIC_H
#define AC_MODEL_STDATOMIC_H

#include "../engine.h"

typedef enum memory_order {
  memory_order_relaxed = __ATOMIC_RELAXED,
  memory_order_consume = __ATOMIC_CONSUME,
  memory_order_acquire = __ATOMIC_ACQUIRE,
  memory_order_release = __ATOMIC_RELEASE,
  memory_order_acq_rel = __ATOMIC_ACQ_REL,
  memory_order_seq_cst = __ATOMIC_SEQ_CST
} memory_order;

/* The comma drops _Atomic and const. */
#define MC_AS(p, bits) ((__typeof__(((void)0, *(p))))(uintptr_t)(bits))
#define MC_BITS(value) ((uint64_t)(uintptr_t)(value))

/* clang-format off */
#define MC_LOAD(p) MC_AS(p, mc_load((p), sizeof *(p), MC_SITE))
#define MC_STORE(p, v, o) mc_store((p), sizeof *(p), MC_BITS(v), o, MC_SITE)
#define MC_MODIFY(p, what, v, o) \
  MC_AS(p, mc_modify((p), sizeof *(p), what, MC_BITS(v), o, MC_SITE))
#define MC_SWAP(p, e, d, o) \
  mc_swap((p), sizeof *(p), (e), MC_BITS(d), o, MC_SITE)

#define atomic_load_explicit(p, o) MC_LOAD(p)
#define atomic_store_explicit(p, v, o) MC_STORE(p, v, o)
#define atomic_fetch_add_explicit(p, v, o) MC_MODIFY(p, MC_ADD, v, o)
#define atomic_fetch_sub_explicit(p, v, o) MC_MODIFY(p, MC_SUB, v, o)
#define atomic_fetch_or_explicit(p, v, o) MC_MODIFY(p, MC_OR, v, o)
#define atomic_fetch_and_explicit(p, v, o) MC_MODIFY(p, MC_AND, v, o)
#define atomic_exchange_explicit(p, v, o) MC_MODIFY(p, MC_EXCHANGE, v, o)
#define atomic_compare_exchange_strong_explicit(p, e, d, o, f) \
  MC_SWAP(p, e, d, o)
#define atomic_compare_exchange_weak_explicit(p, e, d, o, f) MC_SWAP(p, e, d, o)
#define atomic_init(p, v) ((void)(*(p) = (v)))
#define atomic_thread_fence(o) mc_fence(o, MC_SITE)
#define atomic_signal_fence(o) ((void)0)

#define __atomic_load_n(p, o) MC_LOAD(p)
#define __atomic_store_n(p, v, o) MC_STORE(p, v, o)
#define __atomic_exchange_n(p, v, o) MC_MODIFY(p, MC_EXCHANGE, v, o)
#define __atomic_compare_exchange_n(p, e, d, weak, o, f) MC_SWAP(p, e, d, o)
#define __atomic_thread_fence(o) mc_fence(o, MC_SITE)
/* clang-format on */

#endif
