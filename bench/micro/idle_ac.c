/* idle_ac.c: T8, what an idle team costs.
 *
 * Each case uses the team for some milliseconds, waits a ns, and then adds up
 * the processor time of all threads but this one over b ns, from the kernel's
 * own account in /proc/self/task/<thread>/schedstat. seconds = that time,
 * extra = the number of those threads, answer = 1 if there was at least one.
 */
#include "player.h"
#include <allcores/allcores.h>
#include <dirent.h>
#include <unistd.h>

static uint64_t ns_of_thread(long tid) {
  char path[64];
  unsigned long long ns = 0;
  (void)snprintf(path, sizeof path, "/proc/self/task/%ld/schedstat", tid);
  FILE *file = fopen(path, "r");
  if (!file)
    return 0;
  if (fscanf(file, "%llu", &ns) != 1)
    ns = 0;
  (void)fclose(file);
  return ns;
}

static uint64_t ns_of_workers(long *ret_count) {
  DIR *threads = opendir("/proc/self/task");
  uint64_t ns = 0;
  long count = 0;
  for (struct dirent *e; threads && (e = readdir(threads));) {
    const long tid = strtol(e->d_name, NULL, 10);
    if (tid == 0 || tid == (long)getpid())
      continue;
    ns += ns_of_thread(tid);
    count++;
  }
  if (threads)
    (void)closedir(threads);
  *ret_count = count;
  return ns;
}

static void sleep_ns(long ns) {
  const struct timespec time = {ns / 1000000000, ns % 1000000000};
  clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

static void watch(turn *t) {
  long count;
  sleep_ns(t->a);
  const uint64_t before = ns_of_workers(&count);
  sleep_ns(t->b);
  t->seconds = 1e-9 * (double)(ns_of_workers(&count) - before);
  t->extra = (double)count;
  t->answer = count > 0;
}

/* ---- Uses of the team -------------------------------------------------- */

static volatile uint64_t sink;

static void spin(int64_t steps) {
  uint64_t seed = 1;
  for (int64_t i = 0; i < steps; i++)
    seed = (seed ^ (seed >> 29)) * UINT64_C(6364136223846793005);
  sink = seed;
}

static ac_status body(ac_range range, void *ctx) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    spin(10000);
  return AC_OK;
}

static ac_status task(void *ctx) {
  (void)ctx;
  spin(100000);
  return AC_OK;
}

static void strand_body(ac_worker *worker, void *arg) {
  const long depth = *(const long *)arg;
  long next = depth - 1;
  ac_strand strand;
  if (depth == 0) {
    spin(10000);
    return;
  }
  ac_spawn(worker, &strand, strand_body, &next);
  strand_body(worker, &next);
  ac_sync(worker, &strand, strand_body, &next);
}

static void after_for(turn *t) {
  if (ac_for(NULL, (ac_range){0, 2000}, 0, NULL, body, NULL) != AC_OK)
    t->error = "the loop failed";
  watch(t);
}

static void after_each(turn *t) {
  for (int i = 0; i < 1000; i++)
    if (ac_team_each(NULL, 2, body, NULL) != AC_OK)
      t->error = "a region failed";
  watch(t);
}

static void after_spawn(turn *t) {
  long depth = 10;
  if (ac_run(NULL, strand_body, &depth) != AC_OK)
    t->error = "the run failed";
  watch(t);
}

static void after_group(turn *t) {
  ac_group *group;
  if (ac_group_create(NULL, NULL, &group) != AC_OK) {
    t->error = "no group";
    return;
  }
  for (int i = 0; i < 200; i++)
    if (ac_group_spawn(group, (ac_task){task, NULL}) != AC_OK)
      t->error = "a task was refused";
  if (ac_group_wait(group) != AC_OK)
    t->error = "the group failed";
  watch(t);
  ac_group_destroy(group);
}

int main(void) {
  static const player_case cases[] = {{"for", after_for},
                                      {"each", after_each},
                                      {"spawn", after_spawn},
                                      {"group", after_group}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
