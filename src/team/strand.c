/* strand.c: the slow halves of spawn.h.
 *
 * A strand that was stolen runs on its thief; its spawner waits, helping with
 * what the thief exposes above the bottom that it had when it began
 * (leapfrogging: Wagner and Calder, PPoPP 1993).
 *
 * Knows nothing of: what a strand computes.
 */
#include "base/status.h"
#include "team/sleep.h"
#include "team/team.h"

void ac__strand_run(ac__job *job, ac_worker *thief) {
  ac_strand *strand = (ac_strand *)job;
  ac__frame *made_in = strand->scope;
  ac_worker *owner = made_in->worker;
  ac__frame frame;
  /* Others than the team's first helpers may steal here: waiting guests. */
  ac__frame_push(thief, &frame, made_in->region, owner,
                 thief == made_in->region->owner ? 0 : thief->place);
  /* relaxed, then release: who sees the thief sees the base */
  __atomic_store_n(&strand->base, thief->head.bottom, __ATOMIC_RELAXED);
  __atomic_store_n(&strand->thief, thief, __ATOMIC_RELEASE);
  /* seq_cst: between telling of the thief and asking whether the owner sleeps;
   * pairs with the fence in ac__block_prepare() */
  atomic_thread_fence(memory_order_seq_cst);
  /* relaxed: if the owner blocked before it knew us, it is our pushes that it
   * wants to hear of */
  if (atomic_load_explicit(&owner->sleep, memory_order_relaxed) == AC__BLOCKED)
    ac__make_hungry(thief);
  strand->fn(thief, strand->arg);
  ac__frame_pop(thief, &frame);
  AC__COUNT_N(thief, shared_writes, 2); /* that it began, and that it ended */
  /* acq_rel: release pairs with the acquire in is_over(); acquire, so that an
   * AWAITED comes with the owner's state. The strand is gone after this. */
  if (__atomic_exchange_n(&strand->state, AC__STRAND_DONE, __ATOMIC_ACQ_REL) ==
          AC__STRAND_AWAITED &&
      ac__block_wake(owner))
    AC__COUNT(thief, futex_calls);
}

void ac__spawn_slow(ac_worker *worker, ac_strand *strand) {
  if (ac__job_push(worker, &strand->job, false))
    return;
  strand->in_place = 1; /* too deep: at once */
  strand->fn(worker, strand->arg);
}

static bool is_over(void *subject) {
  ac_strand *strand = subject;
  /* acquire: pairs with the exchange in ac__strand_run() */
  return __atomic_load_n(&strand->state, __ATOMIC_ACQUIRE) == AC__STRAND_DONE;
}

static bool goes_on(const void *subject) {
  const ac_strand *strand = subject;
  /* acquire: as in is_over() */
  return __atomic_load_n(&strand->state, __ATOMIC_ACQUIRE) != AC__STRAND_DONE;
}

static bool help(void *subject, ac_worker *worker) {
  const ac_strand *strand = subject;
  const ac__still still = {goes_on, strand};
  /* acquire: pairs with the release in ac__strand_run() */
  ac_worker *thief = __atomic_load_n(&strand->thief, __ATOMIC_ACQUIRE);
  return thief != NULL &&
         ac__help(worker, thief,
                  __atomic_load_n(&strand->base, __ATOMIC_RELAXED), &still);
}

static bool ask(void *subject, ac_worker *worker) {
  ac_strand *strand = subject;
  uint32_t expected = AC__STRAND_PENDING;
  (void)worker;
  ac_worker *thief = __atomic_load_n(&strand->thief, __ATOMIC_ACQUIRE);
  if (thief != NULL)
    ac__make_hungry(thief);
  /* acq_rel: publishes `sleep` to the thief; acquires its writes if it is done.
   * AWAITED already, from an earlier block, is as good. */
  return __atomic_compare_exchange_n(&strand->state, &expected,
                                     AC__STRAND_AWAITED, false,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
         expected == AC__STRAND_AWAITED;
}

int ac__sync_slow(ac_worker *worker, ac_strand *strand, int64_t bottom) {
  ac__worker_head *head = &worker->head;
  int64_t top = bottom;
  /* seq_cst: the last job goes to whoever moves top over it */
  bool is_mine = __atomic_compare_exchange_n(
      &head->top, &top, bottom + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
  __atomic_store_n(&head->bottom, bottom + 1, __ATOMIC_RELAXED);
  if (is_mine)
    return 1;
  const ac__wait wait = {
      .is_over = is_over, .help = help, .ask = ask, .subject = strand};
  /* In a fork's child its thief is not there: nobody will write to it. */
  (void)ac__region_await(worker, worker->frame->region, &wait);
  return 0;
}

ac_status ac_run(ac_team *team, ac_strand_fn fn, void *arg) {
  ac__visit visit;
  ac__region region;
  ac__frame frame;
  if (fn == NULL)
    return ac__fail(AC_E_INVAL, "ac_run", "Give a function.", "fn is NULL");
  if (!ac__enter(team, &visit)) {
    ac__leave(&visit);
    return ac__enter_failed(&visit, "ac_run");
  }
  ac_worker *worker = visit.worker;
  ac_status around = ac__status_around(worker);
  if (around != AC_OK) {
    ac__leave(&visit);
    return around;
  }
  AC__COUNT(worker, regions);
  ac__region_init(&region, worker, AC__PLACES_MAX);
  ac__frame_push(worker, &frame, &region, NULL, 0);
  fn(worker, arg);
  ac__frame_pop(worker, &frame);
  ac__leave(&visit);
  return ac__region_finish(&region);
}
