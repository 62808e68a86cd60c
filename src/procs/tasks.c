/* tasks.c: a task's way from submit to result, in the parent.
 *
 * A task waits in the backlog while there is no free slot; its message is then
 * a copy on the heap, or lies in the arena already. What a worker has finished
 * is collected by any thread that looks (ac__tasks_collect): small results are
 * copied out so that the slot is free at once.
 *
 * Knows nothing of: how workers are started.
 */
#include "procs/pool.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum {
  TERM_NS = 250000000,     /* from TERM to KILL */
  LIMIT_LOOK_NS = 10000000 /* between two looks at limits */
};

/* ---- Ending -------------------------------------------------------------- */

static void give_pages(ac_pool *pool, uint64_t offset, size_t size_bytes) {
  if (offset != 0)
    ac__arena_give(&pool->memory.arena, AC__OWNER_PARENT, offset, size_bytes);
}

static void drop_message(ac_pool *pool, task *task) {
  give_pages(pool, task->in_offset, task->in_bytes);
  free(task->in);
  task->in = NULL;
  task->in_offset = 0;
}

void ac__task_end(ac_pool *pool, task *task, ac_task_end end) {
  drop_message(pool, task);
  task->end = end;
  task->place = AC_TASK_ENDED;
  task->next = NULL;
  *pool->ended_end = task;
  pool->ended_end = &task->next;
  if (--pool->unfinished == 0) /* ac_pool_join() waits for that */
    (void)pthread_cond_broadcast(&pool->crew_changed);
  atomic_fetch_add_explicit(&pool->ended_count, 1, memory_order_relaxed);
}

/* Its slot is another's, or nobody's, from now on. */
static uint32_t leave_slot(ac_pool *pool, task *task) {
  uint32_t number = (uint32_t)task->slot;
  if (task->limit_ns != 0 || task->doomed_ns != 0)
    pool->limited--;
  pool->slot_tasks[number] = NULL;
  task->slot = -1;
  return number;
}

bool ac__task_unslot(ac_pool *pool, task *task) {
  if (!ac__slot_cancel(&pool->memory.slots[task->slot]))
    return false;
  pool->stale_slots[pool->stale_count++] = leave_slot(pool, task);
  return true;
}

static void free_slot(ac_pool *pool, task *task) {
  uint32_t number = leave_slot(pool, task);
  uint64_t state = atomic_load_explicit(&pool->memory.slots[number].state,
                                        memory_order_relaxed);
  /* relaxed: published when the slot is queued again */
  atomic_store_explicit(
      &pool->memory.slots[number].state,
      ac__state(AC__SLOT_FREE, 0, 0, ac__state_sequence(state)),
      memory_order_relaxed);
  pool->free_slots[pool->free_slot_count++] = number;
}

/* ---- From the backlog into slots ----------------------------------------- */

/* Slots of cancelled tasks are free once their entries have left the queue. */
static void free_stale(ac_pool *pool) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < pool->stale_count; i++) {
    uint32_t number = pool->stale_slots[i];
    if (ac__queue_is_past(&pool->memory, pool->slot_positions[number]))
      pool->free_slots[pool->free_slot_count++] = number;
    else
      pool->stale_slots[kept++] = number;
  }
  pool->stale_count = kept;
}

static bool queue(ac_pool *pool, uint32_t number, uint32_t attempt) {
  uint64_t position =
      atomic_load_explicit(&pool->memory.head->tail, memory_order_relaxed);
  if (!ac__slot_queue(&pool->memory, number, attempt))
    return false;
  pool->slot_positions[number] = position;
  return true;
}

/* Have memory for some more slots. */
static void add_slots(ac_pool *pool) {
  enum { STEP = 32 };
  uint32_t left = pool->memory.slot_count - pool->slot_count;
  uint32_t count = left < STEP ? left : STEP;
  if (count == 0 ||
      ac__slots_commit(&pool->memory, pool->slot_count, count) != AC_OK)
    return;                          /* the task waits */
  for (uint32_t i = count; i-- > 0;) /* the lowest is on top */
    pool->free_slots[pool->free_slot_count++] = pool->slot_count + i;
  pool->slot_count += count;
}

static bool into_slot(ac_pool *pool, task *task) {
  if (pool->free_slot_count == 0)
    free_stale(pool);
  if (pool->free_slot_count == 0)
    add_slots(pool);
  if (pool->free_slot_count == 0)
    return false;
  uint32_t number = pool->free_slots[pool->free_slot_count - 1];
  ac__slot *slot = &pool->memory.slots[number];
  slot->in_offset = task->in_offset;
  slot->in_bytes = task->in_bytes;
  if (task->in != NULL)
    memcpy(slot->in, task->in, task->in_bytes);
  if (!queue(pool, number, (uint32_t)task->attempts))
    return false;
  pool->free_slot_count--;
  pool->slot_tasks[number] = task;
  task->slot = (int32_t)number;
  if (task->limit_ns != 0)
    pool->limited++;
  if (task->retries == 0) { /* else it may be wanted again */
    free(task->in);
    task->in = NULL;
  }
  return true;
}

static void feed(ac_pool *pool) {
  uint32_t queued = 0;
  while (pool->backlog != NULL && pool->refusal == NULL) {
    task *task = pool->backlog;
    struct task *next = task->next;
    if (!into_slot(pool, task))
      break;
    pool->backlog = next;
    if (next == NULL)
      pool->backlog_end = &pool->backlog;
    queued++;
  }
  if (queued > 0)
    ac__workers_wake(&pool->memory, queued);
  if (pool->backlog == NULL && pool->is_closing &&
      atomic_load_explicit(&pool->memory.head->is_closing,
                           memory_order_relaxed) == 0) {
    /* release: pairs with the acquire in worker.c; after all that is queued */
    atomic_store_explicit(&pool->memory.head->is_closing, 1,
                          memory_order_release);
    ac__workers_wake_all(&pool->memory);
  }
}

/* ---- What workers have finished ------------------------------------------ */

static void take_result(ac_pool *pool, task *task, ac__slot *slot,
                        uint32_t worker) {
  ac_task_end end = AC_TASK_DONE;
  uint64_t begun_ns =
      atomic_load_explicit(&slot->begun_ns, memory_order_relaxed);
  task->run_ns = (int64_t)(slot->ended_ns - begun_ns);
  task->pid = pool->crew[worker].pid;
  task->out_bytes = (size_t)slot->out_bytes;
  task->out_offset = slot->out_offset;
  task->is_held = (slot->flags & AC__FLAG_HELD) != 0;
  if (task->is_held)
    task->in_offset = 0; /* its pages are the worker's now */
  if (slot->flags & AC__FLAG_NOMEM) {
    end = AC_TASK_NOMEM;
    task->out_offset = 0;
  } else if (slot->out_offset != 0) {
    ac__pool_note_pages(pool);
    ac__arena_pass(&pool->memory.arena, pool->crew[worker].owner,
                   AC__OWNER_PARENT, slot->out_offset, task->out_bytes);
  } else if (task->out_bytes > AC__INLINE_BYTES ||
             (task->out = malloc(task->out_bytes + 1)) == NULL) {
    end = AC_TASK_NOMEM;
  } else {
    memcpy(task->out, slot->out, task->out_bytes);
  }
  free_slot(pool, task);
  ac__task_end(pool, task, end);
}

/* A slot that should be DONE: take in its result. */
static void collect_slot(ac_pool *pool, uint32_t number) {
  ac__slot *slot = &pool->memory.slots[number];
  task *task = pool->slot_tasks[number];
  /* acquire: pairs with the release in ac__slot_finish() */
  uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
  uint32_t worker = ac__state_worker(state);
  if (task == NULL || ac__state_code(state) != AC__SLOT_DONE ||
      worker >= (uint32_t)pool->workers)
    return;
  task->attempts++;
  take_result(pool, task, slot, worker);
}

/* Somebody may have looked between the workers' list and ours, found neither,
 * and gone to sleep; the worker's ring may have been before that. */
static void tell_sleepers(ac_pool *pool) {
  ac__pool_head *head = pool->memory.head;
  /* seq_cst: `ended_count` before `waits`; pairs with that in ac_pool_wait() */
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&head->waits, memory_order_relaxed) != 0)
    ac__tasks_ring(pool);
}

void ac__tasks_collect(ac_pool *pool) {
  uint32_t count = pool->memory.slot_count;
  uint32_t at = ac__done_take(&pool->memory);
  uint32_t taken = 0;
  while (at != 0 && at <= count && taken++ < count) {
    uint32_t number = at - 1;
    at = atomic_load_explicit(&pool->memory.slots[number].next,
                              memory_order_relaxed);
    collect_slot(pool, number);
  }
  if (taken > 0)
    tell_sleepers(pool);
  feed(pool);
}

static void ring(ac_pool *pool) {
  ac__pool_head *head = pool->memory.head;
  /* release: the sleeper compares this word */
  atomic_store_explicit(&head->waits, 0, memory_order_relaxed);
  atomic_fetch_add_explicit(&head->bell, 1, memory_order_release);
  ac__futex_wake_shared(&head->bell, INT32_MAX);
}

void ac__tasks_ring(ac_pool *pool) {
  if (pool->ended != NULL)
    ring(pool);
}

/* ---- Deaths, limits, cancelling ------------------------------------------ */

/* The worker that had begun it is dead. */
static void bury_task(ac_pool *pool, task *task, uint64_t state, int32_t pid,
                      int32_t exit_status) {
  uint32_t number = (uint32_t)task->slot;
  task->pid = pid;
  task->exit_status = exit_status;
  task->attempts++; /* the state's count has few bits */
  if (ac__state_code(state) == AC__SLOT_DOOMED) {
    free_slot(pool, task);
    ac__task_end(pool, task, task->end);
    return;
  }
  if (task->retries > 0 && !pool->is_terminated && pool->refusal == NULL) {
    task->retries--;
    /* Of a message that was to be the worker's, it may have been the first. */
    if (task->in_offset != 0)
      ac__arena_pass(&pool->memory.arena,
                     pool->crew[ac__state_worker(state)].owner,
                     AC__OWNER_PARENT, task->in_offset, task->in_bytes);
    if (queue(pool, number, (uint32_t)task->attempts)) {
      ac__workers_wake(&pool->memory, 1);
      return;
    }
  }
  free_slot(pool, task);
  ac__task_end(pool, task,
               pool->is_terminated     ? AC_TASK_CANCELLED
               : pool->refusal != NULL ? AC_TASK_REFUSED
                                       : AC_TASK_DIED);
}

void ac__tasks_bury(ac_pool *pool, uint32_t worker, int32_t pid,
                    int32_t exit_status) {
  ac__tasks_collect(pool); /* what it has told of */
  for (uint32_t i = 0; i < pool->memory.slot_count; i++) {
    task *task = pool->slot_tasks[i];
    if (task == NULL)
      continue;
    /* acquire: pairs with the releases of the dead worker */
    uint64_t state = atomic_load_explicit(&pool->memory.slots[i].state,
                                          memory_order_acquire);
    uint32_t code = ac__state_code(state);
    if (ac__state_worker(state) != worker)
      continue;
    if (code == AC__SLOT_DONE) /* it had no time to tell */
      collect_slot(pool, i);
    else if (code == AC__SLOT_CLAIMED || code == AC__SLOT_DOOMED)
      bury_task(pool, task, state, pid, exit_status);
  }
  feed(pool);
  ring(pool); /* it may have said so, and not done it */
}

void ac__tasks_drop(ac_pool *pool, ac_task_end end) {
  while (pool->backlog != NULL) {
    task *task = pool->backlog;
    pool->backlog = task->next;
    ac__task_end(pool, task, end);
  }
  pool->backlog_end = &pool->backlog;
  for (uint32_t i = 0; i < pool->memory.slot_count; i++) {
    task *task = pool->slot_tasks[i];
    if (task != NULL && ac__task_unslot(pool, task))
      ac__task_end(pool, task, end);
  }
}

bool ac__task_doom(ac_pool *pool, task *task, ac_task_end end) {
  uint32_t worker;
  if (task->slot < 0 ||
      !ac__slot_doom(&pool->memory.slots[task->slot], &worker))
    return false;
  if (task->limit_ns == 0)
    pool->limited++;
  task->doomed_ns = ac__clock_ns();
  task->end = end;
  (void)ac__crew_kill(pool, worker, SIGTERM);
  ac__server_ring(pool->server);
  return true;
}

/* A doomed task: TERM again, since its worker's number may not have been known,
 * then KILL. */
static void press(ac_pool *pool, task *task, uint64_t now_ns) {
  uint64_t state = atomic_load_explicit(&pool->memory.slots[task->slot].state,
                                        memory_order_relaxed);
  uint32_t worker = ac__state_worker(state);
  bool is_late = now_ns > task->doomed_ns + TERM_NS;
  if (worker < (uint32_t)pool->workers && !task->is_killed)
    task->is_killed =
        ac__crew_kill(pool, worker, is_late ? SIGKILL : SIGTERM) && is_late;
}

uint64_t ac__tasks_check_limits(ac_pool *pool, uint64_t now_ns) {
  if (pool->limited == 0)
    return 0;
  for (uint32_t i = 0; i < pool->memory.slot_count; i++) {
    task *task = pool->slot_tasks[i];
    if (task == NULL || (task->limit_ns == 0 && task->doomed_ns == 0))
      continue;
    if (task->doomed_ns != 0) {
      press(pool, task, now_ns);
      continue;
    }
    const ac__slot *slot = &pool->memory.slots[i];
    /* relaxed: a worker that has just begun is looked at next time */
    uint64_t begun_ns =
        atomic_load_explicit(&slot->begun_ns, memory_order_relaxed);
    if (begun_ns != 0 && now_ns > begun_ns + (uint64_t)task->limit_ns)
      (void)ac__task_doom(pool, task, AC_TASK_TIMEOUT);
  }
  return now_ns + LIMIT_LOOK_NS;
}
