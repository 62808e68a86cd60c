/* crew.c: which workers run, which are to be started, and what their ends mean.
 *
 * A worker that ends is replaced while there may be tasks for it. One that ends
 * before it was ready counts as an early death: after a few in a row no worker
 * can begin, and every task is refused with the reason, in place of starting
 * workers for ever.
 *
 * Knows nothing of: messages, the fork server's socket.
 */
#include "procs/pool.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  EARLY_DEATHS_MAX = 5,
  RETRY_NS = 100000000, /* after a fork was refused */
  REFUSED_MAX = 20,     /* so often in a row, with no worker left */
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

bool ac__crew_next(ac_pool *pool, ac__start_request *ret_request) {
  for (int i = 0; i < pool->workers; i++) {
    crew_member *member = &pool->crew[i];
    if (member->state != CREW_WANTED)
      continue;
    ac__worker_line *line = &pool->memory.workers[i];
    member->state = CREW_STARTING;
    member->owner = pool->next_owner++;
    line->owner = member->owner;
    atomic_store_explicit(&line->is_ready, 0, memory_order_relaxed);
    *ret_request = (ac__start_request){.pool = pool->id, .number = i};
    return true;
  }
  return false;
}

void ac__crew_kill(ac_pool *pool, uint32_t worker, int signal_number) {
  const crew_member *member = &pool->crew[worker];
  if (member->state == CREW_RUNS && member->pidfd >= 0)
    (void)ac__pidfd_kill(member->pidfd, signal_number);
}

/* What a worker's `begin` has left; 0 = nothing. */
static uint64_t refusal_of(const ac_pool *pool, uint64_t *ret_bytes) {
  const ac__pool_head *head = pool->memory.head;
  /* acquire: pairs with the release in refuse() */
  uint64_t offset =
      atomic_load_explicit(&head->refused_offset, memory_order_acquire);
  *ret_bytes = atomic_load_explicit(&head->refused_bytes, memory_order_relaxed);
  return offset != 0 && offset <= pool->memory.arena.size_bytes &&
                 *ret_bytes <= pool->memory.arena.size_bytes - offset
             ? offset
             : 0;
}

void ac__crew_refuse(ac_pool *pool, const char *text, size_t size_bytes) {
  if (pool->refusal != NULL)
    return;
  pool->refusal = malloc(size_bytes + 1);
  if (pool->refusal != NULL) {
    memcpy(pool->refusal, text, size_bytes);
    pool->refusal[size_bytes] = '\0';
  } else {
    static char none[] = "no worker can begin";
    pool->refusal = none;
  }
  ac__tasks_drop(pool, AC_TASK_REFUSED);
  for (int i = 0; i < pool->workers; i++) {
    ac__crew_kill(pool, (uint32_t)i, SIGKILL);
    if (pool->crew[i].state == CREW_WANTED) {
      pool->crew[i].state = CREW_NONE;
      pool->alive--;
    }
  }
}

/* A worker ended before it was ready. */
static void note_early(ac_pool *pool, int32_t status) {
  char text[160];
  uint64_t size_bytes;
  uint64_t offset = refusal_of(pool, &size_bytes);
  if (offset != 0) {
    ac__crew_refuse(pool, (const char *)pool->memory.arena.base + offset,
                    (size_t)size_bytes);
    return;
  }
  if (++pool->early_deaths < EARLY_DEATHS_MAX)
    return;
  int length = snprintf(text, sizeof text,
                        "%d workers in a row ended before they were ready, the "
                        "last by %s %d",
                        pool->early_deaths, status < 0 ? "signal" : "exit code",
                        status < 0 ? -status : status);
  ac__crew_refuse(pool, text, (size_t)length);
}

static void bury(ac_pool *pool, uint32_t worker, int32_t status) {
  crew_member *member = &pool->crew[worker];
  bool was_ready = atomic_load_explicit(&pool->memory.workers[worker].is_ready,
                                        memory_order_relaxed) != 0;
  ac__worker_forget(&pool->memory, worker);
  ac__tasks_bury(pool, worker, member->pid, status);
  (void)ac__arena_reclaim(&pool->memory.arena, member->owner);
  ac__fd_close(member->pidfd);
  *member = (crew_member){.state = CREW_NONE, .pidfd = -1};
  pool->alive--;
  if (was_ready)
    pool->early_deaths = 0;
  else if (!pool->is_terminated)
    note_early(pool, status);
  /* It may have taken a wake-up with it. */
  ac__workers_wake_all(&pool->memory);
}

void ac__crew_notice(ac_pool *pool, const ac__notice *notice, int pidfd) {
  if (notice->number < 0 || notice->number >= pool->workers) {
    ac__fd_close(pidfd);
    return;
  }
  static const char refused[] =
      "the system refuses to start worker processes; raise the limit of "
      "processes (ulimit -u, the cgroup's pids.max) or of memory, or end some";
  crew_member *member = &pool->crew[notice->number];
  switch (notice->kind) {
  case AC__NOTICE_STARTED:
    member->state = CREW_RUNS;
    pool->refused = 0;
    member->pid = notice->pid;
    member->pidfd = pidfd;
    pidfd = -1;
    if (pool->is_terminated || pool->refusal != NULL)
      ac__crew_kill(pool, (uint32_t)notice->number, SIGKILL);
    break;
  case AC__NOTICE_REFUSED:
    member->state = CREW_NONE;
    pool->alive--;
    pool->retry_ns = ac__clock_ns() + RETRY_NS;
    if (++pool->refused >= REFUSED_MAX && pool->alive == 0)
      ac__crew_refuse(pool, refused, sizeof refused - 1);
    break;
  case AC__NOTICE_ENDED:
    if (member->state == CREW_RUNS && member->pid == notice->pid)
      bury(pool, (uint32_t)notice->number, notice->status);
    break;
  default:
    break;
  }
  ac__fd_close(pidfd);
  (void)pthread_cond_broadcast(&pool->crew_changed);
}

void ac__crew_lost(ac_pool *pool) {
  enum { PATIENCE_NS = 1000000000 };
  for (int i = 0; i < pool->workers; i++) {
    crew_member *member = &pool->crew[i];
    if (member->state == CREW_RUNS) {
      (void)ac__pidfd_kill(member->pidfd, SIGKILL);
      (void)ac__fds_wait(&member->pidfd, 1, PATIENCE_NS);
    }
    if (member->state == CREW_RUNS || member->state == CREW_STARTING)
      bury(pool, (uint32_t)i, -SIGKILL);
  }
  (void)pthread_cond_broadcast(&pool->crew_changed);
}

uint64_t ac__pool_tick(ac_pool *pool, uint64_t now_ns) {
  ac__tasks_collect(pool);
  uint64_t due_ns = ac__tasks_check_limits(pool, now_ns);
  (void)ac__crew_fill(pool, now_ns);
  if (pool->backlog != NULL && (due_ns == 0 || due_ns > now_ns + TICK_NS))
    due_ns = now_ns + TICK_NS;
  if (pool->retry_ns > now_ns && (due_ns == 0 || due_ns > pool->retry_ns))
    due_ns = pool->retry_ns;
  ac__tasks_ring(pool);
  return due_ns;
}
