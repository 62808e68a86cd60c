/* slots.h: the protocol on a pool's shared memory. See types.h.
 *
 * Knows nothing of: processes, what messages say, who owns a slot's task.
 */
#ifndef AC_PROCS_SLOTS_H
#define AC_PROCS_SLOTS_H

#include "procs/types.h"

/* ---- Memory -------------------------------------------------------------- */

/* Make both segments. `slot_count` is rounded to what the queue can hold. */
ac_status ac__pool_memory_create(int workers, uint32_t slot_count,
                                 ac__pool_memory *ret_memory);

/* Have memory for these slots, which no worker is told of before. */
ac_status ac__slots_commit(const ac__pool_memory *memory, uint32_t first,
                           uint32_t count);

/* Take over both descriptors and check what lies there. */
ac_status ac__pool_memory_open(const int fds[2], ac__pool_memory *ret_memory);
void ac__pool_memory_close(ac__pool_memory *memory);

/* ---- The parent ---------------------------------------------------------- */

/* Queue a slot whose messages are written: PENDING, `attempt` times begun.
 * False, and nothing changed, if the queue is full. */
bool ac__slot_queue(ac__pool_memory *memory, uint32_t number, uint32_t attempt);

/* Is the place `position` in the queue past? */
bool ac__queue_is_past(ac__pool_memory *memory, uint64_t position);

/* PENDING → CANCELLED. False if it was not pending. */
bool ac__slot_cancel(ac__slot *slot);

/* CLAIMED → DOOMED. False if it was not claimed; else by whom. */
bool ac__slot_doom(ac__slot *slot, uint32_t *ret_worker);

/* The finished slots, oldest first, linked by `next`: number + 1; 0 = none. */
uint32_t ac__done_take(ac__pool_memory *memory);

/* Wake up to `count` sleeping workers. */
void ac__workers_wake(ac__pool_memory *memory, uint32_t count);

/* Wake every worker, whatever its bit says. */
void ac__workers_wake_all(ac__pool_memory *memory);

/* A worker has died: it neither sleeps nor spins. */
void ac__worker_forget(ac__pool_memory *memory, uint32_t worker);

/* Workers that do not sleep, of `alive`. A hint. */
int ac__workers_awake(const ac__pool_memory *memory, int alive);

/* ---- A worker ------------------------------------------------------------ */

/* Claim the oldest pending slot; NULL if none is. */
ac__slot *ac__slot_claim(ac__pool_memory *memory, uint32_t worker);

/* CLAIMED → DONE, and tell the parent. False if it was doomed. */
bool ac__slot_finish(ac__pool_memory *memory, ac__slot *slot, uint32_t worker);

/* Wait until something may be queued or the pool is closed. */
typedef struct ac__rest {
  uint32_t worker;
  uint32_t misses; /* spins in a row that were of no use */
  uint32_t skipped;
  bool must_pass_on; /* it spun: others may sleep while there is work */
  void (*before_sleep)(void *ctx);
  void (*after_sleep)(void *ctx);
  void *ctx;
} ac__rest;
void ac__worker_rest(ac__pool_memory *memory, ac__rest *rest);

/* After a claim that followed a spin: others may sleep while more is queued. */
void ac__worker_pass_on(ac__pool_memory *memory);

bool ac__queue_is_empty(const ac__pool_memory *memory);

#endif
