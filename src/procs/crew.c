/* crew.c: which workers run, which are to be started, and what their ends mean.
 *
 * A worker that ends is replaced while there may be tasks for it. One that ends
 * before it was ready counts as an early death: after a few, and none that
 * became ready meanwhile, no worker can begin, and every task that has not
 * begun is refused with the reason, in place of starting workers for ever. An
 * end by KILL or TERM comes from outside and does not count; the next start
 * waits a little.
 *
 * Knows nothing of: messages, the fork server's socket.
 */
#include "procs/pool.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_NS UINT64_C(60000000000) /* free pages may stay so long unused */
#define TRIM_NS UINT64_C(30000000000) /* between two looks for such */

enum {
  EARLY_DEATHS_MAX = 5,
  RETRY_NS = 100000000, /* a round: after a fork was refused */
  REFUSED_MAX = 20,     /* so many in a row, with no worker left */
  TICK_NS = 2000000     /* while tasks wait for slots */
};

/* How many workers there should be. */
static int wanted(const ac_pool *pool) {
  uint32_t tasks = pool->unfinished;
  if (pool->is_terminated || pool->is_paused || pool->refusal != NULL)
    return 0;
  if ((pool->is_closing || pool->is_lazy) && tasks < (uint32_t)pool->workers)
    return pool->is_closing           ? (int)tasks
           : (int)tasks > pool->alive ? (int)tasks
                                      : pool->alive;
  return pool->workers;
}

bool ac__crew_fill(ac_pool *pool, uint64_t now_ns) {
  bool has_some = false;
  int most = wanted(pool);
  if (now_ns < pool->retry_ns)
    return false;
  for (int i = 0; i < pool->workers && pool->alive < most; i++) {
    if (pool->crew[i].state != CREW_NONE)
      continue;
    pool->crew[i].state = CREW_WANTED;
    pool->alive++;
    has_some = true;
  }
  return has_some;
}

static void start_member(ac_pool *pool, int number) {
  crew_member *member = &pool->crew[number];
  ac__worker_line *line = &pool->memory.workers[number];
  member->state = CREW_STARTING;
  member->owner = pool->next_owner++;
  line->owner = member->owner;
  atomic_store_explicit(&line->is_ready, 0, memory_order_relaxed);
}

bool ac__crew_next(ac_pool *pool, ac__request *ret_request) {
  for (int i = 0; i < pool->workers; i++) {
    crew_member *member = &pool->crew[i];
    if (member->state == CREW_RUNS && member->signal != 0) {
      *ret_request = (ac__request){.pool = pool->id,
                                   .kind = AC__REQUEST_KILL,
                                   .number = i,
                                   .pid = member->pid,
                                   .value = member->signal};
      member->signal = 0;
      return true;
    }
    if (member->state == CREW_WANTED) {
      start_member(pool, i);
      *ret_request = (ac__request){
          .pool = pool->id, .kind = AC__REQUEST_START, .number = i};
      return true;
    }
  }
  return false;
}

static void refused(ac_pool *pool, crew_member *member) {
  static const char text[] =
      "the system refuses to start worker processes; raise the limit of "
      "processes (ulimit -u, the cgroup's pids.max), of open files (ulimit -n) "
      "or of memory, or end some";
  member->state = CREW_NONE;
  pool->alive--;
  uint64_t now_ns = ac__clock_ns();
  if (now_ns >= pool->retry_ns) { /* the first of its round */
    pool->retry_ns = now_ns + RETRY_NS;
    pool->refused++;
  }
  if (pool->refused >= REFUSED_MAX && pool->alive == 0)
    ac__crew_refuse(pool, text, sizeof text - 1);
}

void ac__crew_unsent(ac_pool *pool, const ac__request *request) {
  crew_member *member = &pool->crew[request->number];
  if (request->kind == AC__REQUEST_START) {
    refused(pool, member);
  } else {
    member->signal = request->value;
    pool->retry_ns = ac__clock_ns() + RETRY_NS;
  }
  (void)pthread_cond_broadcast(&pool->crew_changed);
}

static bool is_ready(const ac_pool *pool, uint32_t worker) {
  return atomic_load_explicit(&pool->memory.workers[worker].is_ready,
                              memory_order_relaxed) != 0;
}

bool ac__crew_kill(ac_pool *pool, uint32_t worker, int signal_number) {
  crew_member *member = &pool->crew[worker];
  if (member->state != CREW_RUNS)
    return false;
  if (member->pidfd >= 0)
    return ac__pidfd_kill(member->pidfd, signal_number);
  member->signal = signal_number;
  ac__server_ring(pool->server);
  return true;
}

/* What a worker's `begin` has left, if it has: refuse all tasks. */
static bool take_refusal(ac_pool *pool) {
  const ac__segment *arena = &pool->memory.arena;
  uint64_t size_bytes;
  /* acquire: pairs with the release in refuse() */
  uint64_t offset = atomic_load_explicit(&pool->memory.head->refused_offset,
                                         memory_order_acquire);
  if (offset == 0 || offset > arena->size_bytes ||
      AC__STORED_HEAD > arena->size_bytes - offset)
    return false;
  memcpy(&size_bytes, arena->base + offset, sizeof size_bytes);
  offset += AC__STORED_HEAD;
  if (size_bytes > arena->size_bytes - offset)
    return false;
  ac__crew_refuse(pool, (const char *)arena->base + offset, (size_t)size_bytes);
  return true;
}

void ac__crew_refuse(ac_pool *pool, const char *text, size_t size_bytes) {
  if (pool->refusal != NULL)
    return;
  pool->refusal = "no worker can begin";
  pool->refusal_text = malloc(size_bytes + 1);
  if (pool->refusal_text != NULL) {
    memcpy(pool->refusal_text, text, size_bytes);
    pool->refusal_text[size_bytes] = '\0';
    pool->refusal = pool->refusal_text;
  }
  ac__tasks_drop(pool, AC_TASK_REFUSED);
  /* Workers that are ready end once they have finished what they run. release:
   * pairs with the acquire in worker.c */
  atomic_store_explicit(&pool->memory.head->is_closing, 1,
                        memory_order_release);
  /* acquire: who had claimed a task before it could be dropped is ready */
  atomic_thread_fence(memory_order_acquire);
  for (int i = 0; i < pool->workers; i++) {
    if (!is_ready(pool, (uint32_t)i))
      (void)ac__crew_kill(pool, (uint32_t)i, SIGKILL);
    if (pool->crew[i].state == CREW_WANTED) {
      pool->crew[i].state = CREW_NONE;
      pool->alive--;
    }
  }
  ac__workers_wake_all(&pool->memory);
}

/* Has any worker become ready since the last early death? */
static bool has_new_ready(ac_pool *pool) {
  bool has_new = false;
  for (int i = 0; i < pool->workers; i++) {
    crew_member *member = &pool->crew[i];
    if (member->state != CREW_RUNS || member->was_ready ||
        !is_ready(pool, (uint32_t)i))
      continue;
    member->was_ready = has_new = true;
  }
  return has_new;
}

/* A worker ended before it was ready, and has left no reason. */
static void note_early(ac_pool *pool, int32_t status) {
  char text[160];
  if (has_new_ready(pool))
    pool->early_deaths = 0;
  if (status == -SIGKILL || status == -SIGTERM) {
    pool->retry_ns = ac__clock_ns() + RETRY_NS;
    return;
  }
  if (++pool->early_deaths < EARLY_DEATHS_MAX)
    return;
  int length = snprintf(text, sizeof text,
                        "%d workers ended before they were ready, the "
                        "last by %s %d",
                        pool->early_deaths, status < 0 ? "signal" : "exit code",
                        status < 0 ? -status : status);
  ac__crew_refuse(pool, text, (size_t)length);
}

/* A worker is dead; `is_own`: of itself, and not with the fork server. */
static void bury(ac_pool *pool, uint32_t worker, int32_t status, bool is_own) {
  crew_member *member = &pool->crew[worker];
  bool was_ready = is_ready(pool, worker);
  bool was_seen = member->was_ready;
  ac__worker_forget(&pool->memory, worker);
  ac__tasks_bury(pool, worker, member->pid, status);
  /* It may lie in the worker's own pages. */
  bool has_reason = !was_ready && !pool->is_terminated && take_refusal(pool);
  if (!pool->is_terminated) /* else all of it goes soon, and this takes long */
    (void)ac__arena_reclaim(&pool->memory.arena, member->owner);
  ac__fd_close(member->pidfd);
  *member = (crew_member){.state = CREW_NONE, .pidfd = -1};
  pool->alive--;
  if (was_ready && !was_seen)
    pool->early_deaths = 0;
  else if (!was_ready && is_own && !has_reason && !pool->is_terminated)
    note_early(pool, status);
  /* It may have taken a wake-up with it. */
  ac__workers_wake_all(&pool->memory);
}

void ac__crew_notice(ac_pool *pool, const ac__notice *notice, int pidfd) {
  if (notice->number < 0 || notice->number >= pool->workers) {
    ac__fd_close(pidfd);
    return;
  }
  crew_member *member = &pool->crew[notice->number];
  switch (notice->kind) {
  case AC__NOTICE_STARTED:
    member->state = CREW_RUNS;
    pool->refused = 0;
    member->pid = notice->pid;
    member->pidfd = pidfd;
    pidfd = -1;
    if (pool->is_terminated ||
        (pool->refusal != NULL && !is_ready(pool, (uint32_t)notice->number)))
      (void)ac__crew_kill(pool, (uint32_t)notice->number, SIGKILL);
    break;
  case AC__NOTICE_REFUSED:
    refused(pool, member);
    break;
  case AC__NOTICE_ENDED:
    if (member->state == CREW_RUNS && member->pid == notice->pid)
      bury(pool, (uint32_t)notice->number, notice->status, true);
    break;
  default:
    break;
  }
  ac__fd_close(pidfd);
  (void)pthread_cond_broadcast(&pool->crew_changed);
}

/* The kernel has sent KILL to a worker; wait until it runs no more. */
static void await_end(const crew_member *member) {
  enum { LOOK_NS = 1000000, LOOKS = 1000 };
  ac__thread_stat stat;
  if (member->pidfd >= 0) {
    (void)ac__pidfd_kill(member->pidfd, SIGKILL);
    (void)ac__fds_wait(&member->pidfd, 1, (int64_t)LOOKS * LOOK_NS);
    return;
  }
  for (int i = 0; i < LOOKS && ac__thread_stat_read(member->pid, &stat) &&
                  stat.state != 'Z' && stat.state != 'X';
       i++)
    (void)ac__fds_wait(NULL, 0, LOOK_NS);
}

void ac__crew_lost(ac_pool *pool) {
  enum { UNKNOWN_NS = 20000000 };
  bool has_unknown = false;
  for (int i = 0; i < pool->workers; i++) {
    if (pool->crew[i].state == CREW_RUNS)
      await_end(&pool->crew[i]);
    has_unknown |= pool->crew[i].state == CREW_STARTING;
  }
  if (has_unknown) /* it may have begun, but its number is not known */
    (void)ac__fds_wait(NULL, 0, UNKNOWN_NS);
  for (int i = 0; i < pool->workers; i++)
    if (pool->crew[i].state == CREW_RUNS ||
        pool->crew[i].state == CREW_STARTING)
      bury(pool, (uint32_t)i, -SIGKILL, false);
  (void)pthread_cond_broadcast(&pool->crew_changed);
}

void ac__pool_note_pages(ac_pool *pool) {
  if (pool->trim_ns != 0)
    return;
  pool->trim_ns = ac__clock_ns() + TRIM_NS;
  ac__server_ring(pool->server);
}

/* Give back to the system what the arena has not needed for a minute. */
static void trim(ac_pool *pool, uint64_t now_ns) {
  ac__arena_use use;
  if (pool->trim_ns == 0 || now_ns < pool->trim_ns)
    return;
  ac__arena_trim(&pool->memory.arena, IDLE_NS);
  ac__arena_usage(&pool->memory.arena, &use);
  pool->trim_ns =
      use.warm_bytes != 0 || pool->unfinished != 0 ? now_ns + TRIM_NS : 0;
}

uint64_t ac__pool_tick(ac_pool *pool, uint64_t now_ns) {
  ac__tasks_collect(pool);
  uint64_t due_ns = ac__tasks_check_limits(pool, now_ns);
  (void)ac__crew_fill(pool, now_ns);
  if (pool->backlog != NULL && (due_ns == 0 || due_ns > now_ns + TICK_NS))
    due_ns = now_ns + TICK_NS;
  if (pool->retry_ns > now_ns && (due_ns == 0 || due_ns > pool->retry_ns))
    due_ns = pool->retry_ns;
  trim(pool, now_ns);
  if (pool->trim_ns != 0 && (due_ns == 0 || due_ns > pool->trim_ns))
    due_ns = pool->trim_ns;
  ac__tasks_ring(pool);
  return due_ns;
}
