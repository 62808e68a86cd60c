/* stepper.c: a process is killed after its k-th instruction, for every k, while
 * it takes from an arena, gives, passes, trims or reclaims.
 *
 * A child does it under ptrace, one instruction at a time. Whatever k: no more
 * pages are warm than are committed, and once its owners are reclaimed the
 * arena is as if the child had never been: all pages but this program's are
 * free, the counts are right, exactly the warm pages are committed, and every
 * page can be taken. What takes more than some hundred instructions is killed
 * after each change of the arena instead: between two changes all instructions
 * are alike to everybody else.
 *
 * The child does the same once before, so that what is made at first use is
 * there already and k stays small. How much memory there is, which would be
 * read in thousands of instructions, is told by this program.
 */
#define _GNU_SOURCE
#include "shm/arena.h"

#include "check.h"
#include "os/os.h"
#include "stepping.h"

#include <limits.h>
#include <sys/stat.h>

enum {
  STEPS_MAX = 20000,
  WATCHED = 16,             /* pages at the front and before a border */
  BORDER = AC__GROUP_PAGES, /* a page where a group begins */
  ARENA_PAGES = BORDER + 16,
  PARENT = 1,
  CHILD,
  OTHER, /* to whom the child passes */
};

static ac__segment segment;
static ac__pages pages;
static volatile int32_t *child_is_done; /* shared with the child */

uint64_t __wrap_ac__memory_room(const char *root);
uint64_t __wrap_ac__memory_room(const char *root) {
  (void)root;
  return UINT64_MAX;
}

static bool setup(void) {
  int fd;
  void *done;
  if (child_is_done != NULL)
    return true;
  if (!CHECK(ac__segment_create("arena", (size_t)ARENA_PAGES * AC__PAGE_BYTES,
                                true, &segment) == AC_OK) ||
      !CHECK(ac__arena_format(&segment, 0) == AC_OK) ||
      !CHECK(ac__pages_of(&segment, &pages)) ||
      !CHECK(ac__shared_create("done", 4096, &fd, &done) == AC_OK))
    return false;
  child_is_done = done;
  return true;
}

/* ---- What the child does ------------------------------------------------- */

typedef struct operation {
  uint32_t count; /* pages that it takes */
  uint32_t keep;  /* pages that stay warm when they are free */
  uint32_t hint;  /* where it looks first */
  void (*run)(uint64_t offset, size_t size_bytes);
} operation;

static void give(uint64_t offset, size_t size_bytes) {
  ac__arena_give(&segment, CHILD, offset, size_bytes);
}

static void pass_and_give(uint64_t offset, size_t size_bytes) {
  ac__arena_pass(&segment, CHILD, OTHER, offset, size_bytes);
  ac__arena_give(&segment, OTHER, offset, size_bytes);
}

static void give_and_trim(uint64_t offset, size_t size_bytes) {
  ac__arena_give(&segment, CHILD, offset, size_bytes);
  ac__arena_trim(&segment, 0);
}

/* As after the death of another process. */
static void reclaim(uint64_t offset, size_t size_bytes) {
  ac__freeing how = {.owner = CHILD, .as = AC__ARENA_KEEPER, .is_dead = true};
  uint32_t begin = (uint32_t)(offset / AC__PAGE_BYTES);
  uint32_t count = (uint32_t)(size_bytes / AC__PAGE_BYTES);
  (void)ac__pages_free(&pages, begin, begin + count, &how);
}

static void operate(const operation *op) {
  uint64_t offset;
  size_t size_bytes = (size_t)op->count * AC__PAGE_BYTES;
  if (ac__arena_take(&segment, CHILD, size_bytes, &offset) == AC_OK)
    op->run(offset, size_bytes);
}

_Noreturn static void child(const operation *op) {
  operate(op);
  stepping_begin();
  operate(op);
  *child_is_done = 1;
  for (;;)
    pause();
}

/* ---- What must hold ------------------------------------------------------ */

static int64_t pages_committed(void) {
  struct stat st;
  CHECK(fstat(segment.fd, &st) == 0);
  return st.st_blocks * 512 / AC__PAGE_BYTES - pages.first;
}

static void check_warm_is_committed(void) {
  int64_t warm = 0, claimed = 0, committed = pages_committed();
  for (uint32_t page = pages.first; page < pages.end; page++) {
    uint64_t word = atomic_load(&pages.word[page]);
    warm += (word & AC__PAGE_WARM) != 0;
    claimed += ac__page_owner(word) != 0 && (word & AC__PAGE_WARM) == 0;
  }
  CHECK(committed >= warm && committed <= warm + claimed);
}

static void check_counts(void) {
  for (uint32_t page = pages.first; page < pages.end;) {
    uint64_t count = atomic_load(&pages.group[page / AC__GROUP_PAGES]);
    uint64_t free = 0, warm = 0;
    for (uint32_t end = ac__group_end(page, pages.end); page < end; page++) {
      uint64_t word = atomic_load(&pages.word[page]);
      free += ac__page_owner(word) == 0;
      warm += ac__page_owner(word) == 0 && (word & AC__PAGE_WARM) != 0;
    }
    CHECK((count & 0xffff) == free && (count >> 16 & 0xffff) == warm);
  }
}

static void reclaim_and_check(void) {
  ac__arena_use use;
  (void)ac__arena_reclaim(&segment, CHILD);
  (void)ac__arena_reclaim(&segment, OTHER);
  (void)ac__arena_reclaim(&segment, AC__ARENA_KEEPER);
  ac__arena_usage(&segment, &use);
  CHECK_INT(use.taken_bytes, AC__PAGE_BYTES); /* this program's */
  CHECK_INT(pages_committed(),
            (use.taken_bytes + use.warm_bytes) / AC__PAGE_BYTES);
  check_counts();
}

/* Each page but the first, which this program holds, can be had. */
static void check_all_can_be_taken(void) {
  uint64_t offset = 0;
  size_t size_bytes = (size_t)(pages.end - pages.first - 1) * AC__PAGE_BYTES;
  CHECK(ac__arena_take(&segment, PARENT, size_bytes, &offset) == AC_OK);
  ac__arena_give(&segment, PARENT, offset, size_bytes);
}

/* ---- The stepper --------------------------------------------------------- */

/* A sum that tells states of the arena apart. */
static uint64_t state_now(void) {
  const ac__arena *arena = pages.arena;
  uint64_t sum = (uint64_t)pages_committed();
  sum = sum * 31 + (uint64_t)atomic_load(&arena->warm);
  sum = sum * 31 + (uint64_t)atomic_load(&arena->room_bytes);
  sum = sum * 31 + atomic_load(&arena->room_end_ns);
  sum = sum * 31 + atomic_load(&arena->hint[CHILD].page);
  for (uint32_t group = 0; group <= BORDER / AC__GROUP_PAGES; group++)
    sum = sum * 31 + atomic_load(&pages.group[group]);
  for (uint32_t page = pages.first; page < pages.end; page++)
    if (page < WATCHED || page + WATCHED > BORDER)
      sum = sum * 31 + atomic_load(&pages.word[page]);
  return sum;
}

/* What the child may yet do. */
typedef struct watch {
  uint64_t state;
  long changes;
} watch;

static bool is_enough(void *ctx) {
  watch *w = ctx;
  if (*child_is_done != 0)
    return true;
  if (w->changes == LONG_MAX)
    return false;
  uint64_t state = state_now();
  w->changes -= state != w->state;
  w->state = state;
  return w->changes <= 0;
}

/* Start a child, step and kill it. @return false if it cannot be stepped. */
static bool step_and_kill(const operation *op, long steps, long changes) {
  *child_is_done = 0;
  pages.arena->keep_pages = op->keep;
  atomic_store(&pages.arena->hint[CHILD].page, op->hint);
  pid_t pid = fork();
  if (pid == 0)
    child(op);
  if (!stepping_is_stopped(pid, SIGSTOP))
    return false;
  watch w = {.state = state_now(), .changes = changes};
  return stepping_run(pid, steps, is_enough, &w) >= 0;
}

static void kill_all(const char *name, const operation *op, bool is_each) {
  long count = 1;
  uint64_t mine;
  bool is_stepped = true;
  if (STEPPING_IS_SANITIZED)
    SKIP("a sanitizer's own instructions would be stepped");
  if (!setup())
    return;
  atomic_store(&pages.arena->hint[PARENT].page, 0);
  CHECK(ac__arena_take(&segment, PARENT, 1, &mine) == AC_OK);
  CHECK_INT(mine / AC__PAGE_BYTES, pages.first);
  *child_is_done = 0;
  for (; is_stepped && *child_is_done == 0 && count < STEPS_MAX; count++) {
    is_stepped = step_and_kill(op, is_each ? count : STEPS_MAX,
                               is_each ? LONG_MAX : count);
    check_warm_is_committed();
    reclaim_and_check();
    if (check_child_status() != 0)
      break;
  }
  if (is_stepped) {
    CHECK(count > (is_each ? 50 : 8) && count < STEPS_MAX);
    check_all_can_be_taken();
    printf("  %s: killed after each of %ld %s\n", name, count - 1,
           is_each ? "instructions" : "changes");
  }
  ac__arena_give(&segment, PARENT, mine, 1);
  ac__arena_trim(&segment, 0);
  if (!is_stepped)
    SKIP("processes cannot be traced here");
}

TEST("killed while it takes a warm page and gives it, a process keeps none") {
  kill_all("take warm, give", &(operation){.count = 1, .keep = 1, .run = give},
           true);
}

TEST("killed while it takes cold pages and gives them, a process keeps none") {
  kill_all("take warm and cold, give",
           &(operation){.count = 3, .keep = 1, .run = give}, false);
}

TEST("killed while it takes a run across groups, a process keeps none") {
  kill_all("take across groups, give",
           &(operation){.count = 3, .keep = 1, .hint = BORDER - 2, .run = give},
           false);
}

TEST("killed while it passes pages on, a process keeps none") {
  kill_all("take, pass, give",
           &(operation){.count = 2, .keep = 2, .run = pass_and_give}, false);
}

TEST("killed while it trims, a process keeps no page") {
  kill_all("take, give, trim",
           &(operation){.count = 3, .keep = 3, .run = give_and_trim}, false);
}

TEST("killed while it frees what a dead one had, a process keeps no page") {
  kill_all("take, reclaim", &(operation){.count = 3, .keep = 1, .run = reclaim},
           false);
}

CHECK_MAIN
