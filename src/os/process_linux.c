/* process_linux.c: starting, watching and ending other processes.
 *
 * A process is held by a descriptor (pidfd, Linux 5.3), since its number may be
 * another's by the time that it is used. posix_spawn starts a program at the
 * same cost whatever the caller's size; fork is for small single-threaded
 * processes.
 *
 * Knows nothing of: what the processes do.
 */
#define _GNU_SOURCE 1
#include "base/status.h"
#include "os/linux.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { SYS_PIDFD_SEND_SIGNAL = 424, SYS_PIDFD_OPEN = 434 }; /* everywhere */

/* In the new program: no signal blocked but SIGINT, the defaults for those
 * ignored. */
static int set_signals(posix_spawnattr_t *attributes) {
  sigset_t blocked, all;
  (void)sigemptyset(&blocked);
  (void)sigaddset(&blocked, SIGINT);
  (void)sigfillset(&all);
  (void)sigdelset(&all, SIGKILL);
  (void)sigdelset(&all, SIGSTOP);
  int error = posix_spawnattr_setsigmask(attributes, &blocked);
  if (error == 0)
    error = posix_spawnattr_setsigdefault(attributes, &all);
  if (error == 0)
    error = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK |
                                                     POSIX_SPAWN_SETSIGDEF);
  return error;
}

/* dup2() onto itself would leave the descriptor closed on exec. */
static int pass_socket(posix_spawn_file_actions_t *actions, int socket_fd) {
  if (socket_fd != AC__SPAWN_FD)
    return posix_spawn_file_actions_adddup2(actions, socket_fd, AC__SPAWN_FD);
  return fcntl(socket_fd, F_SETFD, 0) == 0 ? 0 : errno;
}

ac_status ac__process_spawn(const char *const *argv, int socket_fd,
                            int32_t *ret_pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  pid_t pid = 0;
  int error = posix_spawn_file_actions_init(&actions);
  if (error != 0)
    goto out;
  error = posix_spawnattr_init(&attributes);
  if (error == 0) {
    error = set_signals(&attributes);
    if (error == 0)
      error = pass_socket(&actions, socket_fd);
    if (error == 0)
      error = posix_spawnp(&pid, argv[0], &actions, &attributes,
                           (char *const *)argv, environ);
    (void)posix_spawnattr_destroy(&attributes);
  }
  (void)posix_spawn_file_actions_destroy(&actions);
out:
  if (error != 0)
    return ac__fail(AC_E_OS, "starting a process",
                    "raise the limit of processes (ulimit -u, the cgroup's "
                    "pids.max), or end some",
                    "'%.150s' could not be started: %s", argv[0],
                    strerror(error));
  *ret_pid = (int32_t)pid;
  return AC_OK;
}

int32_t ac__process_fork(void) { return (int32_t)fork(); }

int ac__pidfd_open(int32_t pid) {
  /* it is closed on exec */
  return ac__fd_raise((int)syscall(SYS_PIDFD_OPEN, pid, 0));
}

bool ac__pidfd_kill(int pidfd, int signal_number) {
  return syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, signal_number, NULL, 0) == 0;
}

void ac__process_kill(int32_t child, int signal_number) {
  (void)kill((pid_t)child, signal_number);
}

int32_t ac__process_reap(bool may_block, int32_t pid, int32_t *ret_status) {
  int status;
  pid_t reaped;
  do
    reaped = waitpid(pid, &status, may_block ? 0 : WNOHANG);
  while (reaped < 0 && errno == EINTR);
  if (reaped > 0)
    *ret_status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  return (int32_t)reaped;
}

bool ac__process_tie(int32_t parent) {
  return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

int ac__children_fd(void) {
  sigset_t child;
  (void)sigemptyset(&child);
  (void)sigaddset(&child, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &child, NULL) != 0)
    return -1;
  return ac__fd_raise(signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
}

void ac__children_fd_clear(int fd) {
  struct signalfd_siginfo info;
  while (read(fd, &info, sizeof info) > 0) {
  }
}

void ac__interrupts_ignore(void) {
  sigset_t interrupt;
  (void)signal(SIGINT, SIG_IGN);
  (void)sigemptyset(&interrupt);
  (void)sigaddset(&interrupt, SIGINT);
  (void)sigprocmask(SIG_UNBLOCK, &interrupt, NULL);
}

void ac__signals_reset(void) {
  sigset_t none;
  for (int number = 1; number < NSIG; number++)
    (void)signal(number, SIG_DFL); /* SIGKILL and the like are refused */
  (void)signal(SIGINT, SIG_IGN);
  (void)signal(SIGPIPE, SIG_IGN);
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn void ac__process_exit(int status) { _exit(status); }
