/* memory_linux.c: memory on cache lines, and memory between processes.
 *
 * Shared memory is a memfd: it has no name that could be left behind, and dies
 * with its last mapping. Its pages are reserved when it is made, so that a
 * shortage is an error then and no bus error later; it is sealed against
 * shrinking, so that no peer can cause one either. It is found through
 * /proc/<pid>/fd of a process that holds it open.
 *
 * The kernel does not refuse a reservation larger than memory: it reserves
 * until there is none left and then kills processes. So the size is held
 * against what the kernel says is available first. The memory limit of a cgroup
 * is not looked at: who takes a large part of memory must do that.
 *
 * Knows nothing of: what lies in the memory.
 */
#define _GNU_SOURCE 1
#include "base/status.h"
#include "os/linux.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE_BYTES = 64 };

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
  return (int)fd;
}

/* Bytes that can be taken without swapping; of kernels before 3.14, which do
 * not say, those that are free. */
static uint64_t available_bytes(void) {
  static const char key[] = "\nMemAvailable:";
  char text[4096];
  if (ac__file_read("/proc/meminfo", text, sizeof text) > 0) {
    const char *line = strstr(text, key);
    if (line != NULL)
      return (uint64_t)strtoull(line + sizeof key - 1, NULL, 10) * 1024;
  }
  long pages = sysconf(_SC_AVPHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0;
}

/* Whether that much may be asked for; errno. Beyond the limit on a file's size
 * the kernel would send a signal. */
static bool may_reserve(size_t size_bytes) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && size_bytes > limit.rlim_cur)
    errno = EFBIG;
  else if (size_bytes > available_bytes())
    errno = ENOMEM;
  else
    return true;
  return false;
}

/* Give the file its size and its pages. @return whether it was had; errno. */
static bool reserve(int fd, size_t size_bytes) {
  int error;
  if (!may_reserve(size_bytes))
    return false;
  do
    error = fallocate(fd, 0, 0, (off_t)size_bytes);
  while (error != 0 && errno == EINTR);
  return error == 0 &&
         fcntl(fd, AC__ADD_SEALS, AC__SEAL_SHRINK | AC__SEAL_GROW) == 0;
}

static void *map_shared(int fd, size_t size_bytes) {
  void *base =
      mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return base != MAP_FAILED ? base : NULL;
}

ac_status ac__shared_create(const char *name, size_t size_bytes, int *ret_fd,
                            void **ret_base) {
  void *base = NULL;
  int fd = make_memfd(name);
  if (fd >= 0 && reserve(fd, size_bytes))
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

/* What is wrong with a file that is to be mapped; NULL = nothing. */
static const char *shared_fault(int fd, size_t size_bytes) {
  struct stat st;
  int seals = fcntl(fd, AC__GET_SEALS);
  if (seals < 0 || (seals & AC__SEAL_SHRINK) == 0)
    return "it is not shared memory of this library";
  if (fstat(fd, &st) != 0)
    return strerror(errno);
  if (st.st_size < 0 || (uint64_t)st.st_size < size_bytes)
    return "it is too small";
  return NULL;
}

ac_status ac__shared_open(int32_t pid, int fd, size_t size_bytes, int *ret_fd,
                          void **ret_base) {
  char path[64];
  const char *fault = NULL;
  void *base = NULL;
  (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
  /* O_NONBLOCK: `fd` may be anything by now, a pipe for instance. */
  int mine = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (mine >= 0)
    fault = shared_fault(mine, size_bytes);
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
