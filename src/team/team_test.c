/* team_test.c: teams, gangs, cancellation, poll functions, counters, guests. */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <pthread.h>
#include <string.h>

static const int widths[] = {1, 2, 3, 8, 64};
enum { TEAMS = sizeof widths / sizeof *widths, THREADS = 8 };

static ac_team *team_new(int width) {
  ac_team_options options = {.width = width};
  ac_team *team = NULL;
  CHECK_INT(ac_team_create(&options, &team), AC_OK);
  return team;
}

static ac_team *team_of(int i) {
  static ac_team *teams[TEAMS];
  if (teams[i] == NULL)
    teams[i] = team_new(widths[i]);
  return teams[i];
}

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

TEST("teams are made and end, used or not") {
  CHECK_INT(ac_team_create(NULL, NULL), AC_E_INVAL);
  ac_team *team = NULL;
  CHECK_INT(ac_team_create(&(ac_team_options){.width = -1}, &team), AC_E_INVAL);
  CHECK_INT(ac_team_create(&(ac_team_options){.width = 1025}, &team),
            AC_E_INVAL);
  CHECK(team == NULL);
  ac_team_destroy(NULL);
  for (int width = 1; width <= 1024; width *= 4) {
    team = team_new(width);
    CHECK_INT(ac_team_width(team), width);
    ac_team_destroy(team);
  }
  CHECK_INT(ac_team_create(NULL, &team), AC_OK);
  CHECK_INT(ac_team_width(team), ac_budget());
  CHECK_INT(ac_team_width(NULL), ac_budget());
  ac_team_destroy(team);
}

/* ---- Gangs --------------------------------------------------------------- */

typedef struct gang {
  int width;
  atomic_int arrived;
  atomic_int runs[1024];
  ac_team *team;
  int levels;
} gang;

/* All must be inside at once to get past. */
static void meet(gang *gang) {
  atomic_fetch_add(&gang->arrived, 1);
  while (atomic_load(&gang->arrived) < gang->width)
    ac__thread_yield();
}

static ac_status gang_body(ac_range range, void *ctx) {
  gang *gang = ctx;
  CHECK_INT(range.end, range.begin + 1);
  CHECK_INT(ac_worker_index(), range.begin);
  CHECK_INT(ac_region_width(), gang->width);
  atomic_fetch_add(&gang->runs[range.begin], 1);
  meet(gang);
  return AC_OK;
}

static void check_gang(ac_team *team, int width, ac_body_fn body, int levels) {
  gang *gang = calloc(1, sizeof *gang);
  *gang = (struct gang){.width = width, .team = team, .levels = levels};
  CHECK_INT(ac_team_each(team, width, body, gang), AC_OK);
  for (int i = 0; i < width; i++)
    CHECK_INT(atomic_load(&gang->runs[i]), 1);
  free(gang);
}

TEST("a gang runs at the same time, as wide as was asked") {
  for (int i = 0; i < TEAMS; i++)
    for (int width = 1; width <= 128; width *= 2)
      for (int round = 0; round < 5; round++)
        check_gang(team_of(i), width, gang_body, 0);
  for (int round = 0; round < 500; round++)
    check_gang(team_of(round % TEAMS), 1 + round % 3, gang_body, 0);
  check_gang(NULL, 3, gang_body, 0);
}

static ac_status first_on_caller(ac_range range, void *ctx) {
  if (range.begin == 0)
    CHECK(pthread_equal(*(pthread_t *)ctx, pthread_self()));
  return AC_OK;
}

TEST("call 0 of a gang runs on the caller; width 0 is the team's") {
  pthread_t self = pthread_self();
  CHECK_INT(ac_team_each(team_of(3), 0, first_on_caller, &self), AC_OK);
  gang gang = {.width = 8};
  CHECK_INT(ac_team_each(team_of(3), 0, gang_body, &gang), AC_OK);
  CHECK_INT(atomic_load(&gang.runs[7]), 1);
}

static ac_status gang_nested(ac_range range, void *ctx) {
  gang *gang = ctx;
  (void)gang_body(range, ctx);
  if (gang->levels > 0)
    check_gang(gang->team, 3, gang_nested, gang->levels - 1);
  return AC_OK;
}

TEST("gangs inside gangs all run, three deep") {
  for (int i = 0; i < TEAMS; i++)
    for (int round = 0; round < 5; round++)
      check_gang(team_of(i), 3, gang_nested, 2);
}

static void *gang_caller(void *team) {
  for (int round = 0; round < 20; round++)
    check_gang(team, 1 + round % 6, gang_body, 0);
  return NULL;
}

TEST("gangs of eight threads at once do not wait for each other") {
  for (int i = 0; i < TEAMS; i++) {
    pthread_t threads[THREADS];
    for (int k = 0; k < THREADS; k++)
      CHECK_INT(pthread_create(&threads[k], NULL, gang_caller, team_of(i)), 0);
    for (int k = 0; k < THREADS; k++)
      CHECK_INT(pthread_join(threads[k], NULL), 0);
  }
}

static ac_status count_body(ac_range range, void *ctx) {
  atomic_fetch_add((_Atomic int64_t *)ctx, range.end - range.begin);
  return AC_OK;
}

static ac_status loop_in_gang(ac_range range, void *ctx) {
  gang *gang = ctx;
  _Atomic int64_t count = 0;
  (void)range;
  meet(gang);
  CHECK_INT(ac_for(gang->team, (ac_range){0, 3000}, 1, NULL, count_body,
                   (void *)&count),
            AC_OK);
  CHECK_INT(atomic_load(&count), 3000);
  return AC_OK;
}

TEST("the threads of a gang may run loops") {
  for (int i = 0; i < TEAMS; i++) {
    gang gang = {.width = 5, .team = team_of(i)};
    CHECK_INT(ac_team_each(team_of(i), 5, loop_in_gang, &gang), AC_OK);
  }
}

static ac_status odd_fails(ac_range range, void *ctx) {
  gang *gang = ctx;
  meet(gang);
  atomic_fetch_add(&gang->runs[range.begin], 1);
  return range.begin % 2 == 1 ? 7 : AC_OK;
}

TEST("a gang's status comes out, and the others still run") {
  for (int i = 0; i < TEAMS; i++) {
    gang gang = {.width = 6};
    CHECK_INT(ac_team_each(team_of(i), 6, odd_fails, &gang), 7);
    for (int k = 0; k < 6; k++)
      CHECK_INT(atomic_load(&gang.runs[k]), 1);
  }
  CHECK_INT(ac_team_each(NULL, -1, odd_fails, NULL), AC_E_INVAL);
  CHECK_INT(ac_team_each(NULL, 1025, odd_fails, NULL), AC_E_INVAL);
  CHECK_INT(ac_team_each(NULL, 1, NULL, NULL), AC_E_INVAL);
}

/* ---- Cancellation -------------------------------------------------------- */

typedef struct nest {
  ac_team *outer, *inner;
  atomic_bool inside;
  _Atomic int64_t calls;
} nest;

static ac_status inner_endless(ac_range range, void *ctx) {
  nest *nest = ctx;
  (void)range;
  atomic_store(&nest->inside, true);
  atomic_fetch_add(&nest->calls, 1);
  spend(20000);
  return AC_OK;
}

/* One call begins an endless loop, another fails once that runs. */
static ac_status fail_other(ac_range range, void *ctx) {
  nest *nest = ctx;
  if (range.begin == 0) {
    ac_status status = ac_for(nest->inner, (ac_range){0, INT64_C(1) << 40}, 1,
                              NULL, inner_endless, nest);
    CHECK_INT(status, AC_E_CANCELLED);
    CHECK(ac_cancelled());
    return status;
  }
  while (!atomic_load(&nest->inside))
    ac__thread_yield();
  return 5;
}

TEST("a status cancels loops inside, also those on other teams") {
  for (int i = 0; i < TEAMS; i++)
    for (int k = 0; k < TEAMS; k++) {
      nest nest = {.outer = team_of(i), .inner = team_of(k)};
      CHECK_INT(ac_team_each(nest.outer, 2, fail_other, &nest), 5);
    }
  CHECK(!ac_cancelled());
}

static ac_status wait_cancelled(ac_range range, void *ctx) {
  (void)ctx;
  if (range.begin == 1)
    return 9;
  while (!ac_cancelled())
    ac__thread_yield();
  CHECK_INT(ac_for(NULL, (ac_range){0, 9}, 0, NULL, wait_cancelled, NULL),
            AC_E_CANCELLED);
  return AC_OK;
}

TEST("a long body sees that its region was cancelled") {
  for (int i = 0; i < TEAMS; i++)
    CHECK_INT(ac_team_each(team_of(i), 3, wait_cancelled, NULL), 9);
}

/* ---- The poll function --------------------------------------------------- */

enum { CANCEL_AFTER_NS = 30000000, LATEST_NS = 100000000 };

typedef struct interrupt {
  uint64_t due_ns;    /* then the poll function says no */
  uint64_t waited_ns; /* by the caller, before */
  int calls;
  pthread_t thread;
} interrupt;

static ac_status poll(void *ctx) {
  interrupt *interrupt = ctx;
  interrupt->calls++;
  CHECK(pthread_equal(interrupt->thread, pthread_self()));
  return ac__clock_ns() < interrupt->due_ns ? AC_OK : 42;
}

static ac_status slow_body(ac_range range, void *ctx) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end && !ac_cancelled(); i++)
    spend(50000);
  return AC_OK;
}

/* One call lasts, the others are over at once: the caller waits. */
static ac_status wait_body(ac_range range, void *ctx) {
  pthread_t *caller = ctx;
  (void)range;
  if (pthread_equal(*caller, pthread_self()))
    return AC_OK;
  while (!ac_cancelled())
    ac__thread_yield();
  return AC_OK;
}

/* How long this thread has waited for a processor, in all. */
static uint64_t waited_ns(void) {
  unsigned long long ran = 0;
  unsigned long long waited = 0;
  FILE *file = fopen("/proc/thread-self/schedstat", "r");
  if (file != NULL) {
    if (fscanf(file, "%llu %llu", &ran, &waited) != 2)
      waited = 0;
    (void)fclose(file);
  }
  return waited;
}

/* Of many threads on few cores the caller seldom runs; that is not counted. */
static void check_interrupt(interrupt *interrupt, ac_status status,
                            uint64_t begun) {
  uint64_t now = ac__clock_ns();
  uint64_t latest_ns = LATEST_NS + waited_ns() - interrupt->waited_ns;
  ac_poll_set(NULL, NULL);
  CHECK_INT(status, 42);
  CHECK(interrupt->calls >= 1);
  CHECK(now - begun >= CANCEL_AFTER_NS);
  if (!CHECK(now - begun < CANCEL_AFTER_NS + latest_ns))
    printf("  it took %llu ms\n", (unsigned long long)(now - begun) / 1000000);
}

TEST("the poll function cancels a long loop within 100 ms") {
  for (int i = 0; i < TEAMS; i++) {
    uint64_t begun = ac__clock_ns();
    interrupt interrupt = {.due_ns = begun + CANCEL_AFTER_NS,
                           .waited_ns = waited_ns(),
                           .thread = pthread_self()};
    ac_poll_set(poll, &interrupt);
    ac_status status = ac_for(team_of(i), (ac_range){0, INT64_C(1) << 40}, 1,
                              NULL, slow_body, NULL);
    check_interrupt(&interrupt, status, begun);
  }
}

TEST("the poll function cancels a wait within 100 ms") {
  pthread_t self = pthread_self();
  for (int i = 0; i < TEAMS; i++) {
    uint64_t begun = ac__clock_ns();
    interrupt interrupt = {.due_ns = begun + CANCEL_AFTER_NS,
                           .waited_ns = waited_ns(),
                           .thread = pthread_self()};
    ac_poll_set(poll, &interrupt);
    check_interrupt(&interrupt, ac_team_each(team_of(i), 2, wait_body, &self),
                    begun);
  }
}

/* ---- Counters ------------------------------------------------------------ */

TEST("counters tell what was done") {
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    ac_counters counters;
    _Atomic int64_t count = 0;
    ac_counters_read(team, &counters);
    CHECK_INT(counters.regions, 0);
    CHECK_INT(counters.threads_started, 0);
    for (int round = 0; round < 10; round++)
      CHECK_INT(
          ac_for(team, (ac_range){0, 100}, 0, NULL, count_body, (void *)&count),
          AC_OK);
    check_gang(team, 4, gang_body, 0);
    ac_counters_read(team, &counters);
    CHECK_INT(counters.regions, 10);
    CHECK_INT(counters.gangs, 1);
    CHECK(counters.threads_started >= 3);
    CHECK(counters.threads_started <= (uint64_t)widths[i] + 3);
    CHECK(counters.regions_serial <= counters.regions);
    CHECK_INT(counters.serial_small + counters.serial_slower +
                  counters.serial_asleep + counters.serial_width,
              counters.regions_serial);
    ac_team_destroy(team);
  }
}

/* ---- Guests -------------------------------------------------------------- */

typedef struct guest {
  pthread_barrier_t barrier;
  ac_team *team;
} guest;

static void *visit_twice(void *ctx) {
  guest *guest = ctx;
  for (int round = 0; round < 5; round++) {
    _Atomic int64_t count = 0;
    (void)pthread_barrier_wait(&guest->barrier); /* a team is there */
    CHECK_INT(ac_for(guest->team, (ac_range){0, 1000}, 1, NULL, count_body,
                     (void *)&count),
              AC_OK);
    CHECK_INT(atomic_load(&count), 1000);
    (void)pthread_barrier_wait(&guest->barrier); /* it may end */
  }
  return NULL;
}

TEST("a team may end while threads that visited it live on") {
  pthread_t threads[THREADS];
  guest guest;
  CHECK_INT(pthread_barrier_init(&guest.barrier, NULL, THREADS + 1), 0);
  for (int k = 0; k < THREADS; k++)
    CHECK_INT(pthread_create(&threads[k], NULL, visit_twice, &guest), 0);
  for (int round = 0; round < 5; round++) {
    guest.team = team_new(1 + 3 * round);
    (void)pthread_barrier_wait(&guest.barrier);
    (void)pthread_barrier_wait(&guest.barrier);
    ac_team_destroy(guest.team);
  }
  for (int k = 0; k < THREADS; k++)
    CHECK_INT(pthread_join(threads[k], NULL), 0);
  (void)pthread_barrier_destroy(&guest.barrier);
}

static void *visit_once(void *team) {
  _Atomic int64_t count = 0;
  CHECK_INT(
      ac_for(team, (ac_range){0, 100}, 1, NULL, count_body, (void *)&count),
      AC_OK);
  CHECK_INT(atomic_load(&count), 100);
  return NULL;
}

TEST("threads that come and go leave their places to others") {
  for (int round = 0; round < 300; round++) {
    pthread_t threads[4];
    for (int k = 0; k < 4; k++)
      CHECK_INT(pthread_create(&threads[k], NULL, visit_once, team_of(2)), 0);
    for (int k = 0; k < 4; k++)
      CHECK_INT(pthread_join(threads[k], NULL), 0);
  }
}

static ac_status team_in_body(ac_range range, void *ctx) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++) {
    ac_team *team = team_new(1 + (int)(i % 5));
    _Atomic int64_t count = 0;
    CHECK_INT(
        ac_for(team, (ac_range){0, 500}, 1, NULL, count_body, (void *)&count),
        AC_OK);
    CHECK_INT(atomic_load(&count), 500);
    ac_team_destroy(team);
  }
  return AC_OK;
}

TEST("teams may be made, used and ended inside of others' loops") {
  for (int i = 0; i < TEAMS; i++)
    CHECK_INT(
        ac_for(team_of(i), (ac_range){0, 40}, 1, NULL, team_in_body, NULL),
        AC_OK);
}

TEST("the teams end") {
  for (int i = 0; i < TEAMS; i++)
    ac_team_destroy(team_of(i));
}

CHECK_MAIN
