/* world.c: the sources under test, and what stands around them in the model.
 *
 * Included by scenarios.c. The sources are the real ones, as rewritten by
 * run.py: a few constants are smaller, a few plain accesses are made visible.
 * Tokens are always granted, or refused as often as the scenario allows; clocks
 * stand still, which ends every spin after one round (a further round does
 * nothing that a thread does not do that runs a little later).
 */
#include "budget/budget.h"
#include "team/types.h"

/* Counters differ with every path: states would never match. */
#undef AC__COUNT_N
#define AC__COUNT_N(worker, name, n) ((void)(worker))

static int first_slumber(const ac_worker *helper);

#include "team/await.c"
#include "team/lane.c"
#include "team/region.c"
#include "team/sleep.c"
#include "team/strand.c"
#include "team/worker.c"

#include "algo/loop.c"

enum { JOBS_MAX = 4, GROUP_JOB = 3, WORKERS_MAX = 3 };

static ac_team team;
static ac_worker workers[WORKERS_MAX]; /* worker i is thread i: guests first */
static bool is_symmetric;

/* What the threads share besides the library's own. */
static struct {
  uint64_t ran[JOBS_MAX];   /* times that job or message i was run */
  uint64_t taken[JOBS_MAX]; /* times that it was taken back or refused */
  uint64_t refusals;        /* tokens still to be refused */
  ac__region region;
  ac__frame frames[WORKERS_MAX];
  ac_strand strands[JOBS_MAX];
  _Atomic uint64_t begun[JOBS_MAX];
  _Atomic uint64_t ended;
  _Atomic uint64_t result[JOBS_MAX];
} world;

_Thread_local ac__self ac__self_tls;
_Atomic uint32_t ac__fork_generation;

void mc_runs(int number) { ac__self_tls.worker = &workers[number]; }

/* ---- The system ---------------------------------------------------------- */

void ac__futex_wait(const _Atomic uint32_t *word, uint32_t expected,
                    int64_t timeout_ns) {
  mc_sleep(word, expected, timeout_ns >= 0, MC_SITE);
}
void ac__futex_wake(const _Atomic uint32_t *word, int count) {
  (void)count;
  mc_wake(word, MC_SITE);
}
bool ac__barrier_is_asymmetric(void) { return !is_symmetric; }
void ac__barrier_heavy(void) {
  if (is_symmetric)
    mc_fence(__ATOMIC_SEQ_CST, MC_SITE);
  else
    mc_heavy(MC_SITE);
}
ac_status ac__thread_start(ac__thread *ret_thread, size_t stack_bytes,
                           const char *name, void *(*run)(void *), void *arg) {
  (void)ret_thread, (void)stack_bytes, (void)name, (void)run;
  mc_start((int)((ac_worker *)arg - workers), MC_SITE);
  return AC_OK;
}
uint64_t ac__ticks(void) { return 0; }
double ac__tick_ns(void) { return 1e9; }
uint64_t ac__clock_ns(void) { return 0; }
int ac__cpu_current(void) { return -1; }
void ac__cpu_leave(int cpu) { (void)cpu; }
void ac__thread_yield(void) {}

/* ---- Tokens -------------------------------------------------------------- */

uint64_t ac__ledger_word(void) { return 1; }
bool ac__ledger_is_wanted(uint64_t now_ns) { return now_ns == 0; }
bool ac__token_is_recalled(ac__token *token, uint64_t now_ns) {
  (void)token;
  return now_ns != 0;
}
void ac__token_enter(ac__token *token, uint64_t word) {
  (void)word;
  token->slot = 1;
}
bool ac__token_claim(ac__token *token, uint64_t word) {
  if (world.refusals > 0 && mc_choose(2, MC_SITE) == 1 && world.refusals > 0) {
    world.refusals--;
    return false;
  }
  ac__token_enter(token, word);
  return true;
}
void ac__token_release(ac__token *token) { token->slot = 0; }

/* ---- The rest of the team ------------------------------------------------ */

int32_t ac__team_width(ac_team *of) { return of->helper_count; }
bool ac__enter(ac_team *of, ac__visit *ret_visit) {
  *ret_visit = (ac__visit){0};
  return of == NULL;
}
void ac__leave(const ac__visit *visit) { (void)visit; }
ac_status ac__enter_failed(const ac__visit *visit, const char *operation) {
  (void)visit, (void)operation;
  return AC_E_NOMEM; /* the model's ac__enter() never fails */
}
const ac_error *ac_last_error(void) {
  static const ac_error none;
  return &none;
}
_Thread_local uint32_t ac__error_count;
ac_error *ac__error_copy(const ac_error *error) { return (ac_error *)error; }
void ac__error_drop(ac_error *error) { (void)error; }
ac_error *ac__error_take(void) { return NULL; }
void ac__error_give(ac_error *error) { (void)error; }
ac__plan ac__cost_plan(const void *key, int64_t count, int32_t width) {
  (void)key, (void)count, (void)width;
  return (ac__plan){0};
}
void ac__cost_learn(const ac__plan *plan, int64_t count,
                    const ac__outcome *outcome) {
  (void)plan, (void)count, (void)outcome;
}
ac_status ac__fail(ac_status status, const char *operation, const char *remedy,
                   const char *detail, ...) {
  (void)operation, (void)remedy, (void)detail;
  return status;
}
/* One open group with one task, as in group.c but for its lock. */
bool ac__groups_help(ac_worker *worker) {
  (void)worker;
  if (atomic_load_explicit(&team.open_groups, memory_order_relaxed) == 0 ||
      atomic_exchange_explicit(&team.open_groups, 0, memory_order_relaxed) == 0)
    return false;
  world.ran[GROUP_JOB]++;
  return true;
}

/* ---- Setting up ---------------------------------------------------------- */

typedef enum begin {
  WOKEN_UP, /* looks about, then parks */
  PARKED,   /* sleeps already */
  WATCHING, /* sleeps as the sentinel */
  NUDGED,   /* sleeps, and is being woken to look for work */
  ABSENT    /* its thread is not started */
} begin;

static void track_worker(ac_worker *worker, int number) {
  mc_owned("bottom", &worker->head.bottom, 16, number);
  mc_constant(&worker->head.slots, 24); /* and scope, which is no atomic */
  mc_owned("slots", worker->slots, sizeof worker->slots, number);
  mc_track("worker head", &worker->head, sizeof worker->head);
  mc_track("mail", &worker->mail, sizeof worker->mail);
  mc_track("sleep", &worker->sleep, 8);
  mc_track("lane 1", &worker->lanes[0], sizeof(ac__lane));
  mc_track("lane 2", &worker->lanes[1], sizeof(ac__lane));
  mc_track("worker", &worker->team,
           offsetof(ac_worker, counters) / 8 * 8 - offsetof(ac_worker, team));
  mc_track("slots", worker->slots, sizeof worker->slots);
  mc_name("bottom", &worker->head.bottom);
  mc_name("top", &worker->head.top);
  mc_name("its hungry", &worker->head.hungry);
}

static void make_worker(int i, const char *name, void (*run)(void *),
                        bool is_started) {
  ac_worker *worker = &workers[i];
  worker->head.slots = worker->slots;
  worker->head.team_hungry = (const uint32_t *)(const void *)&team.hungry;
  worker->head.limit = is_symmetric ? 0 : AC__DEQUE_SIZE;
  worker->team = &team;
  world.frames[i] = (ac__frame){.region = &world.region, .worker = worker};
  worker->frame = &world.frames[i];
  worker->head.scope = &world.frames[i];
  (void)mc_thread(name, run, worker, is_started);
  track_worker(worker, i);
}

static int guests, helpers; /* made so far; guests first */

static void add_guest(void (*run)(void *)) {
  static const char *const named[] = {"guest", "guest 2", "guest 3"};
  int i = guests++;
  make_worker(i, named[i], run, true);
  workers[i].is_guest = 1;
  *(ac_worker **)(uintptr_t)&team.guests[i] = &workers[i];
  team.guest_count = guests;
}

static void run_helper(void *worker) { (void)ac__helper_main(worker); }

static const ac_worker *first_sentinel; /* NULL = none at the beginning */

static int first_slumber(const ac_worker *helper) {
  return helper == first_sentinel ? WATCH : FOR_GOOD;
}

static void add_helper(begin begin) {
  static const char *const named[] = {"helper", "helper 2"};
  int i = guests + helpers++;
  ac_worker *worker = &workers[i];
  make_worker(i, named[helpers - 1], run_helper, begin != ABSENT);
  worker->number = worker->place = helpers;
  *(ac_worker **)(uintptr_t)&team.helpers[helpers] = worker;
  team.helper_count = helpers + 1;
  uint32_t code = begin == WOKEN_UP                      ? AC__MAIL_OPEN
                  : begin == PARKED || begin == WATCHING ? AC__MAIL_PARKED
                  : begin == NUDGED                      ? AC__MAIL_NUDGED
                                                         : AC__MAIL_ABSENT;
  *(uint32_t *)(uintptr_t)&worker->mail.state = code;
  if (begin == WOKEN_UP || begin == NUDGED)
    return;
  *(uint64_t *)(uintptr_t)&team.parked[0] |= UINT64_C(1) << helpers;
  *(uint32_t *)(uintptr_t)&team.hungry = 1;
  if (begin != WATCHING)
    return;
  first_sentinel = worker;
  *(uint32_t *)(uintptr_t)&team.sentinel = 1;
}

/* Once all workers are there. With has_groups, tasks may come from a group. */
static void finish_setup(uint64_t refusals, bool has_groups) {
  world.refusals = refusals;
  world.region.owner = &workers[0];
  *(uint32_t *)(uintptr_t)&world.region.pending = 64; /* messages' own */
  team.asked_width = refusals == 0 ? guests + helpers : 0;
  if (!has_groups)
    mc_constant(&team.open_groups, 4);
  mc_constant(&team.lock,
              sizeof team - offsetof(ac_team, lock)); /* counts and places */
  mc_constant(&ac__fork_generation, 4);
  mc_track("hungry", &team, 16);
  mc_name("sentinel", &team.sentinel);
  mc_name("looking", &team.looking);
  mc_track("parked", &team.parked[0], 8);
  mc_track("open groups", &team.open_groups, 8);
  mc_track("world", &world, sizeof world);
}
