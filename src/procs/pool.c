/* pool.c: the public calls on a pool. See allcores/pool.h.
 *
 * A key is a task's number in a table and how often that number was used, so
 * that an old key finds nothing.
 *
 * Knows nothing of: how workers are started, what messages say.
 */
#include "procs/pool.h"
#include "base/status.h"
#include "budget/budget.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  SLOTS_LEAST = 256,
  SLOTS_A_WORKER = 8,
  SLOTS_MOST = 4096,
  SPIN_NS = 20000, /* of who waits for a result */
  NS_PER_S = 1000000000
};

static ac_status fail_forked(const char *operation) {
  return ac__fail(AC_E_FORKED, operation, "Make a pool of the child's own.",
                  "the pool is this process's parent's");
}

static ac_status fail_memory(const char *operation, const char *of_what) {
  return ac__fail(AC_E_NOMEM, operation, "", "memory for %s was refused",
                  of_what);
}

bool ac__pool_is_parents(const ac_pool *pool) {
  return pool->generation != ac__server_generation();
}

/* ---- Making -------------------------------------------------------------- */

static void free_pool(ac_pool *pool) {
  for (uint32_t i = 0; i < pool->task_count; i++)
    free(pool->tasks[i]);
  free(pool->tasks);
  free(pool->free_keys);
  free(pool->key_uses);
  free(pool->free_slots);
  free(pool->slot_tasks);
  free(pool->slot_positions);
  free(pool->stale_slots);
  free(pool->crew);
  free(pool->refusal_text);
  free(pool->kept);
  if (pool->generation != ac__server_generation()) /* numbers may be others' */
    pool->memory.control.fd = pool->memory.arena.fd = -1;
  ac__pool_memory_close(&pool->memory);
  free(pool);
}

static bool alloc_tables(ac_pool *pool, uint32_t slots) {
  pool->free_slots = calloc(slots, sizeof *pool->free_slots);
  pool->slot_tasks = calloc(slots, sizeof *pool->slot_tasks);
  pool->slot_positions = calloc(slots, sizeof *pool->slot_positions);
  pool->stale_slots = calloc(slots, sizeof *pool->stale_slots);
  pool->crew = calloc((size_t)pool->workers, sizeof *pool->crew);
  if (pool->free_slots == NULL || pool->slot_tasks == NULL ||
      pool->slot_positions == NULL || pool->stale_slots == NULL ||
      pool->crew == NULL)
    return false;
  for (int i = 0; i < pool->workers; i++)
    pool->crew[i].pidfd = -1;
  return true;
}

/* Bytes in the arena with their number before them. */
static ac_status store(ac_pool *pool, ac_bytes bytes, uint64_t *ret_offset) {
  uint64_t size_bytes = bytes.size_bytes;
  if (size_bytes > SIZE_MAX - AC__STORED_HEAD)
    return fail_memory("ac_pool_store", "the bytes");
  ac_status st =
      ac__arena_take(&pool->memory.arena, AC__OWNER_PARENT,
                     (size_t)size_bytes + AC__STORED_HEAD, ret_offset);
  if (st != AC_OK)
    return st;
  uint8_t *to = pool->memory.arena.base + *ret_offset;
  memcpy(to, &size_bytes, sizeof size_bytes);
  if (size_bytes > 0)
    memcpy(to + AC__STORED_HEAD, bytes.data, (size_t)size_bytes);
  return AC_OK;
}

/* What each worker is to be given as it starts. */
static ac_status give_setup(ac_pool *pool, ac_bytes setup, const int *fds,
                            int fd_count) {
  if (fd_count < 0 || fd_count > AC_POOL_FDS_MAX)
    return ac__fail(AC_E_INVAL, "ac_pool_create",
                    "Give workers at most 60 descriptors.", "there are %d",
                    fd_count);
  pool->fd_count = fd_count;
  for (int i = 0; i < fd_count; i++)
    pool->fds[i] = fds[i];
  return setup.size_bytes == 0
             ? AC_OK
             : store(pool, setup, &pool->memory.head->setup_offset);
}

static ac_status check_options(const ac_pool_options *options,
                               ac_pool **ret_pool) {
  if (options == NULL || ret_pool == NULL)
    return ac__fail(AC_E_INVAL, "ac_pool_create",
                    "Give options and a place for the pool.",
                    "one of them is NULL");
  if (options->workers < 1 || options->workers > AC__WORKERS_MAX)
    return ac__fail(AC_E_INVAL, "ac_pool_create", "Give 1 to 1024 workers.",
                    "workers is %d", options->workers);
  if (options->server == NULL && options->forkserver == NULL &&
      (options->worker == NULL || options->worker->run == NULL))
    return ac__fail(AC_E_INVAL, "ac_pool_create",
                    "Give a fork server, or what workers do.",
                    "there is neither");
  return AC_OK;
}

ac_status ac_pool_create(const ac_pool_options *options, ac_pool **ret_pool) {
  ac_status st = check_options(options, ret_pool);
  if (st != AC_OK)
    return st;
  ac_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL)
    return fail_memory("ac_pool_create", "the pool");
  uint32_t slots = (uint32_t)options->workers * SLOTS_A_WORKER;
  slots = slots < SLOTS_LEAST ? SLOTS_LEAST : slots;
  slots = slots > SLOTS_MOST ? SLOTS_MOST : slots;
  pool->memory.control.fd = pool->memory.arena.fd = -1;
  pool->generation = ac__server_generation();
  pool->workers = options->workers;
  pool->is_lazy = options->is_lazy;
  pool->is_paused = options->is_paused;
  pool->next_owner = AC__OWNER_FIRST;
  pool->backlog_end = &pool->backlog;
  pool->ended_end = &pool->ended;
  st = ac__pool_memory_create(options->workers, slots, &pool->memory);
  if (st == AC_OK && !alloc_tables(pool, slots))
    st = fail_memory("ac_pool_create", "the pool");
  if (st == AC_OK) {
    ac__pool_head *head = pool->memory.head;
    head->cores = ac__budget_granted();
    head->tasks_a_worker = options->tasks_a_worker;
    st = give_setup(pool, options->setup, options->fds, options->fd_count);
  }
  if (st != AC_OK) {
    free_pool(pool);
    return st;
  }
  (void)pthread_mutex_init(&pool->lock, NULL);
  (void)pthread_cond_init(&pool->crew_changed, NULL);
  st = ac__server_join(options, pool);
  if (st != AC_OK) {
    free_pool(pool);
    return st;
  }
  ac__server_ring(pool->server);
  *ret_pool = pool;
  return AC_OK;
}

ac_status ac_pool_start(ac_pool *pool, ac_bytes setup, const int *fds,
                        int fd_count) {
  if (ac__pool_is_parents(pool))
    return fail_forked("ac_pool_start");
  (void)pthread_mutex_lock(&pool->lock);
  ac_status st = AC_OK;
  if (!pool->is_paused)
    st = ac__fail(AC_E_STATE, "ac_pool_start", "", "the pool was started");
  else
    st = give_setup(pool, setup, fds, fd_count);
  if (st == AC_OK)
    pool->is_paused = false;
  (void)pthread_mutex_unlock(&pool->lock);
  ac__server_ring(pool->server);
  return st;
}

void ac_pool_destroy(ac_pool *pool) {
  if (pool == NULL)
    return;
  if (!ac__pool_is_parents(pool)) {
    ac_pool_terminate(pool);
    ac__server_leave(pool);
    (void)pthread_mutex_destroy(&pool->lock);
    (void)pthread_cond_destroy(&pool->crew_changed);
    for (uint32_t i = 0; i < pool->task_count; i++) {
      task *task = pool->tasks[i];
      if (task != NULL) {
        free(task->in);
        free(task->out);
        free(task->buffers);
      }
    }
  }
  free_pool(pool);
}

/* ---- Keys ---------------------------------------------------------------- */

static task *find(const ac_pool *pool, uint64_t key) {
  uint32_t number = (uint32_t)key;
  if (number == 0 || number > pool->task_count)
    return NULL;
  task *task = pool->tasks[number - 1];
  return task != NULL && task->key == key ? task : NULL;
}

static bool grow(ac_pool *pool) {
  uint32_t room = pool->task_room * 2 + 64;
  task **tasks = realloc(pool->tasks, room * sizeof *tasks);
  if (tasks == NULL)
    return false;
  pool->tasks = tasks;
  uint32_t *uses = realloc(pool->key_uses, room * sizeof *uses);
  if (uses == NULL)
    return false;
  pool->key_uses = uses;
  uint32_t *free_keys = realloc(pool->free_keys, room * sizeof *free_keys);
  if (free_keys == NULL)
    return false;
  pool->free_keys = free_keys;
  pool->task_room = room;
  return true;
}

static bool name_task(ac_pool *pool, task *task) {
  uint32_t number;
  if (pool->free_key_count > 0) {
    number = pool->free_keys[--pool->free_key_count];
  } else {
    if (pool->task_count == pool->task_room && !grow(pool))
      return false;
    number = pool->task_count++;
    pool->key_uses[number] = 0;
  }
  pool->key_uses[number]++;
  task->key = (uint64_t)pool->key_uses[number] << 32 | (number + 1);
  pool->tasks[number] = task;
  return true;
}

static void forget_task(ac_pool *pool, task *task) {
  uint32_t number = (uint32_t)task->key - 1;
  pool->tasks[number] = NULL;
  pool->free_keys[pool->free_key_count++] = number;
  free(task->out);
  free(task->buffers);
  free(task);
}

/* ---- Submitting ---------------------------------------------------------- */

/* The number of kept runs that begin at or before an offset. */
static size_t kept_until(const ac_pool *pool, uint64_t offset) {
  size_t low = 0, high = pool->kept_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (pool->kept[middle].offset <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool is_kept(const ac_pool *pool, uint64_t offset, size_t size_bytes) {
  size_t count = kept_until(pool, offset);
  if (count == 0)
    return false;
  const kept_run *run = &pool->kept[count - 1];
  offset -= run->offset;
  return offset <= run->size_bytes && size_bytes <= run->size_bytes - offset;
}

/* Which buffers stay where they are: those in kept runs. Others that lie in the
 * arena, as parts of results do, may be freed or changed before the task runs.
 */
static void find_kept(ac_pool *pool, const ac_message *message, bool *stays) {
  const ac__segment *arena = &pool->memory.arena;
  bool is_locked = false;
  for (size_t i = 0; i < message->buffer_count; i++) {
    uintptr_t at = (uintptr_t)message->buffers[i].data;
    uintptr_t base = (uintptr_t)arena->base;
    stays[i] = false;
    if (at < base || at - base >= arena->size_bytes)
      continue;
    if (!is_locked)
      (void)pthread_mutex_lock(&pool->lock);
    is_locked = true;
    stays[i] = is_kept(pool, at - base, message->buffers[i].size_bytes);
  }
  if (is_locked)
    (void)pthread_mutex_unlock(&pool->lock);
}

/* Write the message where it will lie: on the heap if a slot takes it. */
static ac_status write_message(ac_pool *pool, task *task,
                               const ac_message *message, const bool *stays) {
  const ac__segment *arena = &pool->memory.arena;
  size_t size_bytes = ac__envelope_bytes(message, stays);
  if (size_bytes == SIZE_MAX)
    return fail_memory("ac_pool_submit", "the message");
  task->in_bytes = size_bytes;
  if (size_bytes <= AC__INLINE_BYTES && message->buffer_count == 0) {
    task->in = malloc(size_bytes);
    if (task->in == NULL)
      return fail_memory("ac_pool_submit", "the message");
    ac__envelope_write(arena, task->in, message, stays);
    return AC_OK;
  }
  ac_status st = ac__arena_take(&pool->memory.arena, AC__OWNER_PARENT,
                                size_bytes, &task->in_offset);
  if (st == AC_OK)
    ac__envelope_write(arena, arena->base + task->in_offset, message, stays);
  return st;
}

static ac_status keep_message(ac_pool *pool, task *task,
                              const ac_message *message) {
  enum { FEW = 64 };
  bool few[FEW], *stays = few;
  if (message->buffer_count > FEW) {
    stays = malloc(message->buffer_count);
    if (stays == NULL)
      return fail_memory("ac_pool_submit", "the message");
  }
  find_kept(pool, message, stays);
  ac_status st = write_message(pool, task, message, stays);
  if (stays != few)
    free(stays);
  return st;
}

/* Under the lock. */
static ac_status check_open(const ac_pool *pool) {
  if (pool->refusal != NULL)
    return ac__fail(AC_E_STATE, "ac_pool_submit", "",
                    "no worker can begin: "
                    "%.200s",
                    pool->refusal);
  if (pool->is_closing || pool->is_terminated)
    return ac__fail(AC_E_STATE, "ac_pool_submit", "Make another pool.",
                    "the pool is closed");
  return AC_OK;
}

ac_status ac_pool_submit(ac_pool *pool, const ac_message *message,
                         const ac_pool_task *task_options, uint64_t *ret_key) {
  if (ac__pool_is_parents(pool))
    return fail_forked("ac_pool_submit");
  task *task = calloc(1, sizeof *task);
  if (task == NULL)
    return fail_memory("ac_pool_submit", "the task");
  task->slot = -1;
  task->place = AC_TASK_WAITING;
  if (task_options != NULL) {
    task->limit_ns = task_options->limit_ns;
    task->retries = task_options->retries;
  }
  ac_status st = keep_message(pool, task, message);
  if (st != AC_OK) {
    free(task);
    return st;
  }
  (void)pthread_mutex_lock(&pool->lock);
  st = check_open(pool);
  if (st == AC_OK && !name_task(pool, task))
    st = fail_memory("ac_pool_submit", "the task");
  if (st != AC_OK) {
    if (task->in_offset != 0)
      ac__arena_give(&pool->memory.arena, AC__OWNER_PARENT, task->in_offset,
                     task->in_bytes);
    (void)pthread_mutex_unlock(&pool->lock);
    free(task->in);
    free(task);
    return st;
  }
  if (task->in_offset != 0)
    ac__pool_note_pages(pool);
  *ret_key = task->key;
  *pool->backlog_end = task;
  pool->backlog_end = &task->next;
  pool->unfinished++;
  bool has_limit = task->limit_ns != 0;
  ac__tasks_collect(pool); /* feeds */
  bool has_news = pool->is_lazy && ac__crew_fill(pool, ac__clock_ns());
  has_news |= pool->backlog != NULL || has_limit;
  (void)pthread_mutex_unlock(&pool->lock);
  if (has_news)
    ac__server_ring(pool->server);
  return AC_OK;
}

ac_status ac_pool_store(ac_pool *pool, ac_bytes bytes, uint64_t *ret_key) {
  if (ac__pool_is_parents(pool))
    return fail_forked("ac_pool_store");
  return store(pool, bytes, ret_key);
}

/* ---- Taking in ----------------------------------------------------------- */

/* The result's message, read where it lies. */
static bool read_result(ac_pool *pool, task *task, ac_message *ret_message) {
  const uint8_t *from = task->out;
  const ac__segment *arena = &pool->memory.arena;
  *ret_message = (ac_message){0};
  if (task->end != AC_TASK_DONE)
    return true;
  if (task->out_offset != 0) {
    if (task->out_offset > arena->size_bytes ||
        task->out_bytes > arena->size_bytes - task->out_offset)
      return false;
    from = arena->base + task->out_offset;
  }
  return from != NULL &&
         ac__envelope_read(arena, from, task->out_bytes, ret_message,
                           &task->buffers, &task->buffers_room);
}

static bool has_news(const ac_pool *pool) {
  /* relaxed: hints; what they hint at comes with the lock */
  return atomic_load_explicit(&pool->ended_count, memory_order_relaxed) != 0 ||
         atomic_load_explicit(&pool->memory.head->done, memory_order_relaxed) !=
             0;
}

bool ac_pool_next(ac_pool *pool, ac_pool_result *ret_result) {
  if (ac__pool_is_parents(pool))
    return false;
  /* A look without the lock: this is asked in busy loops. relaxed: hints */
  if (!has_news(pool))
    return false;
  (void)pthread_mutex_lock(&pool->lock);
  ac__tasks_collect(pool);
  task *task = pool->ended;
  if (task != NULL) {
    pool->ended = task->next;
    if (pool->ended == NULL)
      pool->ended_end = &pool->ended;
    task->place = AC_TASK_GONE;
    atomic_fetch_sub_explicit(&pool->ended_count, 1, memory_order_relaxed);
  }
  const char *refusal = pool->refusal; /* set once */
  (void)pthread_mutex_unlock(&pool->lock);
  if (task == NULL)
    return false;
  ac_message message;
  if (!read_result(pool, task, &message))
    task->end = AC_TASK_NOMEM;
  if (task->end == AC_TASK_REFUSED && refusal != NULL)
    message.bytes = (ac_bytes){refusal, strlen(refusal)};
  *ret_result = (ac_pool_result){.key = task->key,
                                 .end = task->end,
                                 .pid = task->pid,
                                 .attempts = task->attempts,
                                 .exit_status = task->exit_status,
                                 .run_ns = task->run_ns,
                                 .is_held = task->is_held,
                                 .message = message,
                                 .owned = task};
  return true;
}

/* Where kept buffers lie, in one number: pages from the arena's begin, and how
 * many. A run has no more than 2^32 pages. */
static uint64_t run_name(uint64_t offset, size_t size_bytes) {
  uint64_t pages = (size_bytes + AC__PAGE_BYTES - 1) / AC__PAGE_BYTES;
  return offset / AC__PAGE_BYTES << 32 | pages;
}

/* Note a kept run; false if memory is refused. Under the lock. */
static bool note_kept(ac_pool *pool, uint64_t offset, size_t size_bytes) {
  if (pool->kept_count == pool->kept_room) {
    size_t room = pool->kept_room * 2 + 16;
    kept_run *grown = realloc(pool->kept, room * sizeof *grown);
    if (grown == NULL)
      return false;
    pool->kept = grown;
    pool->kept_room = room;
  }
  size_t at = kept_until(pool, offset);
  memmove(&pool->kept[at + 1], &pool->kept[at],
          (pool->kept_count - at) * sizeof *pool->kept);
  pool->kept[at] = (kept_run){offset, size_bytes};
  pool->kept_count++;
  return true;
}

static void forget_kept(ac_pool *pool, uint64_t offset) {
  size_t count = kept_until(pool, offset);
  if (count == 0 || pool->kept[count - 1].offset != offset)
    return;
  memmove(&pool->kept[count - 1], &pool->kept[count],
          (pool->kept_count - count) * sizeof *pool->kept);
  pool->kept_count--;
}

ac_status ac_pool_keep(ac_pool *pool, ac_bytes bytes, const void **ret_data,
                       uint64_t *ret_buffers) {
  uint64_t offset;
  if (ac__pool_is_parents(pool))
    return fail_forked("ac_pool_keep");
  size_t size_bytes = bytes.size_bytes > 0 ? bytes.size_bytes : 1;
  ac_status st = ac__arena_take(&pool->memory.arena, AC__OWNER_PARENT,
                                size_bytes, &offset);
  if (st != AC_OK)
    return st;
  (void)pthread_mutex_lock(&pool->lock);
  bool is_noted = note_kept(pool, offset, size_bytes);
  (void)pthread_mutex_unlock(&pool->lock);
  if (!is_noted) {
    ac__arena_give(&pool->memory.arena, AC__OWNER_PARENT, offset, size_bytes);
    return fail_memory("ac_pool_keep", "the bytes");
  }
  uint8_t *to = pool->memory.arena.base + offset;
  if (bytes.size_bytes > 0)
    memcpy(to, bytes.data, bytes.size_bytes);
  *ret_data = to;
  *ret_buffers = run_name(offset, size_bytes);
  return AC_OK;
}

void ac_pool_result_free(ac_pool *pool, ac_pool_result *result,
                         bool keeps_buffers, uint64_t *ret_buffers) {
  task *task = result->owned;
  if (ret_buffers != NULL)
    *ret_buffers = 0;
  if (task == NULL || ac__pool_is_parents(pool))
    return; /* a fork's copy goes with its pool */
  result->owned = NULL;
  if (task->out_offset != 0) {
    if (keeps_buffers && ret_buffers != NULL)
      *ret_buffers = run_name(task->out_offset, task->out_bytes);
    else
      ac__arena_give(&pool->memory.arena, AC__OWNER_PARENT, task->out_offset,
                     task->out_bytes);
  }
  (void)pthread_mutex_lock(&pool->lock);
  forget_task(pool, task);
  (void)pthread_mutex_unlock(&pool->lock);
}

void ac_pool_buffers_free(ac_pool *pool, uint64_t buffers) {
  if (buffers == 0 || ac__pool_is_parents(pool))
    return;
  uint64_t offset = (buffers >> 32) * AC__PAGE_BYTES;
  (void)pthread_mutex_lock(&pool->lock);
  forget_kept(pool, offset);
  (void)pthread_mutex_unlock(&pool->lock);
  ac__arena_give(&pool->memory.arena, AC__OWNER_PARENT, offset,
                 (size_t)(buffers & UINT32_MAX) * AC__PAGE_BYTES);
}

/* ---- Waiting ------------------------------------------------------------- */

/* Spin, if that takes no core from a worker. */
static bool spin(const ac_pool *pool, uint32_t bell) {
  const ac__pool_head *head = pool->memory.head;
  int alive = atomic_load_explicit(&pool->alive, memory_order_relaxed);
  if (ac__workers_awake(&pool->memory, alive) + 1 > head->cores)
    return false;
  uint64_t until = ac__ticks() + (uint64_t)(SPIN_NS / ac__tick_ns());
  do {
    if (has_news(pool) ||
        atomic_load_explicit(&head->bell, memory_order_relaxed) != bell)
      return true;
    ac__cpu_relax();
  } while (ac__ticks() < until);
  return false;
}

uint32_t ac_pool_bell(ac_pool *pool) {
  /* acquire: pairs with the releases of those who ring */
  return atomic_load_explicit(&pool->memory.head->bell, memory_order_acquire);
}

ac_status ac_pool_wait(ac_pool *pool, int64_t timeout_ns) {
  return ac_pool_wait_from(pool, ac_pool_bell(pool), timeout_ns);
}

ac_status ac_pool_wait_from(ac_pool *pool, uint32_t bell, int64_t timeout_ns) {
  if (ac__pool_is_parents(pool))
    return fail_forked("ac_pool_wait");
  ac__pool_head *head = pool->memory.head;
  /* relaxed: a hint to a worker that is about to spin */
  atomic_store_explicit(&head->cpu, ac__cpu_current(), memory_order_relaxed);
  if (has_news(pool) || spin(pool, bell))
    return AC_OK;
  atomic_store_explicit(&head->waits, 1, memory_order_relaxed);
  /* seq_cst: `waits` before the list; pairs with the fence in ring() */
  atomic_thread_fence(memory_order_seq_cst);
  if (!has_news(pool))
    ac__futex_wait_shared(&head->bell, bell, timeout_ns);
  return AC_OK;
}

void ac_pool_ring(ac_pool *pool) {
  if (ac__pool_is_parents(pool))
    return;
  /* release: the sleeper compares this word */
  atomic_fetch_add_explicit(&pool->memory.head->bell, 1, memory_order_release);
  ac__futex_wake_shared(&pool->memory.head->bell, INT32_MAX);
}

uint64_t ac_memory_room(void) { return ac__memory_room(""); }

const char *ac_pool_refusal(ac_pool *pool) {
  if (ac__pool_is_parents(pool))
    return NULL;
  (void)pthread_mutex_lock(&pool->lock);
  const char *text = pool->refusal; /* set once */
  (void)pthread_mutex_unlock(&pool->lock);
  return text;
}

ac_task_place ac_pool_where(ac_pool *pool, uint64_t key) {
  ac_task_place place = AC_TASK_GONE;
  if (ac__pool_is_parents(pool))
    return place;
  (void)pthread_mutex_lock(&pool->lock);
  const task *task = find(pool, key);
  if (task != NULL) {
    place = task->place;
    if (place == AC_TASK_WAITING && task->slot >= 0) {
      uint32_t code = ac__state_code(atomic_load_explicit(
          &pool->memory.slots[task->slot].state, memory_order_relaxed));
      if (code == AC__SLOT_CLAIMED || code == AC__SLOT_DOOMED)
        place = AC_TASK_RUNNING;
      else if (code == AC__SLOT_DONE)
        place = AC_TASK_ENDED;
    }
  }
  (void)pthread_mutex_unlock(&pool->lock);
  return place;
}

/* ---- Cancelling and ending ----------------------------------------------- */

static bool cancel_waiting(ac_pool *pool, task *task) {
  if (task->slot >= 0) {
    if (!ac__task_unslot(pool, task))
      return false;
  } else {
    struct task **at = &pool->backlog;
    while (*at != NULL && *at != task)
      at = &(*at)->next;
    if (*at == NULL)
      return false;
    *at = task->next;
    if (pool->backlog_end == &task->next)
      pool->backlog_end = at;
  }
  ac__task_end(pool, task, AC_TASK_CANCELLED);
  return true;
}

bool ac_pool_cancel(ac_pool *pool, uint64_t key, bool kills) {
  bool is_done = false;
  if (ac__pool_is_parents(pool))
    return false;
  (void)pthread_mutex_lock(&pool->lock);
  task *task = find(pool, key);
  if (task != NULL && task->place == AC_TASK_WAITING) {
    is_done = task->doomed_ns != 0 ? kills : cancel_waiting(pool, task);
    if (!is_done && kills)
      is_done = ac__task_doom(pool, task, AC_TASK_CANCELLED);
  }
  ac__tasks_ring(pool);
  (void)pthread_mutex_unlock(&pool->lock);
  return is_done;
}

void ac_pool_close(ac_pool *pool) {
  if (ac__pool_is_parents(pool))
    return;
  (void)pthread_mutex_lock(&pool->lock);
  pool->is_closing = true;
  ac__tasks_collect(pool);
  (void)pthread_mutex_unlock(&pool->lock);
  ac__server_ring(pool->server);
}

/* Have all workers ended, and will no other be started? */
static bool is_over(const ac_pool *pool) {
  return pool->alive == 0 && (pool->unfinished == 0 || pool->is_terminated ||
                              pool->refusal != NULL);
}

/* False after `until`, if it is not NULL. */
static bool wait_for_crew(ac_pool *pool, const struct timespec *until) {
  while (!is_over(pool)) {
    if (until == NULL)
      (void)pthread_cond_wait(&pool->crew_changed, &pool->lock);
    else if (pthread_cond_timedwait(&pool->crew_changed, &pool->lock, until) ==
             ETIMEDOUT)
      return is_over(pool);
  }
  return true;
}

/* The time of the conditions' clock, `after_ns` from now. */
static struct timespec time_after(int64_t after_ns) {
  struct timespec at;
  (void)clock_gettime(CLOCK_REALTIME, &at);
  int64_t ns = at.tv_nsec + after_ns % NS_PER_S;
  at.tv_sec += (time_t)(after_ns / NS_PER_S + ns / NS_PER_S);
  at.tv_nsec = (long)(ns % NS_PER_S);
  return at;
}

/* Wait until all workers are gone. They are dead, but only the fork server can
 * say so: one that neither answers nor runs is ended, and with it all it has.
 */
static void await_crew(ac_pool *pool) {
  enum { LOOK_S = 2, LOOKS = 15 };
  uint64_t worked_ns = 0;
  int alive = pool->alive;
  for (int looks = 0;;) {
    struct timespec until = time_after((int64_t)LOOK_S * NS_PER_S);
    if (wait_for_crew(pool, &until))
      return;
    ac__server *server = pool->server;
    int still_alive = pool->alive;
    (void)pthread_mutex_unlock(&pool->lock); /* the server's is taken first */
    bool is_stuck = still_alive == alive &&
                    (!ac__server_works(server, &worked_ns) || ++looks >= LOOKS);
    if (is_stuck)
      ac__server_kill(server);
    (void)pthread_mutex_lock(&pool->lock);
    if (still_alive != alive)
      looks = 0;
    alive = still_alive;
  }
}

void ac_pool_terminate(ac_pool *pool) {
  if (ac__pool_is_parents(pool))
    return;
  (void)pthread_mutex_lock(&pool->lock);
  pool->is_closing = pool->is_terminated = true;
  ac__tasks_collect(pool);
  ac__tasks_drop(pool, AC_TASK_CANCELLED);
  for (int i = 0; i < pool->workers; i++) {
    if (pool->crew[i].state == CREW_WANTED) {
      pool->crew[i].state = CREW_NONE;
      pool->alive--;
    }
    (void)ac__crew_kill(pool, (uint32_t)i, SIGKILL);
  }
  await_crew(pool);
  ac__tasks_ring(pool);
  (void)pthread_mutex_unlock(&pool->lock);
}

ac_status ac_pool_join(ac_pool *pool, int64_t timeout_ns) {
  struct timespec until;
  if (ac__pool_is_parents(pool))
    return fail_forked("ac_pool_join");
  if (timeout_ns >= 0)
    until = time_after(timeout_ns);
  (void)pthread_mutex_lock(&pool->lock);
  bool has_ended = wait_for_crew(pool, timeout_ns < 0 ? NULL : &until);
  (void)pthread_mutex_unlock(&pool->lock);
  return has_ended
             ? AC_OK
             : ac__fail(AC_E_TIMEOUT, "ac_pool_join", "", "workers still run");
}

int ac_pool_pids(ac_pool *pool, int32_t *ret_pids, int most) {
  int count = 0;
  if (ac__pool_is_parents(pool))
    return 0;
  (void)pthread_mutex_lock(&pool->lock);
  for (int i = 0; i < pool->workers; i++) {
    if (pool->crew[i].state != CREW_RUNS)
      continue;
    if (count < most)
      ret_pids[count] = pool->crew[i].pid;
    count++;
  }
  (void)pthread_mutex_unlock(&pool->lock);
  return count;
}
