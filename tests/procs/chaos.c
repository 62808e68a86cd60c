/* chaos.c: pools under fire: their workers, their fork servers and the limit on
 * descriptors, while several threads hand over tasks of all kinds.
 *
 *   chaos [seconds [seed]]        or ALLCORES_CHAOS_SECONDS, …_SEED
 *
 * Two managers make pools, one after the other: of this process's own fork, or
 * of this program as a fork server. To each belong clients, which submit,
 * cancel and take in, and a monkey, which kills a worker every few
 * milliseconds and now and then the fork server. Each task must give its right
 * result or an error that can be its own, within PATIENCE_NS; afterwards no
 * page of a pool's arena is taken, and at the end no process and no descriptor
 * is left.
 *
 * Sleeping here is what tasks and the monkey do, not how the test waits.
 */
#define _GNU_SOURCE
#include "procs/pool.h"

#include "check.h"
#include "shm/arena.h"

#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  MANAGERS = 2,
  CLIENTS = 3,    /* of a pool */
  IN_FLIGHT = 60, /* tasks of a pool */
  WORKERS_MOST = 6,
  LARGE_MOST = 400000,
};
static const uint64_t PATIENCE_NS = UINT64_C(30000000000);
static const uint64_t MS = 1000000;

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

static void sleep_us(int us) {
  struct timespec time = {us / 1000000, us % 1000000 * 1000L};
  (void)nanosleep(&time, NULL);
}

/* ---- Workers ------------------------------------------------------------- */

typedef enum kind { ECHO, LARGE, HOLD, SLEEP, HANG, EXIT, ABORT, KINDS } kind;

typedef struct job {
  int32_t kind;
  int32_t number; /* of the task; of LARGE and HOLD also the buffer's size */
} job;

static uint8_t pattern(int32_t number, size_t at) {
  return (uint8_t)((size_t)number * 31 + at / 64);
}

static bool is_filled(const ac_message *message, int32_t number) {
  if (message->buffer_count != 1 ||
      message->buffers[0].size_bytes != (size_t)number)
    return false;
  const uint8_t *at = message->buffers[0].data;
  for (size_t i = 0; i < (size_t)number; i += 61)
    if (at[i] != pattern(number, i))
      return false;
  return true;
}

static void run(ac_worker_link *link, const ac_message *in, ac_message *ret,
                bool *ret_is_held, void *ctx) {
  static const void *held;
  job job;
  (void)ctx;
  memcpy(&job, in->bytes.data, sizeof job);
  *ret = (ac_message){.bytes = in->bytes};
  if (held != NULL)
    ac_worker_let_go(link, held);
  held = NULL;
  switch (job.kind) {
  case LARGE:
    *ret = *in;
    break;
  case HOLD:
    *ret_is_held = true;
    held = in->bytes.data;
    break;
  case SLEEP:
    sleep_us(job.number % 5000);
    break;
  case HANG:
    for (;;)
      (void)pause();
  case EXIT:
    _exit(job.number % 100 + 1);
  case ABORT:
    abort();
  default:
    break;
  }
}

static const ac_worker_ops worker = {.run = run};

static void be_worker(const int *fds, int fd_count, int number, void *ctx) {
  (void)fd_count, (void)ctx;
  _exit(ac_worker_serve(fds, number, &worker) == AC_OK ? 0 : 1);
}

/* ---- A pool and its tasks ------------------------------------------------ */

typedef struct record {
  uint64_t key; /* 0 = none */
  uint64_t begun_ns;
  job job;
  ac_pool_task options;
  bool is_cancelled;
} record;

typedef struct tally {
  _Atomic int made, done, died, cancelled, timeout, refused, no_memory;
  _Atomic int kills, servers_killed, pools, not_made, shortages;
} tally;

static tally all;

typedef struct site {
  ac_pool *pool;
  pthread_mutex_t lock; /* guards the records */
  record records[IN_FLIGHT];
  int in_flight;
  bool is_terminated; /* under the lock */
  atomic_bool is_over, is_drained;
  uint64_t seeds[CLIENTS + 1];
  _Atomic int next_seed;
} site;

static void count(_Atomic int *what) { atomic_fetch_add(what, 1); }

static uint8_t *large_data(void) {
  static _Thread_local uint8_t room[LARGE_MOST];
  return room;
}

static void submit(site *s, uint64_t *random) {
  record r = {.job = {.kind = random_below(random, KINDS),
                      .number = random_below(random, LARGE_MOST) + 1}};
  /* Most tasks are harmless. */
  if (r.job.kind >= HANG && random_below(random, 3) != 0)
    r.job.kind = ECHO;
  if (r.job.kind == HANG)
    r.options.limit_ns = (int64_t)MS * (5 + random_below(random, 40));
  else if (random_below(random, 3) == 0)
    r.options.retries = random_below(random, 4);
  ac_bytes buffer = {large_data(), (size_t)r.job.number};
  ac_message message = {.bytes = {&r.job, sizeof r.job}};
  if (r.job.kind == LARGE || r.job.kind == HOLD) {
    for (size_t i = 0; i < buffer.size_bytes; i++)
      large_data()[i] = pattern(r.job.number, i);
    message.buffers = &buffer;
    message.buffer_count = 1;
  }
  (void)pthread_mutex_lock(&s->lock); /* a result must find its record */
  if (s->in_flight < IN_FLIGHT &&
      ac_pool_submit(s->pool, &message, &r.options, &r.key) == AC_OK) {
    r.begun_ns = ac__clock_ns();
    for (int i = 0; i < IN_FLIGHT; i++)
      if (s->records[i].key == 0) {
        s->records[i] = r;
        break;
      }
    s->in_flight++;
    count(&all.made);
  }
  (void)pthread_mutex_unlock(&s->lock);
}

/* ---- What may come of a task --------------------------------------------- */

static void check_done(const record *r, const ac_pool_result *result) {
  job got = {0, 0};
  CHECK(r->job.kind < HANG);
  if (CHECK_INT(result->message.bytes.size_bytes, sizeof got))
    memcpy(&got, result->message.bytes.data, sizeof got);
  CHECK_INT(got.kind, r->job.kind);
  CHECK_INT(got.number, r->job.number);
  if (r->job.kind == LARGE)
    CHECK(is_filled(&result->message, r->job.number));
}

static void check_died(const site *s, const record *r,
                       const ac_pool_result *result) {
  int status = result->exit_status;
  CHECK(status == -SIGKILL ||
        (r->job.kind == EXIT && status == r->job.number % 100 + 1) ||
        (r->job.kind == ABORT && status == -SIGABRT));
  /* It was begun again as often as it was to be. */
  CHECK(result->attempts == r->options.retries + 1 || s->is_terminated ||
        ac_pool_refusal(s->pool) != NULL);
}

static void check_result(const site *s, const record *r,
                         const ac_pool_result *result) {
  CHECK(result->attempts <= r->options.retries + 1);
  switch (result->end) {
  case AC_TASK_DONE:
    count(&all.done);
    CHECK(!r->is_cancelled);
    check_done(r, result);
    break;
  case AC_TASK_DIED:
    count(&all.died);
    check_died(s, r, result);
    break;
  case AC_TASK_CANCELLED:
    count(&all.cancelled);
    CHECK(r->is_cancelled || s->is_terminated);
    break;
  case AC_TASK_TIMEOUT:
    count(&all.timeout);
    CHECK_INT(r->job.kind, HANG);
    break;
  case AC_TASK_REFUSED:
    count(&all.refused);
    CHECK(ac_pool_refusal(s->pool) != NULL);
    break;
  case AC_TASK_NOMEM:
    count(&all.no_memory);
    CHECK(r->job.kind == LARGE);
    break;
  }
}

/* Take in one result, if there is one. */
static bool take(site *s) {
  ac_pool_result result;
  record r = {0};
  if (!ac_pool_next(s->pool, &result))
    return false;
  (void)pthread_mutex_lock(&s->lock);
  for (int i = 0; i < IN_FLIGHT; i++)
    if (s->records[i].key == result.key) {
      r = s->records[i];
      s->records[i].key = 0;
      s->in_flight--;
    }
  if (CHECK(r.key != 0))
    check_result(s, &r, &result);
  (void)pthread_mutex_unlock(&s->lock);
  ac_pool_result_free(s->pool, &result, false, NULL);
  return true;
}

static void cancel(site *s, uint64_t *random) {
  record *r = &s->records[random_below(random, IN_FLIGHT)];
  (void)pthread_mutex_lock(&s->lock);
  if (r->key != 0 &&
      ac_pool_cancel(s->pool, r->key, random_below(random, 2) == 0))
    r->is_cancelled = true;
  (void)pthread_mutex_unlock(&s->lock);
}

/* @return whether no task has been in flight for too long. */
static bool check_patience(site *s) {
  bool is_well = true;
  uint64_t now_ns = ac__clock_ns();
  (void)pthread_mutex_lock(&s->lock);
  for (int i = 0; i < IN_FLIGHT; i++) {
    const record *r = &s->records[i];
    if (r->key == 0 || now_ns < r->begun_ns + PATIENCE_NS)
      continue;
    is_well = false;
    printf("  task %d/%d (limit %lld, retries %d, cancelled %d) is in place %d "
           "after %llu ms\n",
           r->job.kind, r->job.number, (long long)r->options.limit_ns,
           r->options.retries, r->is_cancelled,
           (int)ac_pool_where(s->pool, r->key),
           (unsigned long long)((now_ns - r->begun_ns) / MS));
  }
  (void)pthread_mutex_unlock(&s->lock);
  return CHECK(is_well);
}

/* ---- Clients ------------------------------------------------------------- */

static void *client(void *arg) {
  site *s = arg;
  uint64_t random = s->seeds[atomic_fetch_add(&s->next_seed, 1)];
  while (!atomic_load(&s->is_over) && check_patience(s)) {
    for (int i = random_below(&random, 8); i > 0; i--)
      submit(s, &random);
    if (random_below(&random, 4) == 0)
      cancel(s, &random);
    if (random_below(&random, 3) == 0)
      (void)ac_pool_wait(s->pool, (int64_t)MS * random_below(&random, 20));
    while (take(s)) {
    }
  }
  return NULL;
}

/* Take in what is left. */
static bool drain(site *s) {
  while (s->in_flight > 0) {
    if (!take(s)) {
      if (!check_patience(s))
        return false;
      (void)ac_pool_wait(s->pool, (int64_t)MS * 1000);
    }
  }
  return true;
}

/* ---- Processes ----------------------------------------------------------- */

/* The parent of a process; 0 = there is no such process, -1 = a zombie. */
static pid_t parent_of(pid_t pid) {
  char path[64], text[512];
  char state = 0;
  int parent = 0;
  (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return 0;
  size_t size = fread(text, 1, sizeof text - 1, file);
  (void)fclose(file);
  text[size] = '\0';
  const char *end = strrchr(text, ')');
  if (end == NULL || sscanf(end + 1, " %c %d", &state, &parent) != 2)
    return 0;
  return state == 'Z' || state == 'X' ? -1 : (pid_t)parent;
}

/* Kill a process if its parent is still `parent`. */
static bool kill_child_of(pid_t parent, pid_t pid) {
  int pidfd = ac__pidfd_open((int32_t)pid);
  bool is_it =
      pidfd >= 0 && parent_of(pid) == parent && ac__pidfd_kill(pidfd, SIGKILL);
  ac__fd_close(pidfd);
  return is_it;
}

static void limit_descriptors(pid_t pid, rlim_t most) {
  struct rlimit limit;
  if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit) != 0)
    return;
  limit.rlim_cur = most < limit.rlim_max ? most : limit.rlim_max;
  (void)prlimit(pid, RLIMIT_NOFILE, &limit, NULL);
}

static void *monkey(void *arg) {
  site *s = arg;
  uint64_t random = s->seeds[CLIENTS];
  rlim_t usual = 1024;
  pid_t starved = 0;
  while (!atomic_load(&s->is_drained)) {
    int32_t pids[WORKERS_MOST];
    int alive = ac_pool_pids(s->pool, pids, WORKERS_MOST);
    pid_t victim = alive > 0 ? (pid_t)pids[random_below(&random, alive)] : 0;
    pid_t server = victim != 0 ? parent_of(victim) : 0;
    if (server > 1 && parent_of(server) == getpid()) {
      int what = random_below(&random, 200);
      if (what < 2 && kill_child_of(getpid(), server))
        count(&all.servers_killed);
      else if (what < 4)
        limit_descriptors(starved = server, (rlim_t)(4 + what));
      else if (kill_child_of(server, victim))
        count(&all.kills);
    }
    sleep_us(1000 + random_below(&random, 6000));
    if (starved != 0)
      limit_descriptors(starved, usual);
    starved = 0;
  }
  return NULL;
}

/* ---- Managers ------------------------------------------------------------ */

static const char *const program[] = {"/proc/self/exe", "--forkserver", NULL};

static ac_pool *pool_new(uint64_t *random, bool is_program) {
  ac_pool_options options = {.workers = 1 + random_below(random, WORKERS_MOST),
                             .server = is_program ? program : NULL,
                             .worker = &worker,
                             .is_lazy = random_below(random, 2) == 0};
  ac_pool *pool = NULL;
  if (random_below(random, 3) == 0)
    options.tasks_a_worker = 1 + random_below(random, 30);
  return ac_pool_create(&options, &pool) == AC_OK ? pool : NULL;
}

/* No page is taken; of a pool that was terminated none by this process, for
 * those of dead workers go with the arena. */
static void check_pages(ac_pool *pool) {
  ac__pages pages;
  int taken = 0;
  if (!CHECK(ac__pages_of(&pool->memory.arena, &pages)))
    return;
  for (uint32_t page = pages.first; page < pages.end; page++) {
    uint32_t owner = ac__page_owner(atomic_load(&pages.word[page]));
    taken += pool->is_terminated ? owner == AC__OWNER_PARENT : owner != 0;
  }
  CHECK_INT(taken, 0);
}

static void end_pool(site *s, bool is_gentle) {
  if (is_gentle) {
    (void)drain(s);
    ac_pool_close(s->pool);
    CHECK_INT(ac_pool_join(s->pool, (int64_t)PATIENCE_NS), AC_OK);
    check_pages(s->pool);
  }
  (void)pthread_mutex_lock(&s->lock);
  s->is_terminated = true;
  (void)pthread_mutex_unlock(&s->lock);
  ac_pool_terminate(s->pool);
  (void)drain(s);
  CHECK_INT(ac_pool_pids(s->pool, NULL, 0), 0);
  check_pages(s->pool);
}

/* The life of one pool. */
static void live(uint64_t *random) {
  pthread_t threads[CLIENTS + 1];
  site s = {.lock = PTHREAD_MUTEX_INITIALIZER};
  s.pool = pool_new(random, random_below(random, 2) == 0);
  if (s.pool == NULL) { /* descriptors are short */
    count(&all.not_made);
    sleep_us(1000);
    return;
  }
  count(&all.pools);
  for (int i = 0; i <= CLIENTS; i++)
    s.seeds[i] = random_next(random);
  for (int i = 0; i <= CLIENTS; i++)
    if (pthread_create(&threads[i], NULL, i == 0 ? monkey : client, &s) != 0)
      abort();
  sleep_us(random_below(random, 800000));
  atomic_store(&s.is_over, true);
  for (int i = 1; i <= CLIENTS; i++)
    (void)pthread_join(threads[i], NULL);
  end_pool(&s, random_below(random, 2) == 0);
  atomic_store(&s.is_drained, true);
  (void)pthread_join(threads[0], NULL);
  ac_pool_destroy(s.pool);
  (void)pthread_mutex_destroy(&s.lock);
}

static uint64_t until_ns;

static void *manager(void *arg) {
  uint64_t *random = arg;
  while (ac__clock_ns() < until_ns && check_child_status() == 0)
    live(random);
  return NULL;
}

/* ---- The test ------------------------------------------------------------ */

/* Entries of a folder whose name is a number and for which `counts` holds. */
static int count_numbers(const char *folder, bool (*counts)(int number)) {
  int found = 0;
  DIR *dir = opendir(folder);
  if (!CHECK(dir != NULL))
    return -1;
  for (struct dirent *at; (at = readdir(dir)) != NULL;)
    if (at->d_name[0] >= '0' && at->d_name[0] <= '9')
      found += counts(atoi(at->d_name));
  (void)closedir(dir);
  return found;
}

static bool is_any(int number) {
  (void)number;
  return true;
}

static bool is_ours(int pid) {
  pid_t parent = parent_of(pid);
  return parent == getpid() || (parent > 1 && parent_of(parent) == getpid());
}

static int descriptors(void) { return count_numbers("/proc/self/fd", is_any); }

static int processes(void) { return count_numbers("/proc", is_ours); }

/* Have a pool of the program's fork server run a task, and end it. */
static void use_program(void) {
  ac_pool_options options = {.workers = 1, .server = program};
  ac_pool_result result;
  job job = {ECHO, 1};
  ac_message message = {.bytes = {&job, sizeof job}};
  uint64_t key;
  ac_pool *pool;
  if (!CHECK(ac_pool_create(&options, &pool) == AC_OK))
    return;
  CHECK(ac_pool_submit(pool, &message, NULL, &key) == AC_OK);
  while (!ac_pool_next(pool, &result))
    (void)ac_pool_wait(pool, (int64_t)MS * 1000);
  CHECK_INT(result.end, AC_TASK_DONE);
  ac_pool_result_free(pool, &result, false, NULL);
  ac_pool_destroy(pool);
}

static int argument(int i, const char *name, int otherwise) {
  const char *text = check_argc > i ? check_argv[i] : getenv(name);
  return text != NULL ? atoi(text) : otherwise;
}

/* Now and then this process may have no more descriptors than it has. */
static void starve(uint64_t *random) {
  struct rlimit usual;
  (void)getrlimit(RLIMIT_NOFILE, &usual);
  while (ac__clock_ns() < until_ns && check_child_status() == 0) {
    sleep_us(1000 * (100 + random_below(random, 400)));
    limit_descriptors(0, (rlim_t)(3 + random_below(random, 30)));
    count(&all.shortages);
    sleep_us(1000 * random_below(random, 100));
    (void)setrlimit(RLIMIT_NOFILE, &usual);
  }
}

TEST("pools under fire: each task ends as it may, and nothing is left") {
  pthread_t managers[MANAGERS];
  uint64_t seeds[MANAGERS];
  int seconds = argument(1, "ALLCORES_CHAOS_SECONDS", 5);
  int seed =
      argument(2, "ALLCORES_CHAOS_SEED", (int)(ac__clock_ns() % 1000000));
  uint64_t random = (uint64_t)seed;
  printf("  seconds %d, seed %d\n", seconds, seed);
  (void)fflush(stdout);
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
  use_program();
  int fds = descriptors();
  int children = processes();
  until_ns = ac__clock_ns() + (uint64_t)seconds * 1000 * MS;
  for (int i = 0; i < MANAGERS; i++) {
    seeds[i] = random_next(&random);
    if (pthread_create(&managers[i], NULL, manager, &seeds[i]) != 0)
      abort();
  }
  starve(&random);
  for (int i = 0; i < MANAGERS; i++)
    (void)pthread_join(managers[i], NULL);
  use_program(); /* its server may have been killed last */
  CHECK_INT(processes(), children);
  CHECK_INT(descriptors(), fds);
  printf(
      "  %d tasks: %d done, %d died, %d cancelled, %d timed out, %d refused, "
      "%d without memory\n  %d pools, %d not made; %d workers and %d fork "
      "servers killed; %d times short of descriptors\n",
      all.made, all.done, all.died, all.cancelled, all.timeout, all.refused,
      all.no_memory, all.pools, all.not_made, all.kills, all.servers_killed,
      all.shortages);
  CHECK_INT(all.made, all.done + all.died + all.cancelled + all.timeout +
                          all.refused + all.no_memory);
  CHECK(all.done > 0 && all.kills > 0);
}

int main(int argc, char **argv) {
  const ac_forkserver_ops server = {.child = be_worker};
  if (argc > 1 && strcmp(argv[1], "--forkserver") == 0)
    return ac_forkserver_serve(AC_FORKSERVER_FD, &server) == AC_OK ? 0 : 1;
  return check_run_all(argc, argv);
}
