/* team_fork_test.c: fork outside of regions, in the middle of them, and while
 * other threads run them.
 *
 * The child has one thread. Outside of a region it finds a fresh team; inside
 * of one it runs on serially, and joins that waited for other threads return
 * AC_E_FORKED. In no case may it hang: each child has an alarm, whose signal
 * ends it, and the parent calls that a failure.
 */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_S = 20, PARENT_S = 110, DONE = 3 };

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

/* ---- Using the team ------------------------------------------------------ */

typedef struct number {
  int64_t n, value;
} number;

static void fib(ac_worker *worker, void *arg) {
  number *f = arg;
  if (f->n < 2) {
    f->value = f->n;
    return;
  }
  number a = {.n = f->n - 1};
  number b = {.n = f->n - 2};
  ac_strand strand;
  ac_spawn(worker, &strand, fib, &a);
  fib(worker, &b);
  ac_sync(worker, &strand, fib, &a);
  f->value = a.value + b.value;
}

static ac_status count_body(ac_range range, void *ctx) {
  atomic_fetch_add((_Atomic int64_t *)ctx, range.end - range.begin);
  spend(500);
  return AC_OK;
}

static ac_status count_task(void *ctx) {
  return count_body((ac_range){0, 1}, ctx);
}

static ac_status meet_body(ac_range range, void *ctx) {
  _Atomic int64_t *arrived = ctx;
  (void)range;
  atomic_fetch_add(arrived, 1);
  while (atomic_load(arrived) < 3)
    (void)sched_yield();
  return AC_OK;
}

static void use_team(ac_team *team) {
  _Atomic int64_t count = 0;
  number f = {.n = 18};
  ac_group *group;
  CHECK_INT(
      ac_for(team, (ac_range){0, 3000}, 1, NULL, count_body, (void *)&count),
      AC_OK);
  CHECK_INT(atomic_load(&count), 3000);
  CHECK_INT(ac_run(team, fib, &f), AC_OK);
  CHECK_INT(f.value, 2584);
  atomic_store(&count, 0);
  CHECK_INT(ac_team_each(team, 3, meet_body, (void *)&count), AC_OK);
  atomic_store(&count, 0);
  CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
  for (int i = 0; i < 50; i++)
    CHECK_INT(ac_group_spawn(group, (ac_task){count_task, (void *)&count}),
              AC_OK);
  CHECK_INT(ac_group_wait(group), AC_OK);
  CHECK_INT(atomic_load(&count), 50);
  ac_group_destroy(group);
}

static ac_team *team_new(int width) {
  ac_team_options options = {.width = width};
  ac_team *team = NULL;
  CHECK_INT(ac_team_create(&options, &team), AC_OK);
  return team;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
enum { CAN_ALLOCATE = 0 };
#else
enum { CAN_ALLOCATE = 1 };
#endif
static const char cannot_allocate[] =
    "the sanitizer's allocator stays locked if another thread is in it";

/* For AddressSanitizer: in a child whose other threads are gone, all that hung
 * from their stacks looks lost. */
static pid_t test_process;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return getpid() != test_process; }

/* ---- Children ------------------------------------------------------------ */

static pid_t fork_child(void) {
  (void)fflush(stdout);
  pid_t child = fork();
  if (child == 0) { /* in a helper of the team all signals are blocked */
    sigset_t signals;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGALRM);
    (void)pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    (void)alarm(CHILD_S);
  }
  return child;
}

static void end_child(void) {
  (void)fflush(stdout);
  _exit(check_child_status() == 0 ? DONE : 1);
}

/* It must have ended by itself, with that status. */
static void reap(pid_t child, int want) {
  int status;
  if (!CHECK(child > 0))
    return;
  while (waitpid(child, &status, 0) != child) {
  }
  if (WIFSIGNALED(status))
    printf("  the child ended by signal %d\n", WTERMSIG(status));
  if (CHECK(WIFEXITED(status)))
    CHECK_INT(WEXITSTATUS(status), want);
}

TEST("a child of a thread outside of regions has a team that works") {
  (void)alarm(PARENT_S);
  test_process = getpid();
  ac_team *team = team_new(4);
  for (int round = 0; round < 10; round++) {
    if (round % 2) {
      use_team(NULL);
      use_team(team);
    }
    pid_t child = fork_child();
    if (child == 0) {
      use_team(team);
      use_team(NULL);
      ac_team *own = team_new(3);
      use_team(own);
      ac_team_destroy(own);
      ac_team_destroy(team);
      end_child();
    }
    use_team(NULL);
    use_team(team);
    reap(child, DONE);
  }
  ac_team_destroy(team);
}

TEST("grandchildren have teams that work, and so has the child after them") {
  ac_team *team = team_new(3);
  use_team(team);
  pid_t child = fork_child();
  if (child == 0) {
    use_team(team);
    for (int round = 0; round < 3; round++) {
      pid_t grandchild = fork_child();
      if (grandchild == 0) {
        use_team(NULL);
        use_team(team);
        pid_t last = fork_child();
        if (last == 0) {
          use_team(team);
          end_child();
        }
        reap(last, DONE);
        end_child();
      }
      use_team(team);
      reap(grandchild, DONE);
    }
    end_child();
  }
  reap(child, DONE);
  use_team(team);
  ac_team_destroy(team);
}

/* ---- In the middle of a region ------------------------------------------- */

typedef struct scene {
  ac_team *team;
  pthread_t caller;
  atomic_bool is_caller_wanted; /* who is to fork: the caller, or a helper */
  atomic_bool has_forked;
  _Atomic int64_t inside;
  bool goes_on; /* the child leaves the body; else it ends there */
  pid_t child, parent;
} scene;

/* Does this thread fork now? One does, once. */
static bool is_my_turn(scene *scene) {
  bool is_caller = pthread_equal(scene->caller, pthread_self());
  return is_caller == atomic_load(&scene->is_caller_wanted) &&
         !atomic_exchange(&scene->has_forked, true);
}

/* What a child does with the library inside of the region that was cut off. */
static void use_inside(ac_team *team) {
  _Atomic int64_t count = 0;
  number f = {.n = 10};
  ac_status status =
      ac_for(team, (ac_range){0, 100}, 1, NULL, count_body, (void *)&count);
  CHECK(status == AC_OK || status == AC_E_FORKED);
  CHECK(status != AC_OK || atomic_load(&count) == 100);
  status = ac_run(team, fib, &f);
  CHECK(status == AC_OK || status == AC_E_FORKED);
  status = ac_team_each(team, 2, count_body, (void *)&count);
  CHECK(status == AC_OK || status == AC_E_FORKED);
}

static void fork_here(scene *scene) {
  pid_t child = fork_child();
  if (child != 0) {
    scene->child = child;
    return;
  }
  use_inside(scene->team);
  if (!scene->goes_on)
    end_child();
  /* A helper's thread has nowhere to go: the process ends with it. */
  scene->child = 0;
}

static ac_status fork_body(ac_range range, void *ctx) {
  scene *scene = ctx;
  for (int64_t i = range.begin; i < range.end; i++) {
    atomic_fetch_add(&scene->inside, 1);
    /* All wait until the one has come that is to fork. */
    if (is_my_turn(scene))
      fork_here(scene);
    spend(getpid() == scene->parent ? 100000 : 1000);
  }
  return AC_OK;
}

static scene scene_new(ac_team *team, bool is_caller, bool goes_on) {
  scene scene = {.team = team,
                 .caller = pthread_self(),
                 .goes_on = goes_on,
                 .child = -1,
                 .parent = getpid()};
  atomic_store(&scene.is_caller_wanted, is_caller);
  return scene;
}

/* In the caller's child after the region: everything works again. */
static void finish(scene *scene, ac_status status) {
  if (getpid() == scene->parent) {
    CHECK_INT(status, AC_OK);
    if (atomic_load(&scene->has_forked))
      reap(scene->child, scene->goes_on && !scene->is_caller_wanted ? 0 : DONE);
    return;
  }
  CHECK(status == AC_OK || status == AC_E_FORKED || status == AC_E_CANCELLED);
  use_team(scene->team);
  use_team(NULL);
  end_child();
}

TEST("a fork in a loop's body") {
  ac_team *team = team_new(4);
  for (int round = 0; round < 16; round++) {
    scene scene = scene_new(team, round % 2, round / 2 % 2);
    finish(&scene,
           ac_for(team, (ac_range){0, 100}, 1, NULL, fork_body, &scene));
    use_team(team);
  }
  ac_team_destroy(team);
}

static ac_status fork_in_gang(ac_range range, void *ctx) {
  scene *scene = ctx;
  if (is_my_turn(scene))
    fork_here(scene);
  (void)range;
  return AC_OK;
}

TEST("a fork in a gang") {
  ac_team *team = team_new(2);
  for (int round = 0; round < 16; round++) {
    scene scene = scene_new(team, round % 2, round / 2 % 2);
    finish(&scene, ac_team_each(team, 3, fork_in_gang, &scene));
    use_team(team);
  }
  ac_team_destroy(team);
}

typedef struct sprout {
  scene *scene;
  int levels;
} sprout;

static void fork_strand(ac_worker *worker, void *arg) {
  sprout *at = arg;
  if (at->levels == 0) {
    if (is_my_turn(at->scene))
      fork_here(at->scene);
    spend(getpid() == at->scene->parent ? 50000 : 1000);
    return;
  }
  sprout next = {at->scene, at->levels - 1};
  ac_strand strand;
  ac_spawn(worker, &strand, fork_strand, &next);
  fork_strand(worker, &next);
  ac_sync(worker, &strand, fork_strand, &next);
}

TEST("a fork in a strand") {
  ac_team *team = team_new(4);
  for (int round = 0; round < 16; round++) {
    scene scene = scene_new(team, round % 2, round / 2 % 2);
    sprout sprout = {&scene, 7};
    finish(&scene, ac_run(team, fork_strand, &sprout));
    use_team(team);
  }
  ac_team_destroy(team);
}

/* ---- Groups: forked while others hold their locks ------------------------ */

typedef struct group_scene {
  scene scene;
  ac_group *group;
} group_scene;

static ac_status fork_task(void *ctx) {
  group_scene *at = ctx;
  if (is_my_turn(&at->scene)) {
    fork_here(&at->scene);
    if (getpid() != at->scene.parent) {
      ac_status status = ac_group_spawn(at->group, (ac_task){fork_task, at});
      CHECK(status == AC_OK || status == AC_E_FORKED);
      status = ac_group_wait(at->group);
      CHECK(status == AC_E_STATE || status == AC_E_FORKED);
      ac_group_cancel(at->group);
    }
  }
  spend(getpid() == at->scene.parent ? 2000 : 0);
  return AC_OK;
}

TEST("a fork in a group's task") {
  if (!CAN_ALLOCATE)
    SKIP(cannot_allocate);
  ac_team *team = team_new(4);
  for (int round = 0; round < 60; round++) {
    group_scene at = {.scene = scene_new(team, round % 2, round / 2 % 2)};
    CHECK_INT(ac_group_create(team, NULL, &at.group), AC_OK);
    ac_status status = AC_OK;
    for (int i = 0; i < 200 && status == AC_OK; i++)
      status = ac_group_spawn(at.group, (ac_task){fork_task, &at});
    if (status == AC_OK)
      status = ac_group_wait(at.group);
    if (getpid() != at.scene.parent) {
      ac_group_destroy(at.group);
      finish(&at.scene, status);
    }
    finish(&at.scene, status);
    ac_group_destroy(at.group);
  }
  use_team(team);
  ac_team_destroy(team);
}

/* ---- While others run ---------------------------------------------------- */

typedef struct busy {
  ac_team *team;
  atomic_bool is_over;
} busy;

static void *keep_busy(void *ctx) {
  busy *busy = ctx;
  while (!atomic_load(&busy->is_over))
    use_team(busy->team);
  return NULL;
}

TEST("a fork while other threads run loops, gangs, strands and groups") {
  enum { THREADS = 4, CHILDREN = 25 };
  pthread_t threads[THREADS];
  if (!CAN_ALLOCATE)
    SKIP(cannot_allocate);
  busy busy = {.team = team_new(3)};
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(pthread_create(&threads[i], NULL, keep_busy, &busy), 0);
  for (int i = 0; i < CHILDREN; i++) {
    spend(200000);
    pid_t child = fork_child();
    if (child == 0) {
      use_team(busy.team);
      use_team(NULL);
      end_child();
    }
    reap(child, DONE);
  }
  atomic_store(&busy.is_over, true);
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(pthread_join(threads[i], NULL), 0);
  ac_team_destroy(busy.team);
}

/* ---- Objects of the parent ----------------------------------------------- */

TEST("a child may destroy the teams and groups of its parent") {
  ac_team *team = team_new(4);
  ac_group *group;
  use_team(team);
  CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
  pid_t child = fork_child();
  if (child == 0) {
    _Atomic int64_t count = 0;
    CHECK_INT(ac_group_spawn(group, (ac_task){count_task, (void *)&count}),
              AC_E_FORKED);
    CHECK_INT(ac_group_wait(group), AC_E_FORKED);
    ac_group_cancel(group);
    ac_group_destroy(group);
    CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
    CHECK_INT(ac_group_spawn(group, (ac_task){count_task, (void *)&count}),
              AC_OK);
    CHECK_INT(ac_group_wait(group), AC_OK);
    CHECK_INT(atomic_load(&count), 1);
    ac_group_destroy(group);
    ac_team_destroy(team);
    end_child();
  }
  ac_group_destroy(group);
  use_team(team);
  ac_team_destroy(team);
  reap(child, DONE);
}

CHECK_MAIN
