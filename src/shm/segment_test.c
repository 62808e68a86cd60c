/* Segments: who may open what, and what a sparse one costs. How much memory
 * there is, told by recorded files. */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/os.h"
#include "shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE_BYTES = 300000, PAGE = AC__PAGE_BYTES };

static const ac__segment none = {.fd = -1};

static uint64_t bytes_committed(const ac__segment *segment) {
  struct stat st;
  CHECK(fstat(segment->fd, &st) == 0);
  return (uint64_t)st.st_blocks * 512;
}

/* Run `body` in a forked child. */
static void in_child(void (*body)(void)) {
  int status = -1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(check_child_status());
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  CHECK_INT(status, 0);
}

TEST("a segment opened by its descriptor is the same memory") {
  ac__segment made = none, opened = none;
  if (!CHECK(ac__segment_create("test", SIZE_BYTES, false, &made) == AC_OK) ||
      !CHECK(ac__segment_open(dup(made.fd), &opened) == AC_OK))
    return;
  CHECK(fcntl(made.fd, F_GETFD) == FD_CLOEXEC);
  CHECK_INT(opened.size_bytes, SIZE_BYTES);
  CHECK(opened.base != made.base && opened.base[SIZE_BYTES - 1] == 0);
  made.base[SIZE_BYTES - 1] = 5;
  CHECK_INT(opened.base[SIZE_BYTES - 1], 5);
  ac__segment_close(&made);
  CHECK_INT(opened.base[SIZE_BYTES - 1], 5);
  ac__segment_close(&opened);
  CHECK(opened.fd == -1 && opened.base == NULL);
  ac__segment_close(&opened);
}

TEST("a sparse segment has no memory until pages are committed") {
  ac__segment made = none;
  size_t size_bytes = (size_t)1 << 36; /* more than many machines have */
  if (!CHECK(ac__segment_create("test", size_bytes, true, &made) == AC_OK))
    return;
  CHECK(bytes_committed(&made) == 0);
  CHECK(ac__pages_commit(made.fd, size_bytes / 2, 3 * PAGE) == AC_OK);
  CHECK(bytes_committed(&made) == 3 * PAGE);
  memset(made.base + size_bytes / 2, 1, 3 * PAGE);
  CHECK(ac__pages_commit(made.fd, size_bytes / 2, 3 * PAGE) == AC_OK);
  CHECK(bytes_committed(&made) == 3 * PAGE);
  CHECK_INT(made.base[size_bytes / 2 + PAGE], 1);
  ac__pages_return(made.fd, size_bytes / 2 + PAGE, PAGE);
  CHECK(bytes_committed(&made) == 2 * PAGE);
  CHECK_INT(made.base[size_bytes / 2], 1);
  CHECK_INT(made.base[size_bytes / 2 + PAGE], 0);
  ac__segment_close(&made);
}

TEST("no segment can be shrunk or grown") {
  for (int is_sparse = 0; is_sparse < 2; is_sparse++) {
    ac__segment made = none;
    if (!CHECK(ac__segment_create("test", SIZE_BYTES, is_sparse, &made) ==
               AC_OK))
      return;
    CHECK(ftruncate(made.fd, 0) != 0);
    CHECK(ftruncate(made.fd, 2 * SIZE_BYTES) != 0);
    CHECK(ac__pages_commit(made.fd, 0, SIZE_BYTES) == AC_OK);
    ac__segment_close(&made);
  }
}

TEST("what is no segment is not opened and stays the caller's") {
  ac__segment opened = {.fd = -7};
  int ends[2], unsealed = memfd_create("other", MFD_CLOEXEC);
  int empty = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(pipe(ends) == 0 && unsealed >= 0 && empty >= 0);
  CHECK(ftruncate(unsealed, 4096) == 0);
  CHECK(fcntl(empty, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  const int fds[] = {-1, 9999, ends[0], unsealed, empty};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
    CHECK(ac__segment_open(fds[i], &opened) == AC_E_OS);
  CHECK(opened.fd == -7 && opened.base == NULL);
  for (size_t i = 2; i < sizeof fds / sizeof *fds; i++)
    CHECK(close(fds[i]) == 0);
  close(ends[1]);
}

static void make_too_much(void) {
  struct rlimit limit = {.rlim_cur = SIZE_BYTES, .rlim_max = SIZE_BYTES};
  ac__segment made = {.fd = -7};
  int before = dup(0);
  close(before);
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  for (int is_sparse = 0; is_sparse < 2; is_sparse++) {
    CHECK(ac__segment_create("test", SIZE_BYTES + 1, is_sparse, &made) ==
          AC_E_OS);
    CHECK(ac__segment_create("test", SIZE_MAX, is_sparse, &made) == AC_E_OS);
    CHECK(ac__segment_create("test", 0, is_sparse, &made) == AC_E_OS);
  }
  CHECK(made.fd == -7 && made.base == NULL);
  CHECK_INT(dup(0), before); /* no descriptor is lost */
}

TEST("a segment larger than is allowed is refused, and no signal comes") {
  in_child(make_too_much);
}

/* A limit that comes after the segment binds only what would grow it. */
static void commit_under_limit(void) {
  struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
  ac__segment made = none;
  CHECK(ac__segment_create("test", 4 * PAGE, true, &made) == AC_OK);
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  ac_status st = ac__pages_commit(made.fd, 2 * PAGE, PAGE);
  CHECK(st == AC_OK || st == AC_E_NOMEM || st == AC_E_OS);
}

TEST("committing under a limit on the size of files ends without a signal") {
  in_child(commit_under_limit);
}

/* ---- How much memory there is -------------------------------------------- */

/* A tree of files that stands for /proc and /sys. */
static char tree[] = "/tmp/allcores-segment-test-XXXXXX";

static void put(const char *path, const char *text) {
  char full[512];
  (void)snprintf(full, sizeof full, "%s%s", tree, path);
  for (char *at = strchr(full + strlen(tree) + 1, '/'); at != NULL;
       at = strchr(at + 1, '/')) {
    *at = '\0';
    CHECK(mkdir(full, 0700) == 0 || errno == EEXIST);
    *at = '/';
  }
  FILE *file = fopen(full, "w");
  if (CHECK(file != NULL)) {
    CHECK(fputs(text, file) >= 0);
    CHECK(fclose(file) == 0);
  }
}

static void tree_open(void) {
  memcpy(tree + sizeof tree - 7, "XXXXXX", 6);
  CHECK(mkdtemp(tree) != NULL);
  put("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    1000 kB\n");
}

static void tree_close(void) {
  char command[128];
  (void)snprintf(command, sizeof command, "rm -r '%s'", tree);
  CHECK(system(command) == 0);
}

static void put_v2(const char *folder, const char *max, const char *current,
                   const char *stat) {
  const char *names[] = {"memory.max", "memory.current", "memory.stat"};
  const char *texts[] = {max, current, stat};
  for (int i = 0; i < 3; i++) {
    char path[256];
    (void)snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", folder, names[i]);
    put(path, texts[i]);
  }
}

TEST("without cgroups there is as much memory as the system has") {
  tree_open();
  CHECK_INT(ac__memory_room(tree), 1000 * 1024);
  put("/proc/self/cgroup", "nonsense\n0::\n3:memory\n::\n:::\n0:::/a\n");
  CHECK_INT(ac__memory_room(tree), 1000 * 1024);
  tree_close();
  CHECK(ac__memory_room("") > 0);
}

TEST("the least room of a cgroup and those above it counts, in version 2") {
  tree_open();
  put("/proc/self/cgroup", "0::/a/b\n");
  put_v2("/a/b", "max\n", "1000\n", "");
  CHECK_INT(ac__memory_room(tree), 1000 * 1024);
  put_v2("/a/b", "500000\n", "300000\n", "anon 5\nfile 200000\n");
  CHECK_INT(ac__memory_room(tree), 200000);
  put_v2("/a", "400000\n", "350000\n", "");
  CHECK_INT(ac__memory_room(tree), 50000);
  put_v2("/a", "400000\n", "350000\n",
         "anon 1\ninactive_anon 9\ninactive_file 20000\nactive_file 3000\n"
         "slab_reclaimable 400\nworkingset_activate_file 7\n");
  CHECK_INT(ac__memory_room(tree), 73400);
  put_v2("/a", "400000\n", "500000\n", "");
  CHECK_INT(ac__memory_room(tree), 0);
  tree_close();
}

TEST("the mount point is a container's cgroup when its path is outside") {
  tree_open();
  put("/proc/self/cgroup", "0::/../../x\n");
  put_v2("", "300000\n", "100000\n", "");
  CHECK_INT(ac__memory_room(tree), 200000);
  put("/proc/self/cgroup", "0::/docker/0123\n");
  CHECK_INT(ac__memory_room(tree), 200000);
  put("/proc/self/cgroup", "0::/\n");
  CHECK_INT(ac__memory_room(tree), 200000);
  tree_close();
}

TEST("the least room of a cgroup and those above it counts, in version 1") {
  tree_open();
  put("/proc/self/cgroup", "5:cpu,cpuacct:/c\n4:memory:/m/n\n0::/\n");
  put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000\n");
  put("/sys/fs/cgroup/memory/m/n/memory.limit_in_bytes", "700000\n");
  put("/sys/fs/cgroup/memory/m/n/memory.usage_in_bytes", "600000\n");
  CHECK_INT(ac__memory_room(tree), 100000);
  put("/sys/fs/cgroup/memory/m/n/memory.stat",
      "inactive_file 1\ntotal_inactive_file 20\ntotal_active_file 3\n");
  CHECK_INT(ac__memory_room(tree), 100023);
  put("/proc/self/cgroup", "4:hugetlb,memory:/m\n");
  CHECK_INT(ac__memory_room(tree), 1000 * 1024);
  put("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "80\n");
  put("/sys/fs/cgroup/memory/m/memory.usage_in_bytes", "30\n");
  CHECK_INT(ac__memory_room(tree), 50);
  tree_close();
}

CHECK_MAIN
