/* idle_test.c: an idle team uses no processor time; a busy one wastes none.
 *
 * Both are measured by what the kernel says of each thread: the time that it
 * ran and the time that it waited for a processor. A measurement during which a
 * thread waited, because other programs had the cores, says nothing and is
 * taken again; if there is no other, the test is skipped.
 */
#include "budget/budget.h"
#include "check.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  TASKS_MAX = 256,
  TRIES = 15,
  GOOD = 3,             /* undisturbed measurements that are enough */
  SETTLE_NS = 10000000, /* after the last region */
  WINDOW_NS = 150000000,
  DISTURBED_NS = 300000 /* waited meanwhile */
};

/* ---- What the threads of the process did --------------------------------- */

typedef struct usage {
  int count;
  struct {
    int id;
    unsigned long long ran_ns, waited_ns;
  } task[TASKS_MAX];
} usage;

/* This thread, or one of a team: a sanitizer has threads of its own. */
static bool is_ours(const char *task) {
  char path[300];
  char name[32] = "";
  if (atoi(task) == ac__thread_id())
    return true;
  (void)snprintf(path, sizeof path, "/proc/self/task/%s/comm", task);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return false;
  bool is_read = fgets(name, sizeof name, file) != NULL;
  (void)fclose(file);
  return is_read && strncmp(name, "allcores", 8) == 0;
}

static void usage_read(usage *usage) {
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *entry;
  usage->count = 0;
  if (tasks == NULL)
    return;
  while ((entry = readdir(tasks)) != NULL && usage->count < TASKS_MAX) {
    char path[300];
    int i = usage->count;
    usage->task[i].id = atoi(entry->d_name);
    if (usage->task[i].id == 0 || !is_ours(entry->d_name))
      continue;
    (void)snprintf(path, sizeof path, "/proc/self/task/%s/schedstat",
                   entry->d_name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
      continue;
    if (fscanf(file, "%llu %llu", &usage->task[i].ran_ns,
               &usage->task[i].waited_ns) == 2)
      usage->count++;
    (void)fclose(file);
  }
  (void)closedir(tasks);
}

/* Time that threads ran and waited between two readings, but thread `except`.
 */
static void usage_between(const usage *a, const usage *b, int except,
                          uint64_t *ret_ran_ns, uint64_t *ret_waited_ns) {
  *ret_ran_ns = *ret_waited_ns = 0;
  for (int i = 0; i < b->count; i++) {
    if (b->task[i].id == except)
      continue;
    *ret_ran_ns += b->task[i].ran_ns;
    *ret_waited_ns += b->task[i].waited_ns;
    for (int k = 0; k < a->count; k++)
      if (a->task[k].id == b->task[i].id) {
        *ret_ran_ns -= a->task[k].ran_ns;
        *ret_waited_ns -= a->task[k].waited_ns;
      }
  }
}

static void rest(int64_t ns) {
  struct timespec time = {.tv_nsec = ns};
  (void)nanosleep(&time, NULL);
}

/* ---- Work of all kinds --------------------------------------------------- */

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

static ac_status short_body(ac_range range, void *ctx) {
  (void)ctx;
  spend((uint64_t)(range.end - range.begin) * 2000);
  return AC_OK;
}

static ac_status nested_body(ac_range range, void *ctx) {
  for (int64_t i = range.begin; i < range.end; i++)
    CHECK_INT(ac_for(ctx, (ac_range){0, 50}, 1, NULL, short_body, NULL), AC_OK);
  return AC_OK;
}

static ac_status short_task(void *ctx) {
  return short_body((ac_range){0, 1}, ctx);
}

static void strands(ac_worker *worker, void *arg) {
  int levels = *(int *)arg - 1;
  if (levels < 0) {
    spend(2000);
    return;
  }
  ac_strand strand;
  ac_spawn(worker, &strand, strands, &levels);
  strands(worker, &levels);
  ac_sync(worker, &strand, strands, &levels);
}

static void work(ac_team *team, int kind) {
  ac_group *group;
  ac_limit_token token;
  int levels = 9;
  switch (kind) {
  case 0:
    CHECK_INT(ac_for(team, (ac_range){0, 3000}, 1, NULL, short_body, NULL),
              AC_OK);
    break;
  case 1:
    CHECK_INT(ac_for(team, (ac_range){0, 60}, 1, NULL, nested_body, team),
              AC_OK);
    break;
  case 2:
    CHECK_INT(ac_run(team, strands, &levels), AC_OK);
    break;
  case 3:
    CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
    for (int i = 0; i < 500; i++)
      CHECK_INT(ac_group_spawn(group, (ac_task){short_task, NULL}), AC_OK);
    CHECK_INT(ac_group_wait(group), AC_OK);
    ac_group_destroy(group);
    break;
  case 4:
    CHECK_INT(ac_team_each(team, 4, short_body, NULL), AC_OK);
    break;
  default: /* the budget changes around a loop */
    CHECK_INT(ac_limit_hold(1, &token), AC_OK);
    CHECK_INT(ac_for(team, (ac_range){0, 1000}, 1, NULL, short_body, NULL),
              AC_OK);
    ac_limit_release(&token);
    CHECK_INT(ac_for(team, (ac_range){0, 1000}, 1, NULL, nested_body, team),
              AC_OK);
  }
}
enum { KINDS = 6 };

/* Processor time of all other threads from 10 ms after the work on; −1 if the
 * measurement was disturbed. */
static int64_t idle_ns(ac_team *team, int kind) {
  static usage before, settled, after;
  uint64_t ran_ns;
  uint64_t waited_ns;
  work(team, kind);
  usage_read(&before);
  rest(SETTLE_NS);
  usage_read(&settled);
  rest(WINDOW_NS);
  usage_read(&after);
  int self = ac__thread_id();
  usage_between(&before, &after, self, &ran_ns, &waited_ns);
  if (waited_ns > DISTURBED_NS)
    return -1;
  usage_between(&settled, &after, self, &ran_ns, &waited_ns);
  return (int64_t)ran_ns;
}

static bool check_idle(ac_team *team) {
  for (int kind = 0; kind < KINDS; kind++) {
    int good = 0;
    for (int try = 0; try < TRIES && good < GOOD; try++) {
      int64_t ns = idle_ns(team, kind);
      good += ns >= 0;
      if (ns > 0 && !CHECK_INT(ns, 0))
        printf("  after work of kind %d\n", kind);
    }
    if (good == 0)
      return false;
  }
  return true;
}

TEST("the process's idle team uses no processor time") {
  CHECK_INT(ac_budget_set(2), AC_OK);
  if (!check_idle(NULL))
    SKIP("other programs used the cores");
}

TEST("an idle team of eight threads uses no processor time") {
  ac_team *team;
  CHECK_INT(ac_team_create(&(ac_team_options){.width = 8}, &team), AC_OK);
  bool was_measured = check_idle(team);
  ac_team_destroy(team);
  if (!was_measured)
    SKIP("other programs used the cores");
}

/* ---- Nothing wasted ------------------------------------------------------ */

enum { HEAVY_NS = 100000000, HEAVIES = 8, BALANCE_TRIES = 6 };

static void busy(void) {
  uint64_t until = ac__clock_thread_ns() + HEAVY_NS;
  while (ac__clock_thread_ns() < until)
    ac__cpu_relax();
}

static void add(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(int64_t *)left += *(const int64_t *)right;
}

static ac_status heavy_fold(ac_range range, void *ctx, void *value) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++) {
    busy();
    *(int64_t *)value += i;
  }
  return AC_OK;
}

static uint64_t time_reduce(const ac_site *site) {
  const int64_t zero = 0;
  const ac_monoid monoid = {sizeof zero, &zero, add};
  int64_t sum = -1;
  uint64_t begun = ac__clock_ns();
  CHECK_INT(ac_reduce(NULL, (ac_range){0, HEAVIES}, 0, site, &monoid,
                      heavy_fold, NULL, &sum),
            AC_OK);
  CHECK_INT(sum, HEAVIES * (HEAVIES - 1) / 2);
  return ac__clock_ns() - begun;
}

static uint64_t time_half(void) {
  uint64_t begun = ac__clock_ns();
  for (int i = 0; i < HEAVIES / 2; i++)
    busy();
  return ac__clock_ns() - begun;
}

TEST("eight heavy iterations on two threads take as long as four") {
  static const ac_site sites[BALANCE_TRIES] = {AC_SITE("1"), AC_SITE("2"),
                                               AC_SITE("3"), AC_SITE("4"),
                                               AC_SITE("5"), AC_SITE("6")};
  static usage before, after;
  if (ac__budget_granted() < 2)
    SKIP("the machine grants one core");
  for (int try = 0; try < BALANCE_TRIES; try++) {
    uint64_t ran_ns;
    uint64_t waited_ns;
    usage_read(&before);
    uint64_t both_ns = time_reduce(&sites[try]);
    uint64_t half_ns = time_half();
    usage_read(&after);
    usage_between(&before, &after, 0, &ran_ns, &waited_ns);
    if (waited_ns > half_ns / 100)
      continue;
    if (!CHECK(both_ns * 100 <= half_ns * 105))
      printf("  %llu against %llu us; waited %llu us\n",
             (unsigned long long)both_ns / 1000,
             (unsigned long long)half_ns / 1000,
             (unsigned long long)waited_ns / 1000);
    return;
  }
  SKIP("other programs used the cores");
}

CHECK_MAIN
