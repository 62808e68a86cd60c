/* types.h: the nouns of the thread team, and how they lie in memory.
 *
 *   team      threads that work together, and the threads that visit them.
 *   worker    one thread's place in one team: its deque, its mailbox, its
 * token. A helper is a thread that the team started; a guest is any other
 *             thread while (and after) it runs a region of the team.
 *   region    a loop, gang or group in progress: one status, one owner.
 *   frame     a worker's stay in a region, on that worker's stack.
 *   job       what lies in a deque: something that a thief can run. A strand
 *             (spawn.h) or a loop's ticket (algo/loop.c).
 *   mailbox   one cache line through which an idle helper is handed work.
 *   park      to sleep as an idle helper; to block is to sleep in a join.
 *   nudge     to wake a parked helper so that it looks for work to steal.
 *   sentinel  the one parked helper that looks every 5 ms whether a core came
 *             free, while there is work and the ledger has refused one.
 *
 * Invariants
 *  - A worker is never freed before its team, so a late thief or waker may
 * touch it. A steal, a mail and a wake never allocate (a helper's first start
 * does).
 *  - A join helps only with jobs made inside what it waits for: a thief takes
 *    from the worker that runs it, at or above that worker's bottom when it
 * began.
 *  - Who reads a status, a frame or a strand of another worker is waited for by
 *    the thread on whose stack it lies.
 */
#ifndef AC_TEAM_TYPES_H
#define AC_TEAM_TYPES_H

#include "budget/budget.h"
#include "os/os.h"

#include <allcores/spawn.h>
#include <pthread.h>
#include <stdalign.h>

enum { AC__LINE = 64, AC__WIDTH_MAX = AC__CORES_MAX };

/* ---- Regions ------------------------------------------------------------ */

/* What a region's members share. The status is written once per region. */
typedef struct ac__region {
  struct ac__frame *outer;   /* frame in which it was entered; atomic: a group's
                                is that of who waits for it */
  ac_worker *owner;          /* who waits for it; NULL = nobody yet */
  _Atomic(ac_status) status; /* first non-zero; then the rest is left out */
  _Atomic(ac_error *) error; /* its text, on its way to the owner */
  int64_t deadline_ns;       /* on ac__clock_ns(); 0 = none */
  int32_t width;             /* bound of a member's index */
  alignas(
      AC__LINE) _Atomic uint32_t pending; /* parts of its join (pending.h) */
} ac__region;

typedef struct ac__frame {
  struct ac__frame *prev; /* the frame below on the same worker */
  ac__region *region;     /* what it works for */
  ac_worker *worker;      /* who runs here */
  ac_worker *owner;       /* who waits for this frame's work, if not itself */
  int32_t index;          /* within the region */
} ac__frame;

/* ---- Mailbox ------------------------------------------------------------ */

/* The state word of a mailbox: a code in the low bits, above it the number of
 * the message, so that a sender that takes back its own never takes another's.
 * One word decides every race (see sleep.c). */
enum {
  AC__MAIL_BUSY = 0,    /* the helper works: no mail */
  AC__MAIL_OPEN = 1,    /* idle and looking here */
  AC__MAIL_PARKED = 2,  /* asleep on this word */
  AC__MAIL_CLAIMED = 3, /* somebody writes a message, or a gang reserved it */
  AC__MAIL_FULL = 4,    /* a message lies here, not begun */
  AC__MAIL_NUDGED = 5,  /* woken to look for work itself */
  AC__MAIL_ABSENT = 6,  /* parked, and its thread is not started yet */
  AC__MAIL_CLOSED = 7,  /* the team ends */
  AC__MAIL_CODE = 7,    /* mask of the code */
  AC__MAIL_NEXT = 8     /* added to go on to the next message */
};

/* A call of a body that a helper is to make in a region, as its member `index`;
 * when it has returned, one part of the region's join has ended. With `region`
 * NULL the body is called bare: it sees to frame and join itself. */
typedef struct ac__piece {
  ac_body_fn body;
  void *ctx;
  ac__region *region;
  ac_range range;
  int32_t index;
} ac__piece;

typedef struct ac__mail {
  _Atomic uint32_t state;
  int32_t index;
  ac_body_fn body;
  void *ctx;
  ac__region *region;
  int64_t begin, end;
  ac_worker *patron; /* the sender, if it has a lane to the receiver */
  int32_t cpu;       /* the sender's processor */
} ac__mail;
_Static_assert(sizeof(ac__mail) <= AC__LINE, "a mailbox is one line");

/* From a worker to one helper; see lane.h. A line that the patron writes, one
 * that the helper writes, and one that stays with the helper: while one polls,
 * it is disturbed by nothing but what it waits for. */
typedef struct ac__lane {
  alignas(AC__LINE) _Atomic uint32_t post; /* last one posted */
  int32_t index;
  ac_body_fn body;
  void *ctx;
  ac__region *region;
  int64_t begin, end;
  alignas(AC__LINE) _Atomic uint32_t done;  /* last one finished */
  _Atomic uint32_t present;                 /* the helper looks here */
  alignas(AC__LINE) _Atomic uint32_t claim; /* last one taken or revoked */
} ac__lane;
_Static_assert(sizeof(ac__lane) == 3 * AC__LINE, "a lane is three lines");

enum { AC__LANES = 8 }; /* to the helpers 1 … 8 */

/* ---- Worker ------------------------------------------------------------- */

struct ac_worker {
  alignas(AC__LINE) ac__worker_head head;

  alignas(AC__LINE) ac__mail mail;

  alignas(AC__LINE) _Atomic uint32_t sleep; /* AC__AWAKE or AC__BLOCKED */

  ac__lane lanes[AC__LANES];

  alignas(AC__LINE) ac_team *team;
  int32_t number;     /* helper: 1 … ; guest: 0 */
  int32_t place;      /* unique in the team: number; guests follow helpers */
  uint8_t is_started; /* atomic; the helper's thread: AC__STARTED, AC__ENDED */
  uint8_t is_guest;
  uint8_t in_use;      /* a guest place with a thread (under team.c's lock) */
  uint8_t is_orphan;   /* in use by a region that a fork cut off */
  ac__frame *frame;    /* innermost; owner's (a copy of head.scope) */
  ac__token token;     /* helper's, or its waker's while it is parked */
  uint64_t word;       /* helper: its word in the ledger; 0 = not started */
  uint64_t idle_since; /* ticks when it last ran out of work */
  uint64_t gap_ticks;  /* learned time between regions */
  uint64_t woke_ticks; /* when it last woke somebody for a short loop */
  bool is_scout;       /* helper: pushes nudge nobody, since it is to look */
  uint32_t victim;     /* where the last steal succeeded */
  uint32_t lane_sent[AC__LANES]; /* last number posted; owner's */
  bool lane_is_void[AC__LANES];  /* and it was revoked; owner's */
  ac__lane *lane;    /* helper: where it looks besides; NULL = nowhere */
  ac_worker *patron; /* whose lane that is */
  ac__thread thread;
  struct ac_worker *next_own; /* the same thread's places in other teams */
  ac_counters counters;       /* owner's; read by others while it changes */
  ac__job *slots[AC__DEQUE_SIZE];
};

enum { AC__AWAKE = 0, AC__BLOCKED = 1 }; /* of `sleep` */
enum { AC__STARTED = 1, AC__ENDED = 2 }; /* of `is_started` */

/* The public head and its internal use agree. */
_Static_assert(offsetof(ac__worker_head, top) == AC__LINE, "top's own line");
_Static_assert(sizeof(ac__worker_head) == 2 * AC__LINE, "two lines");

/* Count an event of this worker. Only the owner writes; readers may see an old
 * value, so relaxed is enough and the add need not be one instruction. */
#define AC__COUNT_N(worker, name, n)                                           \
  __atomic_store_n(&(worker)->counters.name,                                   \
                   (worker)->counters.name + (uint64_t)(n), __ATOMIC_RELAXED)
#define AC__COUNT(worker, name) AC__COUNT_N(worker, name, 1)

/* ---- Team --------------------------------------------------------------- */

enum { AC__PLACES_MAX = 8192 }; /* helpers, spares and guests together */

struct ac_team {
  alignas(AC__LINE) _Atomic uint32_t hungry; /* a parked helper wants a nudge */
  _Atomic uint32_t sentinel; /* a helper waits for a free core */
  _Atomic uint32_t
      looking; /* helpers that look about, joins that wait: a hint */

  /* Bit i: helper i is parked (or absent) and may be nudged. */
  alignas(AC__LINE) _Atomic uint64_t parked[AC__WIDTH_MAX / 64];

  /* Groups with tasks that nobody has begun (group.c). */
  alignas(AC__LINE) _Atomic uint32_t open_groups;
  struct ac_group *groups; /* under the lock */

  alignas(AC__LINE) pthread_mutex_t lock; /* places, threads, groups */
  _Atomic uint32_t generation;       /* of fork; another means: no threads */
  int32_t asked_width;               /* by number; 0 = follows the budget */
  _Atomic uint64_t extent;           /* width, and as of when: see team.c */
  _Atomic uint64_t start_refused_ns; /* when a thread was last refused; 0 */
  size_t stack_bytes;
  ac_counters retired; /* counters of the last generation */

  /* Helpers [0] unused, [1 … helper_count); then guests. Pointers are set once;
   * counts grow only. Release stores pair with acquire loads by thieves. */
  _Atomic int32_t helper_count;
  _Atomic int32_t guest_count;
  _Atomic(ac_worker *) helpers[AC__WIDTH_MAX + 1];
  _Atomic(ac_worker *) guests[AC__PLACES_MAX - AC__WIDTH_MAX - 1];
};

#endif
