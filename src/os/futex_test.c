/* Sleeping on a word, and barriers on other threads' behalf. */
#define _GNU_SOURCE 1
#include "check.h"
#include "os/os.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

TEST("a wait on a word of another value returns at once") {
  _Atomic uint32_t word = 1;
  ac__futex_wait(&word, 2, -1);
  CHECK(atomic_load(&word) == 1);
}

TEST("a wait ends when its time is over") {
  enum { WAIT_NS = 3000000 };
  _Atomic uint32_t word = 1;
  uint64_t begin = ac__clock_ns();
  /* A spurious wake-up may end one wait early: then wait on. */
  while (ac__clock_ns() - begin < WAIT_NS)
    ac__futex_wait(&word, 1, WAIT_NS);
  CHECK(ac__clock_ns() - begin >= WAIT_NS);
  ac__futex_wait(&word, 1, 0);
}

typedef struct sleeper {
  _Atomic uint32_t word, id, has_woken;
} sleeper;

static void *sleep_on_word(void *arg) {
  sleeper *s = arg;
  atomic_store(&s->id, (uint32_t)ac__thread_id());
  while (atomic_load(&s->word) == 0)
    ac__futex_wait(&s->word, 0, -1);
  atomic_store(&s->has_woken, 1);
  return NULL;
}

/* Wait until the kernel says that the thread sleeps. */
static void await_sleep(const _Atomic uint32_t *id) {
  ac__thread_stat stat = {.state = 'R'};
  while (stat.state != 'S') {
    int32_t tid = (int32_t)atomic_load(id);
    if (tid == 0 || !ac__thread_stat_read(tid, &stat))
      stat.state = 'R';
    ac__thread_yield();
  }
}

TEST("a sleeping thread uses no processor and is woken") {
  sleeper s = {0};
  ac__thread thread;
  if (!CHECK(ac__thread_start(&thread, 0, "sleeps", sleep_on_word, &s) ==
             AC_OK))
    return;
  await_sleep(&s.id);
  CHECK(atomic_load(&s.has_woken) == 0);
  atomic_store(&s.word, 1);
  ac__futex_wake(&s.word, 1);
  ac__thread_join(thread);
  CHECK(atomic_load(&s.has_woken) == 1);
}

/* Dekker's race: each side stores its flag, then loads the other's. The light
 * side has no fence where barriers are asymmetric. Never may both see 0. */
typedef struct dekker {
  _Alignas(64) _Atomic uint32_t light;
  _Alignas(64) _Atomic uint32_t heavy;
  _Alignas(64) _Atomic uint32_t round;
  uint32_t light_saw;
  _Alignas(64) _Atomic uint32_t light_done;
} dekker;

enum { ROUNDS = 20000 };

static void *run_light(void *arg) {
  dekker *d = arg;
  bool is_free = ac__barrier_is_asymmetric();
  for (uint32_t round = 1; round <= ROUNDS; round++) {
    while (atomic_load_explicit(&d->round, memory_order_acquire) != round)
      ac__thread_yield();
    atomic_store_explicit(&d->light, 1, memory_order_relaxed);
    if (is_free)
      atomic_signal_fence(memory_order_seq_cst);
    else
      atomic_thread_fence(memory_order_seq_cst);
    d->light_saw = atomic_load_explicit(&d->heavy, memory_order_relaxed);
    atomic_store_explicit(&d->light_done, round, memory_order_release);
  }
  return NULL;
}

TEST("of a light and a heavy side at least one sees the other") {
  static dekker d;
  ac__thread thread;
  if (!CHECK(ac__thread_start(&thread, 0, "light", run_light, &d) == AC_OK))
    return;
  int missed = 0;
  for (uint32_t round = 1; round <= ROUNDS; round++) {
    atomic_store_explicit(&d.light, 0, memory_order_relaxed);
    atomic_store_explicit(&d.heavy, 0, memory_order_relaxed);
    atomic_store_explicit(&d.round, round, memory_order_release);
    atomic_store_explicit(&d.heavy, 1, memory_order_relaxed);
    ac__barrier_heavy();
    uint32_t saw = atomic_load_explicit(&d.light, memory_order_relaxed);
    while (atomic_load_explicit(&d.light_done, memory_order_acquire) != round)
      ac__thread_yield();
    missed += saw == 0 && d.light_saw == 0;
  }
  ac__thread_join(thread);
  CHECK_INT(missed, 0);
}

/* @return exit status of a child that runs `body`. */
static int status_of_child(int (*body)(void)) {
  int status = -1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0)
    _exit(body());
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int barrier_mode_in_child(void) {
  ac__barrier_heavy();
  return ac__barrier_is_asymmetric();
}

TEST("a forked child has barriers of the same kind") {
  bool is_asymmetric = ac__barrier_is_asymmetric();
  CHECK_INT(status_of_child(barrier_mode_in_child), is_asymmetric);
}

/* The mode is decided once a process, so a fresh one is asked: this program
 * again, with an argument. */
static int exec_with_no_membarrier(void) {
  setenv("ALLCORES_NO_MEMBARRIER", "1", 1);
  execl("/proc/self/exe", "futex_test", "print-mode", (char *)NULL);
  return 100;
}

TEST("the environment can force fences on both sides") {
  CHECK_INT(status_of_child(exec_with_no_membarrier), 0);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "print-mode") == 0)
    return barrier_mode_in_child();
  printf("barriers are %s\n",
         ac__barrier_is_asymmetric() ? "asymmetric" : "symmetric");
  return check_run_all(argc, argv);
}
