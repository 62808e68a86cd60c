/* Topology: the recorded trees, and this machine with a real quota on it.
 *
 * Usage: topology_test [folder of the trees, else tests/topology]
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/linux.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Recorded trees ------------------------------------------------------ */

typedef struct field {
  const char *name;
  size_t offset;
  enum { INT, INT64, DOUBLE, TEXT } type;
} field;

#define FIELD(name, type)                                                      \
  { #name, offsetof(ac_topology, name), type }
static const field fields[] = {
    FIELD(online, INT),     FIELD(affinity, INT),   FIELD(physical, INT),
    FIELD(nodes, INT),      FIELD(smt, INT),        FIELD(packages, INT),
    FIELD(quota, DOUBLE),   FIELD(granted, INT),    FIELD(l1d_bytes, INT64),
    FIELD(l2_bytes, INT64), FIELD(l3_bytes, INT64), FIELD(quota_path, TEXT),
};

/* Whether the field is as `text` says. */
static bool is_as_expected(const ac_topology *topology, const field *is,
                           const char *text) {
  const char *at = (const char *)topology + is->offset;
  int number;
  int64_t wide;
  double real;
  switch (is->type) {
  case INT:
    memcpy(&number, at, sizeof number);
    return number == strtol(text, NULL, 10);
  case INT64:
    memcpy(&wide, at, sizeof wide);
    return wide == strtoll(text, NULL, 10);
  case DOUBLE:
    memcpy(&real, at, sizeof real);
    return real == strtod(text, NULL);
  default:
    return strcmp(at, text) == 0;
  }
}

static void check_line(const char *tree, const ac_topology *topology,
                       char *line) {
  char *blank = strchr(line, ' ');
  const char *value = blank != NULL ? blank + 1 : "";
  if (blank != NULL)
    *blank = '\0';
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
    if (strcmp(fields[i].name, line) == 0) {
      if (!CHECK(is_as_expected(topology, &fields[i], value)))
        printf("  %s: %s should be '%s'\n", tree, line, value);
      return;
    }
  CHECK(!"a line of `expect` names a field");
}

static void check_tree(const char *tree) {
  char path[PATH_MAX + 16];
  ac_topology topology;
  ac__lines lines;
  if (!CHECK(ac__topology_read_at(tree, &topology) == AC_OK))
    return;
  snprintf(path, sizeof path, "%s/expect", tree);
  ac__lines_open(&lines, path);
  CHECK(lines.fd >= 0);
  for (char *line; (line = ac__lines_next(&lines)) != NULL;)
    check_line(tree, &topology, line);
  ac__lines_close(&lines);
}

TEST("every recorded tree is read as it says") {
  enum { TREES_MIN = 30 };
  const char *folder = check_argc > 1 ? check_argv[1] : "tests/topology";
  DIR *trees = opendir(folder);
  int count = 0;
  if (!CHECK(trees != NULL))
    return;
  for (struct dirent *entry; (entry = readdir(trees)) != NULL;) {
    char tree[PATH_MAX];
    if (entry->d_name[0] == '.' || strchr(entry->d_name, '.') != NULL)
      continue;
    snprintf(tree, sizeof tree, "%s/%s", folder, entry->d_name);
    check_tree(tree);
    count++;
  }
  closedir(trees);
  CHECK(count >= TREES_MIN);
}

/* ---- Lines --------------------------------------------------------------- */

TEST("lines longer than the buffer are left out, the others are read") {
  enum { LONG = 100000 };
  char name[] = "/tmp/allcores-lines-XXXXXX";
  static char text[LONG + 64];
  static ac__lines lines;
  int fd = mkstemp(name);
  if (!CHECK(fd >= 0))
    return;
  memset(text, 'x', sizeof text);
  memcpy(text, "one\n\n", 5);
  memcpy(text + LONG, "\nlast\nunended", 13);
  CHECK(write(fd, text, LONG + 13) == LONG + 13);
  ac__lines_open(&lines, name);
  const char *want[] = {"one", "", "last"};
  for (int i = 0; i < 3; i++) {
    const char *line = ac__lines_next(&lines);
    CHECK(line != NULL && strcmp(line, want[i]) == 0);
  }
  CHECK(ac__lines_next(&lines) == NULL);
  ac__lines_close(&lines);
  close(fd);
  unlink(name);
}

/* ---- This machine -------------------------------------------------------- */

TEST("this machine's counts fit together") {
  ac_topology t;
  CHECK(ac__topology_read_at("", &t) == AC_OK);
  CHECK(t.online >= t.affinity && t.affinity >= t.physical);
  CHECK(t.physical >= t.packages && t.packages >= 1);
  CHECK(t.nodes >= 1 && t.smt >= 1);
  CHECK(t.granted >= 1 && t.granted <= t.affinity);
  CHECK(t.quota >= 0 && (t.quota > 0) == (t.quota_path[0] != '\0'));
}

TEST("an affinity mask of one processor grants one core") {
  ac__cpu_set before;
  cpu_set_t one;
  ac_topology t;
  size_t size_bytes = ac__affinity_read(&before);
  CHECK(size_bytes > 0);
  int cpu = sched_getcpu();
  if (cpu >= CPU_SETSIZE)
    SKIP("the processor's number does not fit the C library's mask");
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  if (!CHECK(sched_setaffinity(0, sizeof one, &one) == 0))
    return;
  CHECK(ac__topology_read_at("", &t) == AC_OK);
  CHECK_INT(t.affinity, 1);
  CHECK_INT(t.physical, 1);
  CHECK_INT(t.granted, 1);
  CHECK(sched_setaffinity(0, size_bytes, (cpu_set_t *)before.words) == 0);
}

static bool write_text(const char *folder, const char *name, const char *text) {
  char path[PATH_MAX + 64];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  bool is_written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  int error = errno;
  close(fd);
  errno = error;
  return is_written;
}

/* In a child: join the cgroup and see what is granted. Exits with that; 255 if
 * the cgroup cannot be joined. */
static void child_in_cgroup(const char *folder) {
  ac_topology t;
  char pid[16];
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  if (!write_text(folder, "cgroup.procs", pid))
    _exit(255);
  bool is_read = ac__topology_read_at("", &t) == AC_OK;
  _exit(is_read && t.quota == 0.75 && strcmp(t.quota_path, folder) == 0
            ? t.granted
            : 254);
}

/* @return what a child in `folder` is granted; 255 as above. */
static int granted_in(const char *folder) {
  int status = -1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0)
    child_in_cgroup(folder);
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
  return WEXITSTATUS(status);
}

static bool is_hierarchy(const char *folder, bool is_v2) {
  struct statfs fs;
  return statfs(folder, &fs) == 0 &&
         fs.f_type == (is_v2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC);
}

static bool set_quota(const char *folder, bool is_v2) {
  return is_v2 ? write_text(folder, "cpu.max", "75000 100000")
               : write_text(folder, "cpu.cfs_period_us", "100000") &&
                     write_text(folder, "cpu.cfs_quota_us", "75000");
}

/* Make a cgroup below `parent` with a quota of 0.75 processors and try it.
 * @return why that cannot be done; NULL if it was. */
static const char *try_cgroup(const char *parent, bool is_v2) {
  static char why[PATH_MAX + 128];
  char folder[PATH_MAX];
  int granted = 255;
  snprintf(folder, sizeof folder, "%s/allcores-test-%d", parent, (int)getpid());
  if (mkdir(folder, 0755) != 0) {
    snprintf(why, sizeof why, "mkdir %s: %s", folder, strerror(errno));
    return why;
  }
  if (!set_quota(folder, is_v2))
    snprintf(why, sizeof why, "%s: no quota can be set: %s", folder,
             strerror(errno));
  else if ((granted = granted_in(folder)) == 255)
    snprintf(why, sizeof why, "%s cannot be joined", folder);
  CHECK(rmdir(folder) == 0);
  return granted == 255 ? why : NULL;
}

/* As try_cgroup(), handing the parent's processor controller down meanwhile. */
static const char *try_v2(const char *parent) {
  char path[PATH_MAX], before[256];
  snprintf(path, sizeof path, "%s/cgroup.subtree_control", parent);
  bool had_cpu =
      ac__file_read(path, before, sizeof before) > 0 &&
      (strncmp(before, "cpu ", 4) == 0 || strcmp(before, "cpu\n") == 0 ||
       strstr(before, " cpu ") != NULL || strstr(before, " cpu\n") != NULL);
  bool is_added =
      !had_cpu && write_text(parent, "cgroup.subtree_control", "+cpu");
  const char *why = try_cgroup(parent, true);
  if (is_added)
    CHECK(write_text(parent, "cgroup.subtree_control", "-cpu"));
  return why;
}

/* Try the first of `parents` that is of that version. */
static const char *try_quota(const char *const *parents, bool is_v2) {
  for (; *parents != NULL; parents++)
    if (is_hierarchy(*parents, is_v2))
      return is_v2 ? try_v2(*parents) : try_cgroup(*parents, false);
  return "no such hierarchy is mounted where it usually is";
}

TEST("a real quota of version 1 is seen by a process in it") {
  static const char *const parents[] = {"/sys/fs/cgroup/cpu",
                                        "/sys/fs/cgroup/cpu,cpuacct", NULL};
  const char *why = try_quota(parents, false);
  if (why != NULL)
    SKIP(why);
}

TEST("a real quota of version 2 is seen by a process in it") {
  static const char *const parents[] = {"/sys/fs/cgroup/unified",
                                        "/sys/fs/cgroup", NULL};
  const char *why = try_quota(parents, true);
  if (why != NULL)
    SKIP(why);
}

CHECK_MAIN
