/* spawn.h: fork and join at the cost of a few function calls, inlined.
 *
 *   static void fib(ac_worker *w, void *arg) {
 *     struct fib *f = arg;
 *     if (f->n < 2) { f->value = f->n; return; }
 *     struct fib a = {.n = f->n - 1}, b = {.n = f->n - 2};
 *     ac_strand strand;
 *     ac_spawn(w, &strand, fib, &a);    // may run elsewhere
 *     fib(w, &b);
 *     ac_sync(w, &strand, fib, &a);     // runs it here if nobody took it
 *     f->value = a.value + b.value;
 *   }
 *   … ac_run(NULL, fib, &f);
 *
 * Every spawn is synced by the same function call that made it, in reverse
 * order; a strand lives on that call's stack. The deque is Chase and Lev's
 * (SPAA 2005) with the orders of Lê et al. (PPoPP 2013).
 *
 * Names that begin with ac__ are here only to be inlined: they may change.
 */
#ifndef ALLCORES_SPAWN_H
#define ALLCORES_SPAWN_H

#include <allcores/team.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A thread's place in a team; valid in the function that it was passed to. */
typedef struct ac_worker ac_worker;

typedef void (*ac_strand_fn)(ac_worker *worker, void *arg);

/* Something that a thief can run. */
typedef struct ac__job {
  void (*run)(struct ac__job *job, ac_worker *thief);
} ac__job;

/** A call that may run on another thread. Its fields are the library's. */
typedef struct ac_strand {
  ac__job job;
  ac_strand_fn fn;
  void *arg;
  void *scope;       /* the region that it was spawned in */
  ac_worker *thief;  /* atomic; who runs it, NULL until somebody took it */
  int64_t base;      /* atomic; the thief's bottom when it began */
  uint32_t state;    /* atomic; AC__STRAND_… */
  uint32_t in_place; /* ran when spawned: the deque was full */
} ac_strand;

enum { AC__STRAND_PENDING = 0, AC__STRAND_DONE = 1, AC__STRAND_AWAITED = 2 };

/* What the inlined calls see of a worker: the line that its owner writes and
 * the one that thieves write. */
typedef struct ac__worker_head {
  int64_t bottom;  /* atomic; next free slot; written by the owner */
  int64_t limit;   /* owner's; a push at or above it takes the slow path */
  ac__job **slots; /* AC__DEQUE_SIZE atomic pointers */
  void *scope;     /* owner's; the region it runs in */
  const uint32_t *team_hungry; /* atomic; a sleeper of the team wants work */
  uint32_t hungry; /* atomic; a sleeper waits for what this worker runs */
  char pad[20];
  int64_t top; /* atomic; oldest item; thieves advance it */
  char pad_top[56];
} ac__worker_head;

enum { AC__DEQUE_SIZE = 1024 };

AC_API void ac__strand_run(ac__job *job, ac_worker *thief);
AC_API void ac__spawn_slow(ac_worker *worker, ac_strand *strand);
AC_API void ac__notify(ac_worker *worker);
AC_API int ac__sync_slow(ac_worker *worker, ac_strand *strand, int64_t bottom);

/** Enter the team and call `fn` on this thread, with its worker.
 *
 * @param team  Borrowed. NULL = the process's own.
 * @return AC_OK; AC_E_NOMEM, and then `fn` was not called; AC_E_CANCELLED if
 * the poll function or a region around it cancelled; AC_E_FORKED.
 */
AC_API ac_status ac_run(ac_team *team, ac_strand_fn fn, void *arg);

/** Offer fn(worker, arg) to idle threads. Serial equivalent: fn(worker, arg).
 *
 * @param worker  As passed to the calling function.
 * @param strand  Uninitialised; must live until ac_sync().
 * @param arg     Borrowed until ac_sync(). */
static inline void ac_spawn(ac_worker *worker, ac_strand *strand,
                            ac_strand_fn fn, void *arg) {
  ac__worker_head *w = (ac__worker_head *)worker;
  int64_t bottom = w->bottom;
  strand->job.run = ac__strand_run;
  strand->fn = fn;
  strand->arg = arg;
  strand->scope = w->scope;
  strand->thief = NULL;
  strand->state = AC__STRAND_PENDING;
  strand->in_place = 0;
  if (__builtin_expect(bottom >= w->limit, 0)) {
    ac__spawn_slow(worker, strand);
    return;
  }
  __atomic_store_n(&w->slots[bottom & (AC__DEQUE_SIZE - 1)], &strand->job,
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
                       0))
    ac__notify(worker);
}

/** Wait for a strand, running it here if nobody took it. `fn` and `arg` are
 * those of its ac_spawn(); its writes are then visible. */
static inline void ac_sync(ac_worker *worker, ac_strand *strand,
                           ac_strand_fn fn, void *arg) {
  ac__worker_head *w = (ac__worker_head *)worker;
  if (__builtin_expect(strand->in_place, 0))
    return;
  int64_t bottom = w->bottom - 1;
  __atomic_store_n(&w->bottom, bottom, __ATOMIC_RELAXED);
  /* seq_cst: pairs with the fence in ac__deque_steal(); owner and thief cannot
   * both miss the other's claim on the last item. */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__builtin_expect(__atomic_load_n(&w->top, __ATOMIC_RELAXED) < bottom,
                       1) ||
      ac__sync_slow(worker, strand, bottom))
    fn(worker, arg);
}

#ifdef __cplusplus
}
#endif
#endif
