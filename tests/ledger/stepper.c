/* stepper.c: a process is killed after its k-th instruction, for every k.
 *
 * A child does one thing to the ledger that it shares with this program, under
 * ptrace, one instruction at a time, and is killed after k of them; k grows
 * until the child gets to the end. Whatever k: each entry is free or names the
 * child, there are no more of them than the operation can hold at a time, and
 * after a look the ledger is as if the child had never been.
 *
 * The child does the same once before, so that what is made at first use is
 * there already and k stays small. A look at other holders reads /proc, which
 * takes many thousands of instructions; there the child is killed after each
 * change of the ledger instead: between two changes all instructions are alike
 * to everybody else.
 */
#define _GNU_SOURCE
#include "budget/ledger.h"

#include "check.h"
#include "stepping.h"

#include <string.h>

enum { STEPS_MAX = 100000, CHANGES_MAX = 100, WATCHED = 4 };

static const ac__family *family;
static volatile int32_t *child_is_done; /* shared with the child */
static ac__token mine;                  /* held by this process meanwhile */

static bool setup(void) {
  static ac__family made;
  int fd, done_fd;
  void *base, *done;
  if (family != NULL)
    return true;
  if (!CHECK(ac__shared_create("ledger", sizeof(ac__ledger), &fd, &base) ==
             AC_OK) ||
      !CHECK(ac__shared_create("done", 4096, &done_fd, &done) == AC_OK))
    return false;
  ac__ledger_format(base, 1, 1);
  made = (ac__family){.ledger = base, .slots = 1, .fd = fd};
  atomic_store(&ac__family_joined, &made);
  family = &made;
  child_is_done = done;
  (void)ac__ledger_word();
  return true;
}

static int entries_used(uint64_t word) {
  int used = 0;
  for (int i = 0; i < AC__LEDGER_ENTRIES; i++) {
    uint64_t held = atomic_load(&family->ledger->entry[i].word);
    if (held != 0 && held == mine.word)
      continue;
    used += held != 0;
    if (word != 0)
      CHECK(held == 0 || (held & ~AC__WORD_ASLEEP) == word);
  }
  return used;
}

/* ---- What the child does ------------------------------------------------- */

typedef struct operation {
  bool is_full; /* this process holds the only slot */
  bool is_cold; /* it is not done once before */
  int most;     /* entries that it may hold at a time */
  void (*run)(ac__token *token, uint64_t word);
} operation;

static void claim_release(ac__token *token, uint64_t word) {
  (void)ac__token_claim(token, word);
  ac__token_release(token);
}

static void enter_leave(ac__token *token, uint64_t word) {
  ac__token_enter(token, word);
  ac__token_release(token);
}

/* The slot that this process holds comes free in the middle. */
static void enter_move_leave(ac__token *token, uint64_t word) {
  uint64_t held = atomic_load(&family->ledger->entry[0].word);
  ac__token_enter(token, word);
  atomic_store(&family->ledger->entry[0].word, 0);
  ac__token_renew(token);
  ac__token_release(token);
  atomic_store(&family->ledger->entry[0].word, held);
}

/* A token whose slot was lent, found among the debts. */
static void enter_lend_leave(ac__token *token, uint64_t word) {
  ac__token_enter(token, word);
  (void)ac__debt_take(family, word | AC__WORD_ASLEEP);
  atomic_store(&family->ledger->entry[0].word, 0);
  ac__token_release(token);
}

_Noreturn static void child(const operation *op) {
  ac__token token = {0};
  uint64_t word = ac__ledger_word();
  if (!op->is_cold)
    op->run(&token, word);
  stepping_begin();
  op->run(&token, word);
  *child_is_done = 1;
  for (;;)
    pause();
}

/* ---- The stepper --------------------------------------------------------- */

static uint64_t word_of_stopped(pid_t pid) {
  ac__thread_stat stat = {0};
  CHECK(ac__thread_stat_read((int32_t)pid, &stat));
  return stat.start_time << AC__WORD_TID_BITS | (uint64_t)pid;
}

/* A sum that tells states of the ledger apart. */
static uint64_t state_now(void) {
  const ac__ledger *ledger = family->ledger;
  uint64_t sum = atomic_load(&ledger->debts);
  for (int i = 0; i < WATCHED; i++) {
    sum = sum * 31 + atomic_load(&ledger->entry[i].word);
    sum = sum * 31 + atomic_load(&ledger->entry[i].sample);
  }
  return sum;
}

/* Changes of the ledger that the child may yet make. */
typedef struct watch {
  uint64_t state;
  int changes;
} watch;

static bool is_enough(void *ctx) {
  watch *w = ctx;
  uint64_t state = state_now();
  w->changes -= state != w->state;
  w->state = state;
  return w->changes <= 0 || *child_is_done != 0;
}

/* Start a child, step it and kill it, at the latest when it is done.
 *
 * @param steps    Most instructions.
 * @param changes  Most changes of the ledger.
 * @param ret_word The child's.
 * @return instructions, -1 if it could not be stepped. */
static long step_and_kill(const operation *op, long steps, int changes,
                          uint64_t *ret_word) {
  *child_is_done = 0;
  pid_t pid = fork();
  if (pid == 0)
    child(op);
  if (!stepping_is_stopped(pid, SIGSTOP))
    return -1;
  *ret_word = word_of_stopped(pid);
  watch w = {.state = state_now(), .changes = changes};
  return stepping_run(pid, steps, is_enough, &w);
}

/* A claim that succeeds, and one in vain that looks. */
static void look_and_check(const operation *op) {
  ac__token held = {0}, more = {0};
  if (op->is_full) {
    atomic_store(&family->ledger->entry[0].word, mine.word);
    ac__token_release(&mine);
  }
  atomic_store(&family->ledger->look_due_ns, 0);
  CHECK(ac__token_claim(&held, ac__ledger_word()));
  atomic_store(&family->ledger->look_due_ns, 0);
  CHECK(!ac__token_claim(&more, ac__ledger_word()));
  ac__token_release(&held);
  CHECK_INT(entries_used(0), 0);
  CHECK_INT(ac__debts_awake(family), 0);
  CHECK_INT(ac__debts_mark(family), 0);
}

/* @return whether the child was killed before it was done. */
static bool try_one(const operation *op, long steps, long *ret_done) {
  uint64_t word = 0;
  mine = (ac__token){0};
  if (op->is_full)
    ac__token_enter(&mine, ac__ledger_word());
  *ret_done = step_and_kill(op, steps, CHANGES_MAX, &word);
  if (*ret_done < 0)
    return false;
  CHECK(entries_used(word) <= op->most);
  look_and_check(op);
  return *ret_done == steps && *child_is_done == 0;
}

static void step_all(const char *name, const operation *op) {
  long steps = 0, done = 0;
  if (STEPPING_IS_SANITIZED)
    SKIP("a sanitizer's own instructions would be stepped");
  if (!setup())
    return;
  while (check_child_status() == 0 && steps < STEPS_MAX &&
         try_one(op, steps, &done))
    steps++;
  if (done < 0)
    SKIP("processes cannot be traced here");
  CHECK(steps > 50 && steps < STEPS_MAX);
  printf("  %s: killed after each of %ld instructions\n", name, steps);
}

TEST("killed anywhere in a claim and a release, a process leaves no slot") {
  step_all("claim, release", &(operation){.most = 1, .run = claim_release});
}

TEST("killed anywhere in entering and leaving, a process leaves no slot") {
  step_all("enter, leave", &(operation){.most = 1, .run = enter_leave});
}

TEST("killed anywhere in debt, a process leaves none") {
  step_all("enter in debt, leave",
           &(operation){.is_full = true, .most = 1, .run = enter_leave});
}

TEST("killed while it moves from debt to a slot, a process leaves neither") {
  step_all("enter in debt, move, leave",
           &(operation){.is_full = true, .most = 2, .run = enter_move_leave});
}

TEST("killed while it gives up what it had lent, a process leaves nothing") {
  step_all("enter, lend, leave",
           &(operation){.most = 2, .run = enter_lend_leave});
}

/* ---- Lending ------------------------------------------------------------- */

static int entries_of(uint64_t word) {
  int count = 0;
  for (int i = 0; i < AC__LEDGER_ENTRIES; i++) {
    uint64_t held = atomic_load(&family->ledger->entry[i].word);
    count += (held & ~AC__WORD_ASLEEP) == word;
  }
  return count;
}

/* The sleeper holds the only slot, and was last seen awake a second ago. */
static void put_sleeper(uint64_t sleeper) {
  ac__ledger *ledger = family->ledger;
  ac__token token = {0};
  for (int i = 0; i < AC__LEDGER_ENTRIES; i++)
    atomic_store(&ledger->entry[i].word, 0);
  atomic_store(&ledger->debts, 0);
  atomic_store(&ledger->entry[0].sample, 0);
  atomic_store(&ledger->entry[0].word, sleeper);
  atomic_store(&ledger->look_due_ns, 0);
  CHECK(!ac__token_claim(&token, ac__ledger_word()));
  atomic_fetch_sub(&ledger->entry[0].sample, 1000);
  atomic_store(&ledger->look_due_ns, 0);
}

static bool try_lending(uint64_t sleeper, int changes) {
  const operation op = {.is_cold = true, .run = claim_release};
  ac__token token = {0};
  uint64_t word = 0;
  put_sleeper(sleeper);
  if (step_and_kill(&op, STEPS_MAX, changes, &word) < 0)
    return false;
  CHECK(entries_of(sleeper) == 1 || entries_of(sleeper) == 2);
  CHECK(entries_of(word) <= 1);
  for (int look = 0; look < 2 && token.slot == 0; look++) {
    /* A sample that the child was killed before copying: see it again. */
    atomic_store(&family->ledger->look_due_ns, 0);
    (void)ac__token_claim(&token, ac__ledger_word());
  }
  CHECK_INT(token.slot, 1);
  CHECK_INT(entries_of(word), 0);
  CHECK_INT(entries_of(sleeper), 1);
  ac__token_release(&token);
  return *child_is_done == 0;
}

TEST("killed anywhere while it takes a sleeper's core, a process keeps none") {
  int changes = 1;
  if (STEPPING_IS_SANITIZED)
    SKIP("a sanitizer's own instructions would be stepped");
  if (!setup())
    return;
  pid_t pid = fork();
  if (pid == 0)
    for (;;)
      pause();
  ac__thread_stat stat = {.state = 'R'};
  while (stat.state != 'S' && CHECK(ac__thread_stat_read((int32_t)pid, &stat)))
    ;
  uint64_t sleeper = word_of_stopped(pid);
  while (check_child_status() == 0 && changes < CHANGES_MAX &&
         try_lending(sleeper, changes))
    changes++;
  stepping_kill(pid);
  if (changes == 1 && check_child_status() == 0)
    SKIP("processes cannot be traced here");
  CHECK(changes >= 6 && changes < CHANGES_MAX);
  printf("  lend, claim, release: killed after each of %d changes\n",
         changes - 1);
}

CHECK_MAIN
