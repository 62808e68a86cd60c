/* pool_fork_test.c: a pool of C functions: results, deaths, limits, ends. */
#include "check.h"
#include "os/os.h"

#include <allcores/pool.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef enum order {
  ECHO,
  SUM,
  DIE,
  HANG,
  EXIT,
  PID,
  GROW,
  DROP,
  PARENT,
  FORK,
  SLOW
} order;

/* What a task is told: an order, and a number. */
typedef struct job {
  int32_t order;
  int32_t number;
} job;

static void run(ac_worker_link *link, const ac_message *in, ac_message *ret,
                bool *ret_is_held, void *ctx) {
  static uint8_t *room;
  static int64_t sum;
  static ac_bytes buffers[4];
  job job;
  (void)ctx;
  memcpy(&job, in->bytes.data, sizeof job);
  switch (job.order) {
  case ECHO:
    *ret = *in;
    break;
  case SUM:
    sum = 0;
    for (size_t i = 0; i < in->buffer_count; i++)
      for (size_t k = 0; k < in->buffers[i].size_bytes; k++)
        sum += ((const uint8_t *)in->buffers[i].data)[k];
    ret->bytes = (ac_bytes){&sum, sizeof sum};
    break;
  case DIE:
    raise(job.number);
    break;
  case EXIT:
    ac__process_exit(job.number);
  case HANG:
    for (;;)
      ac__thread_yield();
  case PID:
    sum = ac__process_id();
    ret->bytes = (ac_bytes){&sum, sizeof sum};
    break;
  case PARENT: /* the fork server */
    sum = getppid();
    ret->bytes = (ac_bytes){&sum, sizeof sum};
    break;
  case FORK: /* the child returns as well, and first */
    if ((sum = fork()) > 0)
      (void)waitpid((pid_t)sum, NULL, 0);
    *ret = *in;
    break;
  case SLOW:
    (void)usleep((useconds_t)job.number);
    break;
  case DROP: /* hold the message, and let go of it while the task still runs */
    *ret_is_held = true;
    if (job.number != 0)
      ac_worker_let_go(link, in->bytes.data);
    break;
  case GROW:
    room = realloc(room, (size_t)job.number);
    memset(room, 7, (size_t)job.number);
    buffers[0] = (ac_bytes){room, (size_t)job.number};
    *ret =
        (ac_message){.bytes = {"", 0}, .buffers = buffers, .buffer_count = 1};
    break;
  }
}

static const ac_worker_ops ops = {.run = run};

static ac_pool *pool_new(int workers) {
  ac_pool_options options = {.workers = workers, .worker = &ops};
  ac_pool *pool = NULL;
  CHECK_INT(ac_pool_create(&options, &pool), AC_OK);
  return pool;
}

static uint64_t submit(ac_pool *pool, int order, int number,
                       const ac_pool_task *task) {
  job job = {order, number};
  ac_message message = {.bytes = {&job, sizeof job}};
  uint64_t key = 0;
  CHECK_INT(ac_pool_submit(pool, &message, task, &key), AC_OK);
  return key;
}

static void await(ac_pool *pool, ac_pool_result *ret_result) {
  while (!ac_pool_next(pool, ret_result))
    CHECK_INT(ac_pool_wait(pool, 100000000), AC_OK);
}

static void check_echo(ac_pool *pool) {
  ac_pool_result result;
  (void)submit(pool, ECHO, 1, NULL);
  await(pool, &result);
  CHECK_INT(result.end, AC_TASK_DONE);
  ac_pool_result_free(pool, &result, false, NULL);
}

TEST("a task's bytes come back") {
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  uint64_t key = submit(pool, ECHO, 42, NULL);
  await(pool, &result);
  CHECK(result.key == key);
  CHECK_INT(result.end, AC_TASK_DONE);
  CHECK_INT(result.attempts, 1);
  CHECK_INT((int)result.message.bytes.size_bytes, (int)sizeof(job));
  job got;
  memcpy(&got, result.message.bytes.data, sizeof got);
  CHECK_INT(got.number, 42);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
}

TEST("ten thousand tasks each come back once") {
  enum { TASKS = 10000 };
  static uint8_t seen[TASKS];
  ac_pool *pool = pool_new(2);
  for (int i = 0; i < TASKS; i++)
    (void)submit(pool, ECHO, i, NULL);
  for (int i = 0; i < TASKS; i++) {
    ac_pool_result result;
    job got;
    await(pool, &result);
    CHECK_INT(result.end, AC_TASK_DONE);
    memcpy(&got, result.message.bytes.data, sizeof got);
    if (CHECK(got.number >= 0 && got.number < TASKS))
      seen[got.number]++;
    ac_pool_result_free(pool, &result, false, NULL);
  }
  for (int i = 0; i < TASKS; i++)
    CHECK_INT(seen[i], 1);
  ac_pool_destroy(pool);
}

TEST("large buffers travel both ways") {
  enum { BYTES = 3000000 };
  ac_pool *pool = pool_new(2);
  uint8_t *data = malloc(BYTES);
  memset(data, 1, BYTES);
  job job = {SUM, 0};
  ac_bytes buffers[2] = {{data, BYTES}, {data, 100}};
  ac_message message = {
      .bytes = {&job, sizeof job}, .buffers = buffers, .buffer_count = 2};
  uint64_t key, kept;
  ac_pool_result result;
  CHECK_INT(ac_pool_submit(pool, &message, NULL, &key), AC_OK);
  await(pool, &result);
  int64_t sum = 0;
  memcpy(&sum, result.message.bytes.data, sizeof sum);
  CHECK_INT(sum, BYTES + 100);
  ac_pool_result_free(pool, &result, false, NULL);
  (void)submit(pool, GROW, BYTES, NULL);
  await(pool, &result);
  CHECK_INT((int)result.message.buffer_count, 1);
  const uint8_t *got = result.message.buffers[0].data;
  CHECK_INT((int64_t)result.message.buffers[0].size_bytes, BYTES);
  ac_pool_result_free(pool, &result, true, &kept);
  CHECK_INT(got[0], 7);
  CHECK_INT(got[BYTES - 1], 7);
  ac_pool_buffers_free(pool, kept);
  free(data);
  ac_pool_destroy(pool);
}

TEST("a result's buffers may be freed once a task of them was handed over") {
  enum { BYTES = 200000 };
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  (void)submit(pool, GROW, BYTES, NULL);
  await(pool, &result);
  uint8_t *got = (uint8_t *)(uintptr_t)result.message.buffers[0].data;
  job job = {SUM, 0};
  ac_message message = {.bytes = {&job, sizeof job},
                        .buffers = result.message.buffers,
                        .buffer_count = 1};
  uint64_t key;
  int64_t sum = 0;
  CHECK_INT(ac_pool_submit(pool, &message, NULL, &key), AC_OK);
  memset(got, 1, BYTES); /* as the next to take those pages would */
  ac_pool_result_free(pool, &result, false, NULL);
  await(pool, &result);
  memcpy(&sum, result.message.bytes.data, sizeof sum);
  CHECK_INT(sum, 7 * BYTES);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
}

TEST("what is kept is not copied, however it is used") {
  enum { BYTES = 200000 };
  static uint8_t data[BYTES];
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  const void *kept[3];
  uint64_t names[3], key;
  int64_t sum = 0;
  ac_bytes buffers[3];
  job job = {SUM, 0};
  for (int i = 0; i < 3; i++) {
    memset(data, i + 1, BYTES);
    CHECK_INT(ac_pool_keep(pool, (ac_bytes){data, BYTES}, &kept[i], &names[i]),
              AC_OK);
    buffers[i] = (ac_bytes){(const uint8_t *)kept[i] + i, 1000};
  }
  ac_pool_buffers_free(pool, names[1]);
  buffers[1] = (ac_bytes){data, 10};
  ac_message message = {
      .bytes = {&job, sizeof job}, .buffers = buffers, .buffer_count = 3};
  CHECK_INT(ac_pool_submit(pool, &message, NULL, &key), AC_OK);
  await(pool, &result);
  memcpy(&sum, result.message.bytes.data, sizeof sum);
  CHECK_INT(sum, 1000 + 3 * 10 + 3 * 1000);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_buffers_free(pool, names[0]);
  ac_pool_buffers_free(pool, names[2]);
  ac_pool_destroy(pool);
}

TEST("a message is held unless its task has let go of it before its end") {
  ac_pool *pool = pool_new(1);
  uint8_t data[1000] = {0};
  for (int number = 0; number < 2; number++) {
    job job = {DROP, number};
    ac_bytes buffer = {data, sizeof data};
    ac_message message = {
        .bytes = {&job, sizeof job}, .buffers = &buffer, .buffer_count = 1};
    ac_pool_result result;
    uint64_t key;
    CHECK_INT(ac_pool_submit(pool, &message, NULL, &key), AC_OK);
    await(pool, &result);
    CHECK_INT(result.end, AC_TASK_DONE);
    CHECK_INT(result.is_held, number == 0);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  ac_pool_destroy(pool);
}

TEST("a fork of a worker that returns from its task ends") {
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  for (int i = 0; i < 5; i++) {
    uint64_t key = submit(pool, FORK, i, NULL);
    await(pool, &result);
    CHECK(result.key == key);
    CHECK_INT(result.end, AC_TASK_DONE);
    CHECK_INT(result.attempts, 1);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  ac_pool_destroy(pool);
}

/* Run in a fork of this process; 0 if all of it was good. */
static int status_of_fork(bool (*is_good)(void *), void *ctx) {
  int status = -1;
  pid_t child = fork();
  if (child == 0)
    ac__process_exit(is_good(ctx) ? 0 : 1);
  CHECK(waitpid(child, &status, 0) == child);
  return status;
}

static bool work_without_streams(void *ctx) {
  bool is_good = true;
  (void)ctx;
  for (int fd = 0; fd < 3; fd++)
    (void)close(fd);
  ac_pool *pool = pool_new(2);
  ac_pool_result result;
  for (int i = 0; i < 100; i++) {
    (void)submit(pool, i % 2 == 0 ? ECHO : GROW, 100000, NULL);
    await(pool, &result);
    is_good = is_good && result.end == AC_TASK_DONE;
    for (int fd = 0; fd < 3; fd++) /* as somebody who prints */
      is_good = is_good && write(fd, "print", 5) < 0;
    ac_pool_result_free(pool, &result, false, NULL);
  }
  ac_pool_destroy(pool);
  return is_good;
}

TEST("a pool works where the standard streams are closed") {
  CHECK_INT(status_of_fork(work_without_streams, NULL), 0);
}

static bool echo_in_little_room(void *ctx) {
  const struct rlimit limit = {512 << 20, 512 << 20};
  (void)ctx;
  if (setrlimit(RLIMIT_AS, &limit) != 0)
    return false;
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  (void)submit(pool, GROW, 1000000, NULL);
  await(pool, &result);
  bool is_good = result.end == AC_TASK_DONE;
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
  return is_good;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST("a pool can be made where addresses are limited") {
  CHECK_INT(status_of_fork(echo_in_little_room, NULL), 0);
}
#endif

typedef struct inherited {
  ac_pool *pool;
  ac_pool_result *result;
} inherited;

/* The numbers of its descriptors are others' here. */
static bool drop_inherited(void *ctx) {
  const inherited *of = ctx;
  int pipes[2];
  for (int fd = 3; fd < 256; fd++)
    (void)close(fd);
  for (int i = 0; i < 20; i++)
    if (pipe(pipes) != 0)
      return false;
  ac_pool_result_free(of->pool, of->result, false, NULL);
  ac_pool_destroy(of->pool);
  for (int fd = 3; fd < 43; fd++)
    if (fcntl(fd, F_GETFD) < 0)
      return false;
  return true;
}

TEST("a fork of the process drops a pool and its results, and nothing else") {
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  (void)submit(pool, GROW, 100000, NULL);
  await(pool, &result);
  CHECK_INT(status_of_fork(drop_inherited, &(inherited){pool, &result}), 0);
  CHECK_INT(((const uint8_t *)result.message.buffers[0].data)[99999], 7);
  ac_pool_result_free(pool, &result, false, NULL);
  check_echo(pool);
  ac_pool_destroy(pool);
}

TEST("a worker that dies fails its own task, and the pool goes on") {
  ac_pool *pool = pool_new(2);
  ac_pool_result result;
  for (int round = 0; round < 20; round++) {
    uint64_t victim = submit(pool, DIE, SIGKILL, NULL);
    uint64_t other = submit(pool, ECHO, round, NULL);
    for (int i = 0; i < 2; i++) {
      await(pool, &result);
      if (result.key == victim) {
        CHECK_INT(result.end, AC_TASK_DIED);
        CHECK_INT(result.exit_status, -SIGKILL);
        CHECK(result.pid > 0);
      } else {
        CHECK(result.key == other);
        CHECK_INT(result.end, AC_TASK_DONE);
      }
      ac_pool_result_free(pool, &result, false, NULL);
    }
  }
  ac_pool_destroy(pool);
}

TEST("a task may be begun again after a death, as often as it was allowed") {
  ac_pool *pool = pool_new(1);
  ac_pool_task task = {.retries = 2};
  ac_pool_result result;
  (void)submit(pool, EXIT, 3, &task);
  await(pool, &result);
  CHECK_INT(result.end, AC_TASK_DIED);
  CHECK_INT(result.attempts, 3);
  CHECK_INT(result.exit_status, 3);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
}

TEST("a task that runs past its limit is ended, alone") {
  ac_pool *pool = pool_new(2);
  ac_pool_task task = {.limit_ns = 20000000};
  ac_pool_result result;
  uint64_t slow = submit(pool, HANG, 0, &task);
  uint64_t quick = submit(pool, ECHO, 0, &task);
  await(pool, &result);
  CHECK(result.key == quick);
  CHECK_INT(result.end, AC_TASK_DONE);
  ac_pool_result_free(pool, &result, false, NULL);
  await(pool, &result);
  CHECK(result.key == slow);
  CHECK_INT(result.end, AC_TASK_TIMEOUT);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
}

TEST("a waiting task is left out when cancelled, a running one is ended") {
  ac_pool *pool = pool_new(1);
  ac_pool_result result;
  uint64_t running = submit(pool, HANG, 0, NULL);
  uint64_t waiting = submit(pool, ECHO, 0, NULL);
  while (ac_pool_where(pool, running) != AC_TASK_RUNNING)
    ac__thread_yield();
  CHECK(ac_pool_cancel(pool, waiting, false));
  CHECK(!ac_pool_cancel(pool, running, false));
  CHECK(ac_pool_cancel(pool, running, true));
  for (int i = 0; i < 2; i++) {
    await(pool, &result);
    CHECK_INT(result.end, AC_TASK_CANCELLED);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  (void)submit(pool, ECHO, 1, NULL);
  await(pool, &result);
  CHECK_INT(result.end, AC_TASK_DONE);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
}

TEST("a closed pool runs what it has, and its workers end") {
  enum { TASKS = 1000 };
  ac_pool *pool = pool_new(2);
  ac_pool_result result;
  job job = {ECHO, 0};
  ac_message message = {.bytes = {&job, sizeof job}};
  uint64_t key;
  for (int i = 0; i < TASKS; i++)
    (void)submit(pool, ECHO, i, NULL);
  ac_pool_close(pool);
  CHECK_INT(ac_pool_submit(pool, &message, NULL, &key), AC_E_STATE);
  for (int i = 0; i < TASKS; i++) {
    await(pool, &result);
    CHECK_INT(result.end, AC_TASK_DONE);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  CHECK_INT(ac_pool_join(pool, -1), AC_OK);
  CHECK_INT(ac_pool_pids(pool, NULL, 0), 0);
  ac_pool_destroy(pool);
}

TEST("terminating cancels what waits and what runs") {
  ac_pool *pool = pool_new(2);
  ac_pool_result result;
  uint64_t first = submit(pool, HANG, 0, NULL);
  for (int i = 1; i < 10; i++)
    (void)submit(pool, HANG, 0, NULL);
  while (ac_pool_where(pool, first) != AC_TASK_RUNNING)
    ac__thread_yield();
  ac_pool_terminate(pool);
  int ends = 0;
  while (ac_pool_next(pool, &result)) {
    CHECK_INT(result.end, AC_TASK_CANCELLED);
    ac_pool_result_free(pool, &result, false, NULL);
    ends++;
  }
  CHECK_INT(ends, 10);
  ac_pool_destroy(pool);
}

static ac_status refuse(ac_worker_link *link, ac_bytes setup,
                        ac_bytes *ret_text, void *ctx) {
  static const char text[] = "no, thank you";
  (void)link, (void)setup, (void)ctx;
  *ret_text = (ac_bytes){text, sizeof text - 1};
  return AC_E_STATE;
}

TEST("workers that cannot begin refuse all tasks with their reason") {
  const ac_worker_ops refusing = {.begin = refuse, .run = run};
  ac_pool_options options = {.workers = 2, .worker = &refusing};
  ac_pool *pool;
  ac_pool_result result;
  CHECK_INT(ac_pool_create(&options, &pool), AC_OK);
  job job = {ECHO, 0};
  ac_message message = {.bytes = {&job, sizeof job}};
  uint64_t key;
  if (ac_pool_submit(pool, &message, NULL, &key) == AC_OK) {
    await(pool, &result);
    CHECK_INT(result.end, AC_TASK_REFUSED);
    CHECK(strncmp(result.message.bytes.data, "no, thank you", 13) == 0);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  ac_pool_destroy(pool);
}

TEST("a worker may be replaced after a number of tasks") {
  ac_pool_options options = {.workers = 1, .worker = &ops, .tasks_a_worker = 2};
  ac_pool *pool;
  ac_pool_result result;
  int64_t pids[6];
  CHECK_INT(ac_pool_create(&options, &pool), AC_OK);
  for (int i = 0; i < 6; i++) {
    (void)submit(pool, PID, 0, NULL);
    await(pool, &result);
    CHECK_INT(result.end, AC_TASK_DONE);
    memcpy(&pids[i], result.message.bytes.data, sizeof pids[i]);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  CHECK(pids[0] == pids[1] && pids[2] == pids[3] && pids[4] == pids[5]);
  CHECK(pids[1] != pids[2] && pids[3] != pids[4]);
  ac_pool_destroy(pool);
}

/* Starts of workers, counted for all of them. */
static _Atomic int *starts;

static void starts_init(void) {
  if (starts == NULL)
    starts = mmap(NULL, sizeof *starts, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  atomic_store(starts, 0);
}

static ac_pool *pool_beginning(int workers,
                               ac_status (*begin)(ac_worker_link *, ac_bytes,
                                                  ac_bytes *, void *)) {
  static ac_worker_ops beginning;
  beginning = (ac_worker_ops){.begin = begin, .run = run};
  ac_pool_options options = {.workers = workers, .worker = &beginning};
  ac_pool *pool = NULL;
  starts_init();
  CHECK_INT(ac_pool_create(&options, &pool), AC_OK);
  return pool;
}

static ac_status die_sometimes(ac_worker_link *link, ac_bytes setup,
                               ac_bytes *ret_text, void *ctx) {
  (void)link, (void)setup, (void)ret_text, (void)ctx;
  int number = atomic_fetch_add(starts, 1);
  if (number % 4 == 3)
    return AC_OK;
  if (number > 3) /* the one that does not die is to be ready before */
    (void)usleep(50000);
  ac__process_exit(1);
}

TEST("early deaths end a pool only if no worker becomes ready meanwhile") {
  enum { WORKERS = 2 };
  ac_pool *pool = pool_beginning(WORKERS, die_sometimes);
  while (atomic_load(starts) < 4 * WORKERS && ac_pool_refusal(pool) == NULL)
    ac__thread_yield();
  CHECK(ac_pool_refusal(pool) == NULL);
  check_echo(pool);
  ac_pool_destroy(pool);
}

static ac_status be_killed(ac_worker_link *link, ac_bytes setup,
                           ac_bytes *ret_text, void *ctx) {
  (void)link, (void)setup, (void)ret_text, (void)ctx;
  if (atomic_fetch_add(starts, 1) < 6)
    raise(SIGKILL);
  return AC_OK;
}

TEST("workers that are killed from outside as they begin are replaced") {
  ac_pool *pool = pool_beginning(1, be_killed);
  check_echo(pool);
  ac_pool_destroy(pool);
}

static ac_status refuse_second(ac_worker_link *link, ac_bytes setup,
                               ac_bytes *ret_text, void *ctx) {
  if (atomic_fetch_add(starts, 1) == 0)
    return AC_OK;
  while (atomic_load(starts) < 100)
    (void)usleep(1000);
  return refuse(link, setup, ret_text, ctx);
}

TEST("a task that runs when its pool is refused ends as it would have") {
  ac_pool *pool = pool_beginning(2, refuse_second);
  ac_pool_result result;
  uint64_t running = submit(pool, SLOW, 200000, NULL);
  while (ac_pool_where(pool, running) != AC_TASK_RUNNING)
    ac__thread_yield();
  uint64_t waiting = submit(pool, ECHO, 0, NULL);
  atomic_store(starts, 100);
  for (int i = 0; i < 2; i++) {
    await(pool, &result);
    CHECK_INT(result.end,
              result.key == waiting ? AC_TASK_REFUSED : AC_TASK_DONE);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  CHECK_INT(ac_pool_join(pool, 5000000000), AC_OK);
  ac_pool_destroy(pool);
}

TEST("a pool ends though its fork server does not answer") {
  ac_pool *pool = pool_new(2);
  ac_pool_result result;
  int64_t server;
  (void)submit(pool, PARENT, 0, NULL);
  await(pool, &result);
  memcpy(&server, result.message.bytes.data, sizeof server);
  ac_pool_result_free(pool, &result, false, NULL);
  (void)submit(pool, HANG, 0, NULL);
  CHECK(kill((pid_t)server, SIGSTOP) == 0);
  uint64_t begun_ns = ac__clock_ns();
  ac_pool_terminate(pool);
  CHECK(ac__clock_ns() - begun_ns < UINT64_C(10000000000));
  CHECK_INT(ac_pool_pids(pool, NULL, 0), 0);
  ac_pool_destroy(pool);
}

TEST("joining waits for tasks that no worker has been started for") {
  ac_pool_options options = {.workers = 1, .worker = &ops, .is_lazy = true};
  ac_pool *pool;
  ac_pool_result result;
  CHECK_INT(ac_pool_create(&options, &pool), AC_OK);
  for (int i = 0; i < 3; i++)
    (void)submit(pool, EXIT, 0, NULL);
  ac_pool_close(pool);
  CHECK_INT(ac_pool_join(pool, -1), AC_OK);
  for (int i = 0; i < 3; i++) {
    CHECK(ac_pool_next(pool, &result));
    CHECK_INT(result.end, AC_TASK_DIED);
    ac_pool_result_free(pool, &result, false, NULL);
  }
  ac_pool_destroy(pool);
}

CHECK_MAIN
