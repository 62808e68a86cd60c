/* nested.c: gangs inside gangs and loops, and groups whose waiters come and go.
 *
 *   nested [ROUNDS]
 *
 * Each test was once a hang or a read of a frame that had ended, found after
 * some hundred or thousand rounds. A watchdog ends the program at a hang.
 */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <pthread.h>
#include <unistd.h>

enum { ROUNDS = 3000, WATCHDOG_S = 110, BUDGET = 2 };

static int rounds(void) {
  return check_argc > 1 ? atoi(check_argv[1]) : ROUNDS;
}

static void begin(void) {
  (void)alarm(WATCHDOG_S); /* its signal ends the program */
  CHECK_INT(ac_budget_set(BUDGET), AC_OK);
}

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

/* ---- Gangs inside gangs -------------------------------------------------- */

typedef struct meeting {
  int width;
  atomic_int there;
} meeting;

/* A gang's members all run: each waits for all. */
static void meet(meeting *meeting) {
  atomic_fetch_add(&meeting->there, 1);
  while (atomic_load(&meeting->there) < meeting->width)
    ac__thread_yield();
}

static ac_status meet_body(ac_range range, void *ctx) {
  (void)range;
  meet(ctx);
  return AC_OK;
}

static void run_pair(void) {
  meeting pair = {.width = 2};
  CHECK_INT(ac_team_each(NULL, 2, meet_body, &pair), AC_OK);
  CHECK_INT(atomic_load(&pair.there), 2);
}

/* The last member makes a gang before it comes to the meeting: it must not get
 * a helper whose lane holds a call of this one. */
static ac_status gang_then_meet(ac_range range, void *ctx) {
  meeting *meeting = ctx;
  if (range.begin == (meeting->width == 2 ? 0 : meeting->width - 1))
    run_pair();
  meet(meeting);
  return AC_OK;
}

TEST("a gang inside a gang that waits for it gets threads of its own") {
  begin();
  for (int i = 0; i < rounds(); i++) {
    meeting meeting = {.width = 2 + i % 2};
    CHECK_INT(ac_team_each(NULL, meeting.width, gang_then_meet, &meeting),
              AC_OK);
  }
}

static ac_status pairs_body(ac_range range, void *ctx) {
  for (int64_t i = range.begin; i < range.end; i++) {
    run_pair();
    atomic_fetch_add((atomic_int *)ctx, 1);
  }
  return AC_OK;
}

static ac_status loop_body(ac_range range, void *ctx) {
  (void)range;
  return ac_for(NULL, (ac_range){0, 3}, 1, NULL, pairs_body, ctx);
}

TEST("gangs inside loops inside gangs all run, round after round") {
  begin();
  for (int i = 0; i < rounds(); i++) {
    atomic_int runs = 0;
    CHECK_INT(ac_team_each(NULL, 2, loop_body, &runs), AC_OK);
    CHECK_INT(atomic_load(&runs), 2 * 3);
  }
}

/* ---- A post that fails --------------------------------------------------- */

static ac_status empty_body(ac_range range, void *ctx) {
  (void)range, (void)ctx;
  return AC_OK;
}

/* The caller makes a gang about when its helper, done with its call of the
 * outer one, stops looking at its lane: the post may fail and be revoked. */
static ac_status late_gang(ac_range range, void *delay_ns) {
  if (range.begin != 0)
    return AC_OK;
  spend(*(uint64_t *)delay_ns);
  return ac_team_each(NULL, 2, empty_body, NULL);
}

TEST(
    "a gang whose helper leaves its lane ends, and so does the one around it") {
  begin();
  for (int i = 0; i < rounds(); i++) {
    uint64_t delay_ns = 15000 + (uint64_t)i * 7919 % 15000;
    CHECK_INT(ac_team_each(NULL, 2, empty_body, NULL), AC_OK);
    CHECK_INT(ac_team_each(NULL, 2, late_gang, &delay_ns), AC_OK);
  }
}

/* ---- A waiter's frame ---------------------------------------------------- */

typedef struct crew {
  ac_group *group;
  atomic_bool is_over;
  atomic_int spawned, ran;
} crew;

/* Walks the frames around it: the waiter's must still be there. */
static ac_status look_outwards(void *ctx) {
  crew *crew = ctx;
  for (int i = 0; i < 100; i++)
    CHECK(!ac_cancelled());
  atomic_fetch_add(&crew->ran, 1);
  return AC_OK;
}

static void *spawn_on(void *ctx) {
  crew *crew = ctx;
  uint64_t pause_ns = 0;
  while (!atomic_load(&crew->is_over)) {
    CHECK_INT(ac_group_spawn(crew->group, (ac_task){look_outwards, crew}),
              AC_OK);
    atomic_fetch_add(&crew->spawned, 1);
    pause_ns = (pause_ns + 7919) % 30000;
    spend(pause_ns);
  }
  return NULL;
}

static void wait_inside(ac_worker *worker, void *ctx) {
  (void)worker;
  CHECK_INT(ac_group_wait(((crew *)ctx)->group), AC_OK);
}

/* Writes over the stack on which the last wait was. */
static __attribute__((noinline)) void scribble(void) {
  volatile char block[4096];
  for (size_t i = 0; i < sizeof block; i++)
    block[i] = (char)0xaa;
}

TEST("a task that begins as the last waiter leaves does not see its frame") {
  static crew crew;
  ac_team *team;
  pthread_t spawner;
  begin();
  CHECK_INT(ac_team_create(&(ac_team_options){.width = 4}, &team), AC_OK);
  CHECK_INT(ac_group_create(team, NULL, &crew.group), AC_OK);
  CHECK_INT(pthread_create(&spawner, NULL, spawn_on, &crew), 0);
  for (int i = 0; i < rounds(); i++) {
    CHECK_INT(ac_run(team, wait_inside, &crew), AC_OK);
    scribble();
  }
  atomic_store(&crew.is_over, true);
  CHECK_INT(pthread_join(spawner, NULL), 0);
  CHECK_INT(ac_group_wait(crew.group), AC_OK);
  CHECK_INT(atomic_load(&crew.ran), atomic_load(&crew.spawned));
  ac_group_destroy(crew.group);
  ac_team_destroy(team);
}

CHECK_MAIN
