/* refuse.c: every allocation and every thread is refused once, in turn.
 *
 * One scene uses all that allocates, on a team of its own. In run k the k-th
 * request for memory or a thread is refused, for k = 1, 2, 3, … 80, and then in
 * growing steps, since most requests of the rest are alike; until runs end in
 * which none was. Each call must give its right result or AC_E_NOMEM, AC_E_OS;
 * what follows a refusal must work again. A leak is for AddressSanitizer to
 * find, a hang for the alarm.
 */
#include "check.h"

#include <allcores/allcores.h>
#include <allcores/spawn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 4, EACH = 80, LAST = 100000, CLEAN_RUNS = 3 };
#if defined(__SANITIZE_THREAD__)
enum { WATCHDOG_S = 600 }; /* a run takes a minute on idle cores */
#else
enum { WATCHDOG_S = 110 };
#endif

/* ---- Refusing ------------------------------------------------------------ */

static _Atomic int64_t
    until_refusal; /* requests; 0 or less = none is refused */

static bool refuses(void) { return atomic_fetch_sub(&until_refusal, 1) == 1; }

#include "refusing.h"

/* ---- The scene ----------------------------------------------------------- */

/* AC_OK, or a refusal with a text. */
static bool is_good(ac_status status) {
  if (status == AC_OK)
    return true;
  CHECK(status == AC_E_NOMEM || status == AC_E_OS);
  CHECK_INT(ac_last_error()->status, status);
  return false;
}

static ac_status count_body(ac_range range, void *ctx) {
  atomic_fetch_add((_Atomic int64_t *)ctx, range.end - range.begin);
  return AC_OK;
}

static ac_status count_task(void *ctx) {
  return count_body((ac_range){0, 1}, ctx);
}

static ac_status nested_body(ac_range range, void *ctx) {
  ac_team *team = ctx;
  ac_status status = AC_OK;
  for (int64_t i = range.begin; i < range.end && status == AC_OK; i++) {
    _Atomic int64_t count = 0;
    status =
        ac_for(team, (ac_range){0, 300}, 1, NULL, count_body, (void *)&count);
    if (status == AC_OK)
      CHECK_INT(atomic_load(&count), 300);
  }
  return status;
}

static ac_status local_body(ac_range range, void *ctx) {
  int64_t *value = ac_local_get(ctx);
  if (value == NULL)
    return AC_E_NOMEM;
  *value += range.end - range.begin;
  return AC_OK;
}

static void add_local(void *value, void *ctx) {
  *(int64_t *)ctx += *(int64_t *)value;
}

static void scene_loops(ac_team *team) {
  _Atomic int64_t count = 0;
  int64_t total = 0;
  ac_local *local;
  if (is_good(ac_for(team, (ac_range){0, 3000}, 1, NULL, count_body,
                     (void *)&count)))
    CHECK_INT(atomic_load(&count), 3000);
  (void)is_good(ac_for(team, (ac_range){0, 20}, 1, NULL, nested_body, team));
  if (!is_good(ac_local_create(sizeof(int64_t), NULL, NULL, &local)))
    return;
  if (is_good(ac_for(team, (ac_range){0, 1000}, 1, NULL, local_body, local))) {
    ac_local_visit(local, add_local, &total);
    CHECK_INT(total, 1000);
  }
  ac_local_destroy(local);
}

enum { VALUE_BYTES = 20000 };

static void combine(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(int64_t *)left += *(const int64_t *)right;
}

static ac_status fold(ac_range range, void *ctx, void *value) {
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    *(int64_t *)value += i;
  return AC_OK;
}

static void scene_reduce(ac_team *team) {
  static char zeros[VALUE_BYTES];
  static char result[VALUE_BYTES];
  const ac_monoid monoid = {VALUE_BYTES, zeros, combine};
  int64_t sum;
  if (!is_good(ac_reduce(team, (ac_range){0, 5000}, 1, NULL, &monoid, fold,
                         NULL, result)))
    return;
  memcpy(&sum, result, sizeof sum);
  CHECK_INT(sum, 5000 * 4999 / 2);
}

static void scene_group(ac_team *team) {
  _Atomic int64_t count = 0;
  int64_t spawned = 0;
  ac_group *group;
  if (!is_good(ac_group_create(team, NULL, &group)))
    return;
  for (int i = 0; i < 8; i++)
    spawned +=
        is_good(ac_group_spawn(group, (ac_task){count_task, (void *)&count}));
  if (is_good(ac_group_wait(group)))
    CHECK_INT(atomic_load(&count), spawned);
  ac_group_destroy(group);
}

static void leaf(ac_worker *worker, void *arg) {
  (void)worker;
  ++*(int *)arg;
}

static void scene_threads(ac_team *team) {
  _Atomic int64_t count = 0;
  int runs = 0;
  ac_status status = ac_team_each(team, WIDTH + 2, count_body, (void *)&count);
  CHECK_INT(atomic_load(&count), is_good(status) ? WIDTH + 2 : 0);
  status = ac_run(team, leaf, &runs);
  CHECK_INT(runs, is_good(status));
}

static void *scene(void *unused) {
  ac_team *team;
  (void)unused;
  if (!is_good(ac_team_create(&(ac_team_options){.width = WIDTH}, &team)))
    return NULL;
  scene_loops(team);
  scene_threads(team);
  scene_group(team);
  scene_loops(team);
  scene_reduce(team); /* the most requests, and all alike */
  scene_loops(team);
  ac_team_destroy(team);
  return NULL;
}

TEST("each allocation and each thread refused in turn") {
  (void)alarm(
      WATCHDOG_S); /* its signal ends the program: a hang is a failure */
  int clean = 0;
  int number = 0; /* of the request that is refused */
  while (clean < CLEAN_RUNS && number < LAST) {
    pthread_t thread; /* a new one, with no place in any team */
    number += 1 + number / EACH;
    atomic_store(&until_refusal, number);
    CHECK_INT(__real_pthread_create(&thread, NULL, scene, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    clean = atomic_load(&until_refusal) > 0 ? clean + 1 : 0;
  }
  printf("up to request %d\n", number);
  CHECK_INT(clean, CLEAN_RUNS);
}

TEST("a gang starts its threads though one was refused just now") {
  enum { GANG = 6 };
  int refused = 0;
  for (int number = 1; number < 4 * GANG; number++) {
    _Atomic int64_t count = 0;
    ac_team *team;
    CHECK_INT(ac_team_create(&(ac_team_options){.width = 1}, &team), AC_OK);
    atomic_store(&until_refusal, number);
    ac_status status = ac_team_each(team, GANG, count_body, (void *)&count);
    atomic_store(&until_refusal, 0);
    CHECK_INT(atomic_load(&count), is_good(status) ? GANG : 0);
    refused += status == AC_E_OS;
    atomic_store(&count, 0);
    CHECK_INT(ac_team_each(team, GANG, count_body, (void *)&count), AC_OK);
    CHECK_INT(atomic_load(&count), GANG);
    ac_team_destroy(team);
  }
  CHECK_INT(refused, GANG - 1);
}

/* The process's team is made once: here each of its requests is refused at its
 * first use, one after the other. */
TEST("the process's team is had in the end") {
  for (int run = 1; run < 30; run++) {
    _Atomic int64_t count = 0;
    atomic_store(&until_refusal, run < 20 ? 1 : 0);
    if (is_good(ac_for(NULL, (ac_range){0, 1000}, 1, NULL, count_body,
                       (void *)&count)))
      CHECK_INT(atomic_load(&count), 1000);
  }
}

CHECK_MAIN
