"""The mutants: one barrier, order or step of the protocol taken away in each.

Each names the scenario that finds it, and the memory model if only one does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change to one source file that the model checker must notice."""

    name: str
    file: str
    old: str
    new: str
    scenario: str
    memory: str = "tso"


SLEEP, WORKER, AWAIT = "team/sleep.c", "team/worker.c", "team/await.c"
STRAND, DEQUE, PENDING = "team/strand.c", "team/deque.h", "team/pending.h"
SPAWN, LANE, LOOP = "allcores/spawn.h", "team/lane.c", "algo/loop.c"

MUTANTS = [
    # ---- A push against parking ----
    Mutant(
        "a nap ends without heavy barrier",
        WORKER,
        "  ac__barrier_heavy();\n  if (sees_work(self))\n    return",
        "  if (sees_work(self))\n    return",
        "push",
    ),
    Mutant(
        "parking beside a lane passes no heavy barrier",
        SLEEP,
        "  /* Pairs with every push: see 2 above. */\n  ac__barrier_heavy();",
        "",
        "mail",
    ),
    Mutant(
        "a nap ends without looking again",
        WORKER,
        "  if (sees_work(self))\n    return ac__park_cancel(self);",
        "",
        "push",
    ),
    Mutant(
        "a nap is for good",
        WORKER,
        ": sleep_parked(self, NAP);",
        ": sleep_parked(self, FOR_GOOD);",
        "push",
    ),
    Mutant(
        "parking does not put up the flag",
        SLEEP,
        "  atomic_store_explicit(&team->hungry, 1, memory_order_release);",
        "",
        "push",
    ),
    Mutant(
        "parking sets the bit before the state",
        SLEEP,
        """  atomic_store_explicit(&self->mail.state,
                        ac__mail_with(state, AC__MAIL_PARKED),
                        memory_order_release);
  /* release: who sees the bit (acquire in ac__nudge_claim) sees PARKED */
  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);""",
        """  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);
  atomic_store_explicit(&self->mail.state,
                        ac__mail_with(state, AC__MAIL_PARKED),
                        memory_order_release);""",
        "push_by_two",
    ),
    Mutant(
        "parking sets the bit after the flag",
        SLEEP,
        """  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);
  /* release: who takes the flag down (acquire in notify) sees the bit */
  atomic_store_explicit(&team->hungry, 1, memory_order_release);""",
        """  atomic_store_explicit(&team->hungry, 1, memory_order_release);
  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);""",
        "push_by_two",
    ),
    Mutant(
        "the parked bit is set without release",
        SLEEP,
        """  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);
  /* release: who takes""",
        """  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_relaxed);
  /* release: who takes""",
        "push_by_two",
        "weak",
    ),
    Mutant(
        "parking beside a lane does not look again",
        WORKER,
        """  } else if (why == NO_WORK) {
    if (!sees_work(self))""",
        """  } else if (why == NO_WORK) {
    if (true)""",
        "mail_and_push",
    ),
    Mutant(
        "a nudge examines the state before it clears the bit",
        SLEEP,
        """      if (!(atomic_fetch_and_explicit(&team->parked[word], ~bit,
                                      memory_order_acq_rel) &
            bit))
        continue;
      /* acquire: the worker's fields, set before the pointer */
      ac_worker *helper =
          atomic_load_explicit(&team->helpers[number], memory_order_acquire);
      if (helper != NULL && ac__mail_claim(helper, ret_before)) {""",
        """      ac_worker *helper =
          atomic_load_explicit(&team->helpers[number], memory_order_acquire);
      bool is_claimed = ac__mail_claim(helper, ret_before);
      atomic_fetch_and_explicit(&team->parked[word], ~bit,
                                memory_order_acquire);
      if (is_claimed) {""",
        "push_by_two",
    ),
    Mutant(
        "a refused nudge leaves the bit cleared",
        SLEEP,
        "  if (before != AC__MAIL_OPEN) {\n    uint32_t number",
        "  if (false) {\n    uint32_t number",
        "ripple_refused",
    ),
    Mutant(
        "nobody is woken",
        WORKER,
        "    ac__mail_wake(helper);",
        "",
        "push",
    ),
    Mutant(
        "a push loads the flag before it stores",
        SPAWN,
        """  __atomic_store_n(&w->slots[bottom & (AC__DEQUE_SIZE - 1)], &strand->job,
                   __ATOMIC_RELAXED);
  /* release: pairs with the acquire of `bottom` in ac__deque_steal(); a thief
   * that sees bottom + 1 also sees the slot and the strand. */
  __atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELEASE);
  /* relaxed: a sleeper passes a heavy barrier between asking for work and
   * looking for it, so either it sees the push or this sees the question. The
   * compiler barrier keeps the two in program order. */
  __asm__ __volatile__("" ::: "memory");
  if (__builtin_expect(__atomic_load_n(w->team_hungry, __ATOMIC_RELAXED) |
                           __atomic_load_n(&w->hungry, __ATOMIC_RELAXED),
                       0))""",
        """  uint32_t early = __atomic_load_n(w->team_hungry, __ATOMIC_RELAXED) |
                   __atomic_load_n(&w->hungry, __ATOMIC_RELAXED);
  __atomic_store_n(&w->slots[bottom & (AC__DEQUE_SIZE - 1)], &strand->job,
                   __ATOMIC_RELAXED);
  __atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELEASE);
  if (early)""",
        "push",
    ),
    Mutant(
        "a push without release",
        SPAWN,
        "__atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELEASE)",
        "__atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELAXED)",
        "push_by_two",
        "weak",
    ),
    Mutant(
        "a push is not fenced, symmetric",
        WORKER,
        """      atomic_thread_fence(memory_order_seq_cst);
  } else {""",
        """      ;
  } else {""",
        "push_symmetric",
    ),
    Mutant(
        "a task is announced without fence",
        WORKER,
        """  atomic_thread_fence(memory_order_seq_cst);
  if (ac__is_wanted(worker))""",
        """  if (ac__is_wanted(worker))""",
        "announce_symmetric",
        "weak",
    ),
    # ---- Nudges that ripple ----
    Mutant(
        "a nudged helper wakes nobody",
        WORKER,
        "      pass_on(self); /* others",
        "      ; /* others",
        "ripple",
    ),
    Mutant(
        "a nudged helper puts up the flag without barrier",
        WORKER,
        """    ac__barrier_heavy();
    if (sees_work(self) &&""",
        """    if (sees_work(self) &&""",
        "ripple_again",
    ),
    Mutant(
        "a nudged helper puts up the flag after the barrier",
        WORKER,
        """    atomic_store_explicit(&team->hungry, 1, memory_order_release);
    ac__barrier_heavy();""",
        """    ac__barrier_heavy();
    atomic_store_explicit(&team->hungry, 1, memory_order_release);""",
        "ripple_again",
    ),
    Mutant(
        "a refused nudge does not ask again for the sentinel",
        WORKER,
        """    if (atomic_load_explicit(&team->sentinel, memory_order_relaxed) != 0)
      return;
  }""",
        """    return;
  }""",
        "ripple_refused",
    ),
    Mutant(
        "a sentinel that stands down is not fenced",
        WORKER,
        """    atomic_thread_fence(memory_order_seq_cst);
    self->is_scout""",
        """    self->is_scout""",
        "ripple_refused",
    ),
    Mutant(
        "a nudged helper does not look behind the barrier",
        WORKER,
        """    if (sees_work(self) &&
        atomic_exchange""",
        """    if (false &&
        atomic_exchange""",
        "ripple",
    ),
    Mutant(
        "a helper without a core takes the flag down, sentinel or not",
        WORKER,
        "  if (why == SENTINEL)\n    return true;",
        "  return true;",
        "ripple_past_sentinel",
    ),
    Mutant(
        "a helper without a core takes the flag down without fence",
        WORKER,
        """  /* seq_cst: pairs with the fence at the end of sleep_parked() */
  atomic_thread_fence(memory_order_seq_cst);""",
        "",
        "ripple_past_sentinel",
    ),
    # ---- Mail ----
    Mutant(
        "a mailbox is put back without a look for pushes",
        WORKER,
        """      atomic_load_explicit(&team->sentinel, memory_order_relaxed) == 0)
    pass_on(self);""",
        """      atomic_load_explicit(&team->sentinel, memory_order_relaxed) == 0)
    ;""",
        "mail_refused_and_push",
    ),
    Mutant(
        "a sentinel that is one no longer is no scout",
        WORKER,
        "    self->is_scout = true;\n  }\n  return result;",
        "  }\n  return result;",
        "mail_to_sentinel",
    ),
    Mutant(
        "a nudged helper is no scout",
        WORKER,
        "      self->is_scout = true;\n",
        "",
        "mail_to_scout",
    ),
    Mutant(
        "a scout runs its mail and passes nothing on",
        WORKER,
        "  if (self->is_scout)\n    pass_on(self);\n  leave_lane(self);",
        "  leave_lane(self);",
        "mail_to_scout",
    ),
    Mutant(
        "a scout is none once it has begun to park",
        WORKER,
        "    return sees_work(self) && ac__park_cancel(self) ? IDLE_WORK",
        "    self->is_scout = false;\n"
        "    return sees_work(self) && ac__park_cancel(self) ? IDLE_WORK",
        "mail_to_sentinel",
    ),
    Mutant(
        "a message is published without release",
        SLEEP,
        """  atomic_store_explicit(&helper->mail.state, state, memory_order_release);
  return state;""",
        """  atomic_store_explicit(&helper->mail.state, state, memory_order_relaxed);
  return state;""",
        "mail",
        "weak",
    ),
    Mutant(
        "messages have no number",
        SLEEP,
        "ac__mail_with(state + AC__MAIL_NEXT, AC__MAIL_CLAIMED)",
        "ac__mail_with(state, AC__MAIL_CLAIMED)",
        "mail_taken_back",
    ),
    Mutant(
        "a message is taken back by a store",
        SLEEP,
        """  return atomic_compare_exchange_strong_explicit(
      &helper->mail.state, &state, ac__mail_with(state, AC__MAIL_OPEN),
      memory_order_acquire, memory_order_relaxed);""",
        """  if (state !=
      atomic_load_explicit(&helper->mail.state, memory_order_acquire))
    return false;
  atomic_store_explicit(&helper->mail.state,
                        ac__mail_with(state, AC__MAIL_OPEN),
                        memory_order_release);
  return true;""",
        "mail_taken_back",
    ),
    Mutant(
        "a helper closes or begins by a store",
        SLEEP,
        """  return atomic_compare_exchange_strong_explicit(
      &self->mail.state, &state, ac__mail_with(state, to), memory_order_acquire,
      memory_order_relaxed);""",
        """  atomic_store_explicit(&self->mail.state, ac__mail_with(state, to),
                        memory_order_release);
  return true;""",
        "mail_taken_back",
    ),
    Mutant(
        "a mailbox is claimed by a store",
        SLEEP,
        """  if (!atomic_compare_exchange_strong_explicit(&helper->mail.state, &state,
                                               next, memory_order_acquire,
                                               memory_order_relaxed))
    return false;
  *ret_before""",
        """  atomic_store_explicit(&helper->mail.state, next, memory_order_release);
  *ret_before""",
        "mail_by_two",
    ),
    # ---- Joins ----
    Mutant(
        "a join blocks without heavy barrier",
        AWAIT,
        "  ac__barrier_heavy();",
        "",
        "join_helps",
    ),
    Mutant(
        "a join does not look again for work",
        AWAIT,
        "      (wait->help != NULL && wait->help(wait->subject, worker))) {",
        "      false) {",
        "join_helps",
    ),
    Mutant(
        "a join does not look again whether it is over",
        AWAIT,
        "  if (wait->is_over(wait->subject) ||\n      (wait",
        "  if (false ||\n      (wait",
        "loop_short",
    ),
    Mutant(
        "a join says that it sleeps after it has asked",
        AWAIT,
        """  ac__block_prepare(worker);
  if (!wait->ask(wait->subject, worker)) {
    ac__block_cancel(worker);
    return;
  }
""",
        """  if (!wait->ask(wait->subject, worker))
    return;
  ac__block_prepare(worker);
""",
        "join_helps",
    ),
    Mutant(
        "a blocking join is not fenced before it asks",
        SLEEP,
        """   * finds it BLOCKED and sets its own. */
  atomic_thread_fence(memory_order_seq_cst);""",
        """   * finds it BLOCKED and sets its own. */""",
        "join_helps",
    ),
    Mutant(
        "a thief does not fence before it asks whether the owner sleeps",
        STRAND,
        "  atomic_thread_fence(memory_order_seq_cst);\n",
        "",
        "join_helps",
    ),
    Mutant(
        "a thief does not ask whether the owner sleeps",
        STRAND,
        """AC__BLOCKED)
    ac__make_hungry(thief);""",
        """AC__BLOCKED)
    ;""",
        "join_helps",
    ),
    Mutant(
        "a blocking join does not tell its thief",
        STRAND,
        """  if (thief != NULL)
    ac__make_hungry(thief);""",
        "",
        "join_helps",
    ),
    Mutant(
        "a push does not see that a join is hungry",
        SPAWN,
        "__atomic_load_n(&w->hungry, __ATOMIC_RELAXED)",
        "0",
        "join_helps",
    ),
    Mutant(
        "the owner is not woken through the futex",
        SLEEP,
        "  ac__futex_wake(&worker->sleep, 1);",
        "",
        "loop_wide",
    ),
    Mutant(
        "a part is ended by load and store",
        PENDING,
        "atomic_fetch_sub_explicit(pending, 1, memory_order_acq_rel) ==",
        """({
        uint32_t was = atomic_load_explicit(pending, memory_order_acquire);
        atomic_store_explicit(pending, was - 1, memory_order_release);
        was;
      }) ==""",
        "loop_wide",
    ),
    Mutant(
        "a join is asked for by load and store",
        PENDING,
        "  return (atomic_fetch_or_explicit(pending, AC__AWAITED, "
        "memory_order_acq_rel) &",
        """  uint32_t was = atomic_load_explicit(pending, memory_order_acquire);
  atomic_store_explicit(pending, was | AC__AWAITED, memory_order_release);
  return (was &""",
        "loop_wide",
    ),
    Mutant(
        "a part is ended without release",
        PENDING,
        "atomic_fetch_sub_explicit(pending, 1, memory_order_acq_rel)",
        "atomic_fetch_sub_explicit(pending, 1, memory_order_acquire)",
        "loop_short",
        "weak",
    ),
    Mutant(
        "a strand is done by load and store",
        STRAND,
        "if (__atomic_exchange_n(&strand->state, AC__STRAND_DONE, __ATOMIC_ACQ_REL) ==",
        """uint32_t was = __atomic_load_n(&strand->state, __ATOMIC_ACQUIRE);
  __atomic_store_n(&strand->state, AC__STRAND_DONE, __ATOMIC_RELEASE);
  if (was ==""",
        "join_strands",
    ),
    Mutant(
        "a strand is done without release",
        STRAND,
        "AC__STRAND_DONE, __ATOMIC_ACQ_REL)",
        "AC__STRAND_DONE, __ATOMIC_ACQUIRE)",
        "join_strands",
        "weak",
    ),
    Mutant(
        "a loop's member does not fence before it asks whether the owner sleeps",
        LOOP,
        """    atomic_thread_fence(memory_order_seq_cst);
    /* relaxed: an owner already""",
        """    /* relaxed: an owner already""",
        "loop_helps",
        "weak",
    ),
    # ---- Lanes ----
    Mutant(
        "a piece is posted to a lane without release",
        LANE,
        "atomic_store_explicit(&lane->post, *sent, memory_order_release)",
        "atomic_store_explicit(&lane->post, *sent, memory_order_relaxed)",
        "loop_short",
        "weak",
    ),
    Mutant(
        "a piece in a lane is done without release",
        LANE,
        "atomic_store_explicit(&lane->done, post, memory_order_release)",
        "atomic_store_explicit(&lane->done, post, memory_order_relaxed)",
        "loop_short",
        "weak",
    ),
    Mutant(
        "a helper leaves its lane for mail without barrier",
        WORKER,
        """  ac__lane_detach(self);
  ac__barrier_heavy();
  (void)run_piece(self);""",
        """  ac__lane_detach(self);
  (void)run_piece(self);""",
        "mail_between",
    ),
    Mutant(
        "a helper leaves its lane for mail without looking there again",
        WORKER,
        """  ac__barrier_heavy();
  (void)run_piece(self);
  ac__lane_forget(self);
}""",
        """  ac__barrier_heavy();
  ac__lane_forget(self);
}""",
        "mail_between",
    ),
    Mutant(
        "a helper parks without looking at its lane again",
        WORKER,
        """    bool has_piece = ac__lane_has_piece(ac__lane_of(self));
    bool is_closed""",
        """    bool has_piece = false;
    bool is_closed""",
        "mail",
    ),
    Mutant(
        "a patron does not see that its helper has left",
        LANE,
        """  if (!atomic_load_explicit(&lane->present, memory_order_acquire) &&
      ac__lane_revoke(patron, number))
    return false;""",
        "",
        "mail",
    ),
    Mutant(
        "a patron does not fence its post, symmetric",
        LANE,
        """    atomic_thread_fence(memory_order_seq_cst);
  AC__COUNT(patron, shared_writes);""",
        """    ;
  AC__COUNT(patron, shared_writes);""",
        "mail_symmetric",
    ),
    Mutant(
        "a helper does not fence what it has done, symmetric",
        LANE,
        """    atomic_thread_fence(memory_order_seq_cst);
  /* relaxed: a hint; the wake is an exchange */""",
        """    ;
  /* relaxed: a hint; the wake is an exchange */""",
        "loop_short_symmetric",
    ),
    Mutant(
        "a helper does not wake its blocked patron",
        LANE,
        "AC__BLOCKED &&\n      ac__block_wake(patron))",
        "AC__BLOCKED &&\n      false)",
        "loop_short",
    ),
    Mutant(
        "a piece in a lane is decided on by load and store",
        LANE,
        "  return atomic_compare_exchange_strong_explicit(&lane->claim, &before, "
        """number,
                                                 memory_order_acq_rel,
                                                 memory_order_relaxed);""",
        """  if (atomic_load_explicit(&lane->claim, memory_order_acquire) != before)
    return false;
  atomic_store_explicit(&lane->claim, number, memory_order_release);
  return true;""",
        "mail_taken_back",
    ),
    # ---- The deque ----
    Mutant(
        "a job is pushed without release",
        DEQUE,
        "__atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELEASE)",
        "__atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELAXED)",
        "deque",
        "weak",
    ),
    Mutant(
        "the owner takes without fence",
        DEQUE,
        """   * that want the same last job, at least one sees the other. */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);""",
        """   * that want the same last job, at least one sees the other. */""",
        "deque",
    ),
    Mutant(
        "a strand is taken without fence",
        SPAWN,
        """  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__builtin_expect(__atomic_load_n(&w->top""",
        """  if (__builtin_expect(__atomic_load_n(&w->top""",
        "join_two",
    ),
    Mutant(
        "the owner takes the last job without swap",
        DEQUE,
        """    mine = __atomic_compare_exchange_n(&w->top, &expected, top + 1, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);""",
        """    __atomic_store_n(&w->top, expected + 1, __ATOMIC_RELEASE);
    mine = true;""",
        "deque",
    ),
    Mutant(
        "a thief moves top by a store",
        DEQUE,
        """  if (__atomic_compare_exchange_n(&victim->top, &top, top + 1, false,
                                  __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
    return job;""",
        """  if (__atomic_load_n(&victim->top, __ATOMIC_ACQUIRE) == top) {
    __atomic_store_n(&victim->top, top + 1, __ATOMIC_RELEASE);
    return job;
  }""",
        "deque",
    ),
    Mutant(
        "a job is pushed where one still lies",
        DEQUE,
        "__atomic_load_n(&w->top, __ATOMIC_ACQUIRE) + AC__DEQUE_SIZE",
        "__atomic_load_n(&w->top, __ATOMIC_ACQUIRE) + AC__DEQUE_SIZE + 1",
        "deque_wraps",
    ),
]
