/* group.c: task groups: tasks spawned from anywhere and waited for together.
 *
 * A group is a queue of tasks under a mutex. While it has tasks, it is linked
 * into its team's list of open groups, where idle helpers find it; a waiter
 * takes tasks of its own group only, or jobs exposed by those who run them.
 * Running a task costs some 100 ns more than a strand; in return tasks outlive
 * the call that spawned them, and any thread may spawn.
 *
 * Locks: the team's lock is never taken while a group's is held, nor the other
 * way round, but in list_group(), which takes the team's inside the group's.
 *
 * Fork: another thread of the parent may have held the locks. So the child
 * never takes those of a group that is the parent's; its calls return
 * AC_E_FORKED.
 *
 * Invariants: a helper that looks at a group holds a reference, counted under
 * the team's lock, and destroying waits for it. `unfinished` counts tasks
 * queued and running.
 *
 * Knows nothing of: what a task does.
 */
#include "base/status.h"
#include "team/sleep.h"
#include "team/team.h"

#include <allcores/algo.h>
#include <stdlib.h>

typedef struct task_node {
  struct task_node *next;
  ac_task task;
} task_node;

/* A task that runs now, on its worker's stack; in the group's list. */
typedef struct running {
  struct running *next;
  struct running **link;
  ac__frame frame; /* its owner is a waiter that blocks, if there is one */
  int64_t base;
} running;

/* A thread that waits, on its stack; in the group's list. */
typedef struct waiter {
  struct waiter *next;
  ac_worker *worker;
  ac__frame *frame; /* in which it waits; NULL = outside of any region */
} waiter;

struct ac_group {
  ac__region region;
  ac_team *team;
  uint32_t generation; /* of fork; another means: it is the parent's */
  pthread_mutex_t lock;
  task_node *first;
  task_node **last;
  running *running;
  waiter *waiters;
  _Atomic int64_t unfinished; /* changes under the lock */
  bool is_listed;             /* in the team's list; changes under both locks */
  int32_t references; /* helpers that look at it; under the team's lock */
  struct ac_group *next, **link; /* the team's list */
};

static bool is_parents(const ac_group *group) {
  return group->generation != ac__generation();
}

static ac_status fail_forked(const char *operation) {
  return ac__fail(AC_E_FORKED, operation,
                  "Make groups anew in the child, outside of any region.",
                  "the process was forked since, or inside a region");
}

static ac_status fail_memory(const char *operation, const char *of_what) {
  return ac__fail(AC_E_NOMEM, operation, "", "memory for %s was refused",
                  of_what);
}

static ac_status fail_entry(const ac__visit *visit, const char *operation) {
  return visit->before != NULL && ac__is_orphan()
             ? fail_forked(operation)
             : fail_memory(operation, "the thread's place in the team");
}

/* ---- The team's list ----------------------------------------------------- */

/* The caller is in the team, if memory for its place could be had. */
static void count_writes(int writes) {
  ac_worker *self = ac__self_tls.worker;
  if (self != NULL)
    AC__COUNT_N(self, shared_writes, writes);
}

/* Under the group's lock: list it while it has tasks to begin. */
static void list_group(ac_group *group) {
  ac_team *team = group->team;
  bool wants = group->first != NULL;
  if (wants == group->is_listed)
    return;
  group->is_listed = wants;
  count_writes(3); /* the lock twice, and the number of groups */
  pthread_mutex_lock(&team->lock);
  if (wants) {
    group->next = team->groups;
    group->link = &team->groups;
    if (group->next != NULL)
      group->next->link = &group->next;
    team->groups = group;
    /* relaxed: a hint; announced behind a fence (ac__team_announce) */
    atomic_fetch_add_explicit(&team->open_groups, 1, memory_order_relaxed);
  } else {
    *group->link = group->next;
    if (group->next != NULL)
      group->next->link = group->link;
    atomic_fetch_sub_explicit(&team->open_groups, 1, memory_order_relaxed);
  }
  pthread_mutex_unlock(&team->lock);
}

/* ---- Tasks --------------------------------------------------------------- */

static ac_status status_of(ac_group *group) {
  /* relaxed: a reason to stop; the lock orders the rest */
  ac_status status =
      atomic_load_explicit(&group->region.status, memory_order_relaxed);
  if (status == AC_OK && group->region.deadline_ns != 0 &&
      ac__clock_ns() >= (uint64_t)group->region.deadline_ns) {
    status = AC_E_TIMEOUT;
    ac__region_fail(&group->region, status);
  }
  return status;
}

static void wake_waiters(ac_group *group) {
  ac_worker *self = ac__self_tls.worker;
  for (waiter *waiter = group->waiters; waiter != NULL; waiter = waiter->next) {
    count_writes(1);
    if (ac__block_wake(waiter->worker) && self != NULL)
      AC__COUNT(self, futex_calls);
  }
}

/* Under the lock: change the count of tasks, and return it. */
static int64_t count_unfinished(ac_group *group, int64_t change) {
  /* release: pairs with the acquire in is_over() */
  return atomic_fetch_add_explicit(&group->unfinished, change,
                                   memory_order_release) +
         change;
}

/* Under the lock: drop the tasks that have not begun. */
static void leave_out(ac_group *group) {
  while (group->first != NULL) {
    task_node *node = group->first;
    group->first = node->next;
    (void)count_unfinished(group, -1);
    free(node);
  }
  group->last = &group->first;
  list_group(group);
  if (count_unfinished(group, 0) == 0)
    wake_waiters(group);
}

/* Under the lock: a waiter blocks, or may, and wants to know of what the task
 * pushes. */
static void make_owner(running *running, ac_worker *waiter) {
  /* relaxed: published by the flag (release), read behind its exchange */
  __atomic_store_n(&running->frame.owner, waiter, __ATOMIC_RELAXED);
  ac__make_hungry(running->frame.worker);
}

/* Take a task, and note that it runs; NULL if there is none to run. */
static task_node *begin_task(ac_group *group, running *running) {
  ac_worker *worker = running->frame.worker;
  ac_status status = status_of(group);
  count_writes(2);
  pthread_mutex_lock(&group->lock);
  if (status != AC_OK)
    leave_out(group);
  task_node *node = group->first;
  if (node != NULL) {
    group->first = node->next;
    if (group->first == NULL) {
      group->last = &group->first;
      list_group(group);
    }
    running->base = worker->head.bottom;
    running->next = group->running;
    running->link = &group->running;
    if (running->next != NULL)
      running->next->link = &running->next;
    group->running = running;
    if (group->waiters != NULL)
      make_owner(running, group->waiters->worker);
  }
  pthread_mutex_unlock(&group->lock);
  return node;
}

static void end_task(ac_group *group, running *running) {
  count_writes(2);
  pthread_mutex_lock(&group->lock);
  *running->link = running->next;
  if (running->next != NULL)
    running->next->link = running->link;
  if (count_unfinished(group, -1) == 0)
    wake_waiters(group);
  pthread_mutex_unlock(&group->lock);
}

static bool run_task(ac_group *group, ac_worker *worker) {
  running running;
  ac__frame_push(worker, &running.frame, &group->region, NULL, worker->place);
  task_node *node = begin_task(group, &running);
  if (node == NULL) {
    ac__frame_pop(worker, &running.frame);
    return false;
  }
  ac_task task = node->task;
  free(node);
  uint32_t errors = ac__error_count;
  ac_status status = task.run(task.ctx);
  ac__frame_pop(worker, &running.frame);
  if (status != AC_OK)
    ac__region_fail_body(&group->region, status, errors);
  if (!ac__is_orphan())
    end_task(group, &running);
  return true;
}

bool ac__groups_help(ac_worker *worker) {
  ac_team *team = worker->team;
  if (atomic_load_explicit(&team->open_groups, memory_order_relaxed) == 0)
    return false;
  pthread_mutex_lock(&team->lock);
  ac_group *group = team->groups;
  if (group != NULL)
    group->references++;
  pthread_mutex_unlock(&team->lock);
  if (group == NULL)
    return false;
  bool has_run = run_task(group, worker);
  if (ac__is_orphan())
    return true;
  pthread_mutex_lock(&team->lock);
  group->references--;
  pthread_mutex_unlock(&team->lock);
  return has_run;
}

/* ---- The public calls ---------------------------------------------------- */

ac_status ac_group_create(ac_team *team, const ac_group_options *options,
                          ac_group **ret_group) {
  if (ret_group == NULL || (options != NULL && options->timeout_ns < 0))
    return ac__fail(AC_E_INVAL, "ac_group_create",
                    "Give a place for the group and a time of 0 or more.",
                    ret_group == NULL ? "ret_group is NULL"
                                      : "the timeout is negative");
  ac__visit visit; /* so that the team is this process's, after a fork */
  bool has_place = ac__enter(team, &visit);
  ac__leave(&visit);
  if (!has_place)
    return fail_entry(&visit, "ac_group_create");
  team = visit.worker->team;
  ac_group *group = calloc(1, sizeof *group);
  if (group == NULL || pthread_mutex_init(&group->lock, NULL) != 0) {
    free(group);
    return fail_memory("ac_group_create", "the group");
  }
  group->generation = ac__generation();
  group->team = team;
  group->last = &group->first;
  group->region.width = AC__PLACES_MAX;
  if (options != NULL && options->timeout_ns > 0)
    group->region.deadline_ns = (int64_t)ac__clock_ns() + options->timeout_ns;
  *ret_group = group;
  return AC_OK;
}

ac_status ac_group_spawn(ac_group *group, ac_task task) {
  if (group == NULL || task.run == NULL)
    return ac__fail(AC_E_INVAL, "ac_group_spawn", "Give a group and a task.",
                    group == NULL ? "group is NULL"
                                  : "the task has no function");
  if (is_parents(group))
    return fail_forked("ac_group_spawn");
  ac_status status = status_of(group);
  if (status != AC_OK)
    return status == AC_E_TIMEOUT ? status : AC_E_CANCELLED;
  task_node *node = malloc(sizeof *node);
  if (node == NULL)
    return fail_memory("ac_group_spawn", "the task");
  *node = (task_node){.task = task};
  ac__visit visit;
  bool has_place = ac__enter(group->team, &visit);
  count_writes(2);
  pthread_mutex_lock(&group->lock);
  *group->last = node;
  group->last = &node->next;
  (void)count_unfinished(group, 1);
  list_group(group);
  wake_waiters(group); /* a waiter that sleeps may run it */
  pthread_mutex_unlock(&group->lock);
  if (has_place) {
    AC__COUNT(visit.worker, spawns);
    ac__team_announce(visit.worker);
  }
  ac__leave(&visit);
  return AC_OK;
}

/* ---- Waiting ------------------------------------------------------------- */

static bool is_over(void *subject) {
  ac_group *group = subject;
  /* Without the lock, since a spin asks: wait_entered() asks again under it.
   * acquire: pairs with the release in count_unfinished() */
  return !is_parents(group) &&
         atomic_load_explicit(&group->unfinished, memory_order_acquire) == 0;
}

/* Run a task of the group, or a job exposed by one that runs. */
static bool help(void *subject, ac_worker *worker) {
  ac_group *group = subject;
  if (run_task(group, worker))
    return true;
  ac__job *job = NULL;
  bool is_lost = false;
  /* Under the lock, so that no task ends between looking and stealing. */
  pthread_mutex_lock(&group->lock);
  for (running *running = group->running; running != NULL && job == NULL;
       running = running->next)
    if (running->frame.worker != worker)
      job = ac__deque_steal(&running->frame.worker->head, running->base, NULL,
                            &is_lost);
  pthread_mutex_unlock(&group->lock);
  if (job == NULL)
    return false;
  AC__COUNT(worker, steals);
  job->run(job, worker);
  return true;
}

static bool ask(void *subject, ac_worker *worker) {
  ac_group *group = subject;
  pthread_mutex_lock(&group->lock);
  bool is_on = !is_over(group);
  for (running *running = group->running; running != NULL;
       running = running->next)
    make_owner(running, worker);
  pthread_mutex_unlock(&group->lock);
  return is_on;
}

/* True if the thread runs one of the group's own tasks. */
static bool is_inside(const ac_group *group) {
  const ac_worker *worker = ac__self_tls.worker;
  const ac__frame *frame = worker == NULL ? NULL : worker->frame;
  while (frame != NULL) {
    if (frame->region == &group->region)
      return true;
    /* acquire: pairs with the release in set_outer() */
    frame = __atomic_load_n(&frame->region->outer, __ATOMIC_ACQUIRE);
  }
  return false;
}

/* Under the lock. A group may outlive the region that it was made in. So what
 * is around its tasks is the region of a thread that waits for it: that one's
 * frame lives until they have ended. */
static void set_outer(ac_group *group) {
  ac__frame *frame = NULL;
  for (const waiter *waiter = group->waiters; waiter != NULL && frame == NULL;
       waiter = waiter->next)
    frame = waiter->frame;
  /* release: pairs with the acquire of those who look outwards */
  __atomic_store_n(&group->region.outer, frame, __ATOMIC_RELEASE);
}

static ac_status wait_entered(ac_group *group, ac_worker *worker) {
  waiter waiter = {.worker = worker, .frame = worker->frame};
  pthread_mutex_lock(&group->lock);
  waiter.next = group->waiters;
  group->waiters = &waiter;
  set_outer(group);
  pthread_mutex_unlock(&group->lock);
  ac__wait wait = {.is_over = is_over,
                   .help = help,
                   .ask = ask,
                   .subject = group,
                   .deadline_ns = group->region.deadline_ns};
  ac_status status;
  for (;;) {
    status = ac__await(worker, &wait);
    if (status == AC_E_FORKED) {
      ac__region_fail(&group->region, status);
      return status;
    }
    pthread_mutex_lock(&group->lock);
    if (status == AC_OK && is_over(group))
      break; /* with the lock: no task may begin that looks at our frame */
    if (status != AC_OK) {
      ac__region_fail(&group->region, status);
      leave_out(group);
      wait.deadline_ns = 0; /* running tasks must still end */
    }
    pthread_mutex_unlock(&group->lock);
  }
  struct waiter **link = &group->waiters;
  while (*link != &waiter)
    link = &(*link)->next;
  *link = waiter.next;
  set_outer(group);
  if (group->waiters != NULL) {
    status = ac__region_look(&group->region);
  } else { /* ready for use again; a deadline that has passed stays */
    status = ac__region_finish(&group->region);
    atomic_store_explicit(&group->region.status, AC_OK, memory_order_relaxed);
  }
  pthread_mutex_unlock(&group->lock);
  return status;
}

ac_status ac_group_wait(ac_group *group) {
  ac__visit visit;
  if (group == NULL)
    return ac__fail(AC_E_INVAL, "ac_group_wait", "Give a group.",
                    "group is NULL");
  if (is_inside(group))
    return ac__fail(AC_E_STATE, "ac_group_wait",
                    "Wait outside, or use a group of its own inside the task.",
                    "the caller is one of the group's own tasks");
  if (is_parents(group))
    return fail_forked("ac_group_wait");
  if (!ac__enter(group->team, &visit)) {
    ac__leave(&visit);
    return fail_entry(&visit, "ac_group_wait");
  }
  ac_status status = wait_entered(group, visit.worker);
  ac__leave(&visit);
  return status;
}

void ac_group_cancel(ac_group *group) {
  if (group == NULL || is_parents(group))
    return;
  ac__region_fail(&group->region, AC_E_CANCELLED);
  pthread_mutex_lock(&group->lock);
  leave_out(group);
  pthread_mutex_unlock(&group->lock);
}

/* A helper may still look at it, for moments. */
static void await_lookers(ac_group *group) {
  bool is_free = false;
  while (!is_free) {
    pthread_mutex_lock(&group->team->lock);
    is_free = group->references == 0;
    pthread_mutex_unlock(&group->team->lock);
    if (!is_free)
      ac__thread_yield();
  }
}

void ac_group_destroy(ac_group *group) {
  if (group == NULL)
    return;
  if (!is_parents(group)) {
    ac_group_cancel(group);
    (void)ac_group_wait(group);
    await_lookers(group);
    (void)pthread_mutex_destroy(&group->lock);
  }
  for (task_node *node = group->first; node != NULL;) { /* the parent's */
    task_node *next = node->next;
    free(node);
    node = next;
  }
  ac__error_drop(
      atomic_load_explicit(&group->region.error, memory_order_relaxed));
  free(group);
}
