/* worker.c: what a helper does all day, and how it is set to work.
 *
 * A helper runs its mail, else steals, else looks about for a time learned from
 * the gaps between its regions, else parks (sleep.c). It holds a token of the
 * ledger whenever it is awake, so that a spinning helper costs nobody a ledger
 * operation when it is handed work; parked, it holds none, and whoever wakes it
 * claims one for it first.
 *
 * Spinning: 20 µs; 200 µs if regions come 20 to 200 µs apart; not at all if
 * they are further apart, if the team has more threads than there are cores, or
 * if a process of the family waits for a core. A helper that was handed work
 * from the processor on which it runs itself leaves that processor before it
 * spins: the kernel may keep both there for ever.
 *
 * Invariants: a helper's mailbox is BUSY whenever it runs anything. Nothing
 * here allocates but the first start of a thread.
 *
 * Knows nothing of: what jobs and messages do.
 */
#include "team/team.h"

enum {
  SPIN_SHORT_NS = 20000,
  SPIN_LONG_NS = 200000,
  ASK_NS = 50000,          /* between two questions whether a core is lent */
  LOOK_ROUNDS = 64,        /* polls of the mailbox between two looks around */
  SENTINEL_NS = 5000000,   /* between two claims of the sentinel */
  NAP_NS = 3000000,        /* first sleep, if no heavy barrier went before */
  SENTINEL_IDLE_LOOKS = 1, /* looks that found no work before it gives up */
  START_RETRY_NS = 1000000000 /* after a thread was refused */
};

/* ---- Finding work -------------------------------------------------------- */

/* The worker at place k of helpers (but 0) and guests together. */
static ac_worker *place(ac_team *team, int32_t helpers, int32_t k) {
  /* acquire: the worker's fields were set before its pointer */
  if (k < helpers - 1)
    return atomic_load_explicit(&team->helpers[k + 1], memory_order_acquire);
  return atomic_load_explicit(&team->guests[k - helpers + 1],
                              memory_order_acquire);
}

static int32_t place_count(ac_team *team, int32_t *ret_helpers) {
  /* acquire: pairs with the release when a place is added */
  int32_t helpers =
      atomic_load_explicit(&team->helper_count, memory_order_acquire);
  *ret_helpers = helpers < 1 ? 1 : helpers;
  return *ret_helpers - 1 +
         atomic_load_explicit(&team->guest_count, memory_order_acquire);
}

/* Is a job or a group's task in sight? */
static bool sees_work(ac_worker *self) {
  ac_team *team = self->team;
  int32_t helpers;
  int32_t count = place_count(team, &helpers);
  /* relaxed: a hint, or behind a heavy barrier when it matters */
  if (atomic_load_explicit(&team->open_groups, memory_order_relaxed) != 0)
    return true;
  for (int32_t k = 0; k < count; k++) {
    const ac_worker *other = place(team, helpers, k);
    if (other != NULL && other != self && ac__deque_looks_full(&other->head, 0))
      return true;
  }
  return false;
}

static bool steal_from(ac_worker *self, ac_worker *victim, int64_t base,
                       const ac__still *still) {
  bool is_lost = false;
  ac__job *job = ac__deque_steal(&victim->head, base, still, &is_lost);
  if (is_lost)
    AC__COUNT(self, steal_misses);
  if (job == NULL)
    return false;
  AC__COUNT(self, steals);
  AC__COUNT(self, shared_writes);
  job->run(job, self);
  return true;
}

bool ac__help(ac_worker *worker, ac_worker *victim, int64_t base,
              const ac__still *still) {
  return ac__deque_looks_full(&victim->head, base) &&
         steal_from(worker, victim, base, still);
}

/* Run one job or task of anybody's, beginning where the last one was found. */
static bool run_any(ac_worker *self) {
  ac_team *team = self->team;
  int32_t helpers;
  int32_t count = place_count(team, &helpers);
  for (int32_t i = 0; i < count; i++) {
    int32_t k = (int32_t)((self->victim + (uint32_t)i) % (uint32_t)count);
    ac_worker *other = place(team, helpers, k);
    if (other != NULL && other != self && ac__help(self, other, 0, NULL)) {
      self->victim = (uint32_t)k;
      return true;
    }
  }
  return ac__groups_help(self);
}

/* ---- Waking others ------------------------------------------------------- */

/* Get a token for a helper that sleeps and whose mailbox we have claimed. */
static bool fund(ac_worker *helper) {
  ac_team *team = helper->team;
  if (helper->word == 0)
    return true; /* not started: it asks for itself when it runs */
  if (helper->token.slot != 0)
    return true;
  if (team->asked_width != 0) {
    ac__token_enter(&helper->token, helper->word);
    return true;
  }
  return ac__token_claim(&helper->token, helper->word);
}

/* Was a thread refused just now? Who can do without does not ask again yet. */
static bool is_start_refused(const ac_team *team) {
  /* relaxed: a reason to wait a little, no more */
  uint64_t refused =
      atomic_load_explicit(&team->start_refused_ns, memory_order_relaxed);
  return refused != 0 && ac__clock_ns() < refused + START_RETRY_NS;
}

bool ac__helper_start(ac_worker *helper) {
  ac_team *team = helper->team;
  ac_status status = ac__thread_start(&helper->thread, team->stack_bytes,
                                      "allcores", ac__helper_main, helper);
  if (status == AC_OK) {
    AC__COUNT(helper, threads_started);
    /* release: the team's end (ac_team_destroy) joins what it sees started */
    __atomic_store_n(&helper->is_started, AC__STARTED, __ATOMIC_RELEASE);
    return true;
  }
  atomic_store_explicit(&team->start_refused_ns, ac__clock_ns(),
                        memory_order_relaxed);
  return false;
}

/* Put the flag up again: somebody sleeps and is not on its way. */
static void return_hungry(ac_team *team) {
  /* release: as in ac__park_announce() */
  atomic_store_explicit(&team->hungry, 1, memory_order_release);
}

/* Publish what lies in a claimed mailbox and see to it that its helper runs.
 * False, and nothing published, if its thread is refused. */
static bool deliver(ac_worker *sender, ac_worker *helper, uint32_t before,
                    uint32_t code, uint32_t *ret_state) {
  *ret_state = ac__mail_publish(helper, code);
  AC__COUNT_N(sender, shared_writes, 2);
  if (before == AC__MAIL_OPEN)
    return true;
  AC__COUNT(sender, wakes);
  if (before == AC__MAIL_PARKED) {
    AC__COUNT(sender, futex_calls);
    ac__mail_wake(helper);
    return true;
  }
  if (!is_start_refused(helper->team) && ac__helper_start(helper))
    return true;
  /* Nobody else changes a FULL or NUDGED mailbox whose helper has no thread. */
  ac__mail_unclaim(helper, AC__MAIL_ABSENT);
  return_hungry(helper->team); /* others may be had */
  return false;
}

static void nudge(ac_worker *self) {
  ac_team *team = self->team;
  uint32_t before;
  uint32_t state;
  ac_worker *helper;
  while ((helper = ac__nudge_claim(team, ac__team_width(team), &before)) !=
         NULL) {
    AC__COUNT(self, shared_writes); /* its bit */
    bool is_funded = fund(helper);
    if (!is_funded)
      AC__COUNT(self, denied);
    /* relaxed: with a sentinel on the look-out nobody else need wake; without
     * one this helper wakes, finds no core and becomes it */
    if (is_funded ||
        atomic_load_explicit(&team->sentinel, memory_order_relaxed) == 0) {
      (void)deliver(self, helper, before, AC__MAIL_NUDGED, &state);
      return;
    }
    ac__mail_unclaim(helper, before);
    /* seq_cst: pairs with the fence at the end of sleep_parked(). A sentinel
     * that has just found a core either sees the bit, and passes work on, or is
     * seen here to be one no longer. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&team->sentinel, memory_order_relaxed) != 0)
      return;
  }
}

/* While somebody sleeps: put up the flag, and nudge for what is in sight by
 * now. A scout then is none any more. */
static void pass_on(ac_worker *self) {
  ac_team *team = self->team;
  self->is_scout = false;
  for (int32_t word = 0; word * 64 < ac__team_width(team); word++) {
    if (atomic_load_explicit(&team->parked[word], memory_order_relaxed) == 0)
      continue;
    /* release, then the barrier: as in ac__park_prepare() */
    atomic_store_explicit(&team->hungry, 1, memory_order_release);
    ac__barrier_heavy();
    if (sees_work(self) &&
        atomic_exchange_explicit(&team->hungry, 0, memory_order_acq_rel) != 0)
      nudge(self);
    return;
  }
}

void ac__mail_return(ac_worker *self, ac_worker *helper, uint32_t before) {
  ac_team *team = self->team;
  ac__mail_unclaim(helper, before);
  if (before == AC__MAIL_OPEN)
    return;
  /* seq_cst: as in nudge(), of a sentinel */
  atomic_thread_fence(memory_order_seq_cst);
  /* relaxed: such a push has taken the flag down, and then the bit, which came
   * back with ac__mail_unclaim(). A sentinel passes work on by itself. */
  if (atomic_load_explicit(&team->hungry, memory_order_relaxed) == 0 &&
      atomic_load_explicit(&team->sentinel, memory_order_relaxed) == 0)
    pass_on(self);
}

/* Wake the owners of what this worker runs that are blocked. */
static void wake_owners(ac_worker *self) {
  for (const ac__frame *frame = self->frame; frame != NULL;
       frame = frame->prev) {
    /* relaxed: the exchange in ac__notify() has acquired both */
    ac_worker *owner = __atomic_load_n(&frame->owner, __ATOMIC_RELAXED);
    if (owner != NULL && owner != self &&
        atomic_load_explicit(&owner->sleep, memory_order_relaxed) ==
            AC__BLOCKED &&
        ac__block_wake(owner))
      AC__COUNT(self, futex_calls);
  }
}

void ac__notify(ac_worker *worker) {
  /* acq_rel: acquires what the asker wrote before it put up the flag */
  if (__atomic_load_n(&worker->head.hungry, __ATOMIC_RELAXED) != 0 &&
      __atomic_exchange_n(&worker->head.hungry, 0, __ATOMIC_ACQ_REL) != 0)
    wake_owners(worker);
  _Atomic uint32_t *hungry = &worker->team->hungry;
  if (atomic_load_explicit(hungry, memory_order_relaxed) != 0 &&
      atomic_exchange_explicit(hungry, 0, memory_order_acq_rel) != 0) {
    AC__COUNT(worker, shared_writes);
    nudge(worker);
  }
}

void ac__team_announce(ac_worker *worker) {
  /* seq_cst: orders what was made visible before the load of the flags */
  atomic_thread_fence(memory_order_seq_cst);
  if (ac__is_wanted(worker))
    ac__notify(worker);
}

bool ac__job_push(ac_worker *worker, ac__job *job, bool is_quiet) {
  ac__worker_head *head = &worker->head;
  if (head->bottom >= head->limit) {
    bool fenced = !ac__barrier_is_asymmetric();
    if (!ac__deque_has_room(head, fenced))
      return false;
    ac__deque_push(head, job);
    if (fenced)
      /* seq_cst: the sleeper's fence alone does not reach this thread */
      atomic_thread_fence(memory_order_seq_cst);
  } else {
    ac__deque_push(head, job);
  }
  if (!is_quiet && ac__is_wanted(worker))
    ac__notify(worker);
  return true;
}

/* Is a helper to be considered at all? */
static bool is_in_reach(const ac_worker *helper, ac__reach reach) {
  /* relaxed: a hint; the claim decides */
  return reach == AC__REACH_ASLEEP ||
         ac__mail_code(atomic_load_explicit(
             &helper->mail.state, memory_order_relaxed)) == AC__MAIL_OPEN;
}

void ac__mail_write(ac_worker *sender, ac_worker *helper,
                    const ac__piece *piece, int cpu) {
  ac__mail *mail = &helper->mail;
  mail->index = piece->index;
  mail->body = piece->body;
  mail->ctx = piece->ctx;
  mail->region = piece->region;
  mail->begin = piece->range.begin;
  mail->end = piece->range.end;
  mail->patron = ac__lane_exists(helper->number) ? sender : NULL;
  mail->cpu = cpu;
}

bool ac__team_invite(ac_worker *sender, const ac__piece *piece, int32_t first,
                     int32_t last, ac__reach reach, ac__invitation *ret) {
  ac_team *team = sender->team;
  for (int32_t number = first; number < last; number++) {
    /* acquire: the helper's fields were set before its pointer */
    ac_worker *helper =
        atomic_load_explicit(&team->helpers[number], memory_order_acquire);
    uint32_t before;
    if (helper == NULL || helper == sender)
      continue;
    ac__piece own = *piece;
    if (piece->region == NULL)
      own.range.begin = number + 1;
    *ret = (ac__invitation){.helper = helper, .is_by_lane = true};
    if (ac__lane_exists(number) && ac__lane_post(sender, number, &own))
      return true;
    if (!is_in_reach(helper, reach) || !ac__mail_claim(helper, &before))
      continue;
    if (before != AC__MAIL_OPEN &&
        (reach == AC__REACH_AWAKE || !fund(helper))) {
      ac__mail_return(sender, helper, before);
      if (reach == AC__REACH_AWAKE)
        continue;
      AC__COUNT(sender, denied);
      return false; /* no core is free: the next one gets none either */
    }
    ac__mail_write(sender, helper, &own, ac__cpu_current());
    ret->is_by_lane = false;
    if (!deliver(sender, helper, before, AC__MAIL_FULL, &ret->state))
      return false;
    AC__COUNT(sender, mails);
    return true;
  }
  return false;
}

bool ac__team_uninvite(ac_worker *sender, const ac__invitation *invitation) {
  if (invitation->is_by_lane
          ? !ac__lane_revoke(sender, invitation->helper->number)
          : !ac__mail_take_back(invitation->helper, invitation->state))
    return false;
  AC__COUNT(sender, takebacks);
  AC__COUNT(sender, shared_writes);
  return true;
}

/* ---- The helper's day ---------------------------------------------------- */

/* How long to look about, in ticks, from the gaps between regions. */
static uint64_t spin_ticks(const ac_worker *self) {
  if (ac__team_is_crowded(self->team))
    return 0;
  double gap_ns = (double)self->gap_ticks * ac__tick_ns();
  double spin_ns = gap_ns < SPIN_SHORT_NS  ? SPIN_SHORT_NS
                   : gap_ns < SPIN_LONG_NS ? SPIN_LONG_NS
                                           : 0;
  return (uint64_t)(spin_ns / ac__tick_ns());
}

/* Note that work came, for the next decision how long to look about. */
static void learn_gap(ac_worker *self, uint64_t now) {
  uint64_t gap = now - self->idle_since;
  uint64_t most = (uint64_t)(1e9 / ac__tick_ns());
  if (gap > most)
    gap = most;
  self->gap_ticks = (3 * self->gap_ticks + gap) / 4;
}

/* Run a piece if one lies in the lane. */
static bool run_piece(ac_worker *self) {
  if (self->is_scout && ac__lane_has_piece(ac__lane_of(self)))
    pass_on(self);
  return ac__lane_run(self);
}

/* Stop looking at the lane, running a piece that came at the last moment. */
static void leave_lane(ac_worker *self) {
  if (ac__lane_of(self) == NULL)
    return;
  ac__lane_detach(self);
  ac__barrier_heavy();
  (void)run_piece(self);
  ac__lane_forget(self);
}

static void run_mail(ac_worker *self) {
  const ac__piece piece = {.body = self->mail.body,
                           .ctx = self->mail.ctx,
                           .region = self->mail.region,
                           .range = {self->mail.begin, self->mail.end},
                           .index = self->mail.index};
  ac_worker *patron = self->mail.patron;
  int32_t cpu = self->mail.cpu;
  if (self->is_scout)
    pass_on(self);
  leave_lane(self);
  learn_gap(self, ac__ticks());
  ac__piece_run(self, &piece,
                piece.region == NULL ? NULL : piece.region->owner);
  if (piece.region != NULL) {
    AC__COUNT(self, shared_writes);
    if (ac__pending_end(&piece.region->pending, piece.region->owner))
      AC__COUNT(self, futex_calls);
  }
  if (spin_ticks(self) == 0 || ac__is_orphan())
    return;
  if (cpu >= 0 && cpu == ac__cpu_current())
    ac__cpu_leave(cpu);
  if (patron != NULL && self->token.slot != 0)
    ac__lane_attach(self, patron);
}

typedef enum idle_result { IDLE_WORK, IDLE_MAIL, IDLE_OVER } idle_result;

/* A piece in the lane, mailbox OPEN: close it and run. Not if it was claimed
 * meanwhile: then the piece is run before that message (leave_lane). `waited`
 * polls found nothing. */
static void run_lane(ac_worker *self, uint32_t waited) {
  if (!ac__mail_close(self))
    return;
  /* A clock costs as much as a short region: after few polls the gap is none.
   */
  uint64_t begun = waited < LOOK_ROUNDS ? self->idle_since : ac__ticks();
  if (run_piece(self)) {
    learn_gap(self, begun);
    self->idle_since = ac__ticks();
  }
  ac__mail_open(self);
}

/* Between two pieces in the lane: must it leave its core? Its token may have
 * been taken back at a border within the piece. It asks the ledger when ASK_NS
 * have passed since `*asked`, by the clock that was read after the piece. */
static bool has_lost_core(ac_worker *self, uint64_t *asked,
                          uint64_t ask_ticks) {
  if (self->token.slot == 0)
    return true;
  if (self->idle_since - *asked < ask_ticks)
    return false;
  *asked = self->idle_since;
  return ac__token_is_recalled(&self->token, ac__clock_ns());
}

static bool has_lane_mail(const ac_worker *self) {
  return ac__lane_of(self) != NULL && ac__lane_has_piece(ac__lane_of(self));
}

/* Look at the mailbox, the lane and around, mailbox OPEN. On return it is BUSY,
 * or, with IDLE_OVER, still OPEN or claimed since. */
static idle_result look(ac_worker *self) {
  uint32_t rounds = spin_ticks(self) == 0 ? 1 : LOOK_ROUNDS;
  uint32_t polls = 0;
  uint64_t asked = self->idle_since;
  uint64_t ask_ticks = (uint64_t)(ASK_NS / ac__tick_ns());
  for (uint32_t round = 1;; round++) {
    /* acquire: pairs with the release in ac__mail_publish() */
    uint32_t state =
        atomic_load_explicit(&self->mail.state, memory_order_acquire);
    uint32_t code = ac__mail_code(state);
    if (code == AC__MAIL_OPEN && has_lane_mail(self)) {
      run_lane(self, round);
      if (has_lost_core(self, &asked, ask_ticks))
        return IDLE_OVER;
      round = 0;
      continue;
    }
    if (code == AC__MAIL_FULL && ac__mail_begin(self))
      return IDLE_MAIL;
    if (code == AC__MAIL_CLOSED)
      return IDLE_OVER;
    if (code != AC__MAIL_OPEN) { /* a message is being written */
      ac__pause(self->team, &polls);
      continue;
    }
    ac__cpu_relax();
    if (round % rounds != 0)
      continue;
    polls = 0;
    if (sees_work(self)) {
      if (ac__mail_close(self))
        return IDLE_WORK;
      continue;
    }
    if (ac__ticks() - self->idle_since >= spin_ticks(self) ||
        ac__ledger_is_wanted(ac__clock_ns()))
      return IDLE_OVER;
  }
}

static idle_result look_about(ac_worker *self) {
  /* relaxed: a hint for inner loops whether to offer themselves */
  atomic_fetch_add_explicit(&self->team->looking, 1, memory_order_relaxed);
  idle_result result = look(self);
  atomic_fetch_sub_explicit(&self->team->looking, 1, memory_order_relaxed);
  AC__COUNT_N(self, shared_writes, 2);
  return result;
}

/* A helper without a token may not work: claim one, else be the sentinel. */
static bool has_token(ac_worker *self) {
  if (self->team->asked_width != 0) {
    if (self->token.slot == 0)
      ac__token_enter(&self->token, self->word);
    return true;
  }
  return self->token.slot != 0 || ac__token_claim(&self->token, self->word);
}

/* How a helper sleeps. */
typedef enum slumber {
  FOR_GOOD, /* until it is woken */
  NAP,      /* it has not passed the barrier yet (sleep.c, 6) */
  WATCH     /* the sentinel: it wakes to look for a core */
} slumber;

/* End of a nap without mail: pass the barrier and look once more. True if there
 * is work, the mailbox then BUSY. */
static bool settle(ac_worker *self) {
  ac__barrier_heavy();
  if (sees_work(self))
    return ac__park_cancel(self);
  self->is_scout = false;
  return false;
}

/* The sentinel's look. True if it is to be one no longer, mailbox BUSY: it has
 * a core, or there is no work any more. */
static bool watch(ac_worker *self, int *idle_looks) {
  ac__token found = {0}; /* while it is parked, its own is its waker's */
  *idle_looks = sees_work(self) ? 0 : *idle_looks + 1;
  if (*idle_looks < SENTINEL_IDLE_LOOKS && !ac__token_claim(&found, self->word))
    return false;
  if (!ac__park_cancel(self)) { /* somebody hands it mail: that counts */
    ac__token_release(&found);
    return false;
  }
  if (found.slot != 0)
    self->token = found;
  return true;
}

/* Sleep until mail, a nudge, or, for the sentinel, a core. On return the
 * mailbox is BUSY (IDLE_MAIL: mail has begun) or CLOSED. The mailbox was PARKED
 * or claimed since. */
static idle_result sleep_parked(ac_worker *self, slumber how) {
  int idle_looks = 0;
  uint32_t polls = 0;
  idle_result result = IDLE_WORK;
  for (;;) {
    /* acquire: pairs with the release in ac__mail_publish() */
    uint32_t state =
        atomic_load_explicit(&self->mail.state, memory_order_acquire);
    uint32_t code = ac__mail_code(state);
    if (code == AC__MAIL_PARKED) {
      AC__COUNT(self, futex_calls);
      ac__park_sleep(self, how == WATCH ? SENTINEL_NS
                           : how == NAP ? NAP_NS
                                        : -1);
      if (how == WATCH && watch(self, &idle_looks))
        break;
      if (how == NAP && settle(self))
        break;
      how = how == NAP ? FOR_GOOD : how;
    } else if (code == AC__MAIL_FULL && ac__mail_begin(self)) {
      result = IDLE_MAIL;
      break;
    } else if (code == AC__MAIL_NUDGED) {
      self->is_scout = true;
      /* relaxed: NUDGED is the helper's own to change */
      atomic_store_explicit(&self->mail.state,
                            ac__mail_with(state, AC__MAIL_BUSY),
                            memory_order_relaxed);
      break;
    } else if (code == AC__MAIL_OPEN && ac__mail_close(self)) {
      break; /* woken for a message that was taken back */
    } else if (code == AC__MAIL_CLOSED) {
      result = IDLE_OVER;
      break;
    } else {
      ac__pause(self->team, &polls); /* a message is being written */
    }
  }
  if (how == WATCH) {
    /* release: pairs with the exchange of the next sentinel */
    atomic_store_explicit(&self->team->sentinel, 0, memory_order_release);
    /* seq_cst: before pass_on() looks who is parked; pairs with nudge() and
     * park() */
    atomic_thread_fence(memory_order_seq_cst);
    self->is_scout = true;
  }
  return result;
}

/* Why a helper parks. */
typedef enum reason {
  NO_WORK, /* none was in sight */
  BEYOND,  /* the budget has narrowed, or it is a spare: not one of the width */
  NO_CORE, /* there is work, but no core; another helper is the sentinel */
  SENTINEL /* likewise, and this one is to look for a core */
} reason;

/* Close a mailbox that was PARKED, to run a piece. False if a message or a
 * nudge lies there: it waits. While it is claimed the token is its claimer's to
 * see to, so wait for what comes of that. */
static bool close_parked(ac_worker *self) {
  for (uint32_t polls = 0;;) {
    if (ac__park_cancel(self) || ac__mail_close(self))
      return true;
    /* acquire: pairs with the release in ac__mail_publish() */
    uint32_t code = ac__mail_code(
        atomic_load_explicit(&self->mail.state, memory_order_acquire));
    if (code == AC__MAIL_FULL || code == AC__MAIL_NUDGED ||
        code == AC__MAIL_CLOSED)
      return false;
    ac__pause(self->team, &polls);
  }
}

/* Take the flag down: pushes need not nudge while a sentinel looks for a core,
 * it wakes others once it has one (pass_on). False if there is none any more:
 * it may have passed on before it could see the caller's bit. */
static bool lull(ac_worker *self, reason why) {
  ac_team *team = self->team;
  self->is_scout = false;
  /* relaxed: before the fence */
  atomic_store_explicit(&team->hungry, 0, memory_order_relaxed);
  if (why == SENTINEL)
    return true;
  /* seq_cst: pairs with the fence at the end of sleep_parked() */
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&team->sentinel, memory_order_relaxed) != 0)
    return true;
  return_hungry(team);
  return false;
}

/* Park, mailbox BUSY. Returns as sleep_parked(). */
static idle_result park(ac_worker *self, reason why) {
  ac__token_release(&self->token);
  AC__COUNT(self, parks);
  AC__COUNT_N(self, shared_writes, 3);
  if (ac__lane_of(self) == NULL && why == NO_WORK) {
    ac__park_announce(self);
    /* seq_cst: as far as this thread goes; the barrier is put off */
    atomic_thread_fence(memory_order_seq_cst);
    return sees_work(self) && ac__park_cancel(self) ? IDLE_WORK
                                                    : sleep_parked(self, NAP);
  }
  if (ac__lane_of(self) != NULL)
    ac__lane_detach(self);
  ac__park_prepare(self);
  if (ac__lane_of(self) != NULL) {
    /* The barrier was ac__park_prepare()'s. With a message or a nudge in the
     * mailbox the piece waits for leave_lane(), which comes before those. */
    bool has_piece = ac__lane_has_piece(ac__lane_of(self));
    bool is_closed = has_piece && close_parked(self);
    if (is_closed)
      (void)run_piece(self);
    if (is_closed || !has_piece)
      ac__lane_forget(self);
    if (is_closed)
      return IDLE_WORK;
  }
  if (why == NO_CORE || why == SENTINEL) {
    if (!lull(self, why) && ac__park_cancel(self))
      return IDLE_WORK;
  } else if (why == NO_WORK) {
    if (!sees_work(self))
      self->is_scout = false;
    else if (ac__park_cancel(self))
      return IDLE_WORK;
  }
  return sleep_parked(self, why == SENTINEL ? WATCH : FOR_GOOD);
}

/* Run all work in sight, mailbox BUSY. False if the helper may not: no core. */
static bool work_on(ac_worker *self) {
  bool is_first = true;
  do {
    if (!sees_work(self))
      return true;
    if (!has_token(self))
      return false;
    if (is_first)
      pass_on(self); /* others may sleep while more is in sight */
    is_first = false;
    if (ac__token_is_recalled(&self->token, ac__clock_ns())) {
      ac__token_release(&self->token);
      return false;
    }
  } while (run_any(self) && !ac__is_orphan());
  return true;
}

/* Work that came without mail, mailbox BUSY; then: why it would park. */
static reason find_work(ac_worker *self) {
  uint64_t begun = ac__ticks();
  leave_lane(self);
  if (self->number >= ac__team_width(self->team)) {
    ac__token_release(&self->token);
    if (self->is_scout)
      pass_on(self);
    return BEYOND;
  }
  if (work_on(self)) {
    learn_gap(self, begun);
    return NO_WORK;
  }
  /* acq_rel: one sentinel at a time; it takes the flag down (stand_down) */
  return atomic_exchange_explicit(&self->team->sentinel, 1,
                                  memory_order_acq_rel) == 0
             ? SENTINEL
             : NO_CORE;
}

void *ac__helper_main(void *helper) {
  ac_worker *self = helper;
  ac__self_tls.worker = self;
  ac__self_tls.generation = ac__generation();
  ac__self_tls.is_helper = true;
  self->word = ac__ledger_word();
  self->idle_since = ac__ticks();
  (void)has_token(self);
  /* Its first message or nudge lies there. */
  idle_result result = sleep_parked(self, FOR_GOOD);
  while (result != IDLE_OVER) {
    reason why = NO_WORK;
    if (result == IDLE_MAIL)
      run_mail(self);
    else
      why = find_work(self);
    self->idle_since = ac__ticks();
    if (ac__is_orphan())
      return NULL; /* the child of a fork made in a body has this thread alone
                    */
    if (why == NO_WORK && self->token.slot != 0) {
      ac__mail_open(self);
      result = look_about(self);
      if (result != IDLE_OVER)
        continue;
      if (!ac__mail_close(self)) {
        result = sleep_parked(self, FOR_GOOD);
        continue;
      }
    }
    result = park(self, why);
  }
  ac__token_release(&self->token);
  return NULL;
}
