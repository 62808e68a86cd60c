/* team.h: the face of the thread team: what the algorithms may use of it.
 *
 * A thread enters a team (ac__enter) and is then one of its workers. It makes a
 * region, whose work it hands to idle helpers (ac__team_invite) or exposes in
 * its deque (ac__job_push), runs its own share, polling at borders
 * (ac__border), and waits for the rest (ac__await), helping meanwhile.
 *
 * Knows nothing of: ranges, costs, reductions.
 */
#ifndef AC_TEAM_TEAM_H
#define AC_TEAM_TEAM_H

#include "team/deque.h"
#include "team/lane.h"
#include "team/pending.h"

/* ---- The calling thread ------------------------------------------------- */

typedef struct ac__self {
  ac_worker *worker;   /* its innermost place; NULL outside of any team */
  ac_worker *own;      /* its guest places, one a team that it has visited */
  uint32_t generation; /* of fork, when the above were written */
  bool is_helper;      /* the thread is some team's, and holds a token there */
  ac_poll_fn poll;
  void *poll_ctx;
  uint64_t poll_due_ns;
} ac__self;

extern _Thread_local ac__self ac__self_tls
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Number of forks that made this process: children count on. */
extern _Atomic uint32_t ac__fork_generation
    __attribute__((visibility("hidden")));

static inline uint32_t ac__generation(void) {
  /* relaxed: changes only in a child that has one thread */
  return atomic_load_explicit(&ac__fork_generation, memory_order_relaxed);
}

/* True if the calling thread works in a region that a fork has cut off from its
 * helpers. */
static inline bool ac__is_orphan(void) {
  return ac__self_tls.generation != ac__generation();
}

typedef struct ac__visit {
  ac_worker *worker; /* the caller's place; NULL: run serially */
  ac_worker *before;
  ac__frame *frame; /* `worker`'s own, if the thread came from another team */
  bool is_top;      /* it was not in this team already */
} ac__visit;

/* Enter a team (NULL = the process's own). False if the caller must run
 * serially: memory for its place was refused, or it is the child of a fork in
 * mid-region; *ret_visit is then still fit for ac__leave(). */
bool ac__enter(ac_team *team, ac__visit *ret_visit);
void ac__leave(const ac__visit *visit);

/* For calls that cannot run serially: say why ac__enter() returned false. */
ac_status ac__enter_failed(const ac__visit *visit, const char *operation);

/* The process's team, made at first use; NULL if memory is refused. */
ac_team *ac__team_own(void);

/* Threads in a region now, caller included; follows the budget. */
int32_t ac__team_width(ac_team *team);

#define AC__CROWDED (UINT64_C(1) << 16) /* of a team's extent */

/* More threads than cores: nobody spins. */
static inline bool ac__team_is_crowded(const ac_team *team) {
  /* relaxed: any thread may see the old extent for a while */
  return (atomic_load_explicit(&team->extent, memory_order_relaxed) &
          AC__CROWDED) != 0;
}

/* ---- Regions ------------------------------------------------------------ */

static inline void ac__region_init(ac__region *region, ac_worker *owner,
                                   int32_t width) {
  /* Field by field: a short region would feel the clearing of padding. */
  region->outer = owner->frame;
  region->owner = owner;
  atomic_init(&region->status, AC_OK);
  atomic_init(&region->error, NULL);
  region->deadline_ns = 0;
  region->width = width;
  atomic_init(&region->pending, 0);
}

/* The first non-zero status wins. */
void ac__region_fail(ac__region *region, ac_status status);

/* The same of a status that a body returned. Its text, if the body has made one
 * on this thread, travels with it: `errors` is ac__error_count as the body
 * began, since an older text may be of anything. */
void ac__region_fail_body(ac__region *region, ac_status status,
                          uint32_t errors);

/* Status of a body that was called without a region: as above, no older text
 * stays that could be taken for its. */
ac_status ac__status_of_body(ac_status status, uint32_t errors);

/* For the owner, when all have left: the status, its text now the caller's. */
ac_status ac__region_finish(ac__region *region);

/* The same for one who waits and is not the last: a copy of the text. */
ac_status ac__region_look(ac__region *region);

/* Status that stops work in `frame`: its region's, or AC_E_CANCELLED or
 * AC_E_TIMEOUT if one around it was cancelled; AC_OK = go on. */
ac_status ac__frame_status(const ac__frame *frame);

static inline void ac__frame_push(ac_worker *worker, ac__frame *frame,
                                  ac__region *region, ac_worker *owner,
                                  int32_t index) {
  *frame = (ac__frame){.prev = worker->frame,
                       .region = region,
                       .worker = worker,
                       .owner = owner,
                       .index = index};
  worker->frame = frame;
  worker->head.scope = frame;
}
static inline void ac__frame_pop(ac_worker *worker, const ac__frame *frame) {
  worker->frame = frame->prev;
  worker->head.scope = frame->prev;
}

/* Status with which a call of this worker is refused, since a region around it
 * was cancelled: AC_E_TIMEOUT or AC_E_CANCELLED; AC_OK = it may begin. */
ac_status ac__status_around(const ac_worker *worker);

/* What a worker does next, asked between chunks. */
typedef enum ac__verdict {
  AC__GO_ON,
  AC__STOP, /* the region is cancelled; its status is set or is the frame's */
  AC__YIELD /* a helper whose core is wanted elsewhere: leave the rest */
} ac__verdict;

/* Ask for cancellation, the poll function, the budget and the ledger. */
ac__verdict ac__border(ac_worker *worker);

/* Call the thread's poll function if it has one and its time has come. */
ac_status ac__poll(uint64_t now_ns);

/* ---- Handing out work --------------------------------------------------- */

/* Which idle helpers to invite. */
typedef enum ac__reach {
  AC__REACH_AWAKE, /* only those that are awake */
  AC__REACH_ASLEEP /* sleeping and unstarted ones too */
} ac__reach;

/* A piece handed to a helper. */
typedef struct ac__invitation {
  ac_worker *helper;
  bool is_by_lane;
  uint32_t state; /* of its mailbox, to take it back by */
} ac__invitation;

/* Hand `piece` to one idle helper with a number in [first, last), trying
 * `first` first. False if none is idle (or the ledger has no core). Counts. Of
 * a bare piece (one with no region) the range's begin becomes the helper's
 * number + 1. The caller has counted the piece in the region's join. */
bool ac__team_invite(ac_worker *sender, const ac__piece *piece, int32_t first,
                     int32_t last, ac__reach reach, ac__invitation *ret);

/* Take a message back if its receiver has not begun. */
bool ac__team_uninvite(ac_worker *sender, const ac__invitation *invitation);

/* Expose a job in the worker's deque, and wake somebody if that is wanted.
 * False if the deque is full. With `is_quiet` nobody is woken for it. */
bool ac__job_push(ac_worker *worker, ac__job *job, bool is_quiet);

/* Might anybody join a loop that this worker exposes now? A hint. */
static inline bool ac__has_takers(const ac_worker *worker) {
  return atomic_load_explicit(&worker->team->looking, memory_order_relaxed) !=
             0 ||
         ac__is_wanted(worker);
}

/* Take the newest job back; false if a thief has it. */
static inline bool ac__job_take(ac_worker *worker) {
  return ac__deque_take(&worker->head);
}

/* True if the job pushed at `index` has been stolen. Owner only. */
static inline bool ac__job_is_gone(const ac_worker *worker, int64_t index) {
  /* relaxed: a hint; ac__job_take() decides */
  return __atomic_load_n(&worker->head.top, __ATOMIC_RELAXED) > index;
}

/* Try to run one job that `victim` made at or above `base` while `still` held.
 */
bool ac__help(ac_worker *worker, ac_worker *victim, int64_t base,
              const ac__still *still);

/* Call a piece's body on this worker, as a member of its region. `owner` waits
 * for it; NULL if that is the worker itself. The region is not touched if all
 * goes well: its line is the owner's. */
void ac__piece_run(ac_worker *worker, const ac__piece *piece, ac_worker *owner);

/* ---- Waiting ------------------------------------------------------------ */

enum { AC__PAUSES = 100 }; /* polls before a wait yields its processor */

/* Between two polls for the end of what another thread is in the midst of. It
 * may have no processor: after a while, and at once if there are more threads
 * than cores, it gets this one. `*polls` begins at zero. */
static inline void ac__pause(const ac_team *team, uint32_t *polls) {
  if (*polls >= AC__PAUSES || ac__team_is_crowded(team)) {
    ac__thread_yield();
    return;
  }
  ++*polls;
  ac__cpu_relax();
}

/* What a join waits for. */
typedef struct ac__wait {
  /* True once it is over. Acquires. */
  bool (*is_over)(void *subject);
  /* Run some work of its subtree; false if there is none in sight. */
  bool (*help)(void *subject, ac_worker *worker);
  /* Before blocking: arrange that its end calls ac__block_wake(worker), and set
   * `hungry` of those whose pushes would be of use. False if it is over. */
  bool (*ask)(void *subject, ac_worker *worker);
  void *subject;
  int64_t deadline_ns; /* on ac__clock_ns(); 0 = none */
} ac__wait;

/* Wait, helping: spin, then block. AC_OK once it is over; AC_E_TIMEOUT past the
 * deadline; AC_E_FORKED in the child of a fork, where it never ends; a poll
 * function's status if that is not zero (the wait may then be taken up again).
 */
ac_status ac__await(ac_worker *worker, const ac__wait *wait);

/* Wait for what `region`'s owner must outlive, to the end: a status that comes
 * of the waiting cancels the region. False in the child of a fork, where there
 * is no end. */
bool ac__region_await(ac_worker *worker, ac__region *region,
                      const ac__wait *wait);

/* Set a worker's flag: a blocked join wants to know of its pushes. */
static inline void ac__make_hungry(ac_worker *of) {
  ac_worker *self = ac__self_tls.worker;
  if (self != NULL)
    AC__COUNT(self, shared_writes);
  /* release: pairs with the exchange in ac__notify(): it then sees `sleep` */
  __atomic_store_n(&of->head.hungry, 1, __ATOMIC_RELEASE);
}

/* Wake a parked helper after work was made visible outside of any deque. */
void ac__team_announce(ac_worker *worker);

/* Called by helpers that look for work (group.c): run a task of some group with
 * tasks waiting. False if there is none. */
bool ac__groups_help(ac_worker *worker);

/* Put a claimed mailbox back as it was. A push meanwhile may have found nobody
 * to nudge: look for it. Not within a nudge. */
void ac__mail_return(ac_worker *self, ac_worker *helper, uint32_t before);

/* ---- Helpers, for gangs -------------------------------------------------- */

/* Write a message into a helper's mailbox, which is CLAIMED. `cpu` is the
 * sender's processor. */
void ac__mail_write(ac_worker *sender, ac_worker *helper,
                    const ac__piece *piece, int cpu);

/* Make sure that the team has a helper of this number; NULL if memory is
 * refused. Takes the lock. */
ac_worker *ac__team_helper(ac_team *team, int32_t number);

/* Start a helper's thread, its mailbox being CLAIMED, whether or not one was
 * refused just now. False if this one is refused. */
bool ac__helper_start(ac_worker *helper);

/* A helper's thread. */
void *ac__helper_main(void *helper);

#endif
