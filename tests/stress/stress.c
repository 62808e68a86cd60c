/* stress.c: all public calls nested in each other at random, every result
 * checked.
 *
 *   stress [OPERATIONS [SEED [REFUSE_EVERY [THREADS]]]]
 *
 * An operation is drawn from a seed: its kind, its length and its children's
 * seeds are functions of it. So its value can be computed twice: serially, by
 * expect(), and by the library, by operate(). Several foreign threads do so at
 * once, on the process's team and on teams of other widths, until so many
 * operations have been done. In the second half about one allocation or thread
 * in REFUSE_EVERY is refused: then a call may fail with its documented status,
 * but must neither hang nor give a wrong value.
 *
 * Each thread remembers in which operation it waits. A body that it runs
 * meanwhile must belong to that operation: a join helps its own subtree only.
 *
 * A watchdog ends the program if nothing moved for a minute.
 */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum {
  THREADS_MAX = 64,
  DEPTH_MAX = 5,
  CHILDREN_MAX = 24,
  TEAMS = 4,
  WAIT_S = 60,     /* without progress, before the watchdog barks */
  BODY_STATUS = 77 /* that a body returns on purpose */
};

static uint64_t operations = 1100000;
static uint64_t seed_given;
static uint64_t refuse_every = 50;
static int thread_count = 6;

/* ---- Refusing ------------------------------------------------------------ */

static atomic_bool may_refuse;
static _Atomic uint64_t refusals;

static uint64_t mix(uint64_t x) {
  x += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static bool refuses(void) {
  static _Thread_local uint64_t state;
  /* relaxed, here and below: switches and counts */
  if (!atomic_load_explicit(&may_refuse, memory_order_relaxed))
    return false;
  if (state == 0)
    state = seed_given ^ (uint64_t)(uintptr_t)&state;
  state = mix(state);
  if (state % refuse_every != 0)
    return false;
  atomic_fetch_add_explicit(&refusals, 1, memory_order_relaxed);
  return true;
}

#include "refusing.h"

/* ---- Operations ---------------------------------------------------------- */

typedef enum kind {
  LEAF,     /* a little work, without the library */
  FOR,      /* ac_for, a child an iteration */
  FOR_LONG, /* ac_for, trivial iterations */
  FOR_2D,   /* ac_for_2d, likewise */
  REDUCE,   /* ac_reduce of affine maps, some of them children */
  INVOKE,   /* ac_invoke */
  JOIN2,    /* ac_join2 */
  STRANDS,  /* ac_run with a tree of strands, children at its leaves */
  GROUP,    /* ac_group: tasks, some spawn others */
  GANG,     /* ac_team_each with a barrier */
  TEAM,     /* a child on a team of its own */
  FAIL,     /* ac_for that fails on purpose: worth nothing */
  CANCEL,   /* a group, cancelled from within: worth nothing */
  KINDS
} kind;

typedef struct shape {
  kind kind;
  int64_t length; /* children or iterations */
  int64_t grain;
  int team; /* index of the team; −1 = the process's own */
} shape;

/* What is to be done, and where it was asked for. Lives while it runs. */
typedef struct node {
  const struct node *parent;
  uint64_t seed;
  int depth; /* levels that may follow */
} node;

static ac_team *teams[TEAMS];
static const int team_widths[TEAMS] = {2, 3, 8, 64};
static _Atomic uint64_t done_count;
static _Atomic uint64_t strangers; /* bodies run by joins that are not theirs */

static shape shape_of(uint64_t seed, int depth) {
  static const uint8_t odds[KINDS] = {
      [LEAF] = 60,   [FOR] = 20,   [FOR_LONG] = 12, [FOR_2D] = 8, [REDUCE] = 8,
      [INVOKE] = 10, [JOIN2] = 12, [STRANDS] = 10,  [GROUP] = 8,  [GANG] = 1,
      [TEAM] = 0,    [FAIL] = 6,   [CANCEL] = 3};
  uint64_t draw = mix(seed ^ 1);
  shape shape = {.kind = LEAF};
  int total = 0;
  for (int i = 0; i < KINDS; i++)
    total += odds[i];
  int at = (int)(draw % (uint64_t)total);
  while (at >= odds[shape.kind])
    at -= odds[shape.kind++];
  if (depth == 0)
    shape.kind = LEAF;
  if (depth == DEPTH_MAX) { /* the root: no leaf, and now and then a team */
    if (draw >> 32 & 1 && shape.kind == LEAF)
      shape.kind = FOR;
    if ((draw >> 40) % 16 == 0)
      shape.kind = TEAM;
  }
  uint64_t more = mix(seed ^ 2);
  shape.length = 1 + (int64_t)(more % 8);
  if (shape.kind == FOR && more >> 8 & 1)
    shape.length = 1 + (int64_t)((more >> 16) % CHILDREN_MAX);
  if (shape.kind == FOR_LONG || shape.kind == REDUCE || shape.kind == FAIL)
    shape.length = 1 + (int64_t)((more >> 16) % 3000);
  if (shape.kind == FOR_2D)
    shape.length = 1 + (int64_t)((more >> 16) % 40);
  if (shape.kind == GANG)
    shape.length = 1 + (int64_t)((more >> 16) % 4);
  if (shape.kind == STRANDS)
    shape.length = (int64_t)((more >> 16) % 7);
  shape.grain = more >> 40 & 1 ? 0 : 1 + (int64_t)((more >> 41) % 9);
  shape.team = more >> 50 & 1 ? -1 : (int)((more >> 51) % TEAMS);
  return shape;
}

static uint64_t child_seed(uint64_t seed, int64_t i) {
  return mix(seed + (uint64_t)i * UINT64_C(0x2545f4914f6cdd1d) + 3);
}

/* Affine maps x → a x + b modulo 2^64: associative, not commutative. */
typedef struct affine {
  uint64_t a, b;
} affine;

static affine after(affine first, affine then) {
  return (affine){first.a * then.a, first.b * then.a + then.b};
}

static bool is_child(uint64_t seed, int64_t i) {
  return mix(seed ^ (uint64_t)i) % 512 == 0;
}

static uint64_t leaf_value(uint64_t seed) {
  uint64_t value = seed;
  uint64_t rounds = mix(seed) % 64 == 0 ? 4000 : 16;
  for (uint64_t i = 0; i < rounds; i++)
    value = mix(value);
  return value;
}

/* The value, computed serially. */
static uint64_t expect(uint64_t seed, int depth);

static uint64_t expect_strands(uint64_t seed, int64_t levels, int depth) {
  if (levels == 0)
    return expect(seed, depth - 1);
  return 3 * expect_strands(child_seed(seed, 0), levels - 1, depth) +
         expect_strands(child_seed(seed, 1), levels - 1, depth);
}

static uint64_t expect(uint64_t seed, int depth) {
  shape shape = shape_of(seed, depth);
  uint64_t sum = 0;
  affine map = {1, 0};
  switch (shape.kind) {
  case LEAF:
    return leaf_value(seed);
  case FOR_LONG:
    for (int64_t i = 0; i < shape.length; i++)
      sum += mix(seed ^ (uint64_t)i);
    return sum;
  case FOR_2D:
    for (int64_t i = 0; i < shape.length; i++)
      for (int64_t k = 0; k < shape.length; k++)
        sum += mix(seed ^ (uint64_t)(i * 64 + k));
    return sum;
  case REDUCE:
    for (int64_t i = 0; i < shape.length; i++) {
      uint64_t value = is_child(seed, i)
                           ? expect(child_seed(seed, i), depth - 1)
                           : mix(seed + (uint64_t)i);
      map = after(map, (affine){value | 1, value >> 7});
    }
    return map.a + map.b;
  case STRANDS:
    return expect_strands(seed, shape.length, depth);
  case JOIN2:
    return expect(child_seed(seed, 0), depth - 1) +
           expect(child_seed(seed, 1), depth - 1);
  case TEAM:
    return expect(child_seed(seed, 0), depth - 1);
  case FAIL:
  case CANCEL:
    return 0;
  default:
    for (int64_t i = 0; i < shape.length; i++)
      sum += expect(child_seed(seed, i), depth - 1);
    return sum;
  }
}

/* ---- By the library ------------------------------------------------------ */

static _Thread_local const node *current; /* in which this thread waits */

static const node *enter(const node *node) {
  const struct node *before = current;
  const struct node *up = node;
  while (before != NULL && up != NULL && up != before)
    up = up->parent;
  if (before != NULL && up == NULL)
    atomic_fetch_add_explicit(&strangers, 1, memory_order_relaxed);
  current = node;
  return before;
}

static ac_status operate(const node *parent, uint64_t seed, int depth,
                         uint64_t *ret_value);

/* What bodies of one operation share. */
typedef struct work {
  node node;
  shape shape;
  ac_team *team;
  uint64_t values[CHILDREN_MAX]; /* of children; written once each */
  uint8_t runs[CHILDREN_MAX];
  _Atomic uint64_t sum;
  _Atomic int64_t arrived;
  ac_group *group;
} work;

static ac_status run_child(work *work, int64_t i) {
  const node *before = enter(&work->node);
  work->runs[i]++;
  ac_status status = operate(&work->node, child_seed(work->node.seed, i),
                             work->node.depth - 1, &work->values[i]);
  current = before;
  return status;
}

static ac_status sum_children(const work *work, uint64_t *ret_value) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < work->shape.length; i++) {
    CHECK_INT(work->runs[i], 1);
    sum += work->values[i];
  }
  *ret_value = sum;
  return AC_OK;
}

static ac_status for_body(ac_range range, void *ctx) {
  ac_status status = AC_OK;
  CHECK(ac_worker_index() < ac_region_width());
  for (int64_t i = range.begin; i < range.end && status == AC_OK; i++)
    status = run_child(ctx, i);
  return status;
}

static ac_status long_body(ac_range range, void *ctx) {
  work *work = ctx;
  const node *before = enter(&work->node);
  uint64_t sum = 0;
  for (int64_t i = range.begin; i < range.end; i++)
    sum += mix(work->node.seed ^ (uint64_t)i);
  atomic_fetch_add_explicit(&work->sum, sum, memory_order_relaxed);
  current = before;
  return AC_OK;
}

static ac_status body_2d(ac_range rows, ac_range cols, void *ctx) {
  work *work = ctx;
  uint64_t sum = 0;
  for (int64_t i = rows.begin; i < rows.end; i++)
    for (int64_t k = cols.begin; k < cols.end; k++)
      sum += mix(work->node.seed ^ (uint64_t)(i * 64 + k));
  atomic_fetch_add_explicit(&work->sum, sum, memory_order_relaxed);
  return AC_OK;
}

static void combine(void *left, const void *right, void *ctx) {
  affine a, b;
  (void)ctx;
  memcpy(&a, left, sizeof a);
  memcpy(&b, right, sizeof b);
  a = after(a, b);
  memcpy(left, &a, sizeof a);
}

static ac_status fold(ac_range range, void *ctx, void *value) {
  work *work = ctx;
  affine map;
  ac_status status = AC_OK;
  memcpy(&map, value, sizeof map);
  for (int64_t i = range.begin; i < range.end && status == AC_OK; i++) {
    uint64_t number = mix(work->node.seed + (uint64_t)i);
    if (is_child(work->node.seed, i)) {
      const node *before = enter(&work->node);
      status = operate(&work->node, child_seed(work->node.seed, i),
                       work->node.depth - 1, &number);
      current = before;
    }
    map = after(map, (affine){number | 1, number >> 7});
  }
  memcpy(value, &map, sizeof map);
  return status;
}

static ac_status fail_body(ac_range range, void *ctx) {
  const work *work = ctx;
  int64_t bad =
      (int64_t)(mix(work->node.seed ^ 9) % (uint64_t)work->shape.length);
  return range.begin <= bad && bad < range.end ? BODY_STATUS : AC_OK;
}

/* A task with the index of its child. */
typedef struct task {
  work *work;
  int64_t index;
} task;

static ac_status run_task(void *ctx) {
  const task *task = ctx;
  return run_child(task->work, task->index);
}

static ac_status invoke(work *work) {
  task tasks[CHILDREN_MAX];
  ac_task calls[CHILDREN_MAX];
  for (int64_t i = 0; i < work->shape.length; i++) {
    tasks[i] = (task){work, i};
    calls[i] = (ac_task){run_task, &tasks[i]};
  }
  if (work->shape.kind == JOIN2)
    return ac_join2(work->team, calls[0], calls[1]);
  return ac_invoke(work->team, (size_t)work->shape.length, calls);
}

/* A tree of strands. */
typedef struct tree {
  work *work;
  uint64_t seed, value;
  int64_t levels;
  ac_status status;
} tree;

static void grow(ac_worker *worker, void *arg) {
  tree *tree = arg;
  work *work = tree->work;
  const node *before = enter(&work->node);
  if (tree->levels == 0) {
    tree->status =
        operate(&work->node, tree->seed, work->node.depth - 1, &tree->value);
    current = before;
    return;
  }
  struct tree a = {work, child_seed(tree->seed, 0), 0, tree->levels - 1, 0};
  struct tree b = {work, child_seed(tree->seed, 1), 0, tree->levels - 1, 0};
  ac_strand strand;
  ac_spawn(worker, &strand, grow, &a);
  grow(worker, &b);
  ac_sync(worker, &strand, grow, &a);
  tree->value = 3 * a.value + b.value;
  tree->status = a.status != AC_OK ? a.status : b.status;
  current = before;
}

static ac_status strands(work *work, uint64_t *ret_value) {
  tree tree = {work, work->node.seed, 0, work->shape.length, AC_OK};
  ac_status status = ac_run(work->team, grow, &tree);
  *ret_value = tree.value;
  return status != AC_OK ? status : tree.status;
}

/* A group's task spawns the next one, every second time. */
static ac_status run_group_task(void *ctx) {
  task *task = ctx;
  ac_status status = AC_OK;
  if (task->index % 2 == 0 && task->index + 1 < task->work->shape.length)
    status =
        ac_group_spawn(task->work->group, (ac_task){run_group_task, task + 1});
  ac_status own = run_child(task->work, task->index);
  return own != AC_OK ? own : status == AC_E_CANCELLED ? AC_OK : status;
}

static ac_status run_cancelling(void *ctx) {
  work *work = ctx;
  ac_group_cancel(work->group);
  CHECK(ac_cancelled());
  CHECK_INT(ac_group_spawn(work->group, (ac_task){run_cancelling, work}),
            AC_E_CANCELLED);
  CHECK_INT(ac_group_wait(work->group), AC_E_STATE);
  return AC_OK;
}

static ac_status group(work *work) {
  task tasks[CHILDREN_MAX];
  ac_status first = AC_OK;
  ac_status status = ac_group_create(work->team, NULL, &work->group);
  if (status != AC_OK)
    return status;
  if (work->shape.kind == CANCEL) {
    first = ac_group_spawn(work->group, (ac_task){run_cancelling, work});
  } else {
    for (int64_t i = 0; i < work->shape.length; i++)
      tasks[i] = (task){work, i};
    for (int64_t i = 0; i < work->shape.length && first == AC_OK; i += 2)
      first = ac_group_spawn(work->group, (ac_task){run_group_task, &tasks[i]});
  }
  status = ac_group_wait(work->group);
  ac_group_destroy(work->group);
  if (work->shape.kind == CANCEL && first == AC_OK)
    return status == AC_E_CANCELLED ? AC_OK : status;
  return status != AC_OK ? status : first;
}

static ac_status gang_body(ac_range range, void *ctx) {
  work *work = ctx;
  CHECK_INT(ac_worker_index(), range.begin);
  CHECK_INT(ac_region_width(), work->shape.length);
  /* acq_rel: a barrier */
  atomic_fetch_add_explicit(&work->arrived, 1, memory_order_acq_rel);
  while (atomic_load_explicit(&work->arrived, memory_order_acquire) <
         work->shape.length)
    ac__thread_yield();
  return run_child(work, range.begin);
}

static ac_status own_team(work *work, uint64_t *ret_value) {
  ac_team_options options = {.width = 1 + (int)(mix(work->node.seed ^ 5) % 64)};
  ac_team *before = work->team;
  ac_status status = ac_team_create(&options, &work->team);
  if (status != AC_OK)
    return status;
  CHECK(ac_team_width(work->team) <= options.width);
  work->shape.length = 1;
  status = ac_for(work->team, (ac_range){0, 1}, 0, NULL, for_body, work);
  if (status == AC_OK)
    status = sum_children(work, ret_value);
  ac_team_destroy(work->team);
  work->team = before;
  return status;
}

static ac_status run_kind(work *work, uint64_t *ret_value) {
  ac_range range = {0, work->shape.length};
  int64_t grain = work->shape.grain;
  static const ac_site site_long = AC_SITE("long");
  const ac_monoid monoid = {sizeof(affine), &(affine){1, 0}, combine};
  affine map;
  ac_status status;
  switch (work->shape.kind) {
  case FOR:
    status = ac_for(work->team, range, grain, NULL, for_body, work);
    return status != AC_OK ? status : sum_children(work, ret_value);
  case FOR_LONG:
    status = ac_for(work->team, range, grain, &site_long, long_body, work);
    break;
  case FOR_2D:
    status = ac_for_2d(work->team, range, range, (ac_tile){grain, 5}, NULL,
                       body_2d, work);
    break;
  case REDUCE:
    status =
        ac_reduce(work->team, range, grain, NULL, &monoid, fold, work, &map);
    *ret_value = status == AC_OK ? map.a + map.b : 0;
    return status;
  case INVOKE:
  case JOIN2:
    status = invoke(work);
    return status != AC_OK ? status : sum_children(work, ret_value);
  case STRANDS:
    return strands(work, ret_value);
  case GROUP:
    status = group(work);
    return status != AC_OK ? status : sum_children(work, ret_value);
  case GANG:
    status = ac_team_each(work->team, (int)work->shape.length, gang_body, work);
    return status != AC_OK ? status : sum_children(work, ret_value);
  case TEAM:
    return own_team(work, ret_value);
  case FAIL:
    status = ac_for(work->team, range, grain, NULL, fail_body, work);
    CHECK(status == BODY_STATUS || status == AC_E_NOMEM || status == AC_E_OS ||
          status == AC_E_CANCELLED);
    return status == BODY_STATUS ? AC_OK : status;
  default:
    return group(work);
  }
  *ret_value = atomic_load_explicit(&work->sum, memory_order_relaxed);
  return status;
}

static ac_status operate(const node *parent, uint64_t seed, int depth,
                         uint64_t *ret_value) {
  atomic_fetch_add_explicit(&done_count, 1, memory_order_relaxed);
  work work = {.node = {parent, seed, depth}, .shape = shape_of(seed, depth)};
  *ret_value = 0;
  if (work.shape.kind == LEAF) {
    *ret_value = leaf_value(seed);
    return AC_OK;
  }
  if (work.shape.kind == JOIN2)
    work.shape.length = 2;
  work.team = work.shape.team < 0 ? NULL : teams[work.shape.team];
  const node *before = current;
  current = &work.node;
  ac_status status = run_kind(&work, ret_value);
  current = before;
  return status;
}

/* ---- Threads ------------------------------------------------------------- */

static uint64_t goal; /* of done_count */
static _Atomic uint64_t roots, roots_refused;
static _Atomic uint64_t in_flight[THREADS_MAX];

static ac_status poll(void *ctx) {
  ++*(uint64_t *)ctx;
  return AC_OK;
}

static void run_root(uint64_t seed) {
  uint64_t value;
  ac_status status = operate(NULL, seed, DEPTH_MAX, &value);
  atomic_fetch_add_explicit(&roots, 1, memory_order_relaxed);
  if (status == AC_OK) {
    if (!CHECK(value == expect(seed, DEPTH_MAX)))
      printf("  seed %#llx, kind %d\n", (unsigned long long)seed,
             (int)shape_of(seed, DEPTH_MAX).kind);
    return;
  }
  atomic_fetch_add_explicit(&roots_refused, 1, memory_order_relaxed);
  if (!CHECK(atomic_load_explicit(&may_refuse, memory_order_relaxed) &&
             (status == AC_E_NOMEM || status == AC_E_OS ||
              status == AC_E_CANCELLED)))
    printf("  seed %#llx: %s\n", (unsigned long long)seed,
           ac_status_name(status));
}

static void *visit(void *arg) {
  uint64_t number = (uint64_t)(uintptr_t)arg;
  uint64_t polls = 0;
  if (number % 3 == 1)
    ac_poll_set(poll, &polls);
  for (uint64_t round = 0;
       atomic_load_explicit(&done_count, memory_order_relaxed) < goal;
       round++) {
    uint64_t seed = mix(mix(seed_given + number) + round);
    atomic_store_explicit(&in_flight[number], seed, memory_order_relaxed);
    run_root(seed);
  }
  atomic_store_explicit(&in_flight[number], 0, memory_order_relaxed);
  ac_poll_set(NULL, NULL);
  return NULL;
}

/* Narrows and widens the budget while the others work. */
static void *change_budget(void *arg) {
  uint64_t state = seed_given;
  (void)arg;
  while (atomic_load_explicit(&done_count, memory_order_relaxed) < goal) {
    ac_limit_token token = {0};
    state = mix(state);
    CHECK_INT(ac_limit_hold(1 + (int)(state % 3), &token), AC_OK);
    uint64_t until = ac__clock_ns() + state % 3000000;
    while (ac__clock_ns() < until)
      ac__thread_yield();
    ac_limit_release(&token);
    until = ac__clock_ns() + state % 5000000;
    while (ac__clock_ns() < until)
      ac__thread_yield();
  }
  return NULL;
}

static void *watch(void *arg) {
  uint64_t before = 0;
  int idle_s = 0;
  (void)arg;
  for (;;) {
    sleep(1);
    uint64_t now = atomic_load_explicit(&done_count, memory_order_relaxed);
    idle_s = now == before ? idle_s + 1 : 0;
    before = now;
    if (idle_s < WAIT_S)
      continue;
    printf("nothing moves after %llu operations; in flight:\n",
           (unsigned long long)now);
    for (int i = 0; i < thread_count; i++)
      printf("  %#llx\n", (unsigned long long)atomic_load_explicit(
                              &in_flight[i], memory_order_relaxed));
    fflush(stdout);
    abort();
  }
}

static void run_all(uint64_t count) {
  pthread_t threads[THREADS_MAX + 1];
  atomic_store(&roots, 0);
  atomic_store(&roots_refused, 0);
  goal = atomic_load(&done_count) + count;
  for (int i = 0; i < thread_count; i++)
    if (__real_pthread_create(&threads[i], NULL, visit, (void *)(uintptr_t)i) !=
        0)
      abort();
  if (__real_pthread_create(&threads[thread_count], NULL, change_budget,
                            NULL) != 0)
    abort();
  for (int i = 0; i <= thread_count; i++)
    pthread_join(threads[i], NULL);
  printf("  %llu operations, %llu at the top, of those %llu refused\n",
         (unsigned long long)count, (unsigned long long)atomic_load(&roots),
         (unsigned long long)atomic_load(&roots_refused));
}

static void read_arguments(void) {
  pthread_t watchdog;
  if (seed_given != 0)
    return;
  seed_given = ac__clock_ns();
  if (check_argc > 1)
    operations = strtoull(check_argv[1], NULL, 0);
  if (check_argc > 2)
    seed_given = strtoull(check_argv[2], NULL, 0);
  if (check_argc > 3)
    refuse_every = strtoull(check_argv[3], NULL, 0);
  if (check_argc > 4)
    thread_count = atoi(check_argv[4]);
  printf("seed %llu\n", (unsigned long long)seed_given);
  for (int i = 0; i < TEAMS; i++) {
    ac_team_options options = {.width = team_widths[i]};
    CHECK_INT(ac_team_create(&options, &teams[i]), AC_OK);
  }
  if (__real_pthread_create(&watchdog, NULL, watch, NULL) != 0)
    abort();
  (void)pthread_detach(watchdog);
}

TEST("nested operations give what they give serially") {
  read_arguments();
  run_all(operations - operations / 8);
}

TEST("refused memory and threads give the documented errors, or nothing") {
  read_arguments();
  atomic_store(&may_refuse, true);
  run_all(operations / 8);
  atomic_store(&may_refuse, false);
  printf("  %llu refusals\n", (unsigned long long)atomic_load(&refusals));
  CHECK(refuse_every > operations || atomic_load(&refusals) > 0);
}

TEST("after refusals everything works again") {
  read_arguments();
  run_all(operations / 64 + 1);
  CHECK_INT(atomic_load(&roots_refused), 0);
}

TEST("a join ran nothing but its own subtree") {
  CHECK_INT(atomic_load(&strangers), 0);
}

TEST("teams end while their guests live on") {
  for (int i = 0; i < TEAMS; i++)
    ac_team_destroy(teams[i]);
}

CHECK_MAIN
