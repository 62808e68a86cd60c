/* slots.c: see slots.h and types.h. */
#include "procs/slots.h"
#include "base/status.h"

#include <limits.h>
#include <string.h>

enum {
  SPIN_NS = 20000, /* of a worker that found nothing */
  SPIN_MISSES = 3, /* spins in vain before it leaves some out */
  SPIN_SKIP = 16   /* how many */
};

/* ---- Memory -------------------------------------------------------------- */

static size_t lines(size_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

ac_status ac__slots_commit(const ac__pool_memory *memory, uint32_t first,
                           uint32_t count) {
  size_t begin =
      (size_t)((const uint8_t *)&memory->slots[first] - memory->control.base);
  return ac__pages_commit(memory->control.fd, begin, count * sizeof(ac__slot));
}

/* Where the parts lie, in bytes from the head. */
typedef struct layout {
  size_t workers, queue, slots, size_bytes;
  uint32_t worker_count, slot_count, queue_count;
} layout;

static layout layout_of(uint32_t workers, uint32_t slots, uint32_t queue) {
  layout at = {
      .worker_count = workers, .slot_count = slots, .queue_count = queue};
  at.workers = lines(sizeof(ac__pool_head));
  at.queue = at.workers + workers * sizeof(ac__worker_line);
  at.slots = at.queue + lines(queue * sizeof(uint64_t));
  at.size_bytes = at.slots + slots * sizeof(ac__slot);
  return at;
}

static void place(ac__pool_memory *memory, const layout *at) {
  uint8_t *base = memory->control.base;
  memory->worker_count = at->worker_count;
  memory->slot_count = at->slot_count;
  memory->queue_count = at->queue_count;
  memory->head = (ac__pool_head *)(void *)base;
  memory->workers = (ac__worker_line *)(void *)(base + at->workers);
  memory->queue = (_Atomic uint64_t *)(void *)(base + at->queue);
  memory->slots = (ac__slot *)(void *)(base + at->slots);
}

static ac_status make_arena_of(size_t size_bytes, ac__segment *ret_arena) {
  size_bytes = size_bytes / AC__PAGE_BYTES * AC__PAGE_BYTES;
  ac_status st =
      ac__segment_create("allcores-arena", size_bytes, true, ret_arena);
  if (st != AC_OK)
    return st;
  st = ac__arena_format(ret_arena, size_bytes / 8);
  if (st != AC_OK) {
    ac__segment_close(ret_arena);
    *ret_arena = (ac__segment){.fd = -1};
  }
  return st;
}

/* An arena as large as what memory there is, of which an eighth is kept warm.
 * Where addresses are limited it takes a quarter of them, since this process
 * and each worker map it beside all else; less if that is refused. */
static ac_status make_arena(ac__segment *ret_arena) {
  enum { LEAST_BYTES = 64 << 20 };
  uint64_t room = ac__memory_room("");
  uint64_t addresses = ac__address_limit() / 4;
  room = room < addresses ? room : addresses;
  size_t size_bytes = room < LEAST_BYTES    ? LEAST_BYTES
                      : room > SIZE_MAX / 2 ? SIZE_MAX / 2
                                            : (size_t)room;
  for (;;) {
    ac_status st = make_arena_of(size_bytes, ret_arena);
    if (st == AC_OK)
      return st;
    if (size_bytes == LEAST_BYTES)
      return ac__fail(st, "ac_pool_create",
                      "Raise the limits on addresses (ulimit -v), on the size "
                      "of files (ulimit -f) and on open files (ulimit -n), or "
                      "free memory.",
                      "%d MiB to share with workers could not be had",
                      LEAST_BYTES >> 20);
    size_bytes = size_bytes / 2 > LEAST_BYTES ? size_bytes / 2 : LEAST_BYTES;
  }
}

ac_status ac__pool_memory_create(int workers, uint32_t slot_count,
                                 ac__pool_memory *ret_memory) {
  ac__pool_memory memory = {.control = {.fd = -1}, .arena = {.fd = -1}};
  uint32_t queue = 64;
  while (queue < 2 * slot_count)
    queue *= 2;
  layout at = layout_of((uint32_t)workers, slot_count, queue);
  ac_status st =
      ac__segment_create("allcores-pool", at.size_bytes, true, &memory.control);
  if (st != AC_OK)
    return st;
  st = ac__pages_commit(memory.control.fd, 0, at.slots);
  if (st == AC_OK)
    st = make_arena(&memory.arena);
  if (st != AC_OK) {
    ac__pool_memory_close(&memory);
    return st;
  }
  place(&memory, &at);
  memory.head->magic = AC__POOL_MAGIC;
  memory.head->version = AC__POOL_VERSION;
  memory.head->worker_count = (uint32_t)workers;
  memory.head->slot_count = slot_count;
  memory.head->queue_count = queue;
  *ret_memory = memory;
  return AC_OK;
}

static const char *fault_of(const ac__segment *control, layout *ret_at) {
  ac__pool_head head; /* a copy: what was checked does not change */
  if (control->size_bytes < sizeof head)
    return "it is no pool";
  memcpy(&head, control->base, sizeof head);
  if (head.magic != AC__POOL_MAGIC)
    return "it is no pool";
  if (head.version != AC__POOL_VERSION)
    return "it is another version's";
  if (head.worker_count < 1 || head.worker_count > AC__WORKERS_MAX ||
      head.slot_count < 1 || head.slot_count > UINT16_MAX ||
      head.queue_count < head.slot_count || head.queue_count > 1 << 20 ||
      (head.queue_count & (head.queue_count - 1)) != 0)
    return "its counts make no sense";
  *ret_at = layout_of(head.worker_count, head.slot_count, head.queue_count);
  return control->size_bytes < ret_at->size_bytes ? "it is too small" : NULL;
}

ac_status ac__pool_memory_open(const int fds[2], ac__pool_memory *ret_memory) {
  ac__pool_memory memory = {.control = {.fd = -1}, .arena = {.fd = -1}};
  ac_status st = ac__segment_open(fds[0], &memory.control);
  if (st != AC_OK)
    return st;
  layout at = {0};
  const char *fault = fault_of(&memory.control, &at);
  st = fault == NULL ? AC_OK
                     : ac__fail(AC_E_INVAL, "joining a pool", "",
                                "descriptor %d: %s", fds[0], fault);
  if (st == AC_OK)
    st = ac__segment_open(fds[1], &memory.arena);
  if (st == AC_OK)
    st = ac__arena_check(&memory.arena);
  if (st != AC_OK) {
    ac__pool_memory_close(&memory);
    return st;
  }
  place(&memory, &at);
  *ret_memory = memory;
  return AC_OK;
}

void ac__pool_memory_close(ac__pool_memory *memory) {
  ac__segment_close(&memory->control);
  ac__segment_close(&memory->arena);
}

/* ---- The queue ----------------------------------------------------------- */

static uint64_t mask_of(const ac__pool_memory *memory) {
  return memory->queue_count - 1;
}

/* The slot under a queue's entry if it is still pending there; else NULL. */
static ac__slot *pending_slot(ac__pool_memory *memory, uint64_t entry,
                              uint64_t *ret_state) {
  uint32_t number = (uint32_t)entry;
  if (number >= memory->slot_count)
    return NULL;
  ac__slot *slot = &memory->slots[number];
  /* acquire: pairs with the release in ac__slot_queue() */
  uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
  if (ac__state_code(state) != AC__SLOT_PENDING ||
      ac__state_sequence(state) != (uint32_t)(entry >> 32))
    return NULL;
  *ret_state = state;
  return slot;
}

static void move_head(ac__pool_memory *memory, uint64_t position) {
  /* release: pairs with the acquire in ac__queue_is_past(); who sees the place
   * past may write it anew */
  atomic_compare_exchange_strong_explicit(&memory->head->head, &position,
                                          position + 1, memory_order_release,
                                          memory_order_relaxed);
}

/* Are there entries from `position` on? More than the queue holds are none: the
 * head has moved meanwhile, or has been written over. */
static bool has_entries(const ac__pool_memory *memory, uint64_t position,
                        uint64_t tail) {
  return tail != position && tail - position <= memory->queue_count;
}

ac__slot *ac__slot_claim(ac__pool_memory *memory, uint32_t worker) {
  ac__pool_head *head = memory->head;
  for (;;) {
    uint64_t position = atomic_load_explicit(&head->head, memory_order_acquire);
    /* acquire: pairs with the release in ac__slot_queue() */
    uint64_t tail = atomic_load_explicit(&head->tail, memory_order_acquire);
    if (!has_entries(memory, position, tail))
      return NULL;
    /* relaxed: published by `tail`. An entry that was written anew since is
     * that of a younger slot, which may be claimed as well. */
    uint64_t entry = atomic_load_explicit(
        &memory->queue[position & mask_of(memory)], memory_order_relaxed);
    uint64_t state = 0;
    ac__slot *slot = pending_slot(memory, entry, &state);
    /* acq_rel: acquires the message; the parent that finds the claim has it
     * before what the worker writes */
    bool is_mine =
        slot != NULL &&
        atomic_compare_exchange_strong_explicit(
            &slot->state, &state,
            ac__state(AC__SLOT_CLAIMED, worker, ac__state_attempt(state) + 1,
                      ac__state_sequence(state)),
            memory_order_acq_rel, memory_order_relaxed);
    move_head(memory, position);
    if (is_mine)
      return slot;
  }
}

/* Move the head over what is not pending any more. */
static void sweep(ac__pool_memory *memory) {
  ac__pool_head *head = memory->head;
  uint64_t tail = atomic_load_explicit(&head->tail, memory_order_relaxed);
  for (;;) {
    uint64_t position = atomic_load_explicit(&head->head, memory_order_acquire);
    uint64_t state;
    if (!has_entries(memory, position, tail) ||
        pending_slot(
            memory,
            atomic_load_explicit(&memory->queue[position & mask_of(memory)],
                                 memory_order_relaxed),
            &state) != NULL)
      return;
    move_head(memory, position);
  }
}

bool ac__queue_is_past(ac__pool_memory *memory, uint64_t position) {
  sweep(memory);
  /* acquire: pairs with the release in move_head() */
  return atomic_load_explicit(&memory->head->head, memory_order_acquire) >
         position;
}

bool ac__queue_is_empty(const ac__pool_memory *memory) {
  /* relaxed: a hint, or behind a fence when it matters */
  return atomic_load_explicit(&memory->head->head, memory_order_relaxed) ==
         atomic_load_explicit(&memory->head->tail, memory_order_relaxed);
}

bool ac__slot_queue(ac__pool_memory *memory, uint32_t number,
                    uint32_t attempt) {
  ac__pool_head *head = memory->head;
  ac__slot *slot = &memory->slots[number];
  uint64_t tail = atomic_load_explicit(&head->tail, memory_order_relaxed);
  if (tail - atomic_load_explicit(&head->head, memory_order_acquire) >=
      memory->queue_count) {
    sweep(memory);
    if (tail - atomic_load_explicit(&head->head, memory_order_acquire) >=
        memory->queue_count)
      return false;
  }
  uint32_t sequence = ac__state_sequence(atomic_load_explicit(
                          &slot->state, memory_order_relaxed)) +
                      1;
  atomic_store_explicit(&slot->begun_ns, 0, memory_order_relaxed);
  /* release: pairs with the acquire in pending_slot() */
  atomic_store_explicit(&slot->state,
                        ac__state(AC__SLOT_PENDING, 0, attempt, sequence),
                        memory_order_release);
  atomic_store_explicit(&memory->queue[tail & mask_of(memory)],
                        (uint64_t)sequence << 32 | number,
                        memory_order_relaxed);
  /* release: pairs with the acquire in ac__slot_claim() */
  atomic_store_explicit(&head->tail, tail + 1, memory_order_release);
  return true;
}

bool ac__slot_cancel(ac__slot *slot) {
  uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
  while (ac__state_code(state) == AC__SLOT_PENDING)
    /* relaxed: nobody has begun it, so there is nothing to see */
    if (atomic_compare_exchange_weak_explicit(
            &slot->state, &state,
            ac__state(AC__SLOT_CANCELLED, 0, ac__state_attempt(state),
                      ac__state_sequence(state)),
            memory_order_relaxed, memory_order_relaxed))
      return true;
  return false;
}

/* ---- The end of a task --------------------------------------------------- */

static void ring(ac__pool_memory *memory) {
  ac__pool_head *head = memory->head;
  /* seq_cst: the list before `waits`; pairs with the fence in ac_pool_wait() */
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&head->waits, memory_order_relaxed) == 0 ||
      atomic_exchange_explicit(&head->waits, 0, memory_order_acq_rel) == 0)
    return;
  /* release: the sleeper compares this word */
  atomic_fetch_add_explicit(&head->bell, 1, memory_order_release);
  ac__futex_wake_shared(&head->bell, INT_MAX);
}

static void push_done(ac__pool_memory *memory, ac__slot *slot) {
  uint32_t mine = (uint32_t)(slot - memory->slots) + 1;
  uint32_t top =
      atomic_load_explicit(&memory->head->done, memory_order_relaxed);
  do
    atomic_store_explicit(&slot->next, top, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(
      /* release: pairs with the acquire in ac__done_take() */
      &memory->head->done, &top, mine, memory_order_release,
      memory_order_relaxed));
}

bool ac__slot_finish(ac__pool_memory *memory, ac__slot *slot, uint32_t worker) {
  uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
  /* release: pairs with the acquire of the parent that looks after a death */
  if (ac__state_code(state) != AC__SLOT_CLAIMED ||
      !atomic_compare_exchange_strong_explicit(
          &slot->state, &state,
          ac__state(AC__SLOT_DONE, worker, ac__state_attempt(state),
                    ac__state_sequence(state)),
          memory_order_release, memory_order_relaxed))
    return false;
  push_done(memory, slot);
  ring(memory);
  return true;
}

bool ac__slot_doom(ac__slot *slot, uint32_t *ret_worker) {
  uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
  if (ac__state_code(state) != AC__SLOT_CLAIMED)
    return false;
  *ret_worker = ac__state_worker(state);
  /* relaxed: it decides who ends the task, no more */
  return atomic_compare_exchange_strong_explicit(
      &slot->state, &state,
      ac__state(AC__SLOT_DOOMED, *ret_worker, ac__state_attempt(state),
                ac__state_sequence(state)),
      memory_order_relaxed, memory_order_relaxed);
}

uint32_t ac__done_take(ac__pool_memory *memory) {
  if (atomic_load_explicit(&memory->head->done, memory_order_relaxed) == 0)
    return 0;
  /* acquire: pairs with the release in push_done() */
  uint32_t at =
      atomic_exchange_explicit(&memory->head->done, 0, memory_order_acquire);
  uint32_t first = 0;
  uint32_t count = memory->slot_count;
  for (uint32_t left = count; at != 0 && at <= count && left > 0; left--) {
    ac__slot *slot = &memory->slots[at - 1];
    uint32_t next = atomic_load_explicit(&slot->next, memory_order_relaxed);
    atomic_store_explicit(&slot->next, first, memory_order_relaxed);
    first = at;
    at = next;
  }
  return first;
}

/* ---- Sleeping ------------------------------------------------------------ */

static void wake(ac__worker_line *line) {
  /* release: the sleeper compares this word */
  atomic_store_explicit(&line->wake, 1, memory_order_release);
  ac__futex_wake_shared(&line->wake, 1);
}

void ac__workers_wake(ac__pool_memory *memory, uint32_t count) {
  ac__pool_head *head = memory->head;
  /* seq_cst: what was queued before the bits; pairs with rest_asleep() */
  atomic_thread_fence(memory_order_seq_cst);
  if (count == 1 &&
      atomic_load_explicit(&head->spinner, memory_order_relaxed) != 0)
    return; /* it sees the queue, and passes on what is more */
  for (uint32_t word = 0; word * 64 < memory->worker_count; word++) {
    uint64_t bits =
        atomic_load_explicit(&head->idle[word], memory_order_relaxed);
    for (; bits != 0 && count > 0; bits &= bits - 1) {
      uint64_t bit = bits & -bits;
      uint32_t worker = word * 64 + (uint32_t)__builtin_ctzll(bit);
      /* acq_rel: whoever clears the bit wakes, once */
      if (worker < memory->worker_count &&
          (atomic_fetch_and_explicit(&head->idle[word], ~bit,
                                     memory_order_acq_rel) &
           bit)) {
        wake(&memory->workers[worker]);
        count--;
      }
    }
  }
}

void ac__workers_wake_all(ac__pool_memory *memory) {
  /* seq_cst: what was queued before the words; pairs with rest_asleep(), which
   * clears its word before it looks */
  atomic_thread_fence(memory_order_seq_cst);
  for (uint32_t i = 0; i < memory->worker_count; i++)
    wake(&memory->workers[i]);
}

void ac__worker_forget(ac__pool_memory *memory, uint32_t worker) {
  uint32_t spinner = worker + 1;
  /* relaxed: it is dead; wakes are sent anew after this */
  atomic_fetch_and_explicit(&memory->head->idle[worker / 64],
                            ~(UINT64_C(1) << (worker % 64)),
                            memory_order_relaxed);
  atomic_compare_exchange_strong_explicit(&memory->head->spinner, &spinner, 0,
                                          memory_order_relaxed,
                                          memory_order_relaxed);
}

int ac__workers_awake(const ac__pool_memory *memory, int alive) {
  int asleep = 0;
  for (uint32_t word = 0; word * 64 < memory->worker_count; word++)
    asleep += __builtin_popcountll(
        atomic_load_explicit(&memory->head->idle[word], memory_order_relaxed));
  return alive > asleep ? alive - asleep : 0;
}

static bool has_cause(const ac__pool_memory *memory) {
  return !ac__queue_is_empty(memory) ||
         atomic_load_explicit(&memory->head->is_closing,
                              memory_order_relaxed) != 0;
}

/* One worker at a time may spin, if its core would be idle. True if there is a
 * reason to look. */
static bool rest_spinning(ac__pool_memory *memory, ac__rest *rest) {
  ac__pool_head *head = memory->head;
  uint32_t none = 0;
  int awake = ac__workers_awake(memory, (int)memory->worker_count);
  if (awake + 1 > head->cores)
    return false;
  if (rest->misses >= SPIN_MISSES && rest->skipped++ < SPIN_SKIP)
    return false;
  rest->skipped = 0;
  /* relaxed: only one wants to; what matters comes with the queue */
  if (!atomic_compare_exchange_strong_explicit(
          &head->spinner, &none, rest->worker + 1, memory_order_relaxed,
          memory_order_relaxed))
    return false;
  /* The kernel may keep both on one processor, where each waits for the other
   * to give up spinning. relaxed: a hint */
  int cpu = ac__cpu_current();
  if (cpu >= 0 && cpu == atomic_load_explicit(&head->cpu, memory_order_relaxed))
    ac__cpu_leave(cpu);
  uint64_t until = ac__ticks() + (uint64_t)(SPIN_NS / ac__tick_ns());
  bool has_found = false;
  while (!(has_found = has_cause(memory)) && ac__ticks() < until)
    ac__cpu_relax();
  rest->misses = has_found ? 0 : rest->misses + 1;
  /* relaxed: the fence before the next look orders it (pass_on, or the sleep)
   */
  atomic_store_explicit(&head->spinner, 0, memory_order_relaxed);
  rest->must_pass_on = true;
  return has_found;
}

static void rest_asleep(ac__pool_memory *memory, ac__rest *rest) {
  ac__pool_head *head = memory->head;
  ac__worker_line *line = &memory->workers[rest->worker];
  uint64_t bit = UINT64_C(1) << (rest->worker % 64);
  atomic_store_explicit(&line->wake, 0, memory_order_relaxed);
  /* release: who clears the bit sees `wake` = 0 */
  atomic_fetch_or_explicit(&head->idle[rest->worker / 64], bit,
                           memory_order_release);
  /* seq_cst: the bit before the queue; pairs with ac__workers_wake() */
  atomic_thread_fence(memory_order_seq_cst);
  if (!has_cause(memory)) {
    if (rest->before_sleep != NULL)
      rest->before_sleep(rest->ctx);
    /* acquire: pairs with the release in wake() */
    while (atomic_load_explicit(&line->wake, memory_order_acquire) == 0)
      ac__futex_wait_shared(&line->wake, 0, -1);
    if (rest->after_sleep != NULL)
      rest->after_sleep(rest->ctx);
  }
  atomic_fetch_and_explicit(&head->idle[rest->worker / 64], ~bit,
                            memory_order_relaxed);
}

void ac__worker_rest(ac__pool_memory *memory, ac__rest *rest) {
  if (!rest_spinning(memory, rest))
    rest_asleep(memory, rest);
}

void ac__worker_pass_on(ac__pool_memory *memory) {
  /* seq_cst: `spinner` before the queue; pairs with ac__workers_wake() */
  atomic_thread_fence(memory_order_seq_cst);
  uint64_t queued =
      atomic_load_explicit(&memory->head->tail, memory_order_relaxed) -
      atomic_load_explicit(&memory->head->head, memory_order_relaxed);
  if (queued != 0)
    ac__workers_wake(memory, queued < memory->worker_count
                                 ? (uint32_t)queued
                                 : memory->worker_count);
}
