/* pending.h: how many parts of a join are still at work, and whether its owner
 * sleeps: one word, so that ending and asking cannot miss each other.
 *
 * Both sides change the word by read-modify-write: either the last part sees
 * AWAITED and wakes the owner, or the owner sees zero and does not sleep.
 */
#ifndef AC_TEAM_PENDING_H
#define AC_TEAM_PENDING_H

#include "team/sleep.h"

#define AC__AWAITED (UINT32_C(1) << 31)

static inline void ac__pending_add(_Atomic uint32_t *pending, uint32_t parts) {
  /* relaxed: whoever adds holds a part itself, so the count cannot reach zero
   */
  atomic_fetch_add_explicit(pending, parts, memory_order_relaxed);
}

/* End one part. The join's memory may be gone when this returns. True if it had
 * to make a system call, to wake the owner. */
static inline bool ac__pending_end(_Atomic uint32_t *pending,
                                   ac_worker *owner) {
  /* release: pairs with the acquire in ac__pending_is_over(); acquire: the last
   * one sees AWAITED and, through it, the owner's state */
  return atomic_fetch_sub_explicit(pending, 1, memory_order_acq_rel) ==
             (AC__AWAITED | 1) &&
         ac__block_wake(owner);
}

static inline bool ac__pending_is_over(_Atomic uint32_t *pending) {
  /* acquire: pairs with the release in ac__pending_end() */
  return (atomic_load_explicit(pending, memory_order_acquire) & ~AC__AWAITED) ==
         0;
}

/* Owner, about to block: false if it is over. */
static inline bool ac__pending_ask(_Atomic uint32_t *pending) {
  /* acq_rel: publishes `sleep`; acquires what the parts wrote if it is over */
  return (atomic_fetch_or_explicit(pending, AC__AWAITED, memory_order_acq_rel) &
          ~AC__AWAITED) != 0;
}

#endif
