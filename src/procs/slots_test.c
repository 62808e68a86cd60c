/* slots_test.c: the protocol on slots, with threads of one process as workers,
 * so that ThreadSanitizer sees both sides.
 *
 * A parent queues, cancels, dooms and collects at random; workers claim, finish
 * and rest as worker.c does, and now and then die: they stop at some point, and
 * the parent cleans up after them as tasks.c does. Each task must end exactly
 * once. Nobody sleeps with a limit, so a wake-up that is lost ends the test by
 * its alarm.
 */
#include "procs/slots.h"

#include "check.h"
#include "os/os.h"

#include <string.h>
#include <unistd.h>

enum { PATIENCE_S = 100, CORES_MANY = 1000, WORKERS_MOST = 64 };

/* ---- One thread ---------------------------------------------------------- */

static ac__pool_memory memory_new(int workers, uint32_t slots) {
  ac__pool_memory memory;
  CHECK_INT(ac__pool_memory_create(workers, slots, &memory), AC_OK);
  CHECK_INT(ac__slots_commit(&memory, 0, slots), AC_OK);
  return memory;
}

TEST("the oldest pending slot is claimed, once, by one worker") {
  ac__pool_memory memory = memory_new(2, 4);
  CHECK(ac__slot_claim(&memory, 0) == NULL);
  CHECK(ac__slot_queue(&memory, 2, 0));
  CHECK(ac__slot_queue(&memory, 1, 7));
  CHECK(ac__slot_claim(&memory, 1) == &memory.slots[2]);
  ac__slot *slot = ac__slot_claim(&memory, 0);
  CHECK(slot == &memory.slots[1]);
  CHECK(ac__slot_claim(&memory, 0) == NULL);
  uint64_t state = atomic_load(&slot->state);
  CHECK_INT(ac__state_code(state), AC__SLOT_CLAIMED);
  CHECK_INT(ac__state_worker(state), 0);
  CHECK_INT(ac__state_attempt(state), 8);
  ac__pool_memory_close(&memory);
}

TEST("finished slots are taken oldest first, all at once") {
  ac__pool_memory memory = memory_new(1, 4);
  for (uint32_t i = 0; i < 3; i++) {
    CHECK(ac__slot_queue(&memory, i, 0));
    ac__slot *slot = ac__slot_claim(&memory, 0);
    CHECK(slot != NULL && ac__slot_finish(&memory, slot, 0));
  }
  uint32_t at = ac__done_take(&memory);
  for (uint32_t i = 0; i < 3; i++) {
    if (CHECK_INT(at, i + 1))
      at = atomic_load(&memory.slots[at - 1].next);
  }
  CHECK_INT(at, 0);
  CHECK_INT(ac__done_take(&memory), 0);
  ac__pool_memory_close(&memory);
}

TEST("a doomed slot cannot be finished, a finished one cannot be doomed") {
  ac__pool_memory memory = memory_new(2, 4);
  uint32_t worker = 99;
  CHECK(ac__slot_queue(&memory, 0, 0));
  CHECK(!ac__slot_doom(&memory.slots[0], &worker));
  ac__slot *slot = ac__slot_claim(&memory, 1);
  CHECK(!ac__slot_cancel(slot));
  CHECK(ac__slot_doom(slot, &worker));
  CHECK_INT(worker, 1);
  CHECK(!ac__slot_finish(&memory, slot, 1));
  CHECK_INT(ac__done_take(&memory), 0);
  CHECK(ac__slot_queue(&memory, 1, 0));
  slot = ac__slot_claim(&memory, 0);
  CHECK(ac__slot_finish(&memory, slot, 0));
  CHECK(!ac__slot_doom(slot, &worker));
  ac__pool_memory_close(&memory);
}

TEST("an old entry of a cancelled slot claims nothing") {
  ac__pool_memory memory = memory_new(1, 4);
  CHECK(ac__slot_queue(&memory, 0, 0));
  CHECK(ac__slot_cancel(&memory.slots[0]));
  CHECK(!ac__slot_cancel(&memory.slots[0]));
  CHECK(ac__slot_queue(&memory, 0, 0)); /* two entries, one is right */
  CHECK(ac__slot_claim(&memory, 0) == &memory.slots[0]);
  CHECK(ac__slot_claim(&memory, 0) == NULL);
  CHECK(ac__queue_is_empty(&memory));
  ac__pool_memory_close(&memory);
}

TEST("a queue full of old entries refuses until its head can move") {
  ac__pool_memory memory = memory_new(1, 2);
  uint32_t queued = 0;
  CHECK(ac__slot_queue(&memory, 0, 0)); /* holds up the head */
  while (ac__slot_queue(&memory, 1, 0)) {
    CHECK(ac__slot_cancel(&memory.slots[1]));
    if (++queued > memory.queue_count)
      break;
  }
  CHECK_INT(queued, memory.queue_count - 1);
  CHECK(!ac__queue_is_past(&memory, 1));
  CHECK(ac__slot_claim(&memory, 0) == &memory.slots[0]);
  CHECK(ac__queue_is_past(&memory, 1));
  CHECK(ac__slot_queue(&memory, 1, 0));
  CHECK(ac__slot_claim(&memory, 0) == &memory.slots[1]);
  ac__pool_memory_close(&memory);
}

/* ---- Workers ------------------------------------------------------------- */

/* How a worker dies. */
typedef enum death {
  ALIVE,
  AFTER_CLAIM,
  BEFORE_TELLING, /* DONE, but not in the list */
  DOOMED
} death;

typedef struct world {
  ac__pool_memory memory;
  int worker_count;
  int death_odds; /* one task in so many kills its worker; 0 = none */
  int gang;       /* > 0: each task waits until so many have begun */
  _Atomic int begun;
  _Atomic uint32_t is_dead[WORKERS_MOST];
} world;

typedef struct worker {
  world *world;
  uint32_t number;
  ac__thread thread;
} worker;

static uint64_t random_next(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
  return z ^ z >> 31;
}

static uint32_t random_below(uint64_t *state, uint32_t bound) {
  return (uint32_t)(random_next(state) % bound);
}

static uint32_t answer_to(uint32_t task) { return task * 3 + 1; }

/* Lie dead until the parent has cleaned up. */
static void lie_dead(world *w, uint32_t number) {
  ac__pool_head *head = w->memory.head;
  atomic_store(&w->is_dead[number], 1);
  atomic_fetch_add(&head->bell, 1);
  ac__futex_wake_shared(&head->bell, 1);
  while (atomic_load(&w->is_dead[number]) != 0)
    ac__futex_wait(&w->is_dead[number], 1, -1);
}

static death run(world *w, ac__slot *slot, uint32_t number, uint64_t *random) {
  uint32_t task, answer;
  memcpy(&task, slot->in, sizeof task);
  answer = answer_to(task);
  memcpy(slot->out, &answer, sizeof answer);
  if (w->gang > 0) {
    atomic_fetch_add(&w->begun, 1);
    while (atomic_load(&w->begun) < w->gang)
      ac__thread_yield();
  }
  if (random_below(random, 3) == 0)
    ac__thread_yield();
  bool dies =
      w->death_odds > 0 && random_below(random, (uint32_t)w->death_odds) == 0;
  if (dies && random_below(random, 2) == 0)
    return AFTER_CLAIM;
  if (dies) {
    uint64_t state = atomic_load(&slot->state);
    uint64_t done = ac__state(AC__SLOT_DONE, number, ac__state_attempt(state),
                              ac__state_sequence(state));
    if (ac__state_code(state) == AC__SLOT_CLAIMED)
      (void)atomic_compare_exchange_strong(&slot->state, &state, done);
    return BEFORE_TELLING;
  }
  return ac__slot_finish(&w->memory, slot, number) ? ALIVE : DOOMED;
}

static void *work(void *arg) {
  worker *self = arg;
  world *w = self->world;
  uint64_t random = self->number;
  ac__rest rest = {.worker = self->number};
  for (;;) {
    ac__slot *slot = ac__slot_claim(&w->memory, self->number);
    if (slot == NULL) {
      if (atomic_load(&w->memory.head->is_closing) != 0 &&
          ac__queue_is_empty(&w->memory))
        return NULL;
      ac__worker_rest(&w->memory, &rest);
      continue;
    }
    if (rest.must_pass_on)
      ac__worker_pass_on(&w->memory);
    rest.must_pass_on = false;
    if (run(w, slot, self->number, &random) != ALIVE) {
      lie_dead(w, self->number);
      rest = (ac__rest){.worker = self->number};
    }
  }
}

static bool workers_start(world *w, worker *workers) {
  (void)alarm(PATIENCE_S);
  for (int i = 0; i < w->worker_count; i++) {
    workers[i] = (worker){.world = w, .number = (uint32_t)i};
    if (!CHECK(ac__thread_start(&workers[i].thread, 1 << 18, "worker", work,
                                &workers[i]) == AC_OK))
      return false;
  }
  return true;
}

static void workers_end(world *w, worker *workers) {
  atomic_store(&w->memory.head->is_closing, 1);
  ac__workers_wake_all(&w->memory);
  for (int i = 0; i < w->worker_count; i++)
    ac__thread_join(workers[i].thread);
  (void)alarm(0);
}

/* ---- The parent ---------------------------------------------------------- */

typedef enum place { NOWHERE, IN_SLOT, DONE, CANCELLED, DIED } place;

typedef struct parent {
  world *w;
  uint64_t random;
  uint32_t task_count, next_task, ended;
  place *places;            /* of each task */
  uint32_t count[DIED + 1]; /* of places at the end */
  uint32_t *free_slots;     /* numbers */
  uint32_t free_slot_count;
  uint32_t *slot_tasks; /* task + 1; 0 = none */
  uint64_t *slot_positions;
  uint32_t *stale_slots;
  uint32_t stale_count;
} parent;

static void end_task(parent *p, uint32_t number, place how) {
  uint32_t task = p->slot_tasks[number] - 1;
  if (CHECK_INT(p->places[task], IN_SLOT))
    p->ended++;
  p->places[task] = how;
  p->count[how]++;
  p->slot_tasks[number] = 0;
}

static void free_stale(parent *p) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < p->stale_count; i++) {
    uint32_t number = p->stale_slots[i];
    if (ac__queue_is_past(&p->w->memory, p->slot_positions[number]))
      p->free_slots[p->free_slot_count++] = number;
    else
      p->stale_slots[kept++] = number;
  }
  p->stale_count = kept;
}

static bool submit(parent *p) {
  ac__pool_memory *memory = &p->w->memory;
  free_stale(p);
  if (p->next_task == p->task_count || p->free_slot_count == 0)
    return false;
  uint32_t number = p->free_slots[p->free_slot_count - 1];
  uint32_t task = p->next_task;
  memcpy(memory->slots[number].in, &task, sizeof task);
  p->slot_positions[number] = atomic_load(&memory->head->tail);
  if (!ac__slot_queue(memory, number, 0))
    return false;
  p->next_task++;
  p->free_slot_count--;
  p->places[task] = IN_SLOT;
  p->slot_tasks[number] = task + 1;
  ac__workers_wake(memory, 1);
  return true;
}

static void collect_slot(parent *p, uint32_t number) {
  ac__slot *slot = &p->w->memory.slots[number];
  uint32_t answer;
  CHECK_INT(ac__state_code(atomic_load(&slot->state)), AC__SLOT_DONE);
  if (!CHECK(p->slot_tasks[number] != 0))
    return;
  memcpy(&answer, slot->out, sizeof answer);
  CHECK_INT(answer, answer_to(p->slot_tasks[number] - 1));
  end_task(p, number, DONE);
  p->free_slots[p->free_slot_count++] = number;
}

static void collect(parent *p) {
  uint32_t at = ac__done_take(&p->w->memory);
  while (at != 0) {
    uint32_t number = at - 1;
    at = atomic_load(&p->w->memory.slots[number].next);
    collect_slot(p, number);
  }
}

static void bury(parent *p, uint32_t worker) {
  ac__pool_memory *memory = &p->w->memory;
  int victims = 0;
  ac__worker_forget(memory, worker);
  collect(p);
  for (uint32_t i = 0; i < memory->slot_count; i++) {
    uint64_t state = atomic_load(&memory->slots[i].state);
    uint32_t code = ac__state_code(state);
    if (p->slot_tasks[i] == 0 || ac__state_worker(state) != worker)
      continue;
    if (code == AC__SLOT_DONE) {
      collect_slot(p, i);
      victims++;
    } else if (code == AC__SLOT_CLAIMED || code == AC__SLOT_DOOMED) {
      end_task(p, i, DIED);
      p->free_slots[p->free_slot_count++] = i;
      victims++;
    }
  }
  CHECK_INT(victims, 1);
  atomic_store(&p->w->is_dead[worker], 0);
  ac__futex_wake(&p->w->is_dead[worker], 1);
  ac__workers_wake_all(memory);
}

static bool bury_all(parent *p) {
  bool was_any = false;
  for (int i = 0; i < p->w->worker_count; i++)
    if (atomic_load(&p->w->is_dead[i]) != 0) {
      bury(p, (uint32_t)i);
      was_any = true;
    }
  return was_any;
}

static void cancel_or_doom(parent *p) {
  ac__pool_memory *memory = &p->w->memory;
  uint32_t worker, number = random_below(&p->random, memory->slot_count);
  if (p->slot_tasks[number] == 0)
    return;
  if (ac__slot_cancel(&memory->slots[number])) {
    end_task(p, number, CANCELLED);
    p->stale_slots[p->stale_count++] = number;
  } else if (p->w->death_odds > 0) {
    /* its worker finds out when it wants to finish */
    (void)ac__slot_doom(&memory->slots[number], &worker);
  }
}

/* As ac_pool_wait(), without a limit. */
static void await(parent *p) {
  ac__pool_head *head = p->w->memory.head;
  uint32_t bell = atomic_load(&head->bell);
  atomic_store(&head->waits, 1);
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load(&head->done) == 0 && !bury_all(p))
    ac__futex_wait_shared(&head->bell, bell, -1);
}

static void *zeroed(size_t count, size_t size_bytes) {
  void *memory = calloc(count, size_bytes);
  if (memory == NULL)
    abort();
  return memory;
}

static void parent_begin(parent *p) {
  uint32_t slots = p->w->memory.slot_count;
  p->places = zeroed(p->task_count, sizeof *p->places);
  p->free_slots = zeroed(slots, sizeof *p->free_slots);
  p->slot_tasks = zeroed(slots, sizeof *p->slot_tasks);
  p->slot_positions = zeroed(slots, sizeof *p->slot_positions);
  p->stale_slots = zeroed(slots, sizeof *p->stale_slots);
  while (p->free_slot_count < slots) {
    p->free_slots[p->free_slot_count] = p->free_slot_count;
    p->free_slot_count++;
  }
}

static void parent_run(parent *p) {
  uint32_t slots = p->w->memory.slot_count;
  while (p->ended < p->task_count && check_child_status() == 0) {
    for (uint32_t i = random_below(&p->random, 2 * slots); i > 0; i--)
      if (!submit(p))
        break;
    if (random_below(&p->random, 4) == 0)
      cancel_or_doom(p);
    collect(p);
    (void)bury_all(p);
    free_stale(p);
    if (p->free_slot_count + p->stale_count < slots &&
        (p->free_slot_count == 0 || p->next_task == p->task_count))
      await(p);
  }
}

static void parent_end(parent *p) {
  free_stale(p);
  CHECK_INT(p->free_slot_count, p->w->memory.slot_count);
  for (uint32_t i = 0; i < p->task_count; i++)
    CHECK(p->places[i] >= DONE);
  CHECK(p->count[DONE] > 0);
  printf("  %u done, %u cancelled, %u died\n", p->count[DONE],
         p->count[CANCELLED], p->count[DIED]);
  free(p->places);
  free(p->free_slots);
  free(p->slot_tasks);
  free(p->slot_positions);
  free(p->stale_slots);
}

/* A pool of threads runs `tasks` tasks. */
static void live(int workers, uint32_t slots, uint32_t tasks, int cores,
                 int death_odds) {
  static worker crew[WORKERS_MOST];
  world w = {.memory = memory_new(workers, slots),
             .worker_count = workers,
             .death_odds = death_odds};
  parent p = {.w = &w, .task_count = tasks, .random = slots};
  w.memory.head->cores = cores;
  if (workers_start(&w, crew)) {
    parent_begin(&p);
    parent_run(&p);
    workers_end(&w, crew);
    parent_end(&p);
  }
  ac__pool_memory_close(&w.memory);
}

TEST("each of many tasks ends once, with few slots and a queue that wraps") {
  live(3, 4, 20000, 1, 0);
}

TEST("each task ends once while workers die and tasks are doomed") {
  live(4, 16, 20000, 1, 20);
}

TEST("each task ends once while workers spin before they sleep") {
  live(4, 8, 20000, CORES_MANY, 50);
}

TEST("each task ends once with eight workers") {
  live(8, 64, 20000, CORES_MANY, 100);
}

TEST("each task ends once with sixty-four workers") {
  live(64, 256, 20000, 1, 100);
}

/* Tasks that end only once as many run as there are workers. */
static void gang(int workers, int rounds, int cores) {
  static worker crew[WORKERS_MOST];
  world w = {.memory = memory_new(workers, 2 * (uint32_t)workers),
             .worker_count = workers};
  parent p = {.w = &w,
              .task_count = (uint32_t)(workers * rounds),
              .random = (uint64_t)workers};
  w.memory.head->cores = cores;
  w.gang = 1;
  if (workers_start(&w, crew)) {
    parent_begin(&p);
    for (int round = 0; round < rounds; round++) {
      w.gang = (round + 1) * workers; /* published with the first task */
      for (int i = 0; i < workers; i++)
        CHECK(submit(&p));
      while (p.ended < (uint32_t)w.gang) {
        await(&p);
        collect(&p);
      }
    }
    workers_end(&w, crew);
    parent_end(&p);
  }
  ac__pool_memory_close(&w.memory);
}

TEST("tasks that wait for each other all run at once, one a worker") {
  gang(3, 3000, CORES_MANY);
  gang(8, 500, CORES_MANY);
  gang(8, 500, 1);
  gang(64, 20, 1);
}

CHECK_MAIN
