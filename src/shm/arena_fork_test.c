/* Arenas between processes: children take, write, check and give, and are
 * killed at random moments; a new one takes the place of each. */
#define _GNU_SOURCE 1
#include "shm/arena.h"

#include "check.h"
#include "os/os.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  PLACES = 4, /* children at a time */
  HELD = 3,   /* runs that a child holds at a time */
  KILLS = 200,
  LIMIT_S = 25, /* of a test */
};

/* Shared with the children. */
typedef struct board {
  _Atomic uint64_t rounds; /* runs that any child took */
  _Atomic uint64_t refused;
  atomic_int faults; /* pages that changed under a child's hands */
} board;

static ac__segment segment;
static ac__pages pages;
static board *shared;
static uint64_t began_ns;

static size_t bytes_of(uint32_t count) {
  return (size_t)count * AC__PAGE_BYTES;
}

/* ---- Random numbers (splitmix64) ----------------------------------------- */

static uint64_t random_next(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
  return z ^ z >> 31;
}

static uint32_t random_below(uint64_t *state, uint32_t bound) {
  return (uint32_t)(random_next(state) % bound);
}

/* ---- A child ------------------------------------------------------------- */

typedef struct run {
  uint64_t offset;
  uint32_t count; /* 0 = none */
} run;

static uint32_t *mark_of(const run *r, uint32_t page, bool is_last) {
  size_t at = is_last ? AC__PAGE_BYTES - sizeof(uint32_t) : 0;
  return (void *)(segment.base + r->offset + bytes_of(page) + at);
}

static void run_take(run *r, uint32_t owner, uint32_t count) {
  if (ac__arena_take(&segment, owner, bytes_of(count), &r->offset) != AC_OK) {
    atomic_fetch_add(&shared->refused, 1);
    return;
  }
  r->count = count;
  for (uint32_t i = 0; i < count; i++)
    *mark_of(r, i, false) = *mark_of(r, i, true) = owner;
  atomic_fetch_add(&shared->rounds, 1);
}

static void run_give(run *r, uint32_t owner) {
  for (uint32_t i = 0; i < r->count; i++)
    if (*mark_of(r, i, false) != owner || *mark_of(r, i, true) != owner)
      atomic_fetch_add(&shared->faults, 1);
  ac__arena_give(&segment, owner, r->offset, bytes_of(r->count));
  r->count = 0;
}

_Noreturn static void child(uint32_t owner, uint64_t seed) {
  run held[HELD] = {{0}};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    run *r = &held[random_below(&seed, HELD)];
    if (r->count > 0)
      run_give(r, owner);
    else
      run_take(r, owner, 1 + random_below(&seed, 6));
  }
}

/* ---- The parent ---------------------------------------------------------- */

static int64_t pages_committed(void) {
  struct stat st;
  CHECK(fstat(segment.fd, &st) == 0);
  return st.st_blocks * 512 / AC__PAGE_BYTES - pages.first;
}

static bool arena_open(uint32_t count, uint32_t keep) {
  int fd;
  void *base;
  if (!CHECK(ac__segment_create("arena", bytes_of(count + 1), true, &segment) ==
             AC_OK) ||
      !CHECK(ac__arena_format(&segment, bytes_of(keep)) == AC_OK) ||
      !CHECK(ac__pages_of(&segment, &pages)) ||
      !CHECK(ac__shared_create("board", sizeof *shared, &fd, &base) == AC_OK))
    return false;
  shared = base;
  began_ns = ac__clock_ns();
  return true;
}

static bool is_late(void) {
  return ac__clock_ns() - began_ns > LIMIT_S * UINT64_C(1000000000);
}

static pid_t start(uint32_t owner, uint64_t seed) {
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0)
    child(owner, seed);
  CHECK(pid > 0);
  return pid;
}

static void end(pid_t pid, uint32_t owner) {
  int status = 0;
  CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  (void)ac__arena_reclaim(&segment, owner);
  for (uint32_t page = pages.first; page < pages.end; page++)
    CHECK(ac__page_owner(atomic_load(&pages.word[page])) != owner);
}

/* Let the children take some runs. Ends by itself if all the arena is held. */
static void let_run(uint64_t *seed) {
  uint64_t until = atomic_load(&shared->rounds) + random_below(seed, 40);
  uint64_t until_ns = ac__clock_ns() + random_below(seed, 2000000);
  while (atomic_load(&shared->rounds) < until && ac__clock_ns() < until_ns)
    sched_yield();
}

static void check_empty(uint32_t count) {
  ac__arena_use use;
  uint64_t offset = 0;
  ac__arena_usage(&segment, &use);
  CHECK_INT(use.taken_bytes, 0);
  CHECK_INT(pages_committed(), use.warm_bytes / AC__PAGE_BYTES);
  CHECK(ac__arena_take(&segment, 1, bytes_of(count), &offset) == AC_OK);
  memset(segment.base + offset, 1, bytes_of(count));
  ac__arena_give(&segment, 1, offset, bytes_of(count));
  ac__arena_trim(&segment, 0);
  CHECK_INT(pages_committed(), 0);
}

static void kill_many(uint32_t count, uint32_t keep) {
  pid_t pid[PLACES];
  uint32_t owner[PLACES], owners = 0;
  uint64_t seed = ac__clock_ns();
  printf("  seed %llu\n", (unsigned long long)seed);
  if (!arena_open(count, keep))
    return;
  for (int i = 0; i < PLACES; i++) {
    owner[i] = ++owners;
    pid[i] = start(owner[i], random_next(&seed));
  }
  for (int i = 0; i < KILLS && !is_late() && check_child_status() == 0; i++) {
    uint32_t place = random_below(&seed, PLACES);
    let_run(&seed);
    end(pid[place], owner[place]);
    if (i % 8 == 0)
      ac__arena_trim(&segment, 0);
    owner[place] = ++owners;
    pid[place] = start(owner[place], random_next(&seed));
  }
  for (int i = 0; i < PLACES; i++)
    end(pid[i], owner[i]);
  printf("  %llu runs taken, %llu refused\n",
         (unsigned long long)atomic_load(&shared->rounds),
         (unsigned long long)atomic_load(&shared->refused));
  CHECK(atomic_load(&shared->rounds) > 0);
  CHECK_INT(atomic_load(&shared->faults), 0);
  check_empty(count);
  ac__segment_close(&segment);
}

TEST("children killed at random leave every page free, where there are many") {
  kill_many(100, 50);
}

TEST("children killed at random leave every page free, where there are few") {
  kill_many(15, 4);
}

TEST("children killed at random leave every page free, and nothing is kept") {
  kill_many(100, 0);
}

/* ---- Handing over -------------------------------------------------------- */

TEST("what a child wrote and passed to its parent outlives it") {
  int status = -1;
  if (!arena_open(20, 20))
    return;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    run kept = {0}, passed = {0};
    run_take(&kept, 2, 3);
    run_take(&passed, 2, 2);
    ac__arena_pass(&segment, 2, 1, passed.offset, bytes_of(2));
    atomic_store(&shared->rounds, passed.offset);
    _exit(passed.count == 2 ? 0 : 1);
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
  run got = {.offset = atomic_load(&shared->rounds), .count = 2};
  CHECK_INT(ac__arena_reclaim(&segment, 2), bytes_of(3));
  for (uint32_t i = 0; i < 2; i++)
    CHECK(*mark_of(&got, i, false) == 2 && *mark_of(&got, i, true) == 2);
  ac__arena_give(&segment, 1, got.offset, bytes_of(2));
  check_empty(20);
  ac__segment_close(&segment);
}

CHECK_MAIN
