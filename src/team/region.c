/* region.c: status, cancellation and borders of regions.
 *
 * A region is cancelled by its first non-zero status. Work inside it asks at
 * borders between chunks, walking outwards over the regions in which its own
 * was made; their frames are alive, for their owners wait.
 *
 * Knows nothing of: what a region computes.
 */
#include "base/status.h"
#include "team/team.h"

enum { POLL_NS = 20000000 }; /* shortest time between two calls of poll */

/* True for the one whose status it is. */
static bool set_status(ac__region *region, ac_status status) {
  ac_status expected = AC_OK;
  /* acq_rel: the winner alone goes on to write the error; release pairs with
   * the acquire of those who read the status */
  return atomic_compare_exchange_strong_explicit(&region->status, &expected,
                                                 status, memory_order_acq_rel,
                                                 memory_order_relaxed);
}

void ac__region_fail(ac__region *region, ac_status status) {
  (void)set_status(region, status);
}

void ac__region_fail_body(ac__region *region, ac_status status,
                          uint32_t errors) {
  if (!set_status(region, status) || ac__error_count == errors ||
      ac_last_error()->status != status)
    return;
  /* acq_rel: release pairs with the acquire in ac__region_finish(). There is an
   * old one if a group was cancelled as it became ready for use again. */
  ac__error_drop(atomic_exchange_explicit(&region->error, ac__error_take(),
                                          memory_order_acq_rel));
}

/* Without a text, none of an older failure is to be taken for this one's. */
static ac_status give(ac_status status, ac_error *error) {
  if (error != NULL)
    ac__error_give(error);
  else if (ac_last_error()->status == status)
    ac__error_drop(ac__error_take());
  return status;
}

ac_status ac__status_of_body(ac_status status, uint32_t errors) {
  return status == AC_OK || ac__error_count != errors ? status
                                                      : give(status, NULL);
}

ac_status ac__region_finish(ac__region *region) {
  /* acquire: pairs with the release in set_status() */
  ac_status status =
      atomic_load_explicit(&region->status, memory_order_acquire);
  /* acquire: pairs with the release in ac__region_fail_body() */
  return status == AC_OK
             ? AC_OK
             : give(status, atomic_exchange_explicit(&region->error, NULL,
                                                     memory_order_acquire));
}

ac_status ac__region_look(ac__region *region) {
  /* acquire, twice: as above */
  ac_status status =
      atomic_load_explicit(&region->status, memory_order_acquire);
  return status == AC_OK
             ? AC_OK
             : give(status, ac__error_copy(atomic_load_explicit(
                                &region->error, memory_order_acquire)));
}

void ac__piece_run(ac_worker *worker, const ac__piece *piece,
                   ac_worker *owner) {
  ac__region *region = piece->region;
  ac__frame frame;
  if (region == NULL) {
    (void)piece->body(piece->range, piece->ctx);
    return;
  }
  ac__frame_push(worker, &frame, region, owner, piece->index);
  uint32_t errors = ac__error_count;
  ac_status status = piece->body(piece->range, piece->ctx);
  ac__frame_pop(worker, &frame);
  if (status != AC_OK)
    ac__region_fail_body(region, status, errors);
}

ac_status ac__frame_status(const ac__frame *frame) {
  bool is_own = true;
  while (frame != NULL) {
    ac__region *region = frame->region;
    /* relaxed: a reason to stop; the join acquires it */
    ac_status status =
        atomic_load_explicit(&region->status, memory_order_relaxed);
    if (status != AC_OK)
      return is_own || status == AC_E_TIMEOUT ? status : AC_E_CANCELLED;
    if (region->deadline_ns != 0 &&
        ac__clock_ns() >= (uint64_t)region->deadline_ns) {
      /* The body that sees it may stop early: whoever waits must know. */
      ac__region_fail(region, AC_E_TIMEOUT);
      return AC_E_TIMEOUT;
    }
    is_own = false;
    /* acquire: pairs with the release in group.c */
    frame = __atomic_load_n(&region->outer, __ATOMIC_ACQUIRE);
  }
  return AC_OK;
}

ac_status ac__status_around(const ac_worker *worker) {
  ac_status status = ac__frame_status(worker->frame);
  return status == AC_OK || status == AC_E_TIMEOUT ? status : AC_E_CANCELLED;
}

bool ac_cancelled(void) {
  const ac_worker *worker = ac__self_tls.worker;
  return worker != NULL && ac__frame_status(worker->frame) != AC_OK;
}

int ac_worker_index(void) {
  const ac_worker *worker = ac__self_tls.worker;
  return worker == NULL || worker->frame == NULL ? 0 : worker->frame->index;
}

int ac_region_width(void) {
  const ac_worker *worker = ac__self_tls.worker;
  return worker == NULL || worker->frame == NULL ? 1
                                                 : worker->frame->region->width;
}

void ac_poll_set(ac_poll_fn poll, void *ctx) {
  ac__self_tls.poll = poll;
  ac__self_tls.poll_ctx = ctx;
  ac__self_tls.poll_due_ns = 0;
}

ac_status ac__poll(uint64_t now_ns) {
  ac__self *self = &ac__self_tls;
  if (self->poll == NULL || now_ns < self->poll_due_ns)
    return AC_OK;
  ac_status status = self->poll(self->poll_ctx);
  self->poll_due_ns = ac__clock_ns() + POLL_NS;
  return status;
}

/* Should this helper leave its core to others? */
static bool must_yield(ac_worker *worker, uint64_t now_ns) {
  ac_team *team = worker->team;
  if (worker->is_guest)
    return false;
  if (team->asked_width == 0 && worker->number >= ac__team_width(team))
    return true;
  if (worker->token.slot != 0) {
    if (!ac__token_is_recalled(&worker->token, now_ns))
      return false;
    ac__token_release(&worker->token);
    return true;
  }
  if (team->asked_width != 0) {
    ac__token_enter(&worker->token, worker->word);
    return false;
  }
  return !ac__token_claim(&worker->token, worker->word);
}

ac__verdict ac__border(ac_worker *worker) {
  ac_status status = ac__frame_status(worker->frame);
  if (status == AC_OK && (ac__self_tls.poll != NULL || !worker->is_guest)) {
    uint64_t now_ns = ac__clock_ns();
    if (must_yield(worker, now_ns))
      return AC__YIELD;
    status = ac__poll(now_ns);
  }
  if (status == AC_OK && ac__is_orphan())
    status = AC_E_FORKED;
  if (status == AC_OK)
    return AC__GO_ON;
  if (worker->frame != NULL)
    ac__region_fail(worker->frame->region, status);
  return AC__STOP;
}
