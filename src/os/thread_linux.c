/* thread_linux.c: threads, and on which processor they are.
 *
 * The library's threads take no signals: they belong to the program, whose own
 * threads handle them. A thread is created with all of them blocked, so that
 * there is no instant at which it could receive one.
 *
 * Knows nothing of: what threads run, who may have how many.
 */
#define _GNU_SOURCE 1
#include "base/status.h"
#include "os/linux.h"
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(sizeof(pthread_t) == sizeof(unsigned long),
               "ac__thread holds a pthread_t");

enum { NAME_MAX_BYTES = 16 }; /* the kernel's limit, with its NUL */

/* Set the stack's size, in whole pages and not below the system's least. */
static int set_stack(pthread_attr_t *attributes, size_t stack_bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t least = (size_t)sysconf(_SC_THREAD_STACK_MIN);
  if (stack_bytes == 0)
    return 0; /* the system's default */
  if (stack_bytes < least)
    stack_bytes = least;
  if (stack_bytes > SIZE_MAX - page)
    return EINVAL;
  return pthread_attr_setstacksize(attributes,
                                   (stack_bytes + page - 1) / page * page);
}

/* pthread_create() with all signals blocked in the new thread. */
static int create_blocked(pthread_t *ret_handle, pthread_attr_t *attributes,
                          void *(*run)(void *), void *arg) {
  sigset_t all, before;
  (void)sigfillset(&all);
  int error = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (error != 0)
    return error;
  error = pthread_create(ret_handle, attributes, run, arg);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  return error;
}

ac_status ac__thread_start(ac__thread *ret_thread, size_t stack_bytes,
                           const char *name, void *(*run)(void *), void *arg) {
  pthread_attr_t attributes;
  pthread_t handle;
  char short_name[NAME_MAX_BYTES] = {0};
  int error = pthread_attr_init(&attributes);
  if (error == 0) {
    error = set_stack(&attributes, stack_bytes);
    if (error == 0)
      error = create_blocked(&handle, &attributes, run, arg);
    (void)pthread_attr_destroy(&attributes);
  }
  if (error != 0)
    return ac__fail(AC_E_OS, "starting a thread",
                    "raise the limit of threads or processes (ulimit -u, the "
                    "cgroup's pids.max), or use fewer threads",
                    "a thread with a stack of %zu bytes was refused: %s",
                    stack_bytes, strerror(error));
  memcpy(short_name, name, strnlen(name, sizeof short_name - 1));
  (void)pthread_setname_np(handle, short_name); /* for people only */
  *ret_thread = (ac__thread){.handle = handle};
  return AC_OK;
}

void ac__thread_join(ac__thread thread) {
  (void)pthread_join(thread.handle, NULL);
}

int32_t ac__thread_id(void) { return (int32_t)syscall(SYS_gettid); }

void ac__thread_yield(void) { (void)sched_yield(); }

int ac__cpu_current(void) { return sched_getcpu(); }

size_t ac__affinity_read(ac__cpu_set *ret_set) {
  /* The system call, since the C library's says nothing of the mask's size,
   * and its cpu_set_t ends at 1,024. */
  memset(ret_set, 0, sizeof *ret_set);
  long size_bytes =
      syscall(SYS_sched_getaffinity, 0, sizeof ret_set->words, ret_set->words);
  return size_bytes > 0 ? (size_t)size_bytes : 0;
}

static bool affinity_write(const ac__cpu_set *set, size_t size_bytes) {
  return syscall(SYS_sched_setaffinity, 0, size_bytes, set->words) == 0;
}

void ac__cpu_leave(int cpu) {
  /* Read anew each time: somebody may have changed it (taskset). A change made
   * between this and the last line is lost; that is some microseconds. */
  ac__cpu_set allowed;
  size_t size_bytes = ac__affinity_read(&allowed);
  ac__cpu_set others = allowed;
  ac__cpu_set_remove(&others, cpu);
  if (size_bytes == 0 || ac__cpu_set_count(&others) == 0)
    return;
  /* Where a cpuset took the others away meanwhile, this is refused. */
  if (affinity_write(&others, size_bytes))
    (void)affinity_write(&allowed, size_bytes);
}
