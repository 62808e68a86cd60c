/* group_test.c: task groups: spawned from anywhere, waited for together. */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <pthread.h>
#include <string.h>

static const int widths[] = {1, 2, 3, 8, 64};
enum { TEAMS = sizeof widths / sizeof *widths, TASKS = 500, THREADS = 8 };

static ac_team *team_of(int i) {
  static ac_team *teams[TEAMS];
  if (teams[i] == NULL) {
    ac_team_options options = {.width = widths[i]};
    CHECK_INT(ac_team_create(&options, &teams[i]), AC_OK);
  }
  return teams[i];
}

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

static ac_group *group_on(ac_team *team, int64_t timeout_ns) {
  ac_group_options options = {.timeout_ns = timeout_ns};
  ac_group *group = NULL;
  CHECK_INT(ac_group_create(team, &options, &group), AC_OK);
  return group;
}

static ac_status count(void *ctx) {
  atomic_fetch_add_explicit((_Atomic int64_t *)ctx, 1, memory_order_relaxed);
  return AC_OK;
}

TEST("every task runs once, and the group can be used again") {
  for (int i = 0; i < TEAMS; i++) {
    ac_group *group = group_on(team_of(i), 0);
    for (int round = 1; round <= 20; round++) {
      _Atomic int64_t runs = 0;
      for (int k = 0; k < TASKS; k++)
        CHECK_INT(ac_group_spawn(group, (ac_task){count, (void *)&runs}),
                  AC_OK);
      CHECK_INT(ac_group_wait(group), AC_OK);
      CHECK_INT(atomic_load(&runs), TASKS);
    }
    CHECK_INT(ac_group_wait(group), AC_OK); /* of nothing */
    ac_group_destroy(group);
  }
}

/* A task that spawns two of itself, `levels` deep. */
typedef struct spread {
  ac_group *group;
  int levels;
  _Atomic int64_t *leaves;
  struct spread *pool; /* where children lie; a binary heap */
  int64_t place;
} spread;

static ac_status spread_out(void *ctx) {
  spread *at = ctx;
  if (at->levels == 0)
    return count((void *)at->leaves);
  for (int64_t i = 1; i <= 2; i++) {
    spread *child = &at->pool[2 * at->place + i];
    *child = (spread){at->group, at->levels - 1, at->leaves, at->pool,
                      2 * at->place + i};
    ac_status status = ac_group_spawn(at->group, (ac_task){spread_out, child});
    if (status != AC_OK)
      return status;
  }
  return AC_OK;
}

TEST("tasks may spawn tasks into their own group") {
  static spread pool[1 << 11];
  for (int i = 0; i < TEAMS; i++)
    for (int round = 0; round < 5; round++) {
      _Atomic int64_t leaves = 0;
      ac_group *group = group_on(team_of(i), 0);
      pool[0] = (spread){group, 10, &leaves, pool, 0};
      CHECK_INT(ac_group_spawn(group, (ac_task){spread_out, &pool[0]}), AC_OK);
      CHECK_INT(ac_group_wait(group), AC_OK);
      CHECK_INT(atomic_load(&leaves), 1 << 10);
      ac_group_destroy(group);
    }
}

/* ---- Foreign threads ----------------------------------------------------- */

typedef struct crowd {
  ac_group *group;
  _Atomic int64_t runs;
  pthread_barrier_t barrier;
} crowd;

static void *spawn_and_wait(void *ctx) {
  crowd *crowd = ctx;
  for (int round = 1; round <= 10; round++) {
    (void)pthread_barrier_wait(&crowd->barrier);
    for (int i = 0; i < 100; i++)
      CHECK_INT(
          ac_group_spawn(crowd->group, (ac_task){count, (void *)&crowd->runs}),
          AC_OK);
    (void)pthread_barrier_wait(&crowd->barrier);
    CHECK_INT(ac_group_wait(crowd->group), AC_OK);
    CHECK_INT(atomic_load(&crowd->runs), round * 100 * THREADS);
  }
  return NULL;
}

TEST("many threads may spawn into one group and wait for it") {
  for (int i = 0; i < TEAMS; i++) {
    pthread_t threads[THREADS];
    crowd crowd = {.group = group_on(team_of(i), 0)};
    CHECK_INT(pthread_barrier_init(&crowd.barrier, NULL, THREADS), 0);
    for (int k = 0; k < THREADS; k++)
      CHECK_INT(pthread_create(&threads[k], NULL, spawn_and_wait, &crowd), 0);
    for (int k = 0; k < THREADS; k++)
      CHECK_INT(pthread_join(threads[k], NULL), 0);
    (void)pthread_barrier_destroy(&crowd.barrier);
    ac_group_destroy(crowd.group);
  }
}

enum { PLACES = 8192 };
static atomic_int in_use[PLACES];

static ac_status use_index(void *ctx) {
  int index = ac_worker_index();
  (void)ctx;
  if (!CHECK(index >= 0 && index < ac_region_width()))
    return AC_OK;
  CHECK_INT(atomic_fetch_add(&in_use[index], 1), 0);
  spend(5000);
  CHECK_INT(atomic_fetch_sub(&in_use[index], 1), 1);
  return AC_OK;
}

static void *use_indices(void *ctx) {
  for (int i = 0; i < 200; i++)
    CHECK_INT(ac_group_spawn(ctx, (ac_task){use_index, NULL}), AC_OK);
  CHECK_INT(ac_group_wait(ctx), AC_OK);
  return NULL;
}

TEST("waiters that help have indices of their own") {
  for (int i = 0; i < TEAMS; i++) {
    pthread_t threads[THREADS];
    ac_group *group = group_on(team_of(i), 0);
    for (int k = 0; k < THREADS; k++)
      CHECK_INT(pthread_create(&threads[k], NULL, use_indices, group), 0);
    for (int k = 0; k < THREADS; k++)
      CHECK_INT(pthread_join(threads[k], NULL), 0);
    ac_group_destroy(group);
  }
}

/* ---- Status and cancellation --------------------------------------------- */

static ac_status fail(void *ctx) { return *(ac_status *)ctx; }

TEST("a task's status cancels the group and comes out of the wait") {
  for (int i = 0; i < TEAMS; i++)
    for (ac_status want = 6; want > -20; want -= 25) {
      _Atomic int64_t runs = 0;
      ac_group *group = group_on(team_of(i), 0);
      CHECK_INT(ac_group_spawn(group, (ac_task){fail, &want}), AC_OK);
      for (int k = 0; k < TASKS; k++) {
        ac_status status =
            ac_group_spawn(group, (ac_task){count, (void *)&runs});
        CHECK(status == AC_OK || status == AC_E_CANCELLED);
      }
      CHECK_INT(ac_group_wait(group), want);
      CHECK_INT(ac_group_wait(group), AC_OK); /* ready for use again */
      CHECK_INT(ac_group_spawn(group, (ac_task){count, (void *)&runs}), AC_OK);
      CHECK_INT(ac_group_wait(group), AC_OK);
      ac_group_destroy(group);
    }
}

static ac_status fail_with_text(void *ctx) {
  (void)ctx;
  return ac_for(NULL, (ac_range){4, 2}, 0, NULL, NULL, NULL);
}

TEST("the text of a task's error comes to the waiter") {
  for (int i = 0; i < TEAMS; i++) {
    ac_group *group = group_on(team_of(i), 0);
    (void)ac_team_create(NULL, NULL); /* another error before */
    CHECK_INT(ac_group_spawn(group, (ac_task){fail_with_text, NULL}), AC_OK);
    CHECK_INT(ac_group_wait(group), AC_E_INVAL);
    CHECK(strstr(ac_last_error()->detail, "[4, 2)") != NULL);
    ac_group_destroy(group);
  }
}

typedef struct gate {
  ac_group *group;
  atomic_bool is_running, is_open;
  atomic_int cancelled_seen;
} gate;

static ac_status pass_gate(void *ctx) {
  gate *gate = ctx;
  atomic_store(&gate->is_running, true);
  while (!atomic_load(&gate->is_open) && !ac_cancelled())
    ac__thread_yield();
  if (ac_cancelled())
    atomic_fetch_add(&gate->cancelled_seen, 1);
  return AC_OK;
}

static void *wait_for(void *group) {
  CHECK_INT(ac_group_wait(group), AC_E_CANCELLED);
  return NULL;
}

TEST("cancelling leaves out what has not begun; what runs can see it") {
  for (int i = 0; i < TEAMS; i++) {
    pthread_t thread;
    _Atomic int64_t runs = 0;
    gate gate = {.group = group_on(team_of(i), 0)};
    for (int k = 0; k < 2 * widths[i]; k++)
      CHECK_INT(ac_group_spawn(gate.group, (ac_task){pass_gate, &gate}), AC_OK);
    for (int k = 0; k < 10; k++)
      CHECK_INT(ac_group_spawn(gate.group, (ac_task){count, (void *)&runs}),
                AC_OK);
    CHECK_INT(pthread_create(&thread, NULL, wait_for, gate.group), 0);
    while (!atomic_load(&gate.is_running))
      ac__thread_yield();
    ac_group_cancel(gate.group);
    CHECK_INT(ac_group_spawn(gate.group, (ac_task){count, (void *)&runs}),
              AC_E_CANCELLED);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK(atomic_load(&gate.cancelled_seen) >= 1);
    CHECK_INT(atomic_load(&runs), 0);
    ac_group_destroy(gate.group);
  }
}

TEST("a deadline ends the wait, also for tasks that run") {
  for (int i = 0; i < TEAMS; i++) {
    gate gate = {.group = group_on(team_of(i), 30000000)};
    _Atomic int64_t runs = 0;
    CHECK_INT(ac_group_spawn(gate.group, (ac_task){pass_gate, &gate}), AC_OK);
    uint64_t begun = ac__clock_ns();
    CHECK_INT(ac_group_wait(gate.group), AC_E_TIMEOUT);
    CHECK(ac__clock_ns() - begun < UINT64_C(5000000000));
    CHECK_INT(ac_group_spawn(gate.group, (ac_task){count, (void *)&runs}),
              AC_E_TIMEOUT);
    ac_group_destroy(gate.group);
    CHECK_INT(atomic_load(&runs), 0);
  }
}

TEST("a deadline that does not pass changes nothing") {
  ac_group *group = group_on(team_of(1), INT64_C(3600000000000));
  _Atomic int64_t runs = 0;
  for (int k = 0; k < 10; k++)
    CHECK_INT(ac_group_spawn(group, (ac_task){count, (void *)&runs}), AC_OK);
  CHECK_INT(ac_group_wait(group), AC_OK);
  CHECK_INT(atomic_load(&runs), 10);
  ac_group_destroy(group);
}

TEST("a group may be destroyed with tasks pending and running") {
  for (int i = 0; i < TEAMS; i++)
    for (int round = 0; round < 30; round++) {
      _Atomic int64_t runs = 0;
      gate gate = {.group = group_on(team_of(i), 0)};
      if (round % 2)
        CHECK_INT(ac_group_spawn(gate.group, (ac_task){pass_gate, &gate}),
                  AC_OK);
      for (int k = 0; k < 100; k++)
        CHECK_INT(ac_group_spawn(gate.group, (ac_task){count, (void *)&runs}),
                  AC_OK);
      ac_group_destroy(gate.group);
      CHECK(atomic_load(&runs) <= 100);
    }
  ac_group_destroy(NULL);
  ac_group_cancel(NULL);
}

/* ---- Inside -------------------------------------------------------------- */

static ac_status wait_inside(void *ctx) { return ac_group_wait(ctx); }

static ac_status wait_in_body(ac_range range, void *ctx) {
  (void)range;
  return ac_group_wait(ctx);
}

static ac_status wait_in_loop(void *ctx) {
  return ac_for(team_of(1), (ac_range){0, 3}, 1, NULL, wait_in_body, ctx);
}

TEST("a task that waits for its own group is told so") {
  for (int i = 0; i < TEAMS; i++) {
    ac_group *group = group_on(team_of(i), 0);
    CHECK_INT(ac_group_spawn(group, (ac_task){wait_inside, group}), AC_OK);
    CHECK_INT(ac_group_wait(group), AC_E_STATE);
    CHECK(strstr(ac_last_error()->detail, "own tasks") != NULL);
    CHECK_INT(ac_group_spawn(group, (ac_task){wait_in_loop, group}), AC_OK);
    CHECK_INT(ac_group_wait(group), AC_E_STATE);
    ac_group_destroy(group);
  }
}

static ac_status group_in_body(ac_range range, void *ctx) {
  for (int64_t i = range.begin; i < range.end; i++) {
    ac_group *group = group_on(ctx, 0);
    _Atomic int64_t runs = 0;
    for (int k = 0; k < 20; k++)
      CHECK_INT(ac_group_spawn(group, (ac_task){count, (void *)&runs}), AC_OK);
    CHECK_INT(ac_group_wait(group), AC_OK);
    CHECK_INT(atomic_load(&runs), 20);
    ac_group_destroy(group);
  }
  return AC_OK;
}

typedef struct looper {
  ac_team *outer, *inner;
} looper;

static ac_status loop_in_task(void *ctx) {
  const looper *looper = ctx;
  return ac_for(looper->outer, (ac_range){0, 12}, 1, NULL, group_in_body,
                looper->inner);
}

TEST("groups in loops in groups, on any teams") {
  for (int i = 0; i < TEAMS; i++)
    for (int k = 0; k < TEAMS; k++) {
      looper looper = {team_of(i), team_of(k)};
      ac_group *group = group_on(team_of(k), 0);
      for (int n = 0; n < 8; n++)
        CHECK_INT(ac_group_spawn(group, (ac_task){loop_in_task, &looper}),
                  AC_OK);
      CHECK_INT(ac_group_wait(group), AC_OK);
      ac_group_destroy(group);
    }
}

static ac_status make_group(ac_range range, void *ctx) {
  ac_group **groups = ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    groups[i] = group_on(team_of(3), 0);
  spend(2000);
  return AC_OK;
}

TEST("a group outlives the region that it was made in") {
  ac_group *groups[64];
  CHECK_INT(ac_for(team_of(3), (ac_range){0, 64}, 1, NULL, make_group, groups),
            AC_OK);
  for (int i = 0; i < 64; i++) {
    _Atomic int64_t runs = 0;
    CHECK_INT(ac_group_spawn(groups[i],
                             (ac_task){loop_in_task, &(looper){NULL, NULL}}),
              AC_OK);
    CHECK_INT(ac_group_spawn(groups[i], (ac_task){count, (void *)&runs}),
              AC_OK);
    CHECK_INT(ac_group_wait(groups[i]), AC_OK);
    CHECK_INT(atomic_load(&runs), 1);
    ac_group_destroy(groups[i]);
  }
}

TEST("arguments that are not allowed are refused") {
  ac_group_options options = {.timeout_ns = -1};
  ac_group *group;
  CHECK_INT(ac_group_create(NULL, NULL, NULL), AC_E_INVAL);
  CHECK_INT(ac_group_create(NULL, &options, &group), AC_E_INVAL);
  CHECK_INT(ac_group_spawn(NULL, (ac_task){count, NULL}), AC_E_INVAL);
  CHECK_INT(ac_group_wait(NULL), AC_E_INVAL);
  group = group_on(NULL, 0);
  CHECK_INT(ac_group_spawn(group, (ac_task){0}), AC_E_INVAL);
  ac_group_destroy(group);
}

/* A task that is there once two of its kind run: so both waiters wait. */
static ac_status meet_and_fail(void *begun) {
  atomic_fetch_add((atomic_int *)begun, 1);
  while (atomic_load((atomic_int *)begun) < 2)
    ac__thread_yield();
  return ac_group_spawn(NULL, (ac_task){0}); /* AC_E_INVAL, with a text */
}

static void *wait_for_failure(void *group) {
  CHECK_INT(ac_group_wait(group), AC_E_INVAL);
  CHECK_INT(ac_last_error()->status, AC_E_INVAL);
  return NULL;
}

TEST("each of two waiters gets the status and its text, and the group is "
     "reset") {
  ac_team *team;
  ac_group *group;
  CHECK_INT(ac_team_create(&(ac_team_options){.width = 1}, &team), AC_OK);
  CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
  for (int round = 0; round < 200; round++) {
    atomic_int begun = 0;
    pthread_t other;
    for (int i = 0; i < 2; i++)
      CHECK_INT(ac_group_spawn(group, (ac_task){meet_and_fail, &begun}), AC_OK);
    CHECK_INT(pthread_create(&other, NULL, wait_for_failure, group), 0);
    wait_for_failure(group);
    CHECK_INT(pthread_join(other, NULL), 0);
  }
  ac_group_destroy(group);
  ac_team_destroy(team);
}

TEST("the teams end") {
  for (int i = 0; i < TEAMS; i++)
    ac_team_destroy(team_of(i));
}

CHECK_MAIN
