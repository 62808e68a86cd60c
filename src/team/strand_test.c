/* strand_test.c: ac_run, ac_spawn, ac_sync. */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>

static const int widths[] = {1, 2, 3, 8, 64};
enum { TEAMS = sizeof widths / sizeof *widths };

static ac_team *team_of(int i) {
  static ac_team *teams[TEAMS];
  if (teams[i] == NULL) {
    ac_team_options options = {.width = widths[i]};
    CHECK_INT(ac_team_create(&options, &teams[i]), AC_OK);
  }
  return teams[i];
}

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

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

TEST("fib, a strand a call") {
  for (int i = 0; i < TEAMS; i++)
    for (int round = 0; round < 3; round++) {
      number f = {.n = 20 + round};
      int64_t want[] = {6765, 10946, 17711};
      CHECK_INT(ac_run(team_of(i), fib, &f), AC_OK);
      CHECK_INT(f.value, want[round]);
    }
  number f = {.n = 15};
  CHECK_INT(ac_run(NULL, fib, &f), AC_OK);
  CHECK_INT(f.value, 610);
}

/* Sums 1 … n with a strand outstanding at each level. */
static void descend(ac_worker *worker, void *arg) {
  number *f = arg;
  if (f->n <= 0) {
    f->value = -f->n;
    return;
  }
  number leaf = {.n = -f->n};
  number rest = {.n = f->n - 1};
  ac_strand strand;
  ac_spawn(worker, &strand, descend, &leaf);
  descend(worker, &rest);
  ac_sync(worker, &strand, descend, &leaf);
  f->value = leaf.value + rest.value;
}

TEST("more strands outstanding than a deque holds run all the same") {
  for (int i = 0; i < TEAMS; i++)
    for (int64_t n = 1000; n <= 5000; n += 1000) {
      number f = {.n = n};
      CHECK_INT(ac_run(team_of(i), descend, &f), AC_OK);
      CHECK_INT(f.value, n * (n + 1) / 2);
    }
}

/* Many strands of one call: synced in reverse order. */
enum { FAN = 1500 };

static void square(ac_worker *worker, void *arg) {
  number *f = arg;
  (void)worker;
  f->value = f->n * f->n;
  if (f->n % 100 == 0)
    spend(20000);
}

static void fan_out(ac_worker *worker, void *arg) {
  static _Thread_local number numbers[FAN];
  static _Thread_local ac_strand strands[FAN];
  number *all = numbers;
  ac_strand *strand = strands;
  number *sum = arg;
  for (int64_t i = 0; i < FAN; i++) {
    all[i] = (number){.n = i};
    ac_spawn(worker, &strand[i], square, &all[i]);
  }
  for (int64_t i = FAN - 1; i >= 0; i--)
    ac_sync(worker, &strand[i], square, &all[i]);
  for (int64_t i = 0; i < FAN; i++)
    sum->value += all[i].value;
}

TEST("one call may spawn more than a deque holds") {
  for (int i = 0; i < TEAMS; i++) {
    number sum = {0};
    CHECK_INT(ac_run(team_of(i), fan_out, &sum), AC_OK);
    CHECK_INT(sum.value, (int64_t)(FAN - 1) * FAN * (2 * FAN - 1) / 6);
  }
}

/* ---- With loops inside --------------------------------------------------- */

typedef struct looped {
  ac_team *team;
  int levels;
  int64_t count;
  ac_status status;
} looped;

static ac_status add_body(ac_range range, void *ctx) {
  _Atomic int64_t *count = ctx;
  atomic_fetch_add_explicit(count, range.end - range.begin,
                            memory_order_relaxed);
  return AC_OK;
}

static void loop_at_leaves(ac_worker *worker, void *arg) {
  looped *looped = arg;
  if (looped->levels == 0) {
    _Atomic int64_t count = 0;
    looped->status = ac_for(looped->team, (ac_range){0, 500}, 1, NULL, add_body,
                            (void *)&count);
    looped->count = atomic_load(&count);
    return;
  }
  struct looped a = {looped->team, looped->levels - 1, 0, AC_OK};
  struct looped b = a;
  ac_strand strand;
  ac_spawn(worker, &strand, loop_at_leaves, &a);
  loop_at_leaves(worker, &b);
  ac_sync(worker, &strand, loop_at_leaves, &a);
  looped->count = a.count + b.count;
  looped->status = a.status != AC_OK ? a.status : b.status;
}

TEST("strands may run loops, on their own team and on others") {
  for (int i = 0; i < TEAMS; i++)
    for (int k = 0; k < TEAMS; k++) {
      looped looped = {team_of(k), 5, 0, AC_OK};
      CHECK_INT(ac_run(team_of(i), loop_at_leaves, &looped), AC_OK);
      CHECK_INT(looped.status, AC_OK);
      CHECK_INT(looped.count, 500 << 5);
    }
}

static ac_status run_fib(ac_range range, void *ctx) {
  for (int64_t i = range.begin; i < range.end; i++) {
    number f = {.n = 12};
    CHECK_INT(ac_run(ctx, fib, &f), AC_OK);
    CHECK_INT(f.value, 144);
  }
  return AC_OK;
}

TEST("loops may run strands") {
  for (int i = 0; i < TEAMS; i++)
    CHECK_INT(
        ac_for(team_of(i), (ac_range){0, 100}, 1, NULL, run_fib, team_of(i)),
        AC_OK);
}

/* ---- Indices ------------------------------------------------------------- */

enum { PLACES = 8192 };
typedef struct indices {
  atomic_int in_use[PLACES];
  int levels;
} indices;
typedef struct visit {
  indices *indices;
  int levels;
} visit;

static void visit_strands(ac_worker *worker, void *arg) {
  visit *at = arg;
  if (at->levels == 0) {
    int index = ac_worker_index();
    if (!CHECK(index >= 0 && index < ac_region_width()))
      return;
    CHECK_INT(atomic_fetch_add(&at->indices->in_use[index], 1), 0);
    spend(3000);
    CHECK_INT(atomic_fetch_sub(&at->indices->in_use[index], 1), 1);
    return;
  }
  visit next = {at->indices, at->levels - 1};
  ac_strand strand;
  ac_spawn(worker, &strand, visit_strands, &next);
  visit_strands(worker, &next);
  ac_sync(worker, &strand, visit_strands, &next);
}

static ac_status visit_in_loop(ac_range range, void *ctx) {
  static _Thread_local indices own;
  for (int64_t i = range.begin; i < range.end; i++) {
    visit visit = {&own, 6};
    CHECK_INT(ac_run(ctx, visit_strands, &visit), AC_OK);
  }
  return AC_OK;
}

TEST("no two threads share an index within a region of strands") {
  for (int i = 0; i < TEAMS; i++) {
    static indices indices;
    visit visit = {&indices, 9};
    CHECK_INT(ac_run(team_of(i), visit_strands, &visit), AC_OK);
    CHECK_INT(ac_for(team_of(i), (ac_range){0, 12}, 1, NULL, visit_in_loop,
                     team_of(i)),
              AC_OK);
    CHECK_INT(ac_team_each(team_of(i), 4, visit_in_loop, team_of(i)), AC_OK);
  }
}

TEST("a function is needed") {
  CHECK_INT(ac_run(NULL, NULL, NULL), AC_E_INVAL);
}

TEST("the teams end") {
  for (int i = 0; i < TEAMS; i++)
    ac_team_destroy(team_of(i));
}

CHECK_MAIN
