/* lane.c: see lane.h. */
#include "team/lane.h"
#include "team/team.h"

#define WRITE(field, value)                                                    \
  do {                                                                         \
    if ((field) != (value))                                                    \
      (field) = (value);                                                       \
  } while (0)

bool ac__lane_post(ac_worker *patron, int32_t number, const ac__piece *piece) {
  ac__lane *lane = &patron->lanes[number - 1];
  uint32_t *sent = &patron->lane_sent[number - 1];
  /* relaxed: a hint; asked again below */
  if (!atomic_load_explicit(&lane->present, memory_order_relaxed))
    return false;
  if (!ac__lane_is_done(patron, number))
    return false;
  /* A helper that polls the line feels every store to it: leave out those of
   * what stands there already, as when the same loop runs again. */
  WRITE(lane->body, piece->body);
  WRITE(lane->ctx, piece->ctx);
  WRITE(lane->region, piece->region);
  WRITE(lane->begin, piece->range.begin);
  WRITE(lane->end, piece->range.end);
  WRITE(lane->index, piece->index);
  *sent += 1;
  patron->lane_is_void[number - 1] = false;
  /* release: pairs with the acquire in ac__lane_run() */
  atomic_store_explicit(&lane->post, *sent, memory_order_release);
  /* Against ac__lane_detach() and the heavy barrier after it. */
  if (ac__barrier_is_asymmetric())
    atomic_signal_fence(memory_order_seq_cst);
  else
    atomic_thread_fence(memory_order_seq_cst);
  AC__COUNT(patron, shared_writes);
  /* acquire: if it has left, it has finished what it took before */
  if (!atomic_load_explicit(&lane->present, memory_order_acquire) &&
      ac__lane_revoke(patron, number))
    return false;
  AC__COUNT(patron, mails);
  return true;
}

/* Decide on message `number`: true for the one of the two who comes first. */
static bool decide(ac__lane *lane, uint32_t number) {
  uint32_t before = number - 1;
  /* acq_rel: each decision comes after the one before it; the message itself
   * comes with `post`, what is done with `done` */
  return atomic_compare_exchange_strong_explicit(&lane->claim, &before, number,
                                                 memory_order_acq_rel,
                                                 memory_order_relaxed);
}

bool ac__lane_revoke(ac_worker *patron, int32_t number) {
  bool is_void =
      decide(&patron->lanes[number - 1], patron->lane_sent[number - 1]);
  if (is_void)
    patron->lane_is_void[number - 1] = true;
  return is_void;
}

void ac__lane_attach(ac_worker *self, ac_worker *patron) {
  ac__lane *lane = &patron->lanes[self->number - 1];
  /* release: pairs with the acquire in ac__lane_is_due() */
  __atomic_store_n(&self->lane, lane, __ATOMIC_RELEASE);
  self->patron = patron;
  /* relaxed: says only that we look */
  atomic_store_explicit(&lane->present, 1, memory_order_relaxed);
}

void ac__lane_detach(ac_worker *self) {
  /* release: what was run before is done, for a patron that sees it left */
  atomic_store_explicit(&ac__lane_of(self)->present, 0, memory_order_release);
}

bool ac__lane_run(ac_worker *self) {
  ac__lane *lane = ac__lane_of(self);
  /* acquire: pairs with the release in ac__lane_post() */
  uint32_t post = atomic_load_explicit(&lane->post, memory_order_acquire);
  /* relaxed: a hint, as decide() is asked */
  if (post == atomic_load_explicit(&lane->claim, memory_order_relaxed) ||
      !decide(lane, post))
    return false;
  const ac__piece piece = {.body = lane->body,
                           .ctx = lane->ctx,
                           .region = lane->region,
                           .range = {lane->begin, lane->end},
                           .index = lane->index};
  ac_worker *patron = self->patron;
  ac__piece_run(self, &piece, patron);
  /* release: pairs with the acquire in ac__lane_is_done() */
  atomic_store_explicit(&lane->done, post, memory_order_release);
  AC__COUNT(self, shared_writes);
  /* A patron that blocks passes a heavy barrier before it looks at `done`. */
  if (ac__barrier_is_asymmetric())
    atomic_signal_fence(memory_order_seq_cst);
  else
    atomic_thread_fence(memory_order_seq_cst);
  /* relaxed: a hint; the wake is an exchange */
  if (atomic_load_explicit(&patron->sleep, memory_order_relaxed) ==
          AC__BLOCKED &&
      ac__block_wake(patron))
    AC__COUNT(self, futex_calls);
  return true;
}
