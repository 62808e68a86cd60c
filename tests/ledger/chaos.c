/* chaos.c: processes that compute, sleep, fork and are killed at random share
 * one ledger, and the machine never has more runners than it should.
 *
 *   chaos [seconds [seed [slots]]]
 *
 * Four processes, each with a main thread that has entered by itself and
 * helpers that run only with a slot claimed for them. This program samples
 * every 10 ms which threads of the family the kernel calls running. Let n be
 * those among them that entered by themselves: promised is running <=
 * max(slots, n) + 1, in 99 of 100 samples. Now and then it kills a process and
 * starts another. At the end all are killed, and one look later every slot is
 * free.
 *
 * Sleeping here is what the processes do, not how the test waits for anything.
 */
#define _GNU_SOURCE
#include "budget/ledger.h"

#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  PLACES = 4,   /* processes */
  HELPERS = 3,  /* of each */
  CHILDREN = 8, /* of each, forked and still running */
  THREADS = 1 + HELPERS + CHILDREN,
  SAMPLE_US = 10000,
  KILL_EVERY = 15, /* samples, on average */
  CHUNK_US = 50,
  TORN_US = 3000, /* a sample that took longer saw no one moment */
};

/* Shared: the word of each thread, so that the sampler finds it in /proc. */
typedef struct board {
  _Atomic uint64_t word[PLACES][THREADS]; /* main, helpers, children */
} board;

static board *names;
static const ac__family *family;

/* ---- Random numbers (splitmix64) ----------------------------------------- */

static uint64_t random_next(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
  return z ^ z >> 31;
}

static int random_below(uint64_t *state, int bound) {
  return (int)(random_next(state) % (uint64_t)bound);
}

static void compute_us(int us) {
  uint64_t until_ns = ac__clock_ns() + (uint64_t)us * 1000;
  while (ac__clock_ns() < until_ns)
    ;
}

static void sleep_us(int us) {
  struct timespec time = {us / 1000000, us % 1000000 * 1000L};
  (void)nanosleep(&time, NULL);
}

/* ---- A process ----------------------------------------------------------- */

enum { PARKED, RUNNING };

typedef struct helper {
  _Atomic uint32_t state;
  ac__token token; /* the main thread's while PARKED, then the helper's */
  _Atomic uint64_t word;
  uint64_t seed; /* its own; given before it starts */
  int index;
} helper;

static helper helpers[HELPERS];
static atomic_bool is_over; /* the region */
static int place;
static uint64_t seed; /* the main thread's own */

/* Chunks of work until the region is over or the core is wanted back. Once in a
 * while a helper sleeps with its slot, as one that reads a file would. */
static void helper_work(helper *self, uint64_t *state) {
  while (!atomic_load(&is_over)) {
    if (random_below(state, 1000) == 0)
      sleep_us(random_below(state, 90000));
    compute_us(CHUNK_US);
    if (ac__token_is_recalled(&self->token, ac__clock_ns()))
      break;
  }
}

static void *helper_run(void *arg) {
  helper *self = arg;
  uint64_t state = self->seed;
  uint64_t word = ac__ledger_word();
  atomic_store(&names->word[place][1 + self->index], word);
  atomic_store(&self->word, word);
  for (;;) {
    while (atomic_load(&self->state) == PARKED)
      ac__futex_wait(&self->state, PARKED, -1);
    helper_work(self, &state);
    ac__token_release(&self->token);
    atomic_store(&self->state, PARKED);
  }
  return NULL;
}

static void widen(void) {
  for (int i = 0; i < HELPERS; i++) {
    helper *h = &helpers[i];
    uint64_t word = atomic_load(&h->word);
    if (word == 0 || atomic_load(&h->state) != PARKED)
      continue;
    if (!ac__token_claim(&h->token, word))
      return;
    atomic_store(&h->state, RUNNING);
    ac__futex_wake(&h->state, 1);
  }
}

/* A parallel region: helpers join it while cores are free. */
static void region(int us) {
  uint64_t until_ns = ac__clock_ns() + (uint64_t)us * 1000;
  atomic_store(&is_over, false);
  while (ac__clock_ns() < until_ns) {
    widen();
    compute_us(CHUNK_US);
  }
  atomic_store(&is_over, true);
}

_Noreturn static void forked(int child) {
  ac__token token = {0};
  atomic_store(&names->word[place][1 + HELPERS + child], ac__ledger_word());
  ac__token_enter(&token, ac__ledger_word());
  compute_us(1 + random_below(&seed, 20000));
  if (random_below(&seed, 3) == 0)
    (void)raise(SIGKILL);
  if (random_below(&seed, 2) == 0)
    ac__token_release(&token);
  _exit(0);
}

_Noreturn static void process(void) {
  ac__token token = {0};
  pthread_t thread;
  int child = 0;
  (void)signal(SIGCHLD, SIG_IGN); /* its children leave no zombies */
  (void)nice(10);                 /* the sampler comes first */
  atomic_store(&names->word[place][0], ac__ledger_word());
  ac__token_enter(&token, ac__ledger_word());
  for (int i = 0; i < HELPERS; i++) {
    helpers[i].index = i;
    helpers[i].seed = random_next(&seed);
    if (pthread_create(&thread, NULL, helper_run, &helpers[i]) != 0)
      _exit(1);
  }
  for (;;) {
    int action = random_below(&seed, 100);
    if (action < 70)
      ac__token_renew(&token);
    if (action < 80) /* some do not renew: they wake in mid-work */
      region(1000 + random_below(&seed, action % 4 == 0 ? 300000 : 30000));
    else if (action < 90)
      sleep_us(random_below(&seed, 150000));
    else if (action < 95) {
      ac__token_release(&token);
      ac__token_enter(&token, ac__ledger_word());
    } else if (fork() == 0)
      forked(child);
    else
      child = (child + 1) % CHILDREN;
  }
}

/* ---- The sampler --------------------------------------------------------- */

typedef struct samples {
  int count, torn, over, most_excess, kills, most_running;
  int64_t running;
} samples;

static bool is_running(uint64_t word) {
  const uint64_t tid_mask = (UINT64_C(1) << AC__WORD_TID_BITS) - 1;
  ac__thread_stat stat;
  return word != 0 && ac__thread_stat_read((int32_t)(word & tid_mask), &stat) &&
         stat.start_time == word >> AC__WORD_TID_BITS && stat.state == 'R';
}

static void sample(samples *all) {
  int running = 0, entered = 0;
  uint64_t began_ns = ac__clock_ns();
  for (int p = 0; p < PLACES; p++)
    for (int t = 0; t < THREADS; t++)
      if (is_running(atomic_load(&names->word[p][t]))) {
        running++;
        entered += t < 1 || t > HELPERS;
      }
  if (ac__clock_ns() - began_ns > TORN_US * UINT64_C(1000)) {
    all->torn++;
    return;
  }
  int bound = (entered > family->slots ? entered : family->slots) + 1;
  all->count++;
  all->running += running;
  all->over += running > bound;
  if (running > all->most_running)
    all->most_running = running;
  if (running - bound > all->most_excess)
    all->most_excess = running - bound;
}

static pid_t process_start(int where, uint64_t *state) {
  uint64_t its_seed = random_next(state);
  pid_t pid = fork();
  if (pid == 0) {
    place = where;
    seed = its_seed;
    process();
  }
  CHECK(pid > 0);
  return pid;
}

static void process_kill(pid_t pid) {
  int status;
  CHECK(kill(pid, SIGKILL) == 0);
  CHECK(waitpid(pid, &status, 0) == pid);
  /* One that ended by itself had an error, or a sanitizer's complaint. */
  if (!CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
    printf("  process %d ended with wait status %#x\n", (int)pid, status);
}

static void run(int seconds, uint64_t state, samples *all) {
  pid_t pid[PLACES];
  for (int i = 0; i < PLACES; i++)
    pid[i] = process_start(i, &state);
  uint64_t until_ns = ac__clock_ns() + (uint64_t)seconds * 1000000000;
  while (ac__clock_ns() < until_ns) {
    sleep_us(SAMPLE_US);
    sample(all);
    if (random_below(&state, KILL_EVERY) != 0)
      continue;
    int i = random_below(&state, PLACES);
    process_kill(pid[i]);
    pid[i] = process_start(i, &state);
    all->kills++;
  }
  for (int i = 0; i < PLACES; i++)
    process_kill(pid[i]);
  while (waitpid(-1, NULL, 0) > 0) /* children of those that were killed */
    ;
}

/* ---- The test ------------------------------------------------------------ */

static int argument(int i, int otherwise) {
  return check_argc > i ? atoi(check_argv[i]) : otherwise;
}

static bool setup(int slots) {
  static ac__family made;
  int fd, names_fd;
  void *base, *board_base;
  if (!CHECK(ac__shared_create("ledger", sizeof(ac__ledger), &fd, &base) ==
             AC_OK) ||
      !CHECK(ac__shared_create("board", sizeof(board), &names_fd,
                               &board_base) == AC_OK))
    return false;
  ac__ledger_format(base, slots, 1);
  made = (ac__family){.ledger = base, .slots = slots, .fd = fd};
  atomic_store(&ac__family_joined, &made);
  family = &made;
  names = board_base;
  /* What a killed process had forked becomes ours, and is waited for. */
  return CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
}

/* Take all slots, then try for one more, which looks once more. */
static void check_all_free(void) {
  static ac__token token[AC__CORES_MAX];
  ac__token more = {0};
  uint64_t began_ns = ac__clock_ns();
  for (int i = 0; i < family->slots; i++)
    while (!ac__token_claim(&token[i], ac__ledger_word()) &&
           ac__clock_ns() - began_ns < UINT64_C(10000000000))
      ;
  atomic_store(&family->ledger->look_due_ns, 0);
  CHECK(!ac__token_claim(&more, ac__ledger_word()));
  for (int i = 0; i < family->slots; i++) {
    CHECK(token[i].slot != 0);
    ac__token_release(&token[i]);
  }
  CHECK_INT(ac__ledger_held(), 0);
  CHECK_INT(ac__debts_mark(family), 0);
}

TEST("four processes killed, forked and asleep keep within the cores") {
  int seconds = argument(1, 5);
  int first_seed = argument(2, (int)(ac__clock_ns() % 1000000));
  int slots = argument(3, ac__budget_granted());
  samples all = {0};
  if (!setup(slots))
    return;
  printf("  seconds %d, seed %d, slots %d\n", seconds, first_seed, slots);
  fflush(stdout);
  run(seconds, (uint64_t)first_seed, &all);
  printf("  %d samples, %d torn, %d kills; running: mean %.2f, most %d; over "
         "the bound "
         "%d times, at most by %d\n",
         all.count, all.torn, all.kills, (double)all.running / all.count,
         all.most_running, all.over, all.most_excess);
  CHECK(all.over <= (all.count + 99) / 100);
  CHECK(all.running > all.count / 2);
  check_all_free();
}

CHECK_MAIN
