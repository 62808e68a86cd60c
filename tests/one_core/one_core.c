/* one_core.c: where one core is granted, the team is one thread.
 *
 * A child of this program is given one core, by its affinity mask or by a real
 * cgroup's quota, before it first calls the library. All that the team can do
 * must then work, right answers and all, without a thread being started. Only
 * threads asked for by number come all the same.
 *
 * This process itself never calls the library, so that each child begins anew.
 */
#define _GNU_SOURCE
#include "check.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOT_JOINED = 255, TASKS = 1000, COUNT = 1000000, ROUNDS = 20 };

static int threads_now(void) {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  if (!CHECK(tasks != NULL))
    return 0;
  for (struct dirent *at; (at = readdir(tasks)) != NULL;)
    count += at->d_name[0] != '.';
  (void)closedir(tasks);
  return count;
}

static uint64_t threads_started(void) {
  ac_counters counters;
  ac_counters_read(NULL, &counters);
  return counters.threads_started;
}

/* ---- What a team can do -------------------------------------------------- */

/* Written by bodies without atomics: on one thread no two run at a time. */
static uint8_t calls[COUNT];
static int64_t total;

static ac_status count_calls(ac_range range, void *ctx) {
  (void)ctx;
  CHECK_INT(ac_worker_index(), 0);
  for (int64_t i = range.begin; i < range.end; i++)
    calls[i]++;
  return AC_OK;
}

static ac_status add_inner(ac_range range, void *ctx) {
  (void)ctx;
  total += range.end - range.begin;
  return AC_OK;
}

static ac_status loop_within(ac_range range, void *ctx) {
  ac_status status = AC_OK;
  for (int64_t i = range.begin; status == AC_OK && i < range.end; i++)
    status = ac_for(NULL, (ac_range){0, 100}, 1, NULL, add_inner, ctx);
  return status;
}

static void check_loops(void) {
  total = 0;
  memset(calls, 0, sizeof calls);
  for (int round = 0; round < ROUNDS; round++)
    CHECK(ac_for(NULL, (ac_range){0, COUNT}, 0, NULL, count_calls, NULL) ==
          AC_OK);
  CHECK(ac_for(NULL, (ac_range){0, 100}, 1, NULL, loop_within, NULL) == AC_OK);
  CHECK_INT(total, 100 * 100);
  for (int i = 0; i < COUNT; i++)
    if (calls[i] != ROUNDS) {
      CHECK_INT(calls[i], ROUNDS);
      return;
    }
}

static ac_status fold_sum(ac_range range, void *ctx, void *value) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    *(int64_t *)value += i;
  return AC_OK;
}

static void combine_sums(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(int64_t *)left += *(const int64_t *)right;
}

static void check_reductions(void) {
  static double ones[COUNT];
  static const int64_t zero = 0, shape[] = {COUNT};
  const ac_monoid sum = {sizeof zero, &zero, combine_sums};
  const ac_array array = {
      .data = ones, .dtype = AC_FLOAT64, .ndim = 1, .shape = shape};
  int64_t value = 0;
  ac_scalar scalar = {0};
  for (int i = 0; i < COUNT; i++)
    ones[i] = 1;
  CHECK(ac_reduce(NULL, (ac_range){0, COUNT}, 0, NULL, &sum, fold_sum, NULL,
                  &value) == AC_OK);
  CHECK_INT(value, INT64_C(499999500000));
  CHECK(ac_sum(NULL, &array, NULL, &scalar) == AC_OK);
  CHECK(scalar.f64 == COUNT);
}

static ac_status one_task(void *ctx) {
  ++*(int *)ctx;
  return AC_OK;
}

static void check_groups(void) {
  int done = 0;
  ac_group *group = NULL;
  const ac_task pair[] = {{one_task, &done}, {one_task, &done}};
  if (!CHECK(ac_group_create(NULL, NULL, &group) == AC_OK))
    return;
  for (int i = 0; i < TASKS; i++)
    CHECK(ac_group_spawn(group, pair[0]) == AC_OK);
  CHECK(ac_group_wait(group) == AC_OK);
  CHECK_INT(done, TASKS);
  ac_group_destroy(group);
  CHECK(ac_invoke(NULL, 2, pair) == AC_OK);
  CHECK(ac_join2(NULL, pair[0], pair[1]) == AC_OK);
  CHECK_INT(done, TASKS + 4);
}

typedef struct fib_call {
  int n, value;
} fib_call;

static void fib(ac_worker *worker, void *arg) {
  fib_call *call = arg;
  if (call->n < 2) {
    call->value = call->n;
    return;
  }
  fib_call a = {.n = call->n - 1}, b = {.n = call->n - 2};
  ac_strand strand;
  ac_spawn(worker, &strand, fib, &a);
  fib(worker, &b);
  ac_sync(worker, &strand, fib, &a);
  call->value = a.value + b.value;
}

static void check_strands(void) {
  fib_call call = {.n = 20};
  CHECK(ac_run(NULL, fib, &call) == AC_OK);
  CHECK_INT(call.value, 6765);
}

/* ---- Threads asked for by number ----------------------------------------- */

/* Returns once all `width` bodies are here. */
static ac_status meet(ac_range range, void *arrived) {
  (void)range;
  atomic_int *count = arrived;
  /* acq_rel, acquire: no data passes; who leaves has seen all arrive. */
  atomic_fetch_add_explicit(count, 1, memory_order_acq_rel);
  while (atomic_load_explicit(count, memory_order_acquire) < 2)
    sched_yield();
  return AC_OK;
}

static void check_by_number(void) {
  atomic_int arrived = 0;
  const ac_team_options two = {.width = 2};
  ac_team *team = NULL;
  CHECK(ac_team_each(NULL, 2, meet, &arrived) == AC_OK);
  CHECK_INT(arrived, 2);
  CHECK_INT(threads_started(), 1);
  if (CHECK(ac_team_create(&two, &team) == AC_OK)) {
    atomic_init(&arrived, 0);
    CHECK_INT(ac_team_width(team), 2);
    CHECK(ac_team_each(team, 0, meet, &arrived) == AC_OK);
    CHECK_INT(arrived, 2);
  }
  ac_team_destroy(team);
}

/* ---- In the child -------------------------------------------------------- */

static void check_all_alone(void) {
  check_loops();
  check_reductions();
  check_groups();
  check_strands();
}

static void check_one_core(ac_core_limit limit) {
  ac_topology topology;
  int before = threads_now();
  if (CHECK(ac_topology_read(&topology) == AC_OK)) {
    CHECK_INT(topology.granted, 1);
    CHECK_INT(topology.cores, 1);
    CHECK_INT(topology.limit, limit);
  }
  CHECK_INT(ac_budget(), 1);
  CHECK_INT(ac_team_width(NULL), 1);
  check_all_alone();
  CHECK_INT(threads_started(), 0);
  CHECK_INT(threads_now(), before);
  check_by_number();
  CHECK_INT(ac_team_width(NULL), 1);
  check_all_alone(); /* nor does that thread, now there, help */
  CHECK_INT(threads_started(), 1);
}

/* Run check_one_core() in a child that get_one() has given one core.
 * @return false if it could not be given one. */
static bool run_child(bool (*get_one)(const char *how), const char *how,
                      ac_core_limit limit) {
  int status = -1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    (void)unsetenv("ALLCORES_NUM_THREADS");
    (void)unsetenv("ALLCORES_LEDGER");
    if (!get_one(how))
      _exit(NOT_JOINED);
    check_one_core(limit);
    fflush(stdout);
    _exit(check_child_status());
  }
  if (!CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)))
    return true;
  if (WEXITSTATUS(status) == NOT_JOINED)
    return false;
  CHECK_INT(WEXITSTATUS(status), 0);
  return true;
}

/* ---- Affinity ------------------------------------------------------------ */

static bool keep_to_one_processor(const char *how) {
  cpu_set_t one;
  int cpu = sched_getcpu();
  (void)how;
  if (cpu < 0 || cpu >= CPU_SETSIZE)
    return false;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  return sched_setaffinity(0, sizeof one, &one) == 0;
}

TEST("with an affinity mask of one processor the team is one thread") {
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
    SKIP("this machine has one processor, which no mask can narrow");
  if (!run_child(keep_to_one_processor, NULL, AC_LIMIT_AFFINITY))
    SKIP("the affinity mask cannot be set");
}

/* ---- Quota --------------------------------------------------------------- */

static bool write_text(const char *folder, const char *name, const char *text) {
  char path[PATH_MAX + 64];
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  bool is_written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  int error = errno;
  (void)close(fd);
  errno = error;
  return is_written;
}

static bool join_cgroup(const char *folder) {
  return write_text(folder, "cgroup.procs", "0"); /* 0 = who writes it */
}

static bool is_cgroup_v1(const char *folder) {
  struct statfs fs;
  return statfs(folder, &fs) == 0 && fs.f_type == CGROUP_SUPER_MAGIC;
}

/* Make a cgroup below `parent` with a quota of one processor and try it.
 * @return why that cannot be done; NULL if it was. */
static const char *try_quota(const char *parent) {
  static char why[PATH_MAX + 128];
  char folder[PATH_MAX];
  bool is_tried = false;
  (void)snprintf(folder, sizeof folder, "%s/allcores-one-core-%d", parent,
                 (int)getpid());
  if (mkdir(folder, 0755) != 0) {
    (void)snprintf(why, sizeof why, "mkdir %s: %s", folder, strerror(errno));
    return why;
  }
  if (!write_text(folder, "cpu.cfs_period_us", "100000") ||
      !write_text(folder, "cpu.cfs_quota_us", "100000"))
    (void)snprintf(why, sizeof why, "%s: no quota can be set: %s", folder,
                   strerror(errno));
  else if (!(is_tried = run_child(join_cgroup, folder, AC_LIMIT_QUOTA)))
    (void)snprintf(why, sizeof why, "%s cannot be joined", folder);
  CHECK(rmdir(folder) == 0);
  return is_tried ? NULL : why;
}

TEST("with a real quota of one processor the team is one thread") {
  static const char *const parents[] = {"/sys/fs/cgroup/cpu",
                                        "/sys/fs/cgroup/cpu,cpuacct"};
  const char *why = "no cgroup hierarchy of version 1 is where it usually is";
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 ||
      CPU_COUNT(&allowed) < 2)
    SKIP("one processor is allowed anyway");
  for (int i = 0; i < 2; i++)
    if (is_cgroup_v1(parents[i])) {
      why = try_quota(parents[i]);
      break;
    }
  if (why != NULL)
    SKIP(why);
}

CHECK_MAIN
