/* Threads, and leaving a processor. */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/linux.h"
#include "os/os.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

typedef struct seen {
  sigset_t mask;
  size_t stack_bytes;
  int32_t id;
  bool has_run;
} seen;

static void *look(void *arg) {
  seen *s = arg;
  pthread_attr_t attributes;
  pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstacksize(&attributes, &s->stack_bytes);
    pthread_attr_destroy(&attributes);
  }
  s->id = ac__thread_id();
  s->has_run = true;
  return NULL;
}

TEST("a thread starts with every signal blocked, its starter's mask is kept") {
  seen s = {.has_run = false};
  sigset_t before, after;
  ac__thread thread;
  sigemptyset(&before);
  sigaddset(&before, SIGUSR2);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!CHECK(ac__thread_start(&thread, 0, "looks", look, &s) == AC_OK))
    return;
  ac__thread_join(thread);
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  CHECK(s.has_run);
  for (int sig = 1; sig < 32; sig++) {
    if (sig != SIGKILL && sig != SIGSTOP)
      CHECK(sigismember(&s.mask, sig) == 1);
    CHECK(sigismember(&after, sig) == (sig == SIGUSR2));
  }
  sigemptyset(&before);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

TEST("a thread has the stack that it was given, in whole pages") {
  enum { WANT = 300001 };
  seen s = {.has_run = false};
  ac__thread thread;
  if (!CHECK(ac__thread_start(&thread, WANT, "stack", look, &s) == AC_OK))
    return;
  ac__thread_join(thread);
  CHECK(s.stack_bytes >= WANT);
}

TEST("a stack too large for the machine is refused with a sentence") {
  seen s = {.has_run = false};
  ac__thread thread = {.handle = 7};
  CHECK(ac__thread_start(&thread, SIZE_MAX - 1, "huge", look, &s) == AC_E_OS);
  CHECK(ac__thread_start(&thread, (size_t)1 << 60, "huge", look, &s) ==
        AC_E_OS);
  CHECK(thread.handle == 7 && !s.has_run);
  CHECK(ac_last_error()->status == AC_E_OS);
  CHECK(strstr(ac_last_error()->detail, "stack") != NULL);
}

TEST("threads have numbers of their own") {
  seen a = {.id = 0}, b = {.id = 0};
  ac__thread one, two;
  if (!CHECK(ac__thread_start(&one, 0, "one", look, &a) == AC_OK) ||
      !CHECK(ac__thread_start(&two, 0, "two", look, &b) == AC_OK))
    return;
  ac__thread_join(one);
  ac__thread_join(two);
  CHECK(a.id > 0 && b.id > 0 && a.id != b.id && a.id != ac__thread_id());
}

TEST("leaving a processor moves the thread and restores its mask") {
  ac__cpu_set before, after;
  CHECK(ac__affinity_read(&before) > 0);
  int cpu = ac__cpu_current();
  CHECK(ac__cpu_set_has(&before, cpu));
  ac__cpu_leave(cpu);
  CHECK(ac__affinity_read(&after) > 0);
  CHECK(memcmp(&before, &after, sizeof before) == 0);
  if (ac__cpu_set_count(&before) < 2)
    SKIP("there is no other processor to go to");
  /* The kernel may bring it back at once; not every time. */
  enum { TRIES = 100 };
  for (int i = 0; i < TRIES; i++) {
    cpu = ac__cpu_current();
    ac__cpu_leave(cpu);
    if (ac__cpu_current() != cpu)
      return;
  }
  CHECK(!"the thread has moved");
}

TEST("a thread with one processor stays on it") {
  ac__cpu_set before;
  cpu_set_t one, after;
  size_t size_bytes = ac__affinity_read(&before);
  int cpu = ac__cpu_current();
  if (cpu < 0 || cpu >= CPU_SETSIZE)
    SKIP("the processor's number does not fit the C library's mask");
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
  ac__cpu_leave(cpu);
  CHECK(ac__cpu_current() == cpu);
  CHECK(sched_getaffinity(0, sizeof after, &after) == 0);
  CHECK(CPU_EQUAL(&one, &after));
  CHECK(sched_setaffinity(0, size_bytes, (cpu_set_t *)before.words) == 0);
}

CHECK_MAIN
