/* deque.h: work-stealing deque, one a worker (Chase and Lev, SPAA 2005; memory
 * orders after Lê, Pop, Cohen and Zappa Nardelli, PPoPP 2013).
 *
 * The owner pushes and takes at `bottom`; any thread steals at `top`. The slots
 * do not grow: jobs are stack frames' children, so 1,024 is a depth, and what
 * does not fit runs at once on its owner.
 *
 * Invariants: top never decreases; slots in [top, bottom) are initialised; the
 * owner's `limit` is at most top + AC__DEQUE_SIZE, so a slot is overwritten
 * only after top has passed it, and a late thief's compare-and-swap then fails.
 *
 * The owner's push and take are inlined in <allcores/spawn.h> for strands;
 * these are the same for any job. Builtins instead of <stdatomic.h>, because
 * the head is shared with C++.
 *
 * Knows nothing of: sleeping, what a job does, teams.
 */
#ifndef AC_TEAM_DEQUE_H
#define AC_TEAM_DEQUE_H

#include <allcores/spawn.h>
#include <stdbool.h>
#include <stddef.h>

enum { AC__DEQUE_MASK = AC__DEQUE_SIZE - 1 };

/* Owner: how many more jobs fit; refreshes the limit. With `fenced`, the limit
 * stays at zero so that every push takes the slow path and its fence. */
static inline bool ac__deque_has_room(ac__worker_head *w, bool fenced) {
  int64_t bottom = __atomic_load_n(&w->bottom, __ATOMIC_RELAXED);
  /* acquire: a thief that moved top has read the slot that we may overwrite */
  int64_t limit = __atomic_load_n(&w->top, __ATOMIC_ACQUIRE) + AC__DEQUE_SIZE;
  if (!fenced)
    w->limit = limit;
  return bottom < limit;
}

/* Owner: append a job. There must be room. */
static inline void ac__deque_push(ac__worker_head *w, ac__job *job) {
  int64_t bottom = __atomic_load_n(&w->bottom, __ATOMIC_RELAXED);
  /* relaxed: published by the release of bottom below */
  __atomic_store_n(&w->slots[bottom & AC__DEQUE_MASK], job, __ATOMIC_RELAXED);
  /* release: pairs with the acquire of bottom in ac__deque_steal() */
  __atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELEASE);
}

/* Owner: claim the newest job, at `bottom` − 1 of before. Returns false if a
 * thief has it; bottom is then where it was before the push. */
static inline bool ac__deque_take(ac__worker_head *w) {
  int64_t bottom = __atomic_load_n(&w->bottom, __ATOMIC_RELAXED) - 1;
  __atomic_store_n(&w->bottom, bottom, __ATOMIC_RELAXED);
  /* seq_cst: pairs with the fence in ac__deque_steal(): of an owner and a thief
   * that want the same last job, at least one sees the other. */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  int64_t top = __atomic_load_n(&w->top, __ATOMIC_RELAXED);
  if (top < bottom)
    return true;
  bool mine = false;
  if (top == bottom) {
    int64_t expected = top;
    /* seq_cst: the last job goes to whoever moves top over it */
    mine = __atomic_compare_exchange_n(&w->top, &expected, top + 1, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    /* Either way top is now bottom + 1: the deque stays empty there. */
    __atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELAXED);
  } else {
    __atomic_store_n(&w->bottom, bottom + 1, __ATOMIC_RELAXED);
  }
  return mine;
}

/* True if a thief might find a job at or above index `base`. */
static inline bool ac__deque_looks_full(const ac__worker_head *w,
                                        int64_t base) {
  /* relaxed: a hint; a sleeper asks after a heavy barrier */
  int64_t top = __atomic_load_n(&w->top, __ATOMIC_RELAXED);
  return top >= base && top < __atomic_load_n(&w->bottom, __ATOMIC_RELAXED);
}

/* Does what a join waits for still go on? Asked between reading a job and
 * claiming it: a job that was there before it ended was made inside it.
 * Acquires. */
typedef struct ac__still {
  bool (*goes_on)(const void *subject);
  const void *subject;
} ac__still;

/* Thief: the oldest job, if its index is at least `base` and `still` holds
 * (NULL = always); NULL if there is none or a race was lost (*ret_lost). */
static inline ac__job *ac__deque_steal(ac__worker_head *victim, int64_t base,
                                       const ac__still *still, bool *ret_lost) {
  /* acquire: a top that another thief moved comes with what it saw */
  int64_t top = __atomic_load_n(&victim->top, __ATOMIC_ACQUIRE);
  /* seq_cst: pairs with the fence in ac__deque_take() and ac_sync() */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  /* acquire: pairs with the release of bottom in a push */
  int64_t bottom = __atomic_load_n(&victim->bottom, __ATOMIC_ACQUIRE);
  if (top < base || top >= bottom)
    return NULL;
  /* relaxed: ordered by the acquire of bottom; void if the swap below fails */
  ac__job *job =
      __atomic_load_n(&victim->slots[top & AC__DEQUE_MASK], __ATOMIC_RELAXED);
  if (still != NULL && !still->goes_on(still->subject))
    return NULL;
  /* seq_cst: against the owner's swap for the last job and other thieves'; its
   * release half pairs with the acquire in ac__deque_has_room(). */
  if (__atomic_compare_exchange_n(&victim->top, &top, top + 1, false,
                                  __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
    return job;
  *ret_lost = true;
  return NULL;
}

#endif
