/* shortage.c: pools while this process can have no more descriptors.
 *
 * Then a worker's own descriptor (pidfd) does not arrive, and whatever ends the
 * worker has to go through the fork server.
 */
#define _GNU_SOURCE
#include "procs/pool.h"

#include "check.h"

#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef enum order { ECHO, HANG } order;

static void run(ac_worker_link *link, const ac_message *in, ac_message *ret,
                bool *ret_is_held, void *ctx) {
  int32_t what;
  (void)link, (void)ret_is_held, (void)ctx;
  memcpy(&what, in->bytes.data, sizeof what);
  while (what == HANG)
    (void)pause();
  *ret = (ac_message){.bytes = in->bytes};
}

static const ac_worker_ops worker = {.run = run};

static uint64_t submit(ac_pool *pool, int32_t what, int64_t limit_ns) {
  uint64_t key = 0;
  ac_pool_task task = {.limit_ns = limit_ns};
  ac_message message = {.bytes = {&what, sizeof what}};
  CHECK_INT(ac_pool_submit(pool, &message, &task, &key), AC_OK);
  return key;
}

static void expect(ac_pool *pool, uint64_t key, ac_task_end end) {
  ac_pool_result result;
  while (!ac_pool_next(pool, &result))
    (void)ac_pool_wait(pool, 100000000);
  CHECK(result.key == key);
  CHECK_INT(result.end, end);
  ac_pool_result_free(pool, &result, false, NULL);
}

/* No descriptor can be had until the limit is set back. */
static struct rlimit starve(void) {
  struct rlimit usual, none;
  CHECK(getrlimit(RLIMIT_NOFILE, &usual) == 0);
  none = usual;
  none.rlim_cur = 3; /* more are open */
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  return usual;
}

static void await_worker(ac_pool *pool) {
  while (ac_pool_pids(pool, NULL, 0) == 0)
    ac__thread_yield();
}

TEST("workers are ended though their descriptors could not be had") {
  ac_pool_options options = {
      .workers = 1, .worker = &worker, .is_paused = true};
  ac_pool *pool;
  (void)alarm(60); /* else a worker that nobody can end is waited for */
  if (!CHECK(ac_pool_create(&options, &pool) == AC_OK))
    return;
  struct rlimit usual = starve();
  CHECK_INT(ac_pool_start(pool, (ac_bytes){"", 0}, NULL, 0), AC_OK);
  await_worker(pool);
  CHECK_INT(pool->crew[0].pidfd, -1);
  expect(pool, submit(pool, HANG, 20000000), AC_TASK_TIMEOUT);
  expect(pool, submit(pool, ECHO, 0), AC_TASK_DONE);
  uint64_t running = submit(pool, HANG, 0);
  while (ac_pool_where(pool, running) != AC_TASK_RUNNING)
    ac__thread_yield();
  CHECK(ac_pool_cancel(pool, running, true));
  expect(pool, running, AC_TASK_CANCELLED);
  running = submit(pool, HANG, 0);
  while (ac_pool_where(pool, running) != AC_TASK_RUNNING)
    ac__thread_yield();
  ac_pool_terminate(pool);
  CHECK_INT(ac_pool_pids(pool, NULL, 0), 0);
  ac_pool_destroy(pool);
  CHECK(setrlimit(RLIMIT_NOFILE, &usual) == 0);
  (void)alarm(0);
}

TEST("no pool can be made without descriptors, and one can be made later") {
  ac_pool_options options = {.workers = 1, .worker = &worker};
  ac_pool *pool = NULL;
  struct rlimit usual = starve();
  CHECK_INT(ac_pool_create(&options, &pool), AC_E_OS);
  CHECK(pool == NULL);
  CHECK(setrlimit(RLIMIT_NOFILE, &usual) == 0);
  if (!CHECK(ac_pool_create(&options, &pool) == AC_OK))
    return;
  expect(pool, submit(pool, ECHO, 0), AC_TASK_DONE);
  ac_pool_destroy(pool);
}

CHECK_MAIN
