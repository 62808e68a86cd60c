/* stepping.h: killing a child process after its k-th instruction.
 *
 *   pid_t pid = fork();
 *   if (pid == 0) {
 *     stepping_begin();       the first instruction follows
 *     do_it();
 *     say_so_and_stay();
 *   }
 *   long done = stepping_run(pid, 17, is_enough, ctx);      and it is dead
 *
 * A file that includes this includes check.h. Knows nothing of: the library.
 */
#ifndef STEPPING_H
#define STEPPING_H

#include "check.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_feature)
#define STEPPING_HAS_FEATURE(name) __has_feature(name)
#else
#define STEPPING_HAS_FEATURE(name) 0
#endif
/* A sanitizer's own instructions would be stepped. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||           \
    STEPPING_HAS_FEATURE(address_sanitizer) ||                                 \
    STEPPING_HAS_FEATURE(thread_sanitizer)
#define STEPPING_IS_SANITIZED 1
#else
#define STEPPING_IS_SANITIZED 0
#endif

/** In the child: stop, to be stepped from here. */
static inline void stepping_begin(void) {
  if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
    _exit(2);
  raise(SIGSTOP);
}

/** @return whether the child is now stopped by `sig`. */
static inline bool stepping_is_stopped(pid_t pid, int sig) {
  int status;
  return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) &&
         WSTOPSIG(status) == sig;
}

static inline void stepping_kill(pid_t pid) {
  int status;
  kill(pid, SIGKILL);
  CHECK(waitpid(pid, &status, 0) == pid);
}

/** Step a child that has stopped itself, then kill it.
 *
 * @param steps      Most instructions.
 * @param is_enough  Called before each: whether to kill the child now.
 * @return instructions; -1 if it could not be stepped. */
static inline long stepping_run(pid_t pid, long steps,
                                bool (*is_enough)(void *ctx), void *ctx) {
  long done = 0;
  while (done < steps && !is_enough(ctx)) {
    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0 ||
        !stepping_is_stopped(pid, SIGTRAP)) {
      done = -1;
      break;
    }
    done++;
  }
  stepping_kill(pid);
  return done;
}

#endif
