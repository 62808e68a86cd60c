/* pool.c: worker processes that run a C function: bytes in, bytes out
 * (allcores/pool.h).
 *
 *   pool [N from 1 to 1000]      default: 20
 *
 * Each task is a number; its result is how many steps the Collatz sequence
 * takes from there to 1. What a task does cannot harm this process: one of them
 * ends its worker, and only that task fails.
 */
#include <allcores/allcores.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 2, MOST = 1000 };

/* In a worker: run one task. What the result points to must last until the next
 * call. */
static void collatz(ac_worker_link *link, const ac_message *in, ac_message *ret,
                    bool *ret_is_held, void *ctx) {
  static uint32_t steps;
  uint32_t n;
  (void)link, (void)ret_is_held, (void)ctx;
  memcpy(&n, in->bytes.data, sizeof n);
  if (n == 0)
    abort(); /* there is no way to 1 */
  steps = 0;
  for (uint64_t at = n; at != 1; steps++)
    at = at % 2 == 0 ? at / 2 : 3 * at + 1;
  ret->bytes = (ac_bytes){&steps, sizeof steps};
}

static void check(ac_status status) {
  if (status == AC_OK)
    return;
  fprintf(stderr, "%s: %s\n", ac_status_name(status), ac_last_error()->detail);
  exit(1);
}

/* Results come as they are ready; the key says whose each is. */
static void take(ac_pool *pool, const uint64_t *keys, int count,
                 uint32_t *ret_steps) {
  ac_pool_result result;
  while (!ac_pool_next(pool, &result))
    check(ac_pool_wait(pool, -1));
  int n = 0;
  while (n < count && keys[n] != result.key)
    n++;
  if (result.end == AC_TASK_DONE)
    memcpy(&ret_steps[n], result.message.bytes.data, sizeof *ret_steps);
  else
    printf("task %d: its worker was ended by signal %d\n", n,
           -result.exit_status);
  ac_pool_result_free(pool, &result, false, NULL);
}

int main(int argc, char **argv) {
  static uint64_t keys[MOST + 1];
  static uint32_t steps[MOST + 1];
  const ac_worker_ops worker = {.run = collatz};
  const ac_pool_options options = {.workers = WORKERS, .worker = &worker};
  ac_pool *pool;
  int n = argc > 1 ? atoi(argv[1]) : 20;
  if (n < 1 || n > MOST) {
    fprintf(stderr, "usage: %s [N from 1 to %d]\n", argv[0], MOST);
    return 2;
  }
  check(ac_pool_create(&options, &pool));
  for (uint32_t i = 0; i <= (uint32_t)n; i++) {
    const ac_message message = {.bytes = {&i, sizeof i}};
    check(ac_pool_submit(pool, &message, NULL, &keys[i]));
  }
  for (int i = 0; i <= n; i++)
    take(pool, keys, n + 1, steps);
  ac_pool_destroy(pool);
  int longest = 1;
  for (int i = 2; i <= n; i++)
    if (steps[i] > steps[longest])
      longest = i;
  printf("the longest way to 1 from a number up to %d: from %d, %u steps\n", n,
         longest, steps[longest]);
  return 0;
}
