/* costs_ac.c: what single calls of the library cost when they have next to
 * nothing to do, for profiling; no row of the table.
 *
 *   costs_ac [name …]     all, or those named; median of 21 batches, in ns
 *
 * Each call works on the process's own team, from a thread that has entered
 * nothing ("in" cases: from within a region that is already running).
 */
#include "player.h"
#include <allcores/allcores.h>

typedef struct cost {
  const char *name;
  long calls; /* a batch */
  ac_status (*call)(void *ctx);
} cost;

static ac_status body(ac_range range, void *ctx) {
  touch(ctx);
  (void)range;
  return AC_OK;
}

static ac_status fold(ac_range range, void *ctx, void *value) {
  (void)ctx;
  *(double *)value += (double)range.begin;
  return AC_OK;
}

static void add(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(double *)left += *(const double *)right;
}

static ac_status task(void *ctx) {
  touch(ctx);
  return AC_OK;
}

static void strand_body(ac_worker *worker, void *arg) {
  (void)worker;
  touch(arg);
}

static const double zero = 0;
static const ac_monoid sum = {sizeof(double), &zero, add};
static ac_local *local;

static ac_status for_one(void *ctx) {
  static const ac_site here = AC_SITE("one iteration");
  return ac_for(NULL, (ac_range){0, 1}, 0, &here, body, ctx);
}

static ac_status for_hundred(void *ctx) {
  static const ac_site here = AC_SITE("a hundred empty iterations");
  return ac_for(NULL, (ac_range){0, 100}, 0, &here, body, ctx);
}

static ac_status reduce_one_leaf(void *ctx) {
  static const ac_site here = AC_SITE("one leaf");
  double value;
  return ac_reduce(NULL, (ac_range){0, 100}, 100, &here, &sum, fold, ctx,
                   &value);
}

static ac_status reduce_hundred_leaves(void *ctx) {
  static const ac_site here = AC_SITE("a hundred leaves");
  double value;
  return ac_reduce(NULL, (ac_range){0, 100}, 1, &here, &sum, fold, ctx, &value);
}

static ac_status each_one(void *ctx) {
  return ac_team_each(NULL, 1, body, ctx);
}

static ac_status each_all(void *ctx) {
  return ac_team_each(NULL, 0, body, ctx);
}

static ac_status join2(void *ctx) {
  return ac_join2(NULL, (ac_task){task, ctx}, (ac_task){task, ctx});
}

static ac_status invoke_four(void *ctx) {
  const ac_task tasks[4] = {{task, ctx}, {task, ctx}, {task, ctx}, {task, ctx}};
  return ac_invoke(NULL, 4, tasks);
}

static ac_status group_of_one(void *ctx) {
  ac_group *group;
  ac_status status = ac_group_create(NULL, NULL, &group);
  if (status != AC_OK)
    return status;
  status = ac_group_spawn(group, (ac_task){task, ctx});
  if (status == AC_OK)
    status = ac_group_wait(group);
  ac_group_destroy(group);
  return status;
}

static ac_status run_one(void *ctx) { return ac_run(NULL, strand_body, ctx); }

static ac_status questions(void *ctx) {
  touch(ctx);
  return ac_worker_index() + ac_cancelled();
}

static ac_status local_get(void *ctx) {
  touch(ctx);
  return ac_local_get(local) ? AC_OK : AC_E_NOMEM;
}

/* ---- The same from within a region ------------------------------------- */

static const cost *inner_cost;
static double inner_seconds;

static double seconds_a_call(const cost *c) {
  int ctx = 0;
  const double start = seconds_now();
  for (long i = 0; i < c->calls; i++)
    if (c->call(&ctx) != AC_OK)
      return -1;
  return (seconds_now() - start) / (double)c->calls;
}

static void inside(ac_worker *worker, void *arg) {
  (void)worker, (void)arg;
  inner_seconds = seconds_a_call(inner_cost);
}

static double seconds_inside(const cost *c) {
  inner_cost = c;
  return ac_run(NULL, inside, NULL) == AC_OK ? inner_seconds : -1;
}

static void strand_costs(ac_worker *worker, void *arg) {
  enum { CALLS = 100000 };
  ac_strand strand;
  const double start = seconds_now();
  for (int i = 0; i < CALLS; i++) {
    ac_spawn(worker, &strand, strand_body, arg);
    ac_sync(worker, &strand, strand_body, arg);
  }
  *(double *)arg = (seconds_now() - start) / CALLS;
}

/* ---- Printing ---------------------------------------------------------- */

static int is_wanted(const char *name, int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], name) == 0)
      return 1;
  return argc < 2;
}

static double median_ns(double (*measure)(const cost *), const cost *c) {
  enum { BATCHES = 21 };
  double batches[BATCHES];
  (void)measure(c);
  for (int i = 0; i < BATCHES; i++)
    batches[i] = measure(c);
  return 1e9 * median_of(batches, BATCHES);
}

static double seconds_of_strand(const cost *c) {
  double seconds = -1;
  (void)c;
  return ac_run(NULL, strand_costs, &seconds) == AC_OK ? seconds : -1;
}

int main(int argc, char **argv) {
  static const cost costs[] = {
      {"for-one", 20000, for_one},
      {"for-hundred", 20000, for_hundred},
      {"reduce-one-leaf", 20000, reduce_one_leaf},
      {"reduce-hundred-leaves", 2000, reduce_hundred_leaves},
      {"each-one", 20000, each_one},
      {"each-all", 2000, each_all},
      {"join2", 20000, join2},
      {"invoke-four", 5000, invoke_four},
      {"group-of-one", 2000, group_of_one},
      {"run", 20000, run_one},
      {"questions", 100000, questions},
      {"local-get", 100000, local_get},
  };
  if (ac_local_create(64, NULL, NULL, &local) != AC_OK)
    return 1;
  printf("%-24s %12s %12s\n", "ns a call", "outside", "in a region");
  for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
    if (is_wanted(costs[i].name, argc, argv))
      printf("%-24s %12.1f %12.1f\n", costs[i].name,
             median_ns(seconds_a_call, &costs[i]),
             median_ns(seconds_inside, &costs[i]));
  if (is_wanted("spawn-sync", argc, argv))
    printf("%-24s %12s %12.1f\n", "spawn-sync", "",
           median_ns(seconds_of_strand, NULL));
  ac_local_destroy(local);
  return 0;
}
