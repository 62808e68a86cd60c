/* gang.c: ac_team_each: a number of threads that all run at the same time.
 *
 * The short way: every helper needed looks at its lane from the caller, since
 * it worked for it just now; each is handed its call there. The long way: the
 * caller reserves the mailboxes of enough idle helpers, making spares beyond
 * the team's width where too few are idle, and only then publishes. Either all
 * run or none does, and a gang inside a gang cannot wait for its own parts.
 *
 * Sleepers are woken as a tree: each one that wakes, wakes half of the rest of
 * its share, so that a wake's 6 µs are paid log2(width) times in a row.
 *
 * Knows nothing of: what the bodies do with each other.
 */
#include "base/status.h"
#include "team/team.h"

typedef struct member {
  ac_worker *helper;
  uint32_t before;      /* code of its mailbox when it was claimed */
  _Atomic int64_t base; /* its bottom when it began; INT64_MAX = not inside */
} member;

typedef struct gang {
  ac__region region;
  ac_body_fn body;
  void *ctx;
  member *members;     /* [0] is the caller's and unused */
  int32_t lanes;       /* handed out by lane to the helpers 1 … lanes */
  _Atomic uint32_t go; /* by lane, to several: GO or NO_GO once all is posted */
} gang;

enum { WAIT = 0, GO = 1, NO_GO = 2 };
enum { MEMBERS_FEW = 16, MEMBERS_MANY = 128 }; /* of small gangs' stacks */
enum { WAIT_NS = 100000 }; /* for a busy helper, before a spare is made */

/* ---- The short way ------------------------------------------------------- */

/* A call by lane, when there are several: wait until all of them are posted. */
static ac_status run_when_all_go(ac_range range, void *ctx) {
  gang *gang = ctx;
  uint32_t go;
  uint32_t polls = 0;
  /* acquire: pairs with the release in post_lanes() */
  while ((go = atomic_load_explicit(&gang->go, memory_order_acquire)) == WAIT)
    ac__pause(ac__self_tls.worker->team, &polls);
  return go == GO ? gang->body(range, gang->ctx) : AC_OK;
}

static bool lanes_are_done(const ac_worker *worker, int32_t count) {
  for (int32_t number = 1; number <= count; number++)
    if (!ac__lane_is_done(worker, number))
      return false;
  return true;
}

/* Hand out all calls by lane; false, and none will run, if a helper is not
 * there.
 */
static bool post_lanes(ac_worker *worker, gang *gang) {
  int32_t count = gang->region.width - 1;
  ac__piece piece = {
      .body = gang->body, .ctx = gang->ctx, .region = &gang->region};
  if (count > AC__LANES)
    return false;
  if (count > 1) {
    piece.body = run_when_all_go;
    piece.ctx = gang;
  }
  for (int32_t number = 1; number <= count; number++) {
    piece.index = number;
    piece.range = (ac_range){number, number + 1};
    if (ac__lane_post(worker, number, &piece))
      continue;
    /* release: pairs with the acquire above */
    atomic_store_explicit(&gang->go, NO_GO, memory_order_release);
    uint32_t polls = 0;
    while (!lanes_are_done(worker, number - 1))
      ac__pause(worker->team, &polls);
    return false;
  }
  atomic_store_explicit(&gang->go, GO, memory_order_release);
  gang->lanes = count;
  return true;
}

/* ---- The long way -------------------------------------------------------- */

/* Wake the sleepers among members [first, last): the first of each upper half
 * is told to wake the rest of it (find_share). */
static void wake_share(gang *gang, ac_worker *worker, int32_t first,
                       int32_t last) {
  while (first < last) {
    int32_t middle = first + (last - first) / 2;
    if (gang->members[middle].before != AC__MAIL_OPEN) {
      AC__COUNT(worker, wakes);
      AC__COUNT(worker, futex_calls);
      ac__mail_wake(gang->members[middle].helper);
    }
    last = middle;
  }
}

/* The share that member `index` wakes, when [first, last) is halved as in
 * wake_share(). */
static void find_share(int32_t index, int32_t first, int32_t last,
                       int32_t *ret_first, int32_t *ret_last) {
  int32_t middle = first + (last - first) / 2;
  while (middle != index) {
    if (index < middle)
      last = middle;
    else
      first = middle + 1;
    middle = first + (last - first) / 2;
  }
  *ret_first = middle + 1;
  *ret_last = last;
}

/* A call by mail. */
static ac_status run_member(ac_range range, void *ctx) {
  gang *gang = ctx;
  ac_worker *worker = ac__self_tls.worker;
  int32_t index = (int32_t)range.begin;
  if (worker->token.slot ==
      0) /* new: asked for by number, it runs in any case */
    ac__token_enter(&worker->token, worker->word);
  int32_t first;
  int32_t last;
  find_share(index, 1, gang->region.width, &first, &last);
  wake_share(gang, worker, first, last);
  /* release: what the helper exposes from now on is the gang's */
  atomic_store_explicit(&gang->members[index].base, worker->head.bottom,
                        memory_order_release);
  ac_status status = gang->body(range, gang->ctx);
  /* release: pairs with the acquire in member_goes_on(); no more */
  atomic_store_explicit(&gang->members[index].base, INT64_MAX,
                        memory_order_release);
  return status;
}

/* Claim a helper that has nothing in hand: not even a piece in its lane that it
 * has not seen yet, which may be a call of a gang that waits for this one. */
static bool claim_free(ac_worker *self, ac_worker *helper,
                       uint32_t *ret_before) {
  uint32_t before;
  if (!ac__mail_claim(helper, &before))
    return false;
  if (ac__lane_is_due(helper)) {
    ac__mail_return(self, helper, before);
    return false;
  }
  *ret_before = before;
  return true;
}

/* The same of one that may be about to be idle: it is waited for a moment. */
static bool claim_soon(ac_worker *self, ac_worker *helper,
                       uint32_t *ret_before) {
  if (claim_free(self, helper, ret_before))
    return true;
  uint64_t begun = ac__ticks();
  uint32_t polls = 0;
  do {
    ac__pause(helper->team, &polls);
    if (claim_free(self, helper, ret_before))
      return true;
  } while ((double)(ac__ticks() - begun) * ac__tick_ns() < WAIT_NS);
  return false;
}

/* Reserve a helper that is idle or not yet started. */
static ac_status reserve(ac_worker *worker, member *member, int32_t *number) {
  ac_team *team = worker->team;
  for (; *number <= AC__WIDTH_MAX; ++*number) {
    ac_worker *helper = ac__team_helper(team, *number);
    if (helper == NULL)
      return ac__fail(AC_E_NOMEM, "ac_team_each", "Ask for fewer threads.",
                      "memory for thread %d was refused", *number);
    if (helper == worker)
      continue;
    if (!claim_soon(worker, helper, &member->before))
      continue;
    member->helper = helper;
    atomic_init(&member->base, INT64_MAX);
    ++*number;
    if (member->before == AC__MAIL_PARKED && helper->token.slot == 0)
      /* Asleep: its token is ours to see to. One that is awake sees to it. */
      ac__token_enter(&helper->token, helper->word);
    return AC_OK;
  }
  return ac__fail(AC_E_NOMEM, "ac_team_each", "Ask for fewer threads.",
                  "all %d threads of the team are busy", AC__WIDTH_MAX);
}

static void release(ac_worker *worker, const member *member) {
  if (member->before == AC__MAIL_PARKED)
    ac__token_release(&member->helper->token);
  ac__mail_return(worker, member->helper, member->before);
}

/* Start the thread of a reserved helper that has none. It then polls, waiting
 * for its message: so not before all are reserved. */
static ac_status start(member *member) {
  if (member->before != AC__MAIL_ABSENT)
    return AC_OK;
  if (!ac__helper_start(member->helper))
    return ac__fail(AC_E_OS, "ac_team_each",
                    "Raise the limit on threads, or ask for fewer.",
                    "the system refused thread %d", member->helper->number);
  member->before = AC__MAIL_OPEN;
  return AC_OK;
}

static ac_status reserve_all(ac_worker *worker, gang *gang) {
  int32_t width = gang->region.width;
  int32_t number = 1;
  int32_t reserved = 1;
  ac_status status = AC_OK;
  while (reserved < width && status == AC_OK) {
    status = reserve(worker, &gang->members[reserved], &number);
    reserved += status == AC_OK;
  }
  for (int32_t i = 1; i < width && status == AC_OK; i++)
    status = start(&gang->members[i]);
  if (status != AC_OK)
    while (--reserved > 0) /* parked ones slept on; others go back to polling */
      release(worker, &gang->members[reserved]);
  return status;
}

static void publish_all(ac_worker *worker, gang *gang) {
  int32_t width = gang->region.width;
  int cpu = ac__cpu_current();
  atomic_init(&gang->region.pending, (uint32_t)width - 1);
  for (int32_t i = 1; i < width; i++) {
    const ac__piece piece = {.body = run_member,
                             .ctx = gang,
                             .region = &gang->region,
                             .range = {i, i + 1},
                             .index = i};
    ac__mail_write(worker, gang->members[i].helper, &piece, cpu);
  }
  for (int32_t i = 1; i < width; i++)
    (void)ac__mail_publish(gang->members[i].helper, AC__MAIL_FULL);
  AC__COUNT_N(worker, shared_writes, 2 * (width - 1));
  AC__COUNT_N(worker, mails, width - 1);
  wake_share(gang, worker, 1, width);
}

/* ---- Waiting ------------------------------------------------------------- */

static bool is_over(void *subject) {
  gang *gang = subject;
  return gang->lanes != 0 ? lanes_are_done(gang->region.owner, gang->lanes)
                          : ac__pending_is_over(&gang->region.pending);
}

static bool member_goes_on(const void *subject) {
  const member *member = subject;
  /* acquire: pairs with the releases in run_member() */
  return atomic_load_explicit(&member->base, memory_order_acquire) != INT64_MAX;
}

typedef struct lane_name {
  const ac_worker *patron;
  int32_t number;
} lane_name;

static bool lane_goes_on(const void *subject) {
  const lane_name *name = subject;
  return !ac__lane_is_done(name->patron, name->number);
}

static bool help(void *subject, ac_worker *worker) {
  gang *gang = subject;
  for (int32_t i = 1; i <= gang->lanes; i++) {
    /* A helper is idle when it takes a piece from a lane: until it is done, all
     * that its deque holds was made in it. */
    const lane_name name = {worker, i};
    const ac__still still = {lane_goes_on, &name};
    ac_worker *helper =
        atomic_load_explicit(&worker->team->helpers[i], memory_order_acquire);
    if (ac__help(worker, helper, 0, &still))
      return true;
  }
  for (int32_t i = 1; i < gang->region.width && gang->lanes == 0; i++) {
    const member *member = &gang->members[i];
    const ac__still still = {member_goes_on, member};
    /* acquire: as in member_goes_on() */
    int64_t base = atomic_load_explicit(&member->base, memory_order_acquire);
    if (ac__help(worker, member->helper, base, &still))
      return true;
  }
  return false;
}

static bool ask(void *subject, ac_worker *worker) {
  gang *gang = subject;
  for (int32_t i = 1; i < gang->region.width; i++)
    ac__make_hungry(gang->lanes != 0
                        ? atomic_load_explicit(&worker->team->helpers[i],
                                               memory_order_acquire)
                        : gang->members[i].helper);
  /* By lane, a helper looks at `sleep` after it is done: see lane.c. */
  return gang->lanes != 0 || ac__pending_ask(&gang->region.pending);
}

/* The caller's call, and the wait for the others. */
static ac_status run_own(ac_worker *worker, gang *gang) {
  const ac__piece own = {.body = gang->body,
                         .ctx = gang->ctx,
                         .region = &gang->region,
                         .range = {0, 1}};
  ac__piece_run(worker, &own, NULL);
  const ac__wait wait = {
      .is_over = is_over, .help = help, .ask = ask, .subject = gang};
  (void)ac__region_await(worker, &gang->region, &wait);
  return ac__region_finish(&gang->region);
}

static ac_status run_members(ac_worker *worker, gang *gang, member *members) {
  gang->members = members;
  gang->lanes = 0;
  ac_status status = reserve_all(worker, gang);
  if (status != AC_OK)
    return status;
  publish_all(worker, gang);
  return run_own(worker, gang);
}

/* Apart, so that the short way does not pay for the members, nor a small gang
 * for those of a large one. */
__attribute__((noinline)) static ac_status run_few(ac_worker *worker,
                                                   gang *gang) {
  member members[MEMBERS_FEW];
  return run_members(worker, gang, members);
}
__attribute__((noinline)) static ac_status run_many(ac_worker *worker,
                                                    gang *gang) {
  member members[MEMBERS_MANY];
  return run_members(worker, gang, members);
}
__attribute__((noinline)) static ac_status run_most(ac_worker *worker,
                                                    gang *gang) {
  member members[AC__WIDTH_MAX];
  return run_members(worker, gang, members);
}

static ac_status run_long(ac_worker *worker, gang *gang) {
  int32_t width = gang->region.width;
  return width <= MEMBERS_FEW    ? run_few(worker, gang)
         : width <= MEMBERS_MANY ? run_many(worker, gang)
                                 : run_most(worker, gang);
}

ac_status ac_team_each(ac_team *team, int width, ac_body_fn body, void *ctx) {
  ac__visit visit;
  if (body == NULL || width < 0 || width > AC__WIDTH_MAX)
    return ac__fail(
        AC_E_INVAL, "ac_team_each",
        "Give a body and a width of 1 to 1024, or 0 for the team's.",
        "width is %d%s", width, body == NULL ? ", body NULL" : "");
  if (!ac__enter(team, &visit)) {
    ac__leave(&visit);
    return width == 1 ? body((ac_range){0, 1}, ctx)
                      : ac__enter_failed(&visit, "ac_team_each");
  }
  ac_worker *worker = visit.worker;
  ac_status around = ac__status_around(worker);
  if (around != AC_OK) {
    ac__leave(&visit);
    return around;
  }
  if (width == 0)
    width = ac__team_width(worker->team);
  AC__COUNT(worker, gangs);
  gang gang;
  gang.body = body;
  gang.ctx = ctx;
  atomic_init(&gang.go, WAIT);
  ac__region_init(&gang.region, worker, width);
  ac_status status = post_lanes(worker, &gang) ? run_own(worker, &gang)
                                               : run_long(worker, &gang);
  ac__leave(&visit);
  return status;
}
