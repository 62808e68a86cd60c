/* ledger_fork_test.c: the ledger across fork and exec. The program runs itself
 * with --report to be a program that joins. */
#define _GNU_SOURCE
#include "budget/ledger.h"

#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a program that was started reports of its ledger. */
typedef struct report {
  uint64_t id;
  int32_t slots, held, is_shared;
  char text[64]; /* its own export */
} report;

static uint64_t ledger_id(void) { return ac__family_get()->ledger->id; }

/* Write to descriptor 1, then stay until descriptor 0 ends. */
static int report_write(void) {
  ac__token token = {0};
  char byte;
  ac__token_enter(&token, ac__ledger_word());
  report r = {.id = ledger_id(),
              .slots = ac__ledger_slots(),
              .held = ac__ledger_held(),
              .is_shared = ac__ledger_is_shared()};
  if (ac_ledger_export(r.text, sizeof r.text) != AC_OK ||
      write(1, &r, sizeof r) != sizeof r)
    return 1;
  while (read(0, &byte, 1) > 0)
    ;
  ac__token_release(&token);
  return 0;
}

typedef struct program {
  pid_t pid;
  int stay; /* closed = it may end */
  report report;
} program;

static bool program_start(const char *ledger, program *ret_program) {
  int in[2], out[2];
  if (!CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0))
    return false;
  pid_t pid = fork();
  if (pid == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    setenv("ALLCORES_LEDGER", ledger, 1);
    execl("/proc/self/exe", "ledger_fork_test", "--report", (char *)NULL);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  ret_program->pid = pid;
  ret_program->stay = in[1];
  bool is_read = read(out[0], &ret_program->report, sizeof(report)) ==
                 (ssize_t)sizeof(report);
  close(out[0]);
  return CHECK(pid > 0) && CHECK(is_read);
}

static void program_end(program *p) {
  int status;
  close(p->stay);
  CHECK(waitpid(p->pid, &status, 0) == p->pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Run `body` in a forked child. */
static void in_child(void (*body)(void *), void *arg) {
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    body(arg);
    _exit(check_child_status());
  }
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static bool claim_at_last(ac__token *token) {
  uint64_t began_ns = ac__clock_ns();
  while (ac__clock_ns() - began_ns < UINT64_C(20000000000))
    if (ac__token_claim(token, ac__ledger_word()))
      return true;
  return false;
}

/* ---- exec ---------------------------------------------------------------- */

TEST("a program started by exec joins the ledger that is named") {
  char text[64];
  program p;
  CHECK(ac_ledger_export(text, sizeof text) == AC_OK);
  if (!program_start(text, &p))
    return;
  CHECK(p.report.is_shared);
  CHECK(p.report.id == ledger_id());
  CHECK_INT(p.report.slots, ac__ledger_slots());
  CHECK_INT(p.report.held, 1);
  CHECK_INT(ac__ledger_held(), 1);
  program_end(&p);
  CHECK_INT(ac__ledger_held(), 0);
}

TEST("a chain of programs holds when its first one has ended") {
  program first, second, third;
  if (!program_start("none", &first) ||
      !program_start(first.report.text, &second))
    return;
  CHECK(first.report.id != ledger_id());
  CHECK(second.report.id == first.report.id);
  program_end(&first);
  if (program_start(second.report.text, &third)) {
    CHECK(third.report.id == first.report.id);
    program_end(&third);
  }
  program_end(&second);
  if (program_start(second.report.text, &third)) { /* nobody is left */
    CHECK(third.report.id != first.report.id);
    program_end(&third);
  }
}

/* ---- fork ---------------------------------------------------------------- */

static void use_copied_token(void *arg) {
  ac__token copy = *(ac__token *)arg;
  int held = ac__ledger_held();
  CHECK(ac__ledger_word() != copy.word);
  ac__token_release(&copy);
  CHECK_INT(copy.slot, 0);
  CHECK_INT(ac__ledger_held(), held);
  copy = *(ac__token *)arg;
  ac__token_renew(&copy);
  CHECK(copy.word == ac__ledger_word());
  CHECK_INT(ac__ledger_held(), held + 1);
  ac__token_release(&copy);
  CHECK_INT(ac__ledger_held(), held);
}

TEST("a forked child is another holder, and its parent's tokens stay") {
  ac__token token = {0};
  ac__token_enter(&token, ac__ledger_word());
  in_child(use_copied_token, &token);
  CHECK_INT(ac__ledger_held(), 1);
  CHECK(!token.is_debt && token.word == ac__ledger_word());
  ac__token_release(&token);
  CHECK_INT(ac__ledger_held(), 0);
}

static void claim_in_vain(void *arg) {
  (void)arg;
  ac__token token = {0};
  CHECK(!ac__token_claim(&token, ac__ledger_word()));
}

TEST("a forked child sees that its parent holds every slot") {
  enum { MOST = 1024 };
  static ac__token token[MOST];
  int slots = ac__ledger_slots();
  for (int i = 0; i < slots; i++)
    CHECK(ac__token_claim(&token[i], ac__ledger_word()));
  in_child(claim_in_vain, NULL);
  for (int i = 0; i < slots; i++)
    ac__token_release(&token[i]);
}

static void keep_and_die(void *arg) {
  (void)arg;
  ac__token token = {0};
  ac__token_enter(&token, ac__ledger_word());
  CHECK(token.slot != 0);
}

TEST("what a child that died held is free after a look") {
  enum { MOST = 1024 };
  static ac__token token[MOST];
  int slots = ac__ledger_slots();
  for (int i = 0; i < slots; i++)
    in_child(keep_and_die, NULL);
  CHECK_INT(ac__ledger_held(), slots);
  for (int i = 0; i < slots; i++)
    CHECK(claim_at_last(&token[i]));
  for (int i = 0; i < slots; i++)
    ac__token_release(&token[i]);
  CHECK_INT(ac__ledger_held(), 0);
}

static int child_pipe[2];

static void grandchildren(void *arg) {
  uint64_t word = ac__ledger_word();
  CHECK(write(child_pipe[1], &word, sizeof word) == sizeof word);
  if (arg != NULL)
    in_child(grandchildren, NULL);
}

TEST("every process of a chain of forks has its own word") {
  uint64_t mine = ac__ledger_word(), a, b;
  CHECK(pipe(child_pipe) == 0);
  in_child(grandchildren, &mine);
  CHECK(read(child_pipe[0], &a, sizeof a) == sizeof a);
  CHECK(read(child_pipe[0], &b, sizeof b) == sizeof b);
  CHECK(a != mine && b != mine && a != b);
  close(child_pipe[0]);
  close(child_pipe[1]);
}

static void private_child(void *arg) {
  ac__token copy = *(ac__token *)arg, token = {0};
  CHECK_INT(ac__ledger_held(), 0);
  ac__token_release(&copy);
  CHECK(ac__token_claim(&token, ac__ledger_word()));
  CHECK_INT(ac__ledger_held(), 1);
}

static void without_sharing(void *arg) {
  (void)arg;
  struct rlimit limit, none;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
  atomic_store(&ac__family_joined, NULL);
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  (void)ac__family_get();
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(!ac__ledger_is_shared());
  ac__token token = {0};
  CHECK(ac__token_claim(&token, ac__ledger_word()));
  in_child(private_child, &token);
  CHECK_INT(ac__ledger_held(), 1);
}

TEST("a private ledger is empty in a forked child") {
  in_child(without_sharing, NULL);
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--report") == 0)
    return report_write();
  return check_run_all(argc, argv);
}
