/* sleep.h: how idle helpers are handed work, sleep and are woken; how joins
 * block. The protocol is told in sleep.c. */
#ifndef AC_TEAM_SLEEP_H
#define AC_TEAM_SLEEP_H

#include "team/types.h"

static inline uint32_t ac__mail_code(uint32_t state) {
  return state & AC__MAIL_CODE;
}
static inline uint32_t ac__mail_with(uint32_t state, uint32_t code) {
  return (state & ~(uint32_t)AC__MAIL_CODE) | code;
}

/* ---- Senders ------------------------------------------------------------ */

/* Reserve an idle helper's mailbox. On success *ret_before is the code that it
 * had (OPEN, PARKED or ABSENT) and the caller must send or unclaim. */
bool ac__mail_claim(ac_worker *helper, uint32_t *ret_before);
/* Put a claimed mailbox back as it was. */
void ac__mail_unclaim(ac_worker *helper, uint32_t before);
/* Publish the message or nudge (code FULL or NUDGED) that the fields now hold.
 * Returns the state word to take it back by. Does not wake. */
uint32_t ac__mail_publish(ac_worker *helper, uint32_t code);
/* Wake a helper that slept when it was claimed. */
void ac__mail_wake(ac_worker *helper);
/* Take back a message that nobody began; `state` as ac__mail_publish() gave. */
bool ac__mail_take_back(ac_worker *helper, uint32_t state);

/* ---- The helper --------------------------------------------------------- */

/* BUSY → OPEN. */
void ac__mail_open(ac_worker *self);
/* OPEN → BUSY; false if somebody claimed it meanwhile. */
bool ac__mail_close(ac_worker *self);
/* FULL → BUSY; false if it was taken back. */
bool ac__mail_begin(ac_worker *self);
/* BUSY → PARKED, and ask for nudges. What was pushed before and not announced
 * is visible for certain only after a heavy barrier, which the caller passes
 * before it sleeps for good: see 6 in sleep.c. */
void ac__park_announce(ac_worker *self);
/* The same with the barrier. */
void ac__park_prepare(ac_worker *self);
/* PARKED → BUSY, having found work after all; false if somebody claimed it. */
bool ac__park_cancel(ac_worker *self);
/* Sleep until the mailbox is no longer parked, or for timeout_ns. */
void ac__park_sleep(ac_worker *self, int64_t timeout_ns);

/* ---- Announcing work ---------------------------------------------------- */

/* After a push, with the fence that the system needs: does a parked helper of
 * the team, or a blocked join that waits for this worker, want to know? */
static inline bool ac__is_wanted(const ac_worker *self) {
  /* relaxed: the asker's heavy barrier orders it (ac__park_prepare,
   * ac__block_prepare); the compiler must not move it before the push. */
  atomic_signal_fence(memory_order_seq_cst);
  return (__atomic_load_n(self->head.team_hungry, __ATOMIC_RELAXED) |
          __atomic_load_n(&self->head.hungry, __ATOMIC_RELAXED)) != 0;
}

/* Claim one parked helper for a nudge; NULL if none wants one. */
ac_worker *ac__nudge_claim(ac_team *team, int32_t width, uint32_t *ret_before);

/* ---- Joins -------------------------------------------------------------- */

/* Say that this worker is about to block. Then set the `hungry` flag of those
 * it waits for, call ac__barrier_heavy(), look again, and sleep or cancel. */
void ac__block_prepare(ac_worker *self);
void ac__block_cancel(ac_worker *self);
/* Sleep until ac__block_wake() or for timeout_ns; false at a time-out. */
bool ac__block_sleep(ac_worker *self, int64_t timeout_ns);
/* Wake `worker` if it is blocked. Harmless if it is not, so it may be late. */
bool ac__block_wake(ac_worker *worker);

#endif
