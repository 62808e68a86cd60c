/* team.h: who runs. The budget of cores, teams of threads, what they did.
 *
 * A process has one team of its own (NULL everywhere below), as wide as the
 * budget. It starts no thread until a loop is worth one. A program may create
 * further teams of any width.
 */
#ifndef ALLCORES_TEAM_H
#define ALLCORES_TEAM_H

#include <allcores/status.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A half-open range of iterations. */
typedef struct ac_range {
  int64_t begin, end;
} ac_range;

/** A loop's body: runs the iterations of `range`. May call the library again;
 * must not longjmp out. Non-zero cancels the rest of its region. */
typedef ac_status (*ac_body_fn)(ac_range range, void *ctx);

/** A function with its argument. */
typedef struct ac_task {
  ac_status (*run)(void *ctx);
  void *ctx; /**< borrowed until the task has run */
} ac_task;

/* ---- Topology --------------------------------------------------------- */

/** What decided the number of cores that the machine grants. */
typedef enum ac_core_limit {
  AC_LIMIT_ONLINE,   /**< processors that are online */
  AC_LIMIT_AFFINITY, /**< the affinity mask of the process */
  AC_LIMIT_QUOTA,    /**< a cgroup's processor quota, rounded up */
  AC_LIMIT_USER      /**< ALLCORES_NUM_THREADS or ac_budget_set() */
} ac_core_limit;

/** The machine as this process sees it. Counts are in processors. */
typedef struct ac_topology {
  int online;          /**< processors online */
  int affinity;        /**< of those, allowed by the affinity mask */
  int physical;        /**< physical cores among the allowed processors */
  int nodes;           /**< NUMA nodes among them */
  int smt;             /**< most hardware threads on one allowed core */
  int packages;        /**< sockets among them */
  double quota;        /**< processors granted by cgroups; 0 = no limit */
  int granted;         /**< min(affinity, ceil(quota)), at least 1 */
  int user_cap;        /**< ALLCORES_NUM_THREADS or ac_budget_set(); 0 = none */
  int cores;           /**< what the process's team uses */
  ac_core_limit limit; /**< which of these decided `cores` */
  int64_t l1d_bytes, l2_bytes, l3_bytes; /**< of the first one; 0 = unknown */
  char quota_path[256]; /**< the cgroup that limits, "" if none */
  char reason[256];     /**< one sentence: why `cores` was chosen */
} ac_topology;

/** Read the machine anew: affinity, cgroup quotas (own path and ancestors, both
 * versions), siblings, nodes and caches.
 *
 * @param ret_topology  Written on success only.
 * @return AC_OK; AC_E_INVAL for NULL.
 */
AC_API ac_status ac_topology_read(ac_topology *ret_topology);

/* ---- Budget ----------------------------------------------------------- */

/** Set how many cores the process may use.
 *
 * @param cores  1 … 1024; 0 = what the machine grants, read anew. More than the
 *               machine grants is allowed: asked for by number, it is given.
 * @return AC_OK; AC_E_INVAL.
 */
AC_API ac_status ac_budget_set(int cores);

/** Cores that the process may use now: the smallest of what was set and every
 * limit now held (ac_limit_hold). At least 1. */
AC_API int ac_budget(void);

/** A limit held on the budget for a while; give it back by its token. */
typedef struct ac_limit_token {
  int cores; /**< 0 = holds nothing */
} ac_limit_token;

/** Narrow the budget of the whole process to at most `cores` until released.
 * While several are held the smallest counts, whatever the order of release.
 *
 * @param cores      1 … 1024; more than the budget changes nothing.
 * @param ret_token  Written on success; pass to ac_limit_release() once.
 * @return AC_OK; AC_E_INVAL.
 */
AC_API ac_status ac_limit_hold(int cores, ac_limit_token *ret_token);

/** Release a limit; sets `token->cores` to 0. A token with 0 is a no-op. */
AC_API void ac_limit_release(ac_limit_token *token);

/** Make this process's core ledger known to programs that it starts.
 *
 * The ledger is memory that processes share to keep within the machine's cores
 * together. A child made by fork shares it at once; a program started by exec
 * joins if ALLCORES_LEDGER holds the text given here. The library does not
 * change the environment itself.
 *
 * @param ret_text   Buffer for the value of ALLCORES_LEDGER.
 * @param size_bytes Size of the buffer; 64 is enough.
 * @return AC_OK; AC_E_INVAL if the buffer is too small; AC_E_OS, AC_E_NOMEM.
 */
AC_API ac_status ac_ledger_export(char *ret_text, size_t size_bytes);

/* ---- Teams ------------------------------------------------------------ */

typedef struct ac_team ac_team;

/** How to make a team; a zeroed one gives the defaults. */
typedef struct ac_team_options {
  int width;          /**< threads, the caller's among them; 0 = the budget */
  size_t stack_bytes; /**< of each thread; 0 = the system's default */
} ac_team_options;

/** Create a team. It starts its threads when they are first needed.
 *
 * A team with a width asked for by number always gets its threads, however busy
 * the machine is; one with width 0 takes free cores only.
 *
 * @param options   Borrowed for the call; NULL = defaults.
 * @param ret_team  The caller owns it: ac_team_destroy().
 * @return AC_OK; AC_E_INVAL for a width below 0 or over 1024; AC_E_NOMEM.
 */
AC_API ac_status ac_team_create(const ac_team_options *options,
                                ac_team **ret_team);

/** End a team's threads and free it. No thread may be inside it. NULL is a
 * no-op. */
AC_API void ac_team_destroy(ac_team *team);

/** Most threads that one region of this team runs on now, at least 1. */
AC_API int ac_team_width(ac_team *team);

/** Call `body` once on each of `width` threads, all running at the same time.
 *
 * Serial equivalent: for (i = 0; i < width; i++) body({i, i + 1}, ctx), except
 * that the calls may wait for each other (a barrier inside is fine). Call 0
 * runs on the caller. Threads that the team lacks are made for the purpose and
 * kept for later calls.
 *
 * @param team   Borrowed. NULL = the process's own.
 * @param width  1 … 1024; 0 = ac_team_width(team).
 * @return AC_OK; the first non-zero status of a body (the others still run);
 *         AC_E_INVAL; AC_E_OS or AC_E_NOMEM if a thread cannot be had, and then
 *         no body was called.
 */
AC_API ac_status ac_team_each(ac_team *team, int width, ac_body_fn body,
                              void *ctx);

/** Number of this thread within the innermost region that it runs in: 0 for the
 * thread that entered it, below ac_region_width() for all; 0 outside. No two
 * threads in one region share it at a time. */
AC_API int ac_worker_index(void);

/** Bound of ac_worker_index() in the innermost region; 1 outside. Of ac_run()
 * and of groups, where any thread that waits may help, it is large (8192) and
 * most indices are never used: see ac_local_get(). */
AC_API int ac_region_width(void);

/** True once the region or group that this thread runs in, or one around it,
 * was cancelled; a long body may ask now and then and return early. */
AC_API bool ac_cancelled(void);

/** Called on the thread that set it, at borders between chunks and while it
 * waits, at most every 20 ms, when it entered a region itself. Non-zero cancels
 * the region, which then returns that status. */
typedef ac_status (*ac_poll_fn)(void *ctx);

/** Set the calling thread's poll function; NULL removes it. Python's face looks
 * for Ctrl-C here. */
AC_API void ac_poll_set(ac_poll_fn poll, void *ctx);

/* ---- What they did ---------------------------------------------------- */

/** Counters of a team since it was made: X(name, sentence). */
#define AC_COUNTER_TABLE(X)                                                    \
  X(regions, "loops and reductions entered")                                   \
  X(regions_serial, "of those, run wholly by their caller")                    \
  X(serial_small, "kept serial: too little work to share")                     \
  X(serial_slower, "kept serial: measured slower in parallel")                 \
  X(serial_asleep, "kept serial: worth only workers that are awake")           \
  X(serial_width, "kept serial: one core, or nested with no worker idle")      \
  X(gangs, "ac_team_each() calls")                                             \
  X(mails, "pieces handed to an idle worker")                                  \
  X(takebacks, "pieces taken back before their worker began")                  \
  X(entries, "times a worker joined a running region by itself")               \
  X(spawns, "tasks spawned into groups")                                       \
  X(steals, "successful steals")                                               \
  X(steal_misses, "steals that lost a race")                                   \
  X(splits, "times a worker took half of another's remaining iterations")      \
  X(parks, "times a worker went to sleep")                                     \
  X(wakes, "times a sleeping worker was woken")                                \
  X(denied, "times a worker stayed asleep because every core was taken")       \
  X(waits, "joins that had to sleep")                                          \
  X(shared_writes, "atomic writes to lines that several workers use")          \
  X(futex_calls, "system calls to sleep or to wake")                           \
  X(threads_started, "threads started")

/** A snapshot; each is a sum over the team's workers. */
typedef struct ac_counters {
#define AC__COUNTER_FIELD(name, text) uint64_t name;
  AC_COUNTER_TABLE(AC__COUNTER_FIELD)
#undef AC__COUNTER_FIELD
} ac_counters;

/** Read a team's counters; NULL = the process's own team (zeros if it has not
 * started). Counts of regions now running may be a little behind. */
AC_API void ac_counters_read(ac_team *team, ac_counters *ret_counters);

#ifdef __cplusplus
}
#endif
#endif
