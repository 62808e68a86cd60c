/* stepper.c: a worker is killed after its k-th instruction, for every k, while
 * it claims, finishes, rests, lets go of a message, or says why it cannot
 * begin.
 *
 * What takes more than some hundred instructions is killed after each change of
 * what is shared instead: between two changes all instructions are alike to
 * everybody else.
 *
 * The worker is a child of this program that serves a pool; the pool is paused,
 * so that no other worker is started, and this program tells the pool of the
 * worker's beginning and end as the fork server would. Whatever k: one task at
 * most has died, each task gives one result, which is right or its own error,
 * all slots are free, and so are all pages of the arena. The next k's worker
 * goes on with the same pool.
 *
 * Each worker runs some tasks before, so that what is made at first use is
 * there and k stays small. How much memory there is, which would be read in
 * thousands of instructions, is told by this program.
 */
#define _GNU_SOURCE
#include "procs/pool.h"

#include "check.h"
#include "shm/arena.h"
#include "stepping.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
  STEPS_MAX = 20000,
  BUFFER_BYTES = 3000,
  RESULT_BYTES = 2000, /* neither fits into a slot */
};

uint64_t __wrap_ac__memory_room(const char *root);
uint64_t __wrap_ac__memory_room(const char *root) {
  (void)root;
  return 64 << 20;
}

/* Shared with the worker. */
typedef struct board {
  volatile int32_t is_done;   /* the worker has got through */
  volatile int32_t is_asleep; /* or is about to be */
  volatile int32_t is_armed;  /* it is stepped from its next awakening on */
} board;

static board *shared;
static ac_pool *pool;

/* ---- The worker ---------------------------------------------------------- */

typedef enum order {
  ANSWER,
  ANSWER_LARGE,
  HOLD,           /* the message, beyond the task */
  STEP_FROM_HERE, /* to the end of the task, and beyond */
  STEP_HOLDING,   /* the same, with a message held and a large result */
  LET_GO,         /* of the message, stepped */
  STAY
} order;

typedef struct job {
  int32_t order;
  int32_t number;
} job;

static bool is_stepped; /* this process */

_Noreturn static void stay(void) {
  shared->is_done = 1;
  for (;;)
    pause();
}

static void step_from_here(void) {
  is_stepped = true;
  stepping_begin();
}

static uint8_t pattern(int32_t number, size_t at) {
  return (uint8_t)((size_t)number * 31 + at * 7 + at / 256);
}

static void fill(uint8_t *to, size_t size_bytes, int32_t number) {
  for (size_t i = 0; i < size_bytes; i++)
    to[i] = pattern(number, i);
}

static bool is_filled(const ac_message *message, size_t size_bytes,
                      int32_t number) {
  if (message->buffer_count != 1 ||
      message->buffers[0].size_bytes != size_bytes)
    return false;
  const uint8_t *at = message->buffers[0].data;
  for (size_t i = 0; i < size_bytes; i++)
    if (at[i] != pattern(number, i))
      return false;
  return true;
}

static void run(ac_worker_link *link, const ac_message *in, ac_message *ret,
                bool *ret_is_held, void *ctx) {
  static int32_t answer;
  static uint8_t room[RESULT_BYTES];
  static const ac_bytes large = {room, sizeof room};
  static const void *held_data;
  job job;
  (void)ctx;
  memcpy(&job, in->bytes.data, sizeof job);
  if (job.order == STAY)
    stay();
  answer = is_filled(in, BUFFER_BYTES, job.number) ? job.number : -1;
  ret->bytes = (ac_bytes){&answer, sizeof answer};
  if (job.order == ANSWER_LARGE || job.order == STEP_HOLDING) {
    fill(room, sizeof room, job.number);
    ret->buffers = &large;
    ret->buffer_count = 1;
  }
  if (job.order == HOLD || job.order == STEP_HOLDING) {
    *ret_is_held = true;
    held_data = in->bytes.data;
  }
  if (job.order == STEP_FROM_HERE || job.order == STEP_HOLDING ||
      job.order == LET_GO)
    step_from_here();
  if (job.order == LET_GO) {
    ac_worker_let_go(link, held_data);
    stay();
  }
}

static void before_sleep(void *ctx) {
  (void)ctx;
  if (is_stepped)
    stay();
  shared->is_asleep = 1;
}

static void after_sleep(void *ctx) {
  (void)ctx;
  shared->is_asleep = 0;
  if (shared->is_armed)
    step_from_here();
}

static ac_status refuse(ac_worker_link *link, ac_bytes setup,
                        ac_bytes *ret_text, void *ctx) {
  static const char text[] = "no, thank you";
  (void)link, (void)setup, (void)ctx;
  *ret_text = (ac_bytes){text, sizeof text - 1};
  step_from_here();
  return AC_E_STATE;
}

static const ac_worker_ops serving = {
    .run = run, .before_sleep = before_sleep, .after_sleep = after_sleep};
static const ac_worker_ops refusing = {.begin = refuse, .run = run};

_Noreturn static void be_worker(const ac_worker_ops *ops) {
  const int fds[2] = {fcntl(pool->memory.control.fd, F_DUPFD_CLOEXEC, 0),
                      fcntl(pool->memory.arena.fd, F_DUPFD_CLOEXEC, 0)};
  (void)ac_worker_serve(fds, 0, ops);
  stay();
}

/* ---- The pool ------------------------------------------------------------ */

static bool setup(const ac_worker_ops *ops) {
  ac_pool_options options = {.workers = 1, .worker = ops, .is_paused = true};
  void *base;
  int fd;
  if (shared == NULL) {
    if (!CHECK(ac__shared_create("board", 4096, &fd, &base) == AC_OK))
      return false;
    shared = base;
  }
  if (!CHECK(ac_pool_create(&options, &pool) == AC_OK))
    return false;
  pool->memory.head->cores = 0; /* nobody spins */
  return true;
}

/* Have the crew start its one worker, which is a child of this program. */
static pid_t worker_start(const ac_worker_ops *ops) {
  ac__request request;
  *shared = (board){0};
  (void)pthread_mutex_lock(&pool->lock);
  pool->crew[0].state = CREW_WANTED;
  pool->alive++;
  CHECK(ac__crew_next(pool, &request));
  pid_t pid = fork();
  if (pid == 0)
    be_worker(ops);
  ac__notice started = {.pool = pool->id,
                        .kind = AC__NOTICE_STARTED,
                        .number = request.number,
                        .pid = (int32_t)pid};
  ac__crew_notice(pool, &started, ac__pidfd_open((int32_t)pid));
  (void)pthread_mutex_unlock(&pool->lock);
  return pid;
}

static void worker_bury(pid_t pid) {
  ac__notice ended = {.pool = pool->id,
                      .kind = AC__NOTICE_ENDED,
                      .pid = (int32_t)pid,
                      .status = -SIGKILL};
  (void)pthread_mutex_lock(&pool->lock);
  ac__crew_notice(pool, &ended, -1);
  CHECK_INT(pool->crew[0].state, CREW_NONE);
  CHECK_INT(pool->alive, 0);
  (void)pthread_mutex_unlock(&pool->lock);
}

static uint64_t submit(order order, int32_t number, int retries) {
  static uint8_t data[BUFFER_BYTES];
  uint64_t key = 0;
  job job = {order, number};
  ac_bytes buffer = {data, sizeof data};
  ac_message message = {
      .bytes = {&job, sizeof job}, .buffers = &buffer, .buffer_count = 1};
  ac_pool_task task = {.retries = retries};
  fill(data, sizeof data, number);
  CHECK_INT(ac_pool_submit(pool, &message, &task, &key), AC_OK);
  return key;
}

/* Take in a result, which may be its task's own error. */
static ac_task_end take(const ac_pool_result *result, int32_t number) {
  int32_t answer = -1;
  if (result->end == AC_TASK_DONE) {
    if (CHECK_INT(result->message.bytes.size_bytes, sizeof answer))
      memcpy(&answer, result->message.bytes.data, sizeof answer);
    CHECK_INT(answer, number);
    CHECK(result->message.buffer_count == 0 ||
          is_filled(&result->message, RESULT_BYTES, number));
  } else if (CHECK_INT(result->end, AC_TASK_DIED)) {
    CHECK_INT(result->exit_status, -SIGKILL);
    CHECK(result->pid > 0);
  }
  return result->end;
}

/* Have the worker run some tasks, so that all is warm. */
static void warm_up(void) {
  static const order orders[] = {ANSWER, ANSWER_LARGE, ANSWER_LARGE, HOLD};
  for (int32_t i = 0; i < 4; i++) {
    ac_pool_result result;
    (void)submit(orders[i], i, 0);
    while (!ac_pool_next(pool, &result))
      (void)ac_pool_wait(pool, 100000000);
    CHECK_INT(take(&result, i), AC_TASK_DONE);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  while (!shared->is_asleep)
    ac__thread_yield();
}

static uint32_t owner_of(uint64_t offset) {
  ac__pages pages;
  CHECK(ac__pages_of(&pool->memory.arena, &pages));
  return ac__page_owner(atomic_load(&pages.word[offset / AC__PAGE_BYTES]));
}

/* What is left to do is done by this program, with the pool's own calls. */
static void run_what_is_left(void) {
  ac__slot *slot;
  while ((slot = ac__slot_claim(&pool->memory, 0)) != NULL) {
    ac_message in;
    ac_bytes *buffers = NULL;
    size_t room = 0;
    job job = {0, 0};
    int32_t answer = -1;
    const ac__segment *arena = &pool->memory.arena;
    CHECK_INT(owner_of(slot->in_offset), AC__OWNER_PARENT);
    if (CHECK(ac__envelope_read(arena, arena->base + slot->in_offset,
                                (size_t)slot->in_bytes, &in, &buffers,
                                &room))) {
      memcpy(&job, in.bytes.data, sizeof job);
      if (CHECK(is_filled(&in, BUFFER_BYTES, job.number)))
        answer = job.number;
    }
    ac_message out = {.bytes = {&answer, sizeof answer}};
    slot->flags = 0;
    slot->out_offset = 0;
    slot->out_bytes = ac__envelope_bytes(&out, NULL);
    ac__envelope_write(NULL, slot->out, &out, NULL);
    free(buffers);
    CHECK(ac__slot_finish(&pool->memory, slot, 0));
  }
}

/* All tasks have ended, and nobody has anything. */
static void check_all_free(void) {
  ac__arena_use use;
  const ac__pool_head *head = pool->memory.head;
  CHECK_INT(pool->unfinished, 0);
  CHECK_INT(pool->free_slot_count, pool->slot_count);
  for (uint32_t i = 0; i < pool->slot_count; i++)
    CHECK_INT(ac__state_code(atomic_load(&pool->memory.slots[i].state)),
              AC__SLOT_FREE);
  CHECK(ac__queue_is_empty(&pool->memory));
  CHECK_INT(atomic_load(&head->done), 0);
  CHECK_INT(atomic_load(&head->idle[0]), 0);
  CHECK_INT(atomic_load(&head->spinner), 0);
  ac__arena_usage(&pool->memory.arena, &use);
  CHECK_INT(use.taken_bytes, 0);
}

/* ---- The stepper --------------------------------------------------------- */

typedef struct scenario {
  const char *name;
  order orders[2]; /* of the task to be stepped, and the one behind it */
  int count;
  int retries;
  bool is_from_wake; /* stepped from the awakening on */
  bool is_by_change; /* killed after each change, else each instruction */
} scenario;

static uint64_t mix(uint64_t sum, const void *from, size_t size_bytes) {
  const uint8_t *at = from;
  for (; size_bytes >= sizeof sum; size_bytes -= sizeof sum) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    sum = (sum ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    at += sizeof word;
  }
  return sum;
}

/* A sum that tells states of what is shared apart. */
static uint64_t state_now(void) {
  enum { SLOTS = 2 };
  ac__pages pages;
  const ac__pool_memory *memory = &pool->memory;
  uint64_t sum = mix(0, memory->head, sizeof *memory->head);
  sum = mix(sum, memory->workers, sizeof *memory->workers);
  sum = mix(sum, memory->slots, SLOTS * sizeof *memory->slots);
  if (CHECK(ac__pages_of(&memory->arena, &pages)))
    sum = mix(sum, (const void *)&pages.word[pages.first],
              (pages.end - pages.first) * sizeof *pages.word);
  return sum;
}

/* What the worker may yet do. */
typedef struct watch {
  uint64_t state;
  long changes; /* LONG_MAX: they do not count */
} watch;

static bool is_enough(void *ctx) {
  watch *w = ctx;
  if (shared->is_done != 0)
    return true;
  if (w->changes == LONG_MAX)
    return false;
  uint64_t state = state_now();
  w->changes -= state != w->state;
  w->state = state;
  return w->changes <= 0;
}

/* Kill after so many instructions, or changes. @return false if processes
 * cannot be traced. */
static bool step_and_kill(pid_t pid, bool is_by_change, long count) {
  if (!stepping_is_stopped(pid, SIGSTOP))
    return false;
  watch w = {.state = state_now(), .changes = is_by_change ? count : LONG_MAX};
  return stepping_run(pid, is_by_change ? STEPS_MAX : count, is_enough, &w) >=
         0;
}

typedef struct tally {
  int died, done;
} tally;

static void take_all(const scenario *s, const uint64_t *keys, tally *ret) {
  int died = 0;
  for (int seen = 0; seen < s->count; seen++) {
    ac_pool_result result;
    if (!CHECK(ac_pool_next(pool, &result)))
      return;
    int which = s->count > 1 && result.key == keys[1];
    CHECK(result.key == keys[which]);
    if (take(&result, which + 100) == AC_TASK_DIED)
      died++;
    CHECK_INT(result.attempts, 1 + (result.attempts > 1));
    CHECK(s->retries > 0 || result.attempts == 1);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  CHECK(died <= (s->retries > 0 ? 0 : 1));
  ret->died += died;
  ret->done += s->count - died;
}

static bool kill_after(const scenario *s, long steps, tally *ret_tally) {
  uint64_t keys[2] = {0, 0};
  pid_t pid = worker_start(&serving);
  warm_up();
  shared->is_armed = s->is_from_wake;
  for (int i = 0; i < s->count; i++)
    keys[i] = submit(s->orders[i], i + 100, s->retries);
  atomic_store(&pool->memory.head->waits, 1); /* it has somebody to ring for */
  bool is_stepped_here = step_and_kill(pid, s->is_by_change, steps);
  worker_bury(pid);
  run_what_is_left();
  take_all(s, keys, ret_tally);
  check_all_free();
  return is_stepped_here;
}

static void kill_all(const scenario *s) {
  long steps = 0;
  tally tally = {0, 0};
  bool is_stepped_here = true;
  if (STEPPING_IS_SANITIZED)
    SKIP("a sanitizer's own instructions would be stepped");
  if (!setup(&serving))
    return;
  do
    is_stepped_here = kill_after(s, steps, &tally);
  while (is_stepped_here && shared->is_done == 0 && ++steps < STEPS_MAX &&
         check_child_status() == 0);
  ac_pool_destroy(pool);
  if (!is_stepped_here)
    SKIP("processes cannot be traced here");
  CHECK(steps > (s->is_by_change ? 8 : 50) && steps < STEPS_MAX);
  CHECK_INT(tally.died + tally.done, (steps + 1) * s->count);
  printf("  %s: killed after each of %ld %s; %d tasks died, %d were done\n",
         s->name, steps, s->is_by_change ? "changes" : "instructions",
         tally.died, tally.done);
}

TEST("killed while it wakes up and claims, a worker takes one task or none") {
  kill_all(&(scenario){.name = "wake, claim",
                       .orders = {STAY},
                       .count = 1,
                       .is_from_wake = true});
}

TEST("a task whose worker is killed while it claims is begun again") {
  kill_all(&(scenario){.name = "wake, claim, with a retry",
                       .orders = {STAY},
                       .count = 1,
                       .retries = 1,
                       .is_from_wake = true});
}

TEST("killed while it finishes, tells and claims, a worker takes one task") {
  kill_all(&(scenario){.name = "finish, push, ring, claim",
                       .orders = {STEP_FROM_HERE, STAY},
                       .count = 2});
}

TEST("killed while it finishes and goes to sleep, a worker takes one task") {
  kill_all(&(scenario){.name = "finish, push, ring, rest",
                       .orders = {STEP_FROM_HERE},
                       .count = 1});
}

TEST("killed while it hands over pages and holds some, a worker keeps none") {
  kill_all(&(scenario){.name = "take pages, hold the message, finish, rest",
                       .orders = {STEP_HOLDING},
                       .count = 1,
                       .is_by_change = true});
}

TEST("a task whose worker had taken its message over is begun again with it") {
  kill_all(&(scenario){.name = "the same, with a retry",
                       .orders = {STEP_HOLDING},
                       .count = 1,
                       .retries = 1,
                       .is_by_change = true});
}

TEST("killed while it lets go of a message, a worker keeps no page") {
  kill_all(&(scenario){
      .name = "let go of a message", .orders = {LET_GO}, .count = 1});
}

TEST("killed while it says why it cannot begin, a worker keeps no page") {
  long steps = 0, said = 0;
  bool is_stepped_here = true;
  if (STEPPING_IS_SANITIZED)
    SKIP("a sanitizer's own instructions would be stepped");
  do {
    if (!setup(&refusing))
      return;
    pid_t pid = worker_start(&refusing);
    is_stepped_here = step_and_kill(pid, true, steps);
    worker_bury(pid);
    check_all_free();
    const char *reason = ac_pool_refusal(pool);
    CHECK(reason == NULL || strcmp(reason, "no, thank you") == 0);
    said += reason != NULL;
    ac_pool_destroy(pool);
  } while (is_stepped_here && shared->is_done == 0 && ++steps < STEPS_MAX &&
           check_child_status() == 0);
  if (!is_stepped_here)
    SKIP("processes cannot be traced here");
  CHECK(said > 0 && said < steps);
  printf("  killed after each of %ld changes; %ld had said why\n", steps, said);
}

CHECK_MAIN
