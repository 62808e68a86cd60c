/* worker.c: what a worker process does: claim, run, finish, rest.
 *
 * A worker reads its task's message where it lies. Its result goes into the
 * slot, or into pages of the arena that it takes in its own name; the parent
 * takes those over when it takes in the result. A message that something in the
 * worker goes on using becomes the worker's own: it takes the pages over before
 * it says that it has finished, and gives them back when it has done with them.
 *
 * While it rests it holds no core of the ledger.
 *
 * Knows nothing of: how it was started, what the messages say.
 */
#include "base/status.h"
#include "budget/budget.h"
#include "procs/envelope.h"
#include "procs/slots.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A message that is in use beyond its task, or that of the task that runs. */
typedef struct held {
  struct held *next;
  const void *data; /* its bytes, by which it is let go */
  bool is_running;  /* its pages are the parent's still */
  bool is_let_go;   /* while its task ran */
  uint64_t offset;
  size_t size_bytes;
} held;

struct ac_worker_link {
  ac__pool_memory memory;
  const ac_worker_ops *ops;
  uint32_t number;
  uint32_t owner; /* name in the arena */
  ac_bytes *buffers;
  size_t buffers_room;
  int32_t pid;          /* a fork of the worker is none */
  held *spare;          /* of the thread that runs tasks */
  pthread_mutex_t lock; /* guards what follows */
  held *held;
};

/* A stretch of the arena, bounded; NULL if it lies outside. */
static uint8_t *at_arena(const ac__pool_memory *memory, uint64_t offset,
                         uint64_t size_bytes) {
  const ac__segment *arena = &memory->arena;
  if (offset == 0 || offset > arena->size_bytes ||
      size_bytes > arena->size_bytes - offset)
    return NULL;
  return arena->base + offset;
}

ac_bytes ac_worker_fetch(ac_worker_link *link, uint64_t key) {
  uint64_t size_bytes;
  const uint8_t *from = at_arena(&link->memory, key, sizeof size_bytes);
  if (from == NULL)
    return (ac_bytes){NULL, 0};
  memcpy(&size_bytes, from, sizeof size_bytes);
  from = at_arena(&link->memory, key + AC__STORED_HEAD, size_bytes);
  return (ac_bytes){from, from == NULL ? 0 : (size_t)size_bytes};
}

/* ---- Messages in use beyond their task ----------------------------------- */

/* A task is about to run: whoever lets go of its message is to find it. NULL if
 * memory is short. */
static held *list_running(ac_worker_link *link, const ac__slot *slot,
                          const ac_message *in) {
  held *held = link->spare != NULL ? link->spare : malloc(sizeof *held);
  link->spare = NULL;
  if (held == NULL)
    return NULL;
  *held = (struct held){.data = in->bytes.data,
                        .is_running = true,
                        .offset = slot->in_offset,
                        .size_bytes = (size_t)slot->in_bytes};
  (void)pthread_mutex_lock(&link->lock);
  held->next = link->held;
  link->held = held;
  (void)pthread_mutex_unlock(&link->lock);
  return held;
}

/* Under the lock. */
static void unlist(ac_worker_link *link, const held *held) {
  struct held **at = &link->held;
  while (*at != NULL && *at != held)
    at = &(*at)->next;
  if (*at != NULL)
    *at = held->next;
}

/* The task has run. Make the pages of its message this worker's if it is held;
 * false if it has been let go of already. */
static bool settle(ac_worker_link *link, const ac__slot *slot, held *held,
                   bool is_held) {
  (void)pthread_mutex_lock(&link->lock);
  is_held = is_held && (held == NULL || !held->is_let_go);
  if (is_held) /* without a record they are so for its life */
    ac__arena_pass(&link->memory.arena, AC__OWNER_PARENT, link->owner,
                   slot->in_offset, (size_t)slot->in_bytes);
  if (held != NULL && is_held)
    held->is_running = false;
  else if (held != NULL)
    unlist(link, held);
  (void)pthread_mutex_unlock(&link->lock);
  if (!is_held)
    link->spare = held;
  return is_held;
}

void ac_worker_let_go(ac_worker_link *link, const void *in_data) {
  if (link->pid != ac__process_id())
    return;
  (void)pthread_mutex_lock(&link->lock);
  held *held = link->held;
  while (held != NULL && held->data != in_data)
    held = held->next;
  if (held != NULL && held->is_running) {
    held->is_let_go = true;
    held = NULL;
  } else if (held != NULL) {
    unlist(link, held);
  }
  (void)pthread_mutex_unlock(&link->lock);
  if (held == NULL)
    return;
  ac__arena_give(&link->memory.arena, link->owner, held->offset,
                 held->size_bytes);
  free(held);
}

/* ---- One task ------------------------------------------------------------ */

static bool read_message(ac_worker_link *link, const ac__slot *slot,
                         ac_message *ret_message) {
  const uint8_t *from = slot->in;
  if (slot->in_offset != 0)
    from = at_arena(&link->memory, slot->in_offset, slot->in_bytes);
  else if (slot->in_bytes > AC__INLINE_BYTES)
    return false;
  return from != NULL &&
         ac__envelope_read(&link->memory.arena, from, (size_t)slot->in_bytes,
                           ret_message, &link->buffers, &link->buffers_room);
}

/* Put a result where the parent finds it. It is always copied: what it was made
 * of may lie in the task's message, whose memory goes back. */
static void write_result(ac_worker_link *link, ac__slot *slot,
                         const ac_message *message) {
  size_t size_bytes = ac__envelope_bytes(message, NULL);
  uint64_t offset = 0;
  slot->out_offset = 0;
  slot->out_bytes = 0;
  if (size_bytes <= AC__INLINE_BYTES && message->buffer_count == 0) {
    ac__envelope_write(NULL, slot->out, message, NULL);
  } else if (size_bytes != SIZE_MAX &&
             ac__arena_take(&link->memory.arena, link->owner, size_bytes,
                            &offset) == AC_OK) {
    ac__envelope_write(NULL, link->memory.arena.base + offset, message, NULL);
  } else {
    slot->flags |= AC__FLAG_NOMEM;
    return;
  }
  slot->out_offset = offset;
  slot->out_bytes = size_bytes;
}

/* The parent has decided to end this process. */
static _Noreturn void await_end(void) {
  static const _Atomic uint32_t never;
  for (;;)
    ac__futex_wait(&never, 0, -1);
}

/* What the worker was given to do may have forked, and the fork returned here:
 * nothing here is its own. */
static void end_fork(const ac_worker_link *link) {
  if (link->pid != ac__process_id())
    ac__process_exit(0);
}

static void run_task(ac_worker_link *link, ac__slot *slot) {
  ac_message in, out = {0};
  held *held = NULL;
  bool is_held = false;
  slot->flags = 0;
  /* relaxed: the parent looks now and then */
  uint64_t begun_ns = ac__clock_ns();
  atomic_store_explicit(&slot->begun_ns, begun_ns, memory_order_relaxed);
  if (!read_message(link, slot, &in)) {
    slot->flags = AC__FLAG_NOMEM;
    slot->out_bytes = slot->out_offset = 0;
  } else {
    if (slot->in_offset != 0)
      held = list_running(link, slot, &in);
    link->ops->run(link, &in, &out, &is_held, link->ops->ctx);
    end_fork(link);
    slot->ended_ns = ac__clock_ns();
    write_result(link, slot, &out);
  }
  if (slot->in_offset != 0)
    is_held = settle(link, slot, held, is_held);
  if (is_held)
    slot->flags |= AC__FLAG_HELD;
  if (!ac__slot_finish(&link->memory, slot, link->number))
    await_end();
}

/* ---- The worker's life --------------------------------------------------- */

/* No worker can begin: leave the reason for the parent. */
static void refuse(ac_worker_link *link, ac_bytes text) {
  ac__segment *arena = &link->memory.arena;
  uint64_t offset, none = 0, size_bytes = text.size_bytes;
  if (text.size_bytes > SIZE_MAX - AC__STORED_HEAD ||
      ac__arena_take(arena, link->owner, text.size_bytes + AC__STORED_HEAD,
                     &offset) != AC_OK)
    return;
  memcpy(arena->base + offset, &size_bytes, sizeof size_bytes);
  if (text.size_bytes > 0)
    memcpy(arena->base + offset + AC__STORED_HEAD, text.data, text.size_bytes);
  /* release: pairs with the acquire in take_refusal(). The pages stay this
   * worker's: the parent has read them when it frees them. */
  if (!atomic_compare_exchange_strong_explicit(
          &link->memory.head->refused_offset, &none, offset,
          memory_order_release, memory_order_relaxed))
    ac__arena_give(arena, link->owner, offset, /* another was first */
                   text.size_bytes + AC__STORED_HEAD);
}

static ac_status begin(ac_worker_link *link) {
  const ac__pool_head *head = link->memory.head;
  ac_bytes text = {"", 0};
  ac_bytes setup = {"", 0};
  if (head->setup_offset != 0)
    setup = ac_worker_fetch(link, head->setup_offset);
  if (link->ops->begin == NULL)
    return AC_OK;
  ac_status st = link->ops->begin(link, setup, &text, link->ops->ctx);
  end_fork(link);
  if (st != AC_OK)
    refuse(link, text);
  return st;
}

/* A worker was asked for by number, so it runs in any case: it holds a core of
 * the ledger, or is in debt, while it is awake. */
static void hold_core(void) {
  ac__token_enter(&ac__own_token, ac__ledger_word());
}

static void before_sleep(void *ctx) {
  const ac_worker_link *link = ctx;
  if (link->ops->before_sleep != NULL)
    link->ops->before_sleep(link->ops->ctx);
  ac__token_release(&ac__own_token);
}

static void after_sleep(void *ctx) {
  const ac_worker_link *link = ctx;
  hold_core();
  if (link->ops->after_sleep != NULL)
    link->ops->after_sleep(link->ops->ctx);
}

static void run_tasks(ac_worker_link *link) {
  const ac__pool_head *head = link->memory.head;
  ac__rest rest = {.worker = link->number,
                   .before_sleep = before_sleep,
                   .after_sleep = after_sleep,
                   .ctx = link};
  int64_t left = head->tasks_a_worker;
  for (;;) {
    ac__slot *slot = ac__slot_claim(&link->memory, link->number);
    if (slot != NULL) {
      if (rest.must_pass_on)
        ac__worker_pass_on(&link->memory);
      rest.must_pass_on = false;
      run_task(link, slot);
      if (head->tasks_a_worker > 0 && --left == 0)
        return;
      continue;
    }
    /* acquire: pairs with the release of who closes the queue. Tasks queued
     * before the flag were seen by the claim, since the parent sets it last and
     * wakes all */
    if (atomic_load_explicit(&head->is_closing, memory_order_acquire) != 0 &&
        ac__queue_is_empty(&link->memory))
      return;
    ac__worker_rest(&link->memory, &rest);
  }
}

/* Once `ops` have seen the link, it and the memory stay for the process's life:
 * threads of theirs, and views that they have kept, may use them still. */
static ac_status serve(ac_worker_link *link) {
  ac__worker_line *line = &link->memory.workers[link->number];
  link->owner = line->owner;
  ac_status st = begin(link);
  if (st != AC_OK)
    return st;
  /* relaxed: a claim that follows it releases it */
  atomic_store_explicit(&line->is_ready, 1, memory_order_relaxed);
  hold_core();
  run_tasks(link);
  ac__token_release(&ac__own_token);
  return AC_OK;
}

ac_status ac_worker_serve(const int memory_fds[2], int number,
                          const ac_worker_ops *ops) {
  if (ops == NULL || ops->run == NULL)
    return ac__fail(AC_E_INVAL, "ac_worker_serve", "Give a function to run.",
                    "there is none");
  ac_worker_link *link = calloc(1, sizeof *link);
  if (link == NULL)
    return ac__fail(AC_E_NOMEM, "ac_worker_serve", "",
                    "memory for the worker was refused");
  link->ops = ops;
  link->pid = ac__process_id();
  (void)pthread_mutex_init(&link->lock, NULL);
  ac_status st = ac__pool_memory_open(memory_fds, &link->memory);
  if (st != AC_OK) {
    free(link);
    return st;
  }
  if (number < 0 || (uint32_t)number >= link->memory.worker_count) {
    st = ac__fail(AC_E_INVAL, "ac_worker_serve",
                  "Give the number that the fork server was given.",
                  "worker %d of %u", number, link->memory.worker_count);
    ac__pool_memory_close(&link->memory);
    free(link);
    return st;
  }
  link->number = (uint32_t)number;
  return serve(link);
}
