/* Memory on cache lines, and memory between processes. */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/os.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE_BYTES = 100000 };

TEST("memory is zeroed and aligned, also none of it") {
  for (size_t size = 0; size < 300; size += 37) {
    unsigned char *memory = ac__alloc_lines(size);
    if (!CHECK(memory != NULL))
      return;
    CHECK((uintptr_t)memory % 64 == 0);
    for (size_t i = 0; i < size; i++)
      CHECK(memory[i] == 0);
    memset(memory, 255, size);
    ac__free(memory);
  }
}

TEST("more memory than there can be is refused") {
  volatile size_t huge = SIZE_MAX; /* so that no compiler warns of it */
  CHECK(ac__alloc_lines(huge) == NULL);
}

TEST("a child that was forked writes what its parent reads") {
  int fd = -1, status = -1;
  void *base = NULL;
  if (!CHECK(ac__shared_create("test", SIZE_BYTES, &fd, &base) == AC_OK))
    return;
  _Atomic uint32_t *words = base;
  CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
  CHECK(atomic_load(&words[0]) == 0);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    atomic_store(&words[0], 42);
    _exit(0);
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
  CHECK(atomic_load(&words[0]) == 42);
  ac__shared_close(fd, base, SIZE_BYTES);
}

TEST("memory is opened by the process and descriptor that hold it") {
  int fd = -1, other_fd = -1, status = -1;
  void *base = NULL, *other = NULL;
  if (!CHECK(ac__shared_create("test", SIZE_BYTES, &fd, &base) == AC_OK))
    return;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    int32_t parent = (int32_t)getppid();
    ac__shared_close(fd, base, SIZE_BYTES);
    if (ac__shared_open(parent, fd, SIZE_BYTES, &other_fd, &other) != AC_OK)
      _exit(1);
    atomic_store((_Atomic uint32_t *)other, 43);
    ac__shared_close(other_fd, other, SIZE_BYTES);
    _exit(0);
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
  CHECK(atomic_load((_Atomic uint32_t *)base) == 43);
  close(fd);
  /* The mapping outlives the descriptor. */
  CHECK(atomic_load((_Atomic uint32_t *)base) == 43);
  ac__shared_close(-1, base, SIZE_BYTES);
}

TEST("memory that is too small, of another kind or gone is not opened") {
  int fd = -1, other_fd = -7, ends[2];
  void *base = NULL, *other = NULL;
  int32_t self = ac__process_id();
  if (!CHECK(ac__shared_create("test", 4096, &fd, &base) == AC_OK) ||
      !CHECK(pipe(ends) == 0))
    return;
  CHECK(ac__shared_open(self, fd, 8192, &other_fd, &other) == AC_E_OS);
  CHECK(strstr(ac_last_error()->detail, "too small") != NULL);
  CHECK(ac__shared_open(self, ends[0], 64, &other_fd, &other) == AC_E_OS);
  int unsealed = memfd_create("other", MFD_CLOEXEC);
  CHECK(unsealed >= 0 && ftruncate(unsealed, 4096) == 0);
  CHECK(ac__shared_open(self, unsealed, 64, &other_fd, &other) == AC_E_OS);
  CHECK(strstr(ac_last_error()->detail, "not shared memory") != NULL);
  close(unsealed);
  CHECK(ac__shared_open(self, 9999, 64, &other_fd, &other) == AC_E_OS);
  CHECK(ac__shared_open(-1, fd, 64, &other_fd, &other) == AC_E_OS);
  CHECK(other_fd == -7 && other == NULL);
  close(ends[0]);
  close(ends[1]);
  ac__shared_close(fd, base, 4096);
}

TEST("shared memory can be neither shrunk nor grown") {
  int fd = -1;
  void *base = NULL;
  if (!CHECK(ac__shared_create("test", 4096, &fd, &base) == AC_OK))
    return;
  CHECK(ftruncate(fd, 0) != 0);
  CHECK(ftruncate(fd, 8192) != 0);
  ac__shared_close(fd, base, 4096);
}

/* Should the library ask the kernel for it all the same, no process may be
 * killed for want of memory: the limit on a file's size stops it. */
static int create_too_much(void) {
  struct rlimit limit = {.rlim_cur = SIZE_BYTES, .rlim_max = SIZE_BYTES};
  static const size_t sizes[] = {SIZE_BYTES + 1, (size_t)1 << 45, SIZE_MAX};
  int before = dup(0);
  close(before);
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  for (int i = 0; i < 3; i++) {
    int fd = -7;
    void *base = NULL;
    CHECK(ac__shared_create("huge", sizes[i], &fd, &base) == AC_E_OS);
    CHECK(fd == -7 && base == NULL);
  }
  CHECK_INT(dup(0), before); /* no descriptor is lost */
  return check_child_status();
}

TEST("more shared memory than is allowed is refused, and no signal comes") {
  int status = -1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0)
    _exit(create_too_much());
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  CHECK_INT(status, 0);
}

CHECK_MAIN
