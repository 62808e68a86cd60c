/* budget.c: how many cores the process may use.
 *
 * The base is what the user set, else what the machine grants: the affinity
 * mask and the cgroups' quotas. Limits that are held narrow it: the smallest
 * counts. They are kept as a count for each value, so that any order of release
 * gives the right minimum.
 *
 * The outcome and its epoch are one atomic word, which every region loads.
 * Whoever changes a part (a count, the user's cap, the grant) then refreshes
 * the word: load it, find the minimum, compare and swap, and start over if
 * another refresh was faster. The last refresh to succeed began after every
 * other one had ended, and so saw the parts that those had seen: no lock, and
 * nothing that a fork could leave locked. After a fork the child holds what its
 * parent held.
 *
 * Knows nothing of: who runs (ledger.c), where the system tells what it grants
 * (src/os).
 */
#include "budget/budget.h"
#include "base/status.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The parts. Whoever writes one refreshes then; see refresh(). */
static _Atomic int32_t granted;    /* by the machine; 0 = not read */
static _Atomic int32_t asked = -1; /* by ac_budget_set(); -1 = never */
static _Atomic uint32_t held[AC__CORES_MAX]; /* limits, by value less one */

/* Low half: cores; 0 = never refreshed. High half: epoch. */
static _Atomic uint64_t budget;

enum { EPOCH_SHIFT = 32 };

/* ---- The environment ----------------------------------------------------- */

static pthread_once_t env_once = PTHREAD_ONCE_INIT;
static struct {
  int32_t cap; /* ALLCORES_NUM_THREADS; 0 = none */
  bool is_bad; /* it is set, and no number that is allowed */
  char text[32];
} env;

static int32_t number_read(const char *text) {
  char *end;
  long cores = strtol(text, &end, 10);
  bool is_good =
      end != text && *end == '\0' && cores >= 1 && cores <= AC__CORES_MAX;
  return is_good ? (int32_t)cores : 0;
}

static void env_read(void) {
  const char *text = getenv("ALLCORES_NUM_THREADS");
  if (text == NULL || *text == '\0')
    return;
  env.cap = number_read(text);
  env.is_bad = env.cap == 0;
  (void)snprintf(env.text, sizeof env.text, "%s", text);
}

static int32_t env_cap(void) {
  (void)pthread_once(&env_once, env_read);
  return env.cap;
}

/* ---- The parts ----------------------------------------------------------- */

/* What the user asked for; 0 = nothing, or what the machine grants. */
static int32_t user_cap(void) {
  /* relaxed, here and below: ordered by the budget word, where it matters. */
  int32_t cap = atomic_load_explicit(&asked, memory_order_relaxed);
  return cap >= 0 ? cap : env_cap();
}

static int32_t grant_of(const ac_topology *topology) {
  return topology->granted < 1               ? 1
         : topology->granted > AC__CORES_MAX ? AC__CORES_MAX
                                             : topology->granted;
}

/* Read the machine. A failure does not undo what was read before. */
static ac_status grant_read(ac_topology *ret_topology, bool *ret_is_changed) {
  ac_status st = ac__topology_read_at("", ret_topology);
  int32_t before = atomic_load_explicit(&granted, memory_order_relaxed);
  int32_t now = st == AC_OK ? grant_of(ret_topology) : before > 0 ? before : 1;
  atomic_store_explicit(&granted, now, memory_order_relaxed);
  *ret_is_changed = now != before;
  return st;
}

int ac__budget_granted(void) {
  int32_t cores = atomic_load_explicit(&granted, memory_order_relaxed);
  if (cores != 0)
    return cores;
  ac_topology topology;
  bool is_changed;
  ac_error *error = ac__error_take(); /* a failure here is not the caller's */
  (void)grant_read(&topology, &is_changed);
  ac__error_drop(ac__error_take());
  ac__error_give(error);
  return atomic_load_explicit(&granted, memory_order_relaxed);
}

/* ---- The outcome --------------------------------------------------------- */

static int32_t base_now(void) {
  int32_t cap = user_cap();
  return cap > 0 ? cap : ac__budget_granted();
}

static int32_t smallest(int32_t base) {
  for (int32_t cores = 1; cores < base; cores++)
    if (atomic_load_explicit(&held[cores - 1], memory_order_relaxed) > 0)
      return cores;
  return base;
}

/* Swaps even if the number stays: a slower refresh, which may not have seen
 * what this one saw, must fail and start over. */
static int32_t refresh(void) {
  int32_t cores;
  uint64_t next;
  /* acquire: pairs with the release below, of earlier refreshes: what changed
   * before those is seen by smallest() and base_now(). */
  uint64_t seen = atomic_load_explicit(&budget, memory_order_acquire);
  do {
    cores = smallest(base_now());
    next = ((seen >> EPOCH_SHIFT) + 1) << EPOCH_SHIFT | (uint32_t)cores;
  } while (!atomic_compare_exchange_weak_explicit(
      &budget, &seen, next, memory_order_acq_rel, memory_order_acquire));
  return cores;
}

int ac_budget(void) {
  /* relaxed: the number stands alone. */
  uint64_t now = atomic_load_explicit(&budget, memory_order_relaxed);
  return (uint32_t)now != 0 ? (int)(uint32_t)now : refresh();
}

uint32_t ac__budget_epoch(void) {
  /* relaxed: as above; a reader then loads the budget itself. */
  return (uint32_t)(atomic_load_explicit(&budget, memory_order_relaxed) >>
                    EPOCH_SHIFT);
}

/* ---- Setting it ---------------------------------------------------------- */

static ac_status number_fault(const char *operation, const char *remedy,
                              int cores) {
  return ac__fail(AC_E_INVAL, operation, remedy, "the number of cores is %d",
                  cores);
}

ac_status ac_budget_set(int cores) {
  ac_topology topology;
  bool is_changed;
  if (cores < 0 || cores > AC__CORES_MAX)
    return number_fault("ac_budget_set",
                        "give 1 to 1024, or 0 for what the machine grants",
                        cores);
  if (cores == 0) {
    ac_status st = grant_read(&topology, &is_changed);
    if (st != AC_OK)
      return st;
  }
  atomic_store_explicit(&asked, cores, memory_order_relaxed);
  (void)refresh();
  return AC_OK;
}

ac_status ac_limit_hold(int cores, ac_limit_token *ret_token) {
  if (ret_token == NULL)
    return ac__fail(AC_E_INVAL, "ac_limit_hold", "give a place for the token",
                    "the token is NULL");
  if (cores < 1 || cores > AC__CORES_MAX)
    return number_fault("ac_limit_hold", "give 1 to 1024", cores);
  /* relaxed: refresh() releases it. */
  atomic_fetch_add_explicit(&held[cores - 1], 1, memory_order_relaxed);
  (void)refresh();
  *ret_token = (ac_limit_token){.cores = cores};
  return AC_OK;
}

void ac_limit_release(ac_limit_token *token) {
  if (token == NULL || token->cores < 1 || token->cores > AC__CORES_MAX)
    return;
  /* relaxed: as above. */
  atomic_fetch_sub_explicit(&held[token->cores - 1], 1, memory_order_relaxed);
  token->cores = 0;
  (void)refresh();
}

/* ---- Saying why ---------------------------------------------------------- */

static void say_machine(ac_topology *t) {
  char *text = t->reason;
  size_t size = sizeof t->reason;
  if (t->granted >= t->affinity && t->affinity >= t->online) {
    t->limit = AC_LIMIT_ONLINE;
    (void)snprintf(text, size, "%d of %d processors: all that are online",
                   t->cores, t->online);
  } else if (t->granted >= t->affinity) {
    t->limit = AC_LIMIT_AFFINITY;
    (void)snprintf(text, size,
                   "%d of %d processors: the affinity mask allows no others",
                   t->cores, t->online);
  } else {
    t->limit = AC_LIMIT_QUOTA; /* of a long path, what leaves room */
    bool is_whole = t->quota == (double)t->granted;
    (void)snprintf(text, size,
                   "%d of %d processors: the cgroup %.120s grants %g%s",
                   t->cores, t->online, t->quota_path, t->quota,
                   is_whole ? "" : ", rounded up");
  }
}

static void say_user(ac_topology *t) {
  const char *why = "ac_budget_set() asked for it";
  t->limit = AC_LIMIT_USER;
  if (t->cores != (t->user_cap > 0 ? t->user_cap : t->granted))
    why = "a limit is held for now";
  else if (atomic_load_explicit(&asked, memory_order_relaxed) < 0)
    why = "ALLCORES_NUM_THREADS asks for it";
  (void)snprintf(t->reason, sizeof t->reason,
                 "%d, where the machine grants %d of %d processors: %s",
                 t->cores, t->granted, t->online, why);
}

static void say_env_fault(ac_topology *t) {
  size_t length = strlen(t->reason);
  if (env.is_bad)
    (void)snprintf(t->reason + length, sizeof t->reason - length,
                   "; ALLCORES_NUM_THREADS is '%s', not a number from 1 to "
                   "1024, and was ignored",
                   env.text);
}

void ac__topology_explain(ac_topology *topology) {
  if (topology->user_cap > 0 || topology->cores != topology->granted)
    say_user(topology);
  else
    say_machine(topology);
  say_env_fault(topology);
}

ac_status ac_topology_read(ac_topology *ret_topology) {
  if (ret_topology == NULL)
    return ac__fail(AC_E_INVAL, "ac_topology_read",
                    "give a place for the topology", "the place is NULL");
  ac_topology topology = {0};
  bool is_changed;
  ac_status st = grant_read(&topology, &is_changed);
  if (st != AC_OK)
    return st;
  if (is_changed)
    (void)refresh();
  topology.granted = grant_of(&topology);
  topology.user_cap = user_cap();
  topology.cores = ac_budget();
  ac__topology_explain(&topology);
  *ret_topology = topology;
  return AC_OK;
}
