/* width_test.c: the process's team while its budget changes. */
#include "budget/budget.h"
#include "check.h"
#include "team/team.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <pthread.h>

enum { WIDEST = 6, ROUNDS = 40 };

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

static atomic_bool is_over;

/* Holds and releases limits of all widths until told to stop. */
static void *narrow(void *arg) {
  int round = 0;
  (void)arg;
  while (!atomic_load(&is_over)) {
    ac_limit_token tokens[2];
    CHECK_INT(ac_limit_hold(1 + round % WIDEST, &tokens[0]), AC_OK);
    CHECK_INT(ac_limit_hold(1 + round / 2 % WIDEST, &tokens[1]), AC_OK);
    spend(100000);
    ac_limit_release(&tokens[round % 2]);
    spend(100000);
    ac_limit_release(&tokens[1 - round % 2]);
    spend(round % 3 == 0 ? 400000 : 0);
    round++;
  }
  return NULL;
}

enum { UNITS = 400, INNER = 30 };

typedef struct work {
  int runs[UNITS][INNER];
} work;

typedef struct row {
  work *work;
  int64_t i;
} row;

static ac_status inner_body(ac_range range, void *ctx) {
  row *row = ctx;
  CHECK(ac_worker_index() >= 0 && ac_worker_index() < ac_region_width());
  for (int64_t k = range.begin; k < range.end; k++) {
    row->work->runs[row->i][k]++;
    spend(1500);
  }
  return AC_OK;
}

static ac_status outer_body(ac_range range, void *ctx) {
  for (int64_t i = range.begin; i < range.end; i++) {
    row row = {ctx, i};
    CHECK_INT(ac_for(NULL, (ac_range){0, INNER}, 1, NULL, inner_body, &row),
              AC_OK);
  }
  return AC_OK;
}

TEST("no iteration is lost or run twice while the budget changes") {
  static work work;
  pthread_t thread;
  atomic_store(&is_over, false);
  CHECK_INT(ac_budget_set(WIDEST), AC_OK);
  CHECK_INT(pthread_create(&thread, NULL, narrow, NULL), 0);
  for (int round = 0; round < ROUNDS; round++) {
    work = (struct work){0};
    CHECK_INT(ac_for(NULL, (ac_range){0, UNITS}, 1, NULL, outer_body, &work),
              AC_OK);
    int wrong = 0;
    for (int i = 0; i < UNITS; i++)
      for (int k = 0; k < INNER; k++)
        wrong += work.runs[i][k] != 1;
    CHECK_INT(wrong, 0);
  }
  atomic_store(&is_over, true);
  CHECK_INT(pthread_join(thread, NULL), 0);
  CHECK_INT(ac_budget(), WIDEST);
}

typedef struct number {
  int64_t n, value;
} number;

static void fib(ac_worker *worker, void *arg) {
  number *f = arg;
  if (f->n < 2) {
    f->value = f->n;
    CHECK(ac_worker_index() < ac_region_width());
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

TEST("strands keep their value and their indices while the budget changes") {
  pthread_t thread;
  atomic_store(&is_over, false);
  CHECK_INT(pthread_create(&thread, NULL, narrow, NULL), 0);
  for (int round = 0; round < ROUNDS; round++) {
    number f = {.n = 22};
    CHECK_INT(ac_run(NULL, fib, &f), AC_OK);
    CHECK_INT(f.value, 17711);
  }
  atomic_store(&is_over, true);
  CHECK_INT(pthread_join(thread, NULL), 0);
}

/* ---- Leaving and coming back --------------------------------------------- */

enum { SEEN_MAX = 1024 };
typedef struct crowd {
  _Atomic uint64_t seen_ns[SEEN_MAX]; /* when an index last ran a chunk */
  atomic_bool is_over;
} crowd;

/* How many indices ran during the last 10 ms. */
static int running(crowd *crowd) {
  uint64_t now = ac__clock_ns();
  int count = 0;
  for (int i = 0; i < SEEN_MAX; i++)
    count += now - atomic_load(&crowd->seen_ns[i]) < 10000000;
  return count;
}

static ac_status crowd_body(ac_range range, void *ctx) {
  crowd *crowd = ctx;
  (void)range;
  atomic_store(&crowd->seen_ns[ac_worker_index()], ac__clock_ns());
  spend(20000);
  return atomic_load(&crowd->is_over) ? 1 : AC_OK;
}

/* Wait until `count` threads run, or too long. */
static bool becomes(crowd *crowd, int count) {
  uint64_t until = ac__clock_ns() + UINT64_C(5000000000);
  while (ac__clock_ns() < until) {
    if (running(crowd) == count)
      return true;
    ac__thread_yield();
  }
  printf("  %d run, %d should\n", running(crowd), count);
  return false;
}

/* On a thread that never enters a region, and so holds no core. */
static void *watch_crowd(void *ctx) {
  crowd *crowd = ctx;
  ac_limit_token token;
  CHECK(becomes(crowd, 2));
  CHECK_INT(ac_limit_hold(1, &token), AC_OK);
  CHECK(becomes(crowd, 1));
  ac_limit_release(&token);
  CHECK(becomes(crowd, 2));
  atomic_store(&crowd->is_over, true);
  return NULL;
}

TEST("helpers beyond the budget leave a running loop, and come back") {
  static crowd crowd;
  pthread_t thread;
  if (ac__budget_granted() < 2)
    SKIP("the machine grants one core");
  CHECK_INT(ac_budget_set(2), AC_OK);
  CHECK_INT(pthread_create(&thread, NULL, watch_crowd, &crowd), 0);
  CHECK_INT(ac_for(NULL, (ac_range){0, INT64_C(1) << 40}, 1, NULL, crowd_body,
                   &crowd),
            1);
  CHECK_INT(pthread_join(thread, NULL), 0);
}

/* Asks for the width until told to stop. */
static void *ask_width(void *arg) {
  (void)arg;
  while (!atomic_load(&is_over)) {
    int width = ac_team_width(NULL);
    CHECK(width >= 1 && width <= WIDEST);
  }
  return NULL;
}

TEST("the width is the budget's, however many threads ask meanwhile") {
  enum { ASKERS = 2, CHANGES = 20000 };
  pthread_t askers[ASKERS];
  atomic_store(&is_over, false);
  CHECK_INT(ac_budget_set(WIDEST), AC_OK);
  for (int i = 0; i < ASKERS; i++)
    CHECK_INT(pthread_create(&askers[i], NULL, ask_width, NULL), 0);
  int wrong = 0;
  for (int i = 0; i < CHANGES; i++) {
    CHECK_INT(ac_budget_set(1 + i % WIDEST), AC_OK);
    wrong += ac_team_width(NULL) != 1 + i % WIDEST;
    wrong += ac_team_width(NULL) != 1 + i % WIDEST;
  }
  CHECK_INT(wrong, 0);
  atomic_store(&is_over, true);
  for (int i = 0; i < ASKERS; i++)
    CHECK_INT(pthread_join(askers[i], NULL), 0);
  CHECK_INT(ac_budget_set(0), AC_OK);
}

typedef struct tokens {
  int calls, losses;
  int without, most_without; /* calls without a token, in a row */
} tokens;

/* The helper loses its token in one call of a hundred, as at a border. */
static ac_status lose_token(ac_range range, void *ctx) {
  tokens *tokens = ctx;
  ac__token *token = &ac__self_tls.worker->token;
  if (range.begin != 1)
    return AC_OK;
  tokens->without = token->slot == 0 ? tokens->without + 1 : 0;
  if (tokens->without > tokens->most_without)
    tokens->most_without = tokens->without;
  if (++tokens->calls % 100 != 0 || token->slot == 0)
    return AC_OK;
  ac__token_release(token);
  tokens->losses++;
  return AC_OK;
}

TEST("a helper without a core takes no more calls by lane") {
  static tokens tokens;
  ac_team *team;
  CHECK_INT(ac_team_create(&(ac_team_options){.width = 2}, &team), AC_OK);
  for (int i = 0; i < 20000; i++)
    CHECK_INT(ac_team_each(team, 2, lose_token, &tokens), AC_OK);
  ac_team_destroy(team);
  CHECK(tokens.losses > 0);
  /* One may lie in the lane already when it leaves. */
  CHECK(tokens.most_without <= 1);
}

CHECK_MAIN
