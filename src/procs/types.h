/* types.h: how a pool lies in shared memory. Private to src/procs.
 *
 *   control   one segment: head, worker lines, queue, slots.
 *   arena     another: messages that do not fit into a slot (src/shm).
 *   slot      a task in flight: its state, and both messages if they are small.
 *   queue     numbers of slots in the order in which they are to be claimed.
 *   done      list of slots that workers have finished with.
 *   sequence  tells one use of a slot from the next, so that an old entry of
 *             the queue claims nothing.
 *   doomed    a running task whose worker is about to be ended: it cannot be
 *             finished any more, so that no other task is hit.
 *
 * States of a slot, with who changes it to what:
 *
 *   FREE ──submit──► PENDING ──claim──► CLAIMED ──finish──► DONE ──► FREE
 *                       │ ▲  (a worker)  │ │    (a worker)     (the parent)
 *                cancel │ └─── retry ────┘ └─doom─► DOOMED ──► FREE or PENDING
 *                       ▼                              (once the worker is
 * dead) CANCELLED ──► FREE, once its entry has left the queue
 *
 * Invariants
 *  - A slot changes by compare-and-swap on its one word. Whatever instruction a
 *    worker dies at, at most one slot is CLAIMED or DOOMED by it.
 *  - The head of the queue only moves over entries that are not PENDING any
 *    more, and anybody may move it: who dies between its claim and that move
 *    holds up nobody.
 *  - Only the parent writes the queue, `tail`, and a slot that is FREE, DONE,
 *    CANCELLED, or of a dead worker.
 *  - What is read from here is bounded before it is used: a task may have
 *    written anywhere.
 *  - Who sleeps says so (an idle bit, `waits`), passes a fence and looks again;
 *    who has something for it makes it visible, passes a fence and looks who
 *    sleeps. A death can swallow a wake-up, so after one all are woken.
 */
#ifndef AC_PROCS_TYPES_H
#define AC_PROCS_TYPES_H

#include "os/os.h"
#include "shm/shm.h"

#include <allcores/pool.h>
#include <stdalign.h>

enum {
  AC__POOL_VERSION = 1,
  AC__WORKERS_MAX = 1024,
  AC__SLOT_BYTES = 1024,
  AC__INLINE_BYTES = 480, /* of each message in a slot */
  AC__OWNER_PARENT = 1,   /* of pages in the arena; workers have others */
  AC__OWNER_FIRST = 2,
  AC__STORED_HEAD = 64 /* before stored bytes: their number */
};

#define AC__POOL_MAGIC UINT64_C(0x4c4f4f505f434141)

enum ac__slot_code {
  AC__SLOT_FREE = 0,
  AC__SLOT_PENDING = 1,
  AC__SLOT_CLAIMED = 2,
  AC__SLOT_DOOMED = 3,
  AC__SLOT_DONE = 4,
  AC__SLOT_CANCELLED = 5
};

/* What a worker says of its result. */
enum {
  AC__FLAG_HELD = 1, /* it goes on using the message: its pages are its own */
  AC__FLAG_NOMEM = 2 /* there was no memory for the result */
};

typedef struct ac__slot {
  alignas(64) _Atomic uint64_t state; /* see ac__state() */
  _Atomic uint64_t begun_ns;          /* by the worker; 0 = not yet */
  uint64_t ended_ns;
  uint64_t in_offset, in_bytes;   /* offset in the arena; 0 = inline */
  uint64_t out_offset, out_bytes; /* likewise */
  _Atomic uint32_t next;          /* in the done list: number + 1; 0 = last */
  uint32_t flags;
  alignas(64) uint8_t in[AC__INLINE_BYTES];
  uint8_t out[AC__INLINE_BYTES];
} ac__slot;
_Static_assert(sizeof(ac__slot) == AC__SLOT_BYTES, "a slot's layout");

typedef struct ac__worker_line {
  alignas(64) _Atomic uint32_t wake; /* what it sleeps on: 0 = asleep */
  _Atomic uint32_t is_ready;         /* its `begin` has returned */
  uint32_t owner;                    /* its name in the arena */
} ac__worker_line;

typedef struct ac__pool_head {
  /* Written before it is shared, then constant. */
  alignas(64) uint64_t magic;
  uint32_t version;
  uint32_t worker_count;
  uint32_t slot_count;
  uint32_t queue_count; /* a power of two */
  int32_t cores;        /* more threads than these should not spin */
  int64_t tasks_a_worker;
  uint64_t setup_offset, setup_bytes; /* in the arena */

  alignas(64) _Atomic uint64_t tail; /* entries ever queued */
  alignas(64) _Atomic uint64_t head; /* entries that are past */
  alignas(64) _Atomic uint32_t done; /* newest finished slot's number + 1 */

  alignas(64) _Atomic uint32_t waits; /* somebody in the parent sleeps */
  _Atomic uint32_t bell;              /* on this */
  _Atomic int32_t cpu;                /* processor on which it waited last */

  alignas(64) _Atomic uint32_t spinner; /* worker number + 1 that spins */
  _Atomic uint32_t is_closing;          /* end when nothing is queued */
  /* In the arena: size and text of a `begin` that failed; 0 = none has. */
  _Atomic uint64_t refused_offset;
  _Atomic uint64_t idle[AC__WORKERS_MAX / 64]; /* bit i: worker i sleeps */
} ac__pool_head;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "words shared between processes need lock-free atomics");

/* One process's view of a pool's memory. */
typedef struct ac__pool_memory {
  ac__segment control, arena;
  /* The head's, once they were checked: those may be written over. */
  uint32_t worker_count, slot_count, queue_count;
  ac__pool_head *head;
  ac__worker_line *workers;
  _Atomic uint64_t *queue; /* slot number, its sequence above */
  ac__slot *slots;
} ac__pool_memory;

/* ---- A slot's word ------------------------------------------------------- */

static inline uint64_t ac__state(uint32_t code, uint32_t worker,
                                 uint32_t attempt, uint32_t sequence) {
  return (uint64_t)sequence << 32 | (uint64_t)(attempt & 0xff) << 24 |
         (uint64_t)(worker & 0xffff) << 8 | code;
}
static inline uint32_t ac__state_code(uint64_t state) { return state & 0xff; }
static inline uint32_t ac__state_worker(uint64_t state) {
  return state >> 8 & 0xffff;
}
static inline uint32_t ac__state_attempt(uint64_t state) {
  return state >> 24 & 0xff;
}
static inline uint32_t ac__state_sequence(uint64_t state) {
  return (uint32_t)(state >> 32);
}

#endif
