/* lane.h: the short way from a thread to a helper that worked for it just now.
 *
 * Every worker has one lane to each of the first helpers. A helper that has run
 * a message of a worker, its patron, looks at the patron's lane to it as well
 * as at its own mailbox for as long as it spins. The patron then hands it the
 * next piece by writing one line, and sees in another that it is done: two line
 * transfers, where the mailbox and a count take twice as many.
 *
 * Messages are numbered. Each is decided once, by moving `claim` from the
 * number before it to its own: the helper takes it so, or the patron revokes it
 * so. That word has a line of its own, which stays with the helper while nobody
 * revokes.
 *
 * Who posts and who leaves cannot miss each other: the patron stores `post`,
 * then loads `present`; the helper stores `present` = 0, passes a heavy
 * barrier, then loads `post` (sleep.c, 2, with the same barrier). If the patron
 * finds that the helper has left, it revokes what the helper did not take.
 *
 * Invariants: only the patron writes `post` and the message; only the helper
 * writes `done` and `present`. A message lies untouched from `post` until it is
 * done or revoked.
 */
#ifndef AC_TEAM_LANE_H
#define AC_TEAM_LANE_H

#include "team/sleep.h"

/* The patron: hand a piece to helper `number`, if it is there. */
bool ac__lane_post(ac_worker *patron, int32_t number, const ac__piece *piece);

/* The patron: take it back if the helper has not begun. */
bool ac__lane_revoke(ac_worker *patron, int32_t number);

/* The patron: has the helper finished with the last piece? Acquires. */
static inline bool ac__lane_is_done(const ac_worker *patron, int32_t number) {
  const ac__lane *lane = &patron->lanes[number - 1];
  /* A revoked piece never will be; what went before it has long been.
   * acquire: pairs with the release in ac__lane_run() */
  return patron->lane_is_void[number - 1] ||
         atomic_load_explicit(&lane->done, memory_order_acquire) ==
             patron->lane_sent[number - 1];
}

static inline bool ac__lane_exists(int32_t number) {
  return number <= AC__LANES;
}

/* The helper: begin, and stop, looking at the lane that `patron` has to it. */
void ac__lane_attach(ac_worker *self, ac_worker *patron);
/* Without a barrier: the caller passes one, then calls ac__lane_run(). */
void ac__lane_detach(ac_worker *self);

/* The helper: does a piece lie there? A hint. */
static inline bool ac__lane_has_piece(const ac__lane *lane) {
  /* relaxed: ac__lane_run() looks with acquire */
  return atomic_load_explicit(&lane->post, memory_order_relaxed) !=
         atomic_load_explicit(&lane->claim, memory_order_relaxed);
}

/* Anybody who has claimed the helper's mailbox: is it about to run a piece? */
static inline bool ac__lane_is_due(const ac_worker *helper) {
  /* acquire: pairs with the release in ac__lane_attach() */
  const ac__lane *lane = __atomic_load_n(&helper->lane, __ATOMIC_ACQUIRE);
  return lane != NULL && ac__lane_has_piece(lane);
}

/* The helper: the lane that it looks at; NULL = none. */
static inline ac__lane *ac__lane_of(const ac_worker *self) {
  /* relaxed: its own word */
  return __atomic_load_n(&self->lane, __ATOMIC_RELAXED);
}

/* The helper: look at no lane any more, no piece being there. */
static inline void ac__lane_forget(ac_worker *self) {
  /* relaxed: a hint to others */
  __atomic_store_n(&self->lane, NULL, __ATOMIC_RELAXED);
}

/* The helper: run a piece if one lies in its lane. */
bool ac__lane_run(ac_worker *self);

#endif
