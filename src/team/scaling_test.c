/* scaling_test.c: the formulas of docs/scaling.md, held against the counters.
 *
 * Teams of 2, 8 and 64 threads, whatever the machine has. What depends on who
 * came first is asserted as an upper bound; what does not, exactly.
 */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>

static const int widths[] = {2, 8, 64};
enum { TEAMS = sizeof widths / sizeof *widths };

static ac_team *team_new(int width) {
  ac_team_options options = {.width = width};
  ac_team *team = NULL;
  CHECK_INT(ac_team_create(&options, &team), AC_OK);
  return team;
}

static ac_counters counters_of(ac_team *team) {
  ac_counters counters;
  ac_counters_read(team, &counters);
  return counters;
}

/* Until all helpers sleep: nothing has been counted for 30 ms. */
static ac_counters settled(ac_team *team) {
  ac_counters last = counters_of(team);
  uint64_t since = ac__clock_ns();
  while (ac__clock_ns() - since < 30000000) {
    ac_counters now = counters_of(team);
    if (now.futex_calls != last.futex_calls || now.parks != last.parks ||
        now.shared_writes != last.shared_writes) {
      last = now;
      since = ac__clock_ns();
    }
    ac__thread_yield();
  }
  return last;
}

static ac_counters minus(ac_counters a, ac_counters b) {
#define SUBTRACT(name, text) a.name -= b.name;
  AC_COUNTER_TABLE(SUBTRACT)
#undef SUBTRACT
  return a;
}

static void print(const ac_counters *counters) {
#define PRINT(name, text)                                                      \
  if (counters->name != 0)                                                     \
    printf("  %s %llu\n", #name, (unsigned long long)counters->name);
  AC_COUNTER_TABLE(PRINT)
#undef PRINT
}

static void check_at_most(const ac_counters *counters, uint64_t got,
                          uint64_t most, const char *what, int width) {
  if (CHECK(got <= most))
    return;
  printf("  %d threads: %llu %s, at most %llu\n", width,
         (unsigned long long)got, what, (unsigned long long)most);
  print(counters);
}

/* ---- The laws that hold for any mixture ---------------------------------- */

static uint64_t halvings(int width) {
  uint64_t count = 1;
  while (1 << count < width)
    count++;
  return count;
}

/* See docs/scaling.md, "In sum". */
static void check_laws(const ac_counters *c, int width, uint64_t group_waits) {
  uint64_t w = (uint64_t)width;
  uint64_t blocks =
      c->waits + c->steals + c->spawns + c->regions + c->gangs + group_waits;
  uint64_t writes = 14 * c->mails + 11 * c->entries + 2 * c->splits +
                    5 * c->steals + 2 * c->takebacks + 7 * c->parks +
                    6 * c->wakes + 2 * c->denied + 16 * c->spawns +
                    (w + 3) * blocks + 4 * group_waits +
                    2 * halvings(width) * (c->regions + c->mails);
  uint64_t calls =
      3 * c->parks + 2 * c->wakes + c->mails + 3 * c->waits + 2 * w;
  check_at_most(c, c->shared_writes, writes, "shared writes", width);
  check_at_most(c, c->futex_calls, calls, "futex calls", width);
}

/* ---- Bodies -------------------------------------------------------------- */

/* Writes nothing that another thread might: a slow build shares it. */
static ac_status tiny_body(ac_range range, void *ctx) {
  volatile int64_t end = range.end;
  (void)end, (void)ctx;
  return AC_OK;
}

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

static ac_status long_body(ac_range range, void *ctx) {
  (void)ctx;
  spend((uint64_t)(range.end - range.begin) * 5000);
  return AC_OK;
}

static ac_status short_body(ac_range range, void *ctx) {
  (void)ctx;
  spend((uint64_t)(range.end - range.begin) * 50);
  return AC_OK;
}

static void strands(ac_worker *worker, void *arg) {
  int levels = *(int *)arg - 1;
  if (levels < 0)
    return;
  ac_strand strand;
  ac_spawn(worker, &strand, strands, &levels);
  strands(worker, &levels);
  ac_sync(worker, &strand, strands, &levels);
}

static ac_status nothing(void *ctx) {
  (void)ctx;
  return AC_OK;
}

static ac_status gang_body(ac_range range, void *ctx) {
  (void)range, (void)ctx;
  return AC_OK;
}

static void add(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(int64_t *)left += *(const int64_t *)right;
}

static ac_status fold(ac_range range, void *ctx, void *value) {
  *(int64_t *)value += range.end - range.begin;
  return short_body(range, ctx);
}

static void run_group(ac_team *team, int tasks) {
  ac_group *group;
  CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
  for (int i = 0; i < tasks; i++)
    CHECK_INT(ac_group_spawn(group, (ac_task){nothing, NULL}), AC_OK);
  CHECK_INT(ac_group_wait(group), AC_OK);
  ac_group_destroy(group);
}

/* ---- Exact --------------------------------------------------------------- */

TEST("a team of one writes nothing shared and makes no call") {
  ac_team *team = team_new(1);
  int levels = 12;
  int64_t sum;
  const int64_t zero = 0;
  const ac_monoid monoid = {sizeof zero, &zero, add};
  for (int i = 0; i < 100; i++) {
    CHECK_INT(ac_for(team, (ac_range){0, 1000}, 1, NULL, short_body, NULL),
              AC_OK);
    CHECK_INT(ac_reduce(team, (ac_range){0, 1000}, 0, NULL, &monoid, fold, NULL,
                        &sum),
              AC_OK);
    CHECK_INT(ac_run(team, strands, &levels), AC_OK);
    CHECK_INT(ac_team_each(team, 1, gang_body, NULL), AC_OK);
  }
  ac_counters counters = counters_of(team);
  CHECK_INT(counters.shared_writes, 0);
  CHECK_INT(counters.futex_calls, 0);
  CHECK_INT(counters.threads_started, 0);
  ac_team_destroy(team);
}

TEST("a group's task costs seven writes, the group nine more") {
  enum { TASKS = 100 };
  ac_team *team = team_new(1);
  run_group(team, TASKS);
  ac_counters before = counters_of(team);
  run_group(team, TASKS);
  ac_counters counters = minus(counters_of(team), before);
  CHECK_INT(counters.spawns, TASKS);
  CHECK_INT(counters.shared_writes, 7 * TASKS + 9);
  CHECK_INT(counters.futex_calls, 0);
  ac_team_destroy(team);
}

TEST("a loop too small to share writes nothing shared, however wide the team") {
  enum { CALLS = 10000 };
  static const ac_site site = AC_SITE("tiny");
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    for (int k = 0; k < 300; k++)
      CHECK_INT(ac_for(team, (ac_range){0, 10}, 0, &site, tiny_body, NULL),
                AC_OK);
    ac_counters before = settled(team);
    for (int k = 0; k < CALLS; k++)
      CHECK_INT(ac_for(team, (ac_range){0, 10}, 0, &site, tiny_body, NULL),
                AC_OK);
    ac_counters counters = minus(counters_of(team), before);
    CHECK_INT(counters.regions, CALLS);
    /* A call that was preempted counts as long; the next ones are then shared.
     */
    uint64_t others = CALLS - counters.serial_small;
    if (others == 0) {
      CHECK_INT(counters.shared_writes, 0);
      CHECK_INT(counters.futex_calls, 0);
      CHECK_INT(counters.mails, 0);
    } else {
      check_laws(&counters, widths[i], 0);
    }
    ac_team_destroy(team);
  }
}

TEST("a gang hands out one piece a thread, by mail or by lane") {
  enum { CALLS = 20 };
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    for (int k = 0; k < CALLS; k++) {
      ac_counters before = counters_of(team);
      CHECK_INT(ac_team_each(team, widths[i], gang_body, NULL), AC_OK);
      ac_counters counters = minus(counters_of(team), before);
      CHECK_INT(counters.gangs, 1);
      CHECK(counters.mails >= (uint64_t)widths[i] - 1);
    }
    ac_counters counters = settled(team);
    CHECK_INT(counters.gangs, CALLS);
    uint64_t members = CALLS * ((uint64_t)widths[i] - 1);
    check_at_most(&counters, counters.mails, 2 * members, "mails", widths[i]);
    check_at_most(&counters, counters.shared_writes,
                  16 * members + 3 * (uint64_t)CALLS, "shared writes",
                  widths[i]);
    check_at_most(&counters, counters.futex_calls,
                  5 * members + 3 * (uint64_t)CALLS, "futex calls", widths[i]);
    check_laws(&counters, widths[i], 0);
    ac_team_destroy(team);
  }
}

/* ---- Bounds -------------------------------------------------------------- */

TEST("a loop hands out at most one piece a thread, whatever its length") {
  enum { CALLS = 10 };
  for (int i = 0; i < TEAMS; i++)
    for (int64_t length = 100; length <= 3000; length += 2900) {
      ac_team *team = team_new(widths[i]);
      for (int k = 0; k < CALLS; k++)
        CHECK_INT(ac_for(team, (ac_range){0, length}, 1, NULL, long_body, NULL),
                  AC_OK);
      ac_counters counters = settled(team);
      check_at_most(&counters, counters.mails,
                    CALLS * ((uint64_t)widths[i] - 1), "mails", widths[i]);
      check_laws(&counters, widths[i], 0);
      ac_team_destroy(team);
    }
}

TEST("a short loop is handed to eight helpers at most") {
  enum { CALLS = 500 };
  static const ac_site site = AC_SITE("short");
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    for (int k = 0; k < CALLS; k++)
      CHECK_INT(ac_for(team, (ac_range){0, 200}, 1, &site, short_body, NULL),
                AC_OK);
    ac_counters counters = settled(team);
    uint64_t most = widths[i] - 1 < 8 ? (uint64_t)widths[i] - 1 : 8;
    check_at_most(&counters, counters.mails, CALLS * most + (uint64_t)widths[i],
                  "mails", widths[i]);
    check_laws(&counters, widths[i], 0);
    ac_team_destroy(team);
  }
}

TEST("strands cost what is stolen, not what is spawned") {
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    for (int k = 0; k < 5; k++) {
      int levels = 16;
      CHECK_INT(ac_run(team, strands, &levels), AC_OK);
    }
    ac_counters counters = settled(team);
    check_laws(&counters, widths[i], 0);
    ac_team_destroy(team);
  }
}

TEST("groups cost what the tasks do, and a wake for each that sleeps") {
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    for (int k = 0; k < 5; k++)
      run_group(team, 200);
    ac_counters counters = settled(team);
    CHECK_INT(counters.spawns, 1000);
    check_laws(&counters, widths[i], 10);
    ac_team_destroy(team);
  }
}

static ac_status nested_body(ac_range range, void *ctx) {
  ac_status status = AC_OK;
  for (int64_t i = range.begin; i < range.end && status == AC_OK; i++)
    status = ac_for(ctx, (ac_range){0, 100}, 1, NULL, long_body, NULL);
  return status;
}

TEST("loops inside loops keep to the sum of their parts") {
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    CHECK_INT(ac_for(team, (ac_range){0, 100}, 1, NULL, nested_body, team),
              AC_OK);
    ac_counters counters = settled(team);
    check_laws(&counters, widths[i], 0);
    ac_team_destroy(team);
  }
}

TEST("an idle team counts nothing: nobody looks for work") {
  for (int i = 0; i < TEAMS; i++) {
    ac_team *team = team_new(widths[i]);
    CHECK_INT(ac_team_each(team, widths[i], gang_body, NULL), AC_OK);
    ac_counters before = settled(team);
    spend(50000000);
    ac_counters counters = minus(counters_of(team), before);
    CHECK_INT(counters.shared_writes, 0);
    CHECK_INT(counters.futex_calls, 0);
    ac_team_destroy(team);
  }
}

CHECK_MAIN
