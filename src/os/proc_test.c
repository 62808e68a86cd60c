/* What the kernel says of other threads. */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/os.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

TEST("a thread sees itself running, and its time go on") {
  ac__thread_stat first, second;
  if (!CHECK(ac__thread_stat_read(ac__thread_id(), &first)))
    return;
  CHECK(first.state == 'R');
  CHECK(first.start_time > 0);
  /* The scheduler's account is brought up to date at ticks, 10 ms at most. */
  uint64_t begin = ac__clock_thread_ns();
  while (ac__clock_thread_ns() - begin < 40000000)
    continue;
  CHECK(ac__thread_stat_read(ac__thread_id(), &second));
  CHECK(second.start_time == first.start_time);
  CHECK(second.cpu_ns > first.cpu_ns);
}

typedef struct sleeper {
  _Atomic uint32_t word, id;
} sleeper;

static void *sleep_on_word(void *arg) {
  sleeper *s = arg;
  atomic_store(&s->id, (uint32_t)ac__thread_id());
  ac__futex_wake(&s->id, 1);
  while (atomic_load(&s->word) == 0)
    ac__futex_wait(&s->word, 0, -1);
  return NULL;
}

TEST("a sleeping thread whose name looks like the file is read right") {
  static const char *const names[] = {"a) b (c", ") R 1 2 3", "(", ") S 0 (",
                                      "0123456789abcdefgh"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    sleeper s = {0};
    ac__thread thread;
    ac__thread_stat stat = {.state = '?'}, main_stat;
    if (!CHECK(ac__thread_start(&thread, 0, names[i], sleep_on_word, &s) ==
               AC_OK))
      return;
    while (atomic_load(&s.id) == 0)
      ac__futex_wait(&s.id, 0, -1);
    while (stat.state != 'S')
      if (!CHECK(ac__thread_stat_read((int32_t)atomic_load(&s.id), &stat)))
        break;
    CHECK(ac__thread_stat_read(ac__process_id(), &main_stat));
    /* It started after the program, and did nothing since. */
    CHECK(stat.start_time >= main_stat.start_time);
    CHECK(stat.cpu_ns < main_stat.cpu_ns);
    atomic_store(&s.word, 1);
    ac__futex_wake(&s.word, 1);
    ac__thread_join(thread);
  }
}

TEST("a thread that has ended, or never was, is not seen") {
  ac__thread_stat stat = {.state = '?'};
  CHECK(!ac__thread_stat_read(0, &stat));
  CHECK(!ac__thread_stat_read(-1, &stat));
  CHECK(!ac__thread_stat_read(INT32_MAX, &stat));
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0)
    _exit(0);
  CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
  CHECK(!ac__thread_stat_read((int32_t)pid, &stat));
  CHECK(stat.state == '?');
}

TEST("another process is seen sleeping, and as a zombie when it has died") {
  ac__thread_stat stat = {.state = '?'};
  siginfo_t info;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    for (;;)
      pause();
  }
  if (!CHECK(pid > 0))
    return;
  while (stat.state != 'S')
    if (!CHECK(ac__thread_stat_read((int32_t)pid, &stat)))
      break;
  kill(pid, SIGKILL);
  CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
  CHECK(ac__thread_stat_read((int32_t)pid, &stat));
  CHECK(stat.state == 'Z');
  CHECK(waitpid(pid, NULL, 0) == pid);
}

CHECK_MAIN
