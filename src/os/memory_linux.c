/* memory_linux.c: memory on cache lines, memory between processes, and how much
 * of it there is.
 *
 * Shared memory is a memfd: it has no name that could be left behind, and dies
 * with its last mapping. Its pages are reserved when it is made, so that a
 * shortage is an error then and no bus error later; it is sealed against
 * shrinking, so that no peer can cause one either. It is found through
 * /proc/<pid>/fd of a process that holds it open.
 *
 * The kernel does not refuse a reservation larger than memory: it reserves
 * until there is none left and then kills processes. So the size is held
 * against what the kernel says is available first. Sparse memory is different:
 * its pages are committed one by one, by who asks ac__memory_room() first,
 * which looks at the limits of cgroups too.
 *
 * Knows nothing of: what lies in the memory.
 */
#define _GNU_SOURCE 1
#include "base/status.h"
#include "os/linux.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE_BYTES = 64, PIECE_BYTES = 1 << 20 };

/* From the kernel's interface, for C libraries that lack them. */
enum {
  AC__MFD_CLOEXEC = 0x1,
  AC__MFD_ALLOW_SEALING = 0x2,
  AC__MFD_NOEXEC_SEAL = 0x8, /* Linux 6.3 */
  AC__ADD_SEALS = 1024 + 9,
  AC__GET_SEALS = 1024 + 10,
  AC__SEAL_SHRINK = 0x2,
  AC__SEAL_GROW = 0x4,
};

void *ac__alloc_lines(size_t size_bytes) {
  if (size_bytes > SIZE_MAX - LINE_BYTES)
    return NULL;
  size_t lines = (size_bytes + LINE_BYTES - 1) / LINE_BYTES;
  size_t whole_bytes = (lines > 0 ? lines : 1) * LINE_BYTES;
  void *memory = aligned_alloc(LINE_BYTES, whole_bytes);
  if (memory != NULL)
    memset(memory, 0, whole_bytes);
  return memory;
}

void ac__free(void *memory) { free(memory); }

static int make_memfd(const char *name) {
  unsigned flags = AC__MFD_CLOEXEC | AC__MFD_ALLOW_SEALING;
  long fd = syscall(SYS_memfd_create, name, flags | AC__MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) /* an older kernel */
    fd = syscall(SYS_memfd_create, name, flags);
  return ac__fd_raise((int)fd);
}

/* Bytes that can be taken without swapping; of kernels before 3.14, which do
 * not say, those that are free. */
static uint64_t available_bytes(const char *root) {
  static const char key[] = "\nMemAvailable:";
  char text[4096], path[PATH_MAX];
  (void)snprintf(path, sizeof path, "%s/proc/meminfo", root);
  if (ac__file_read(path, text, sizeof text) > 0) {
    const char *line = strstr(text, key);
    if (line != NULL)
      return (uint64_t)strtoull(line + sizeof key - 1, NULL, 10) * 1024;
  }
  long pages = sysconf(_SC_AVPHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0;
}

/* Beyond the limit on a file's size the kernel would send a signal; errno. */
static bool may_have_size(size_t size_bytes) {
  struct rlimit limit;
  if ((getrlimit(RLIMIT_FSIZE, &limit) != 0 || size_bytes <= limit.rlim_cur) &&
      size_bytes <= INT64_MAX)
    return true;
  errno = EFBIG;
  return false;
}

/* Whether that much may be asked for; errno. */
static bool may_reserve(size_t size_bytes) {
  if (!may_have_size(size_bytes))
    return false;
  errno = ENOMEM;
  return size_bytes <= available_bytes("");
}

static bool seal(int fd) {
  return fcntl(fd, AC__ADD_SEALS, AC__SEAL_SHRINK | AC__SEAL_GROW) == 0;
}

/* Give the file its size and its pages. @return whether it was had; errno. */
static bool reserve(int fd, size_t size_bytes) {
  int error;
  if (!may_reserve(size_bytes))
    return false;
  do
    error = fallocate(fd, 0, 0, (off_t)size_bytes);
  while (error != 0 && errno == EINTR);
  return error == 0 && seal(fd);
}

/* Give the file its size and no pages. */
static bool stretch(int fd, size_t size_bytes) {
  return may_have_size(size_bytes) && ftruncate(fd, (off_t)size_bytes) == 0 &&
         seal(fd);
}

static void *map_shared(int fd, size_t size_bytes) {
  void *base =
      mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return base != MAP_FAILED ? base : NULL;
}

static ac_status create(const char *name, size_t size_bytes,
                        bool (*give_size)(int fd, size_t size_bytes),
                        int *ret_fd, void **ret_base) {
  void *base = NULL;
  int fd = make_memfd(name);
  if (fd >= 0 && give_size(fd, size_bytes))
    base = map_shared(fd, size_bytes);
  if (base == NULL) {
    ac_status st = ac__fail(AC_E_OS, "sharing memory between processes", "",
                            "%zu bytes for '%s' could not be had: %s",
                            size_bytes, name, strerror(errno));
    if (fd >= 0)
      (void)close(fd);
    return st;
  }
  *ret_fd = fd;
  *ret_base = base;
  return AC_OK;
}

ac_status ac__shared_create(const char *name, size_t size_bytes, int *ret_fd,
                            void **ret_base) {
  return create(name, size_bytes, reserve, ret_fd, ret_base);
}

ac_status ac__sparse_create(const char *name, size_t size_bytes, int *ret_fd,
                            void **ret_base) {
  return create(name, size_bytes, stretch, ret_fd, ret_base);
}

/* What is wrong with a file that is to be mapped; NULL = nothing. */
static const char *shared_fault(int fd, size_t size_bytes, size_t *ret_bytes) {
  struct stat st;
  int seals = fcntl(fd, AC__GET_SEALS);
  if (seals < 0 || (seals & AC__SEAL_SHRINK) == 0)
    return "it is not shared memory of this library";
  if (fstat(fd, &st) != 0)
    return strerror(errno);
  if (st.st_size < 0 || (uint64_t)st.st_size < size_bytes)
    return "it is too small";
  if ((uint64_t)st.st_size > SIZE_MAX)
    return "it is too large";
  *ret_bytes = (size_t)st.st_size;
  return NULL;
}

ac_status ac__shared_open(int32_t pid, int fd, size_t size_bytes, int *ret_fd,
                          void **ret_base) {
  char path[64];
  const char *fault = NULL;
  void *base = NULL;
  size_t whole_bytes;
  (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
  /* O_NONBLOCK: `fd` may be anything by now, a pipe for instance. */
  int mine = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (mine >= 0)
    fault = shared_fault(mine, size_bytes, &whole_bytes);
  if (mine >= 0 && fault == NULL)
    base = map_shared(mine, size_bytes);
  if (base == NULL) {
    ac_status st =
        ac__fail(AC_E_OS, "opening another process's memory", "",
                 "%zu bytes of %s could not be mapped: %s", size_bytes, path,
                 fault != NULL ? fault : strerror(errno));
    if (mine >= 0)
      (void)close(mine);
    return st;
  }
  *ret_fd = mine;
  *ret_base = base;
  return AC_OK;
}

void ac__shared_close(int fd, void *base, size_t size_bytes) {
  if (base != NULL)
    (void)munmap(base, size_bytes);
  if (fd >= 0)
    (void)close(fd);
}

ac_status ac__shared_map(int fd, size_t *ret_size_bytes, void **ret_base) {
  size_t size_bytes;
  void *base = NULL;
  const char *fault = shared_fault(fd, 1, &size_bytes);
  if (fault == NULL)
    base = map_shared(fd, size_bytes);
  if (base == NULL)
    return ac__fail(AC_E_OS, "opening shared memory", "",
                    "descriptor %d could not be mapped: %s", fd,
                    fault != NULL ? fault : strerror(errno));
  *ret_size_bytes = size_bytes;
  *ret_base = base;
  return AC_OK;
}

/* ---- Pages of sparse memory ---------------------------------------------- */

static bool commit_piece(int fd, uint64_t offset, size_t size_bytes) {
  int error;
  do
    error =
        fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size_bytes);
  while (error != 0 && errno == EINTR);
  return error == 0;
}

ac_status ac__pages_commit(int fd, uint64_t offset, size_t size_bytes) {
  while (size_bytes > 0) {
    /* By pieces: a signal makes the kernel undo all that one call has done, so
     * a large call might never end where signals come often. */
    size_t piece = size_bytes < PIECE_BYTES ? size_bytes : PIECE_BYTES;
    if (!commit_piece(fd, offset, piece)) {
      bool is_short = errno == ENOMEM || errno == ENOSPC || errno == EDQUOT;
      return ac__fail(
          is_short ? AC_E_NOMEM : AC_E_OS, "taking memory between processes",
          "", "%zu bytes could not be had: %s", size_bytes, strerror(errno));
    }
    offset += piece;
    size_bytes -= piece;
  }
  return AC_OK;
}

void ac__pages_return(int fd, uint64_t offset, size_t size_bytes) {
  int error;
  do
    error = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)offset, (off_t)size_bytes);
  while (error != 0 && errno == EINTR);
}

/* ---- How much memory there is --------------------------------------------
 *
 * The kernel's documentation of cgroups, "memory" in both versions. A limit
 * binds a cgroup and all below it, so the process's own and every ancestor are
 * read. They are looked for where systems mount them, /sys/fs/cgroup and
 * /sys/fs/cgroup/memory. In a container the paths of /proc/self/cgroup may not
 * exist below that; then the mount point is the container's own cgroup.
 *
 * What a cgroup uses includes pages of files, which the kernel drops before it
 * refuses anything: they count as room.
 */

/* How a version of cgroups names things. */
typedef struct cgroup_names {
  const char *point, *limit, *usage;
  const char *dropped[3]; /* lines of memory.stat */
} cgroup_names;

static const cgroup_names names_v2 = {
    "/sys/fs/cgroup",
    "memory.max",
    "memory.current",
    {"inactive_file ", "active_file ", "slab_reclaimable "}};
static const cgroup_names names_v1 = {
    "/sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    {"total_inactive_file ", "total_active_file ", NULL}};

static long read_in(const char *folder, const char *name, char *text,
                    size_t size_bytes) {
  char path[PATH_MAX];
  int length = snprintf(path, sizeof path, "%s/%s", folder, name);
  if (length < 0 || (size_t)length >= sizeof path)
    return -1;
  return ac__file_read(path, text, size_bytes);
}

/* @return false if there is no number: "max", or no such file. */
static bool read_number(const char *folder, const char *name,
                        uint64_t *ret_value) {
  char text[64];
  if (read_in(folder, name, text, sizeof text) <= 0 || text[0] < '0' ||
      text[0] > '9')
    return false;
  *ret_value = strtoull(text, NULL, 10);
  return true;
}

/* Bytes of memory.stat that the kernel can drop. */
static uint64_t dropped_bytes(const char *folder, const cgroup_names *names) {
  char text[8192];
  uint64_t sum = 0;
  if (read_in(folder, "memory.stat", text, sizeof text) <= 0)
    return 0;
  for (int i = 0; i < 3 && names->dropped[i] != NULL; i++) {
    size_t length = strlen(names->dropped[i]);
    for (const char *line = text; line != NULL;) {
      if (strncmp(line, names->dropped[i], length) == 0)
        sum += strtoull(line + length, NULL, 10);
      line = strchr(line, '\n');
      line = line != NULL ? line + 1 : NULL;
    }
  }
  return sum;
}

static uint64_t cgroup_room(const char *folder, const cgroup_names *names) {
  uint64_t limit, used;
  if (!read_number(folder, names->limit, &limit) || limit > INT64_MAX / 2 ||
      !read_number(folder, names->usage, &used))
    return UINT64_MAX; /* none, as both versions write it */
  uint64_t dropped = dropped_bytes(folder, names);
  used = used > dropped ? used - dropped : 0;
  return limit > used ? limit - used : 0;
}

/* The least room in the cgroup `path` and all above it. */
static uint64_t room_upwards(const char *root, const cgroup_names *names,
                             const char *path) {
  char folder[PATH_MAX];
  uint64_t least = UINT64_MAX;
  size_t top = strlen(root) + strlen(names->point);
  if (strstr(path, "/..") != NULL) /* outside the namespace */
    path = "";
  int length = snprintf(folder, sizeof folder, "%s%s%s", root, names->point,
                        strcmp(path, "/") == 0 ? "" : path);
  if (length < 0 || (size_t)length >= sizeof folder)
    return least;
  for (;;) {
    uint64_t room = cgroup_room(folder, names);
    least = room < least ? room : least;
    char *step = strrchr(folder + top, '/');
    if (step == NULL)
      return least;
    *step = '\0';
  }
}

/* A line of /proc/self/cgroup: hierarchy:controllers:path. */
static uint64_t room_of_line(const char *root, char *line) {
  char *controllers = strchr(line, ':');
  char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
  if (path == NULL || path[1] != '/')
    return UINT64_MAX;
  *path++ = '\0';
  if (strcmp(controllers, ":") == 0)
    return room_upwards(root, &names_v2, path);
  if (strcmp(controllers, ":memory") == 0 ||
      strncmp(controllers, ":memory,", 8) == 0 ||
      strstr(controllers, ",memory") != NULL)
    return room_upwards(root, &names_v1, path);
  return UINT64_MAX;
}

uint64_t ac__address_limit(void) {
  struct rlimit limit;
  return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
             ? (uint64_t)limit.rlim_cur
             : UINT64_MAX;
}

uint64_t ac__memory_room(const char *root) {
  char path[PATH_MAX];
  ac__lines lines;
  uint64_t least = available_bytes(root);
  (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  ac__lines_open(&lines, path);
  for (char *line; (line = ac__lines_next(&lines)) != NULL;) {
    uint64_t room = room_of_line(root, line);
    least = room < least ? room : least;
  }
  ac__lines_close(&lines);
  return least;
}
