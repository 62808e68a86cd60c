/* local_test.c: one value for each thread that asks. */
#include "check.h"

#include <allcores/allcores.h>
#include <pthread.h>
#include <string.h>

enum { THREADS = 8, ITERATIONS = 20000 };

typedef struct tally {
  int64_t begun; /* by init */
  int64_t count;
} tally;

static void begin(void *value, void *ctx) {
  tally *tally = value;
  *tally = (struct tally){.begun = *(int64_t *)ctx};
}

static ac_status count_body(ac_range range, void *ctx) {
  tally *tally = ac_local_get(ctx);
  if (!CHECK(tally != NULL))
    return AC_E_NOMEM;
  CHECK_INT(tally->begun, 7);
  tally->count += range.end - range.begin; /* plain: nobody else has it */
  return AC_OK;
}

typedef struct totals {
  int64_t values, count;
} totals;

static void add(void *value, void *ctx) {
  totals *totals = ctx;
  totals->values++;
  totals->count += ((tally *)value)->count;
  CHECK_INT((uintptr_t)value % 64, 0);
}

TEST("each thread has a value of its own, made by init") {
  static const int widths[] = {1, 2, 8, 64};
  for (int i = 0; i < 4; i++) {
    ac_team_options options = {.width = widths[i]};
    ac_team *team;
    ac_local *local;
    int64_t seven = 7;
    totals totals = {0};
    CHECK_INT(ac_team_create(&options, &team), AC_OK);
    CHECK_INT(ac_local_create(sizeof(tally), begin, &seven, &local), AC_OK);
    for (int round = 0; round < 10; round++)
      CHECK_INT(
          ac_for(team, (ac_range){0, ITERATIONS}, 1, NULL, count_body, local),
          AC_OK);
    ac_local_visit(local, add, &totals);
    CHECK_INT(totals.count, 10 * ITERATIONS);
    CHECK(totals.values >= 1 && totals.values <= widths[i]);
    ac_local_destroy(local);
    ac_team_destroy(team);
  }
}

typedef struct shared {
  ac_local *local;
  pthread_barrier_t barrier;
} shared;

static void *ask(void *ctx) {
  shared *shared = ctx;
  int64_t *value = ac_local_get(shared->local);
  (void)pthread_barrier_wait(&shared->barrier);
  CHECK_INT(*value, 0);
  for (int i = 0; i < 1000; i++) {
    CHECK(ac_local_get(shared->local) == value);
    ++*value;
  }
  (void)pthread_barrier_wait(&shared->barrier); /* all live till all are done */
  return NULL;
}

static void check_thousand(void *value, void *ctx) {
  CHECK_INT(*(int64_t *)value, 1000);
  ++*(int *)ctx;
}

TEST("threads that no team knows have values too, zeroed without init") {
  pthread_t threads[THREADS];
  shared shared;
  int visits = 0;
  CHECK_INT(ac_local_create(sizeof(int64_t), NULL, NULL, &shared.local), AC_OK);
  CHECK_INT(pthread_barrier_init(&shared.barrier, NULL, THREADS), 0);
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(pthread_create(&threads[i], NULL, ask, &shared), 0);
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(pthread_join(threads[i], NULL), 0);
  ac_local_visit(shared.local, check_thousand, &visits);
  CHECK_INT(visits, THREADS);
  (void)pthread_barrier_destroy(&shared.barrier);
  ac_local_destroy(shared.local);
}

TEST("arguments that are not allowed are refused") {
  ac_local *local;
  CHECK_INT(ac_local_create(0, NULL, NULL, &local), AC_E_INVAL);
  CHECK_INT(ac_local_create(SIZE_MAX, NULL, NULL, &local), AC_E_INVAL);
  CHECK_INT(ac_local_create(8, NULL, NULL, NULL), AC_E_INVAL);
  ac_local_destroy(NULL);
}

CHECK_MAIN
