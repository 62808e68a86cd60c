/* sleep.c: the mailbox and the two ways to sleep.
 *
 * A helper that runs out of work opens its mailbox, looks there and in others'
 * deques for a while, and then parks. Who has work for it in hand claims the
 * mailbox, writes the message and publishes it; who has pushed a job into its
 * own deque nudges one parked helper, which then looks for work and, if it
 * finds some and more is visible, nudges the next.
 *
 *            claim              publish             begin
 *   OPEN ───────────► CLAIMED ───────────► FULL ───────────► BUSY
 *    ▲ │ close          ▲  │ publish        │ take back        │ open
 *    │ ▼                │  ▼                ▼                  ▼
 *    │ BUSY ──► PARKED ─┘ NUDGED ──► BUSY  OPEN               OPEN
 *    └────────────────────────────────────────────────────────┘
 *
 * No wake-up is lost:
 *  1. Mail against parking: both change one word by compare-and-swap, so either
 *     the sender sees PARKED and wakes, or the helper sees the message.
 *  2. A push against parking (store→load on both sides): the helper stores
 *     PARKED, its bit and `hungry`, passes ac__barrier_heavy(), then looks at
 * all deques. A pusher stores `bottom`, then loads `hungry`. The heavy barrier
 *     runs a full fence on every running thread of the process: a pusher that
 *     has passed its load before the barrier has also made its push visible;
 *     one that has not will load `hungry` = 1. Where the system has no such
 *     barrier, every push is fenced (ac__spawn_slow) and the helper's own fence
 *     suffices.
 *  3. A nudge in flight: `hungry` is taken down (exchange) by the one who
 *     nudges. The nudged helper is a scout until it has put the flag up again,
 *     behind a heavy barrier, and then looked (ac__park_prepare, or pass_on()
 *     in worker.c); before it does anything else, as when mail comes first, it
 *     passes on. While a sentinel waits for a core the flag stays down; when it
 *     is one no longer, it is a scout.
 *  4. The bit of a helper is cleared before its state is examined, and set
 * after the state is PARKED; so a set bit is never cleared unexamined.
 *  5. A join blocks like 2: `sleep` = BLOCKED, flags up, heavy barrier, look
 *     again, sleep. Whoever ends what it waits for exchanges the word that
 * counts it (a read-modify-write on both sides) and then wakes; a wake that
 * comes when the worker no longer sleeps is harmless, since it looks again.
 *
 *  6. A heavy barrier interrupts every core that the process runs on, so a
 * helper whose regions come a millisecond apart should not pay for one each
 * time. It may sleep without, for 3 ms at most, and passes it then: a push that
 * the race of 2 hid from it waits no longer than that.
 *
 * Model-checked as compiled, with store buffers: see tests/model.
 *
 * Knows nothing of: what a message or a job does, tokens, threads.
 */
#include "team/sleep.h"

bool ac__mail_claim(ac_worker *helper, uint32_t *ret_before) {
  /* relaxed: a hint; the swap decides */
  uint32_t state =
      atomic_load_explicit(&helper->mail.state, memory_order_relaxed);
  uint32_t code = ac__mail_code(state);
  if (code != AC__MAIL_OPEN && code != AC__MAIL_PARKED &&
      code != AC__MAIL_ABSENT)
    return false;
  uint32_t next = ac__mail_with(state + AC__MAIL_NEXT, AC__MAIL_CLAIMED);
  /* acquire: the helper has finished with the last message (release in
   * ac__mail_open and ac__park_prepare) before its fields are written */
  if (!atomic_compare_exchange_strong_explicit(&helper->mail.state, &state,
                                               next, memory_order_acquire,
                                               memory_order_relaxed))
    return false;
  *ret_before = code;
  return true;
}

void ac__mail_unclaim(ac_worker *helper, uint32_t before) {
  /* relaxed: while CLAIMED, only the claimer changes the word */
  uint32_t state =
      atomic_load_explicit(&helper->mail.state, memory_order_relaxed);
  /* release: pairs with the acquire of the next claim; the token may have been
   * touched meanwhile */
  atomic_store_explicit(&helper->mail.state, ac__mail_with(state, before),
                        memory_order_release);
  if (before != AC__MAIL_OPEN) {
    uint32_t number = (uint32_t)helper->number;
    /* release: after the state, as in ac__park_prepare(). acquire: who cleared
     * it meanwhile found nobody, and had taken the flag down for that: see
     * ac__mail_return() */
    atomic_fetch_or_explicit(&helper->team->parked[number / 64],
                             UINT64_C(1) << (number % 64),
                             memory_order_acq_rel);
  }
}

uint32_t ac__mail_publish(ac_worker *helper, uint32_t code) {
  /* relaxed: as in ac__mail_unclaim() */
  uint32_t state = ac__mail_with(
      atomic_load_explicit(&helper->mail.state, memory_order_relaxed), code);
  /* release: pairs with the acquire in ac__mail_begin() and the helper's loop;
   * it sees the message, the token and all that the sender wrote before. */
  atomic_store_explicit(&helper->mail.state, state, memory_order_release);
  return state;
}

void ac__mail_wake(ac_worker *helper) {
  ac__futex_wake(&helper->mail.state, 1);
}

bool ac__mail_take_back(ac_worker *helper, uint32_t state) {
  /* acquire: what the sender does next with the piece comes after; release is
   * not needed, the helper learns nothing from OPEN */
  return atomic_compare_exchange_strong_explicit(
      &helper->mail.state, &state, ac__mail_with(state, AC__MAIL_OPEN),
      memory_order_acquire, memory_order_relaxed);
}

void ac__mail_open(ac_worker *self) {
  /* relaxed: while BUSY only the helper changes the word */
  uint32_t state =
      atomic_load_explicit(&self->mail.state, memory_order_relaxed);
  /* release: pairs with the acquire in ac__mail_claim() */
  atomic_store_explicit(&self->mail.state, ac__mail_with(state, AC__MAIL_OPEN),
                        memory_order_release);
}

static bool swap_code(ac_worker *self, uint32_t from, uint32_t to) {
  uint32_t state =
      atomic_load_explicit(&self->mail.state, memory_order_relaxed);
  if (ac__mail_code(state) != from)
    return false;
  /* acquire: pairs with the release in ac__mail_publish() */
  return atomic_compare_exchange_strong_explicit(
      &self->mail.state, &state, ac__mail_with(state, to), memory_order_acquire,
      memory_order_relaxed);
}

bool ac__mail_close(ac_worker *self) {
  return swap_code(self, AC__MAIL_OPEN, AC__MAIL_BUSY);
}

bool ac__mail_begin(ac_worker *self) {
  return swap_code(self, AC__MAIL_FULL, AC__MAIL_BUSY);
}

void ac__park_announce(ac_worker *self) {
  ac_team *team = self->team;
  uint32_t number = (uint32_t)self->number;
  uint32_t state =
      atomic_load_explicit(&self->mail.state, memory_order_relaxed);
  /* release: pairs with the acquire in ac__mail_claim() */
  atomic_store_explicit(&self->mail.state,
                        ac__mail_with(state, AC__MAIL_PARKED),
                        memory_order_release);
  /* release: who sees the bit (acquire in ac__nudge_claim) sees PARKED */
  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);
  /* release: who takes the flag down (acquire in notify) sees the bit */
  atomic_store_explicit(&team->hungry, 1, memory_order_release);
}

void ac__park_prepare(ac_worker *self) {
  ac__park_announce(self);
  /* Pairs with every push: see 2 above. */
  ac__barrier_heavy();
}

bool ac__park_cancel(ac_worker *self) {
  return swap_code(self, AC__MAIL_PARKED, AC__MAIL_BUSY);
}

void ac__park_sleep(ac_worker *self, int64_t timeout_ns) {
  /* relaxed: the futex compares again; the caller reads with acquire */
  uint32_t state =
      atomic_load_explicit(&self->mail.state, memory_order_relaxed);
  if (ac__mail_code(state) == AC__MAIL_PARKED)
    ac__futex_wait(&self->mail.state, state, timeout_ns);
}

ac_worker *ac__nudge_claim(ac_team *team, int32_t width, uint32_t *ret_before) {
  for (int32_t word = 0; word * 64 < width; word++) {
    /* relaxed: a hint; the exchange below decides */
    uint64_t bits =
        atomic_load_explicit(&team->parked[word], memory_order_relaxed);
    while (bits != 0) {
      int32_t number = word * 64 + __builtin_ctzll(bits);
      uint64_t bit = bits & -bits;
      bits ^= bit;
      if (number >= width)
        return NULL;
      /* acquire: pairs with the release that set the bit, so PARKED is seen.
       * Cleared before the state is examined: see 4 above. release: pairs with
       * the acquire in ac__mail_unclaim() */
      if (!(atomic_fetch_and_explicit(&team->parked[word], ~bit,
                                      memory_order_acq_rel) &
            bit))
        continue;
      /* acquire: the worker's fields, set before the pointer */
      ac_worker *helper =
          atomic_load_explicit(&team->helpers[number], memory_order_acquire);
      if (helper != NULL && ac__mail_claim(helper, ret_before)) {
        if (*ret_before != AC__MAIL_OPEN)
          return helper;
        ac__mail_unclaim(helper,
                         *ret_before); /* it is awake and looks itself */
      }
    }
  }
  return NULL;
}

void ac__block_prepare(ac_worker *self) {
  /* relaxed: the fence and the caller's heavy barrier publish it; see 5 above
   */
  atomic_store_explicit(&self->sleep, AC__BLOCKED, memory_order_relaxed);
  /* seq_cst: before the caller looks who works for it; pairs with the fence in
   * ac__strand_run(). Either it finds the thief and sets its flag, or the thief
   * finds it BLOCKED and sets its own. */
  atomic_thread_fence(memory_order_seq_cst);
}

void ac__block_cancel(ac_worker *self) {
  /* relaxed: a late wake is harmless */
  atomic_store_explicit(&self->sleep, AC__AWAKE, memory_order_relaxed);
}

bool ac__block_sleep(ac_worker *self, int64_t timeout_ns) {
  ac__futex_wait(&self->sleep, AC__BLOCKED, timeout_ns);
  /* acquire: pairs with the release in ac__block_wake() */
  bool is_woken = atomic_exchange_explicit(&self->sleep, AC__AWAKE,
                                           memory_order_acquire) == AC__AWAKE;
  return is_woken;
}

bool ac__block_wake(ac_worker *worker) {
  /* release: pairs with the acquire in ac__block_sleep(). An exchange, since it
   * must not be reordered with the waker's earlier read-modify-write. */
  if (atomic_exchange_explicit(&worker->sleep, AC__AWAKE,
                               memory_order_acq_rel) != AC__BLOCKED)
    return false;
  ac__futex_wake(&worker->sleep, 1);
  return true;
}
