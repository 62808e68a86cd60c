/* orphans.c: a process with pools is killed, or ends without a word: none of
 * its processes is left a second later, whatever they do.
 *
 * This program adopts what its children leave behind (PR_SET_CHILD_SUBREAPER),
 * so that it hears of the end of each.
 */
#define _GNU_SOURCE
#include "check.h"
#include "os/os.h"

#include <allcores/pool.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, POOLS = 2 };
static const uint64_t LIMIT_NS = UINT64_C(1000000000);
static const uint64_t PATIENCE_NS = UINT64_C(60000000000);

/* Shared with the workers: how many have begun what they do. */
static _Atomic int *begun;

/* ---- Workers ------------------------------------------------------------- */

typedef enum deed { SLEEP, COMPUTE, DEAF, IDLE } deed;

/* Leave the session and the group; then never end. */
static void run(ac_worker_link *link, const ac_message *in, ac_message *ret,
                bool *ret_is_held, void *ctx) {
  int32_t what;
  (void)link, (void)ret, (void)ret_is_held, (void)ctx;
  memcpy(&what, in->bytes.data, sizeof what);
  (void)setsid();
  if (what == DEAF)
    for (int number = 1; number < NSIG; number++)
      (void)signal(number, SIG_IGN);
  if (begun != NULL)
    atomic_fetch_add(begun, 1);
  while (what != IDLE)
    if (what != COMPUTE)
      (void)pause();
}

static const ac_worker_ops worker = {.run = run};

static void be_worker(const int *fds, int fd_count, int number, void *ctx) {
  (void)fd_count, (void)ctx;
  _exit(ac_worker_serve(fds, number, &worker) == AC_OK ? 0 : 1);
}

/* ---- The process with pools ---------------------------------------------- */

static ac_pool *pool_new(bool is_program) {
  static const char *const program[] = {"/proc/self/exe", "--forkserver", NULL};
  ac_pool_options options = {.workers = WORKERS,
                             .server = is_program ? program : NULL,
                             .worker = &worker};
  ac_pool *pool = NULL;
  if (!CHECK(ac_pool_create(&options, &pool) == AC_OK))
    _exit(1);
  for (int32_t what = SLEEP; what <= IDLE; what++) {
    uint64_t key;
    ac_message message = {.bytes = {&what, sizeof what}};
    CHECK(ac_pool_submit(pool, &message, NULL, &key) == AC_OK);
  }
  return pool;
}

static void await_workers(ac_pool *pool) {
  int32_t pids[WORKERS];
  while (ac_pool_pids(pool, pids, WORKERS) < WORKERS)
    ac__thread_yield();
}

_Noreturn static void have_pools(bool ends_itself) {
  /* The third sleeps while all that is submitted is run. */
  ac_pool *pools[POOLS] = {pool_new(false), pool_new(true)};
  for (int i = 0; i < POOLS; i++)
    await_workers(pools[i]);
  while (atomic_load(begun) < WORKERS) /* those of the fork: they share it */
    ac__thread_yield();
  if (ends_itself)
    _exit(check_child_status());
  atomic_store(begun, -1);
  for (;;)
    (void)pause();
}

/* ---- The tests ----------------------------------------------------------- */

/* Wait for the ends of all processes; @return how many there were. */
static int await_all(void) {
  int count = 0;
  uint64_t begun_ns = ac__clock_ns();
  for (;;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == ECHILD)
      break;
    count += pid > 0;
    if (pid == 0 && !CHECK(ac__clock_ns() < begun_ns + PATIENCE_NS))
      break;
    if (pid == 0)
      ac__thread_yield();
  }
  uint64_t took_ns = ac__clock_ns() - begun_ns;
  printf("  %d processes ended within %.1f ms\n", count, (double)took_ns / 1e6);
  CHECK(took_ns < LIMIT_NS);
  return count;
}

static void end_with_pools(bool ends_itself) {
  void *base;
  int fd;
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
  if (!CHECK(ac__shared_create("begun", 4096, &fd, &base) == AC_OK))
    return;
  begun = base;
  pid_t pid = fork();
  if (pid == 0)
    have_pools(ends_itself);
  if (!ends_itself) {
    while (atomic_load(begun) >= 0)
      ac__thread_yield();
    CHECK(kill(pid, SIGKILL) == 0);
  } else {
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    CHECK_INT(info.si_status, 0);
  }
  /* The process and its fork servers, which have waited for their workers. */
  CHECK(await_all() >= 1 + POOLS);
  ac__shared_close(fd, base, 4096);
}

TEST("a process that is killed leaves no worker behind, of no session") {
  end_with_pools(false);
}

TEST("a process that ends without a word leaves no worker behind") {
  end_with_pools(true);
}

int main(int argc, char **argv) {
  const ac_forkserver_ops server = {.child = be_worker};
  if (argc > 1 && strcmp(argv[1], "--forkserver") == 0)
    return ac_forkserver_serve(AC_FORKSERVER_FD, &server) == AC_OK ? 0 : 1;
  return check_run_all(argc, argv);
}
