/* foreign.c: many threads of the program's own call the library at once;
 * threads come and go. */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <pthread.h>
#include <unistd.h>

enum {
  THREADS = 64,
  ROUNDS = 30,
  COMERS = 1500,
  AT_ONCE = 16,
  WATCHDOG_S = 100
};

static ac_team *shared_team;

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
  atomic_fetch_add_explicit((_Atomic int64_t *)ctx, range.end - range.begin,
                            memory_order_relaxed);
  return AC_OK;
}

static ac_status count_task(void *ctx) {
  return count_body((ac_range){0, 1}, ctx);
}

static void add(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(int64_t *)left += *(const int64_t *)right;
}

static ac_status fold(ac_range range, void *ctx, void *value) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    *(int64_t *)value += i;
  return AC_OK;
}

/* A bit of everything. */
static void call_all(ac_team *team, int64_t seed) {
  const int64_t zero = 0;
  const ac_monoid monoid = {sizeof zero, &zero, add};
  int64_t length = 100 + seed % 3000;
  int64_t sum;
  _Atomic int64_t count = 0;
  number f = {.n = 10 + seed % 4};
  static const int64_t fibs[] = {55, 89, 144, 233};
  ac_group *group;
  CHECK_INT(ac_for(team, (ac_range){0, length}, seed % 3, NULL, count_body,
                   (void *)&count),
            AC_OK);
  CHECK_INT(atomic_load(&count), length);
  CHECK_INT(ac_reduce(team, (ac_range){0, length}, 0, NULL, &monoid, fold, NULL,
                      &sum),
            AC_OK);
  CHECK_INT(sum, length * (length - 1) / 2);
  CHECK_INT(ac_run(team, fib, &f), AC_OK);
  CHECK_INT(f.value, fibs[f.n - 10]);
  atomic_store(&count, 0);
  CHECK_INT(ac_group_create(team, NULL, &group), AC_OK);
  for (int i = 0; i < 10; i++)
    CHECK_INT(ac_group_spawn(group, (ac_task){count_task, (void *)&count}),
              AC_OK);
  CHECK_INT(ac_group_wait(group), AC_OK);
  CHECK_INT(atomic_load(&count), 10);
  ac_group_destroy(group);
  if (seed % 8 == 0) {
    atomic_store(&count, 0);
    CHECK_INT(ac_team_each(team, 3, count_body, (void *)&count), AC_OK);
    CHECK_INT(atomic_load(&count), 3);
  }
}

static pthread_barrier_t all_there;

static void *caller(void *arg) {
  int64_t number = (int64_t)(intptr_t)arg;
  (void)pthread_barrier_wait(&all_there);
  for (int64_t round = 0; round < ROUNDS; round++)
    call_all((number + round) % 2 ? NULL : shared_team, number * 131 + round);
  return NULL;
}

TEST("sixty-four foreign threads call at once") {
  pthread_t threads[THREADS];
  ac_team_options options = {.width = 8};
  alarm(WATCHDOG_S); /* the signal ends the program: a hang is a failure */
  CHECK_INT(ac_team_create(&options, &shared_team), AC_OK);
  CHECK_INT(pthread_barrier_init(&all_there, NULL, THREADS), 0);
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(pthread_create(&threads[i], NULL, caller, (void *)(intptr_t)i),
              0);
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(pthread_join(threads[i], NULL), 0);
  (void)pthread_barrier_destroy(&all_there);
}

static void *comer(void *arg) {
  int64_t number = (int64_t)(intptr_t)arg;
  call_all(number % 3 ? shared_team : NULL, number);
  return NULL;
}

TEST("threads come, call and go; their places serve the next ones") {
  pthread_t threads[AT_ONCE];
  for (int i = 0; i < COMERS; i++) {
    if (i >= AT_ONCE)
      CHECK_INT(pthread_join(threads[i % AT_ONCE], NULL), 0);
    CHECK_INT(
        pthread_create(&threads[i % AT_ONCE], NULL, comer, (void *)(intptr_t)i),
        0);
  }
  for (int i = 0; i < AT_ONCE; i++)
    CHECK_INT(pthread_join(threads[i], NULL), 0);
}

/* ---- Storage that ends with the thread ----------------------------------- */

static pthread_key_t key;

static void call_in_destructor(void *arg) {
  (void)arg;
  _Atomic int64_t count = 0;
  CHECK_INT(ac_for(shared_team, (ac_range){0, 100}, 1, NULL, count_body,
                   (void *)&count),
            AC_OK);
  CHECK_INT(atomic_load(&count), 100);
}

static void *keyed(void *arg) {
  (void)pthread_setspecific(key, arg);
  call_all(shared_team, 1);
  return NULL;
}

TEST("a thread may call while its own storage is being destroyed") {
  CHECK_INT(pthread_key_create(&key, call_in_destructor), 0);
  for (int i = 0; i < 200; i++) {
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, keyed, &key), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
  }
}

TEST("the team ends") { ac_team_destroy(shared_team); }

CHECK_MAIN
