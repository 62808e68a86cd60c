/* budget_test.c: the process's cap, limits held on it, and the reason given. */
#define _GNU_SOURCE
#include "budget/budget.h"

#include "check.h"

#include <pthread.h>
#include <string.h>

/* Before anything reads it. */
__attribute__((constructor)) static void environment(void) {
  setenv("ALLCORES_NUM_THREADS", "many", 1);
}

TEST("the budget is what the machine grants until somebody sets it") {
  ac_topology t;
  CHECK(ac_topology_read(&t) == AC_OK);
  CHECK_INT(ac_budget(), t.granted);
  CHECK_INT(t.cores, t.granted);
  CHECK_INT(t.user_cap, 0);
  CHECK_INT(ac__budget_granted(), t.granted);
  CHECK(t.granted >= 1 && t.granted <= t.affinity);
  CHECK(t.limit != AC_LIMIT_USER);
}

TEST("a number of threads that is none is ignored, and the reason says so") {
  ac_topology t;
  CHECK(ac_topology_read(&t) == AC_OK);
  CHECK(strstr(t.reason, "ALLCORES_NUM_THREADS is 'many'") != NULL);
  printf("  %s\n", t.reason);
}

static ac_topology topology_of(int affinity, double quota, int granted) {
  ac_topology t = {.online = 8,
                   .affinity = affinity,
                   .quota = quota,
                   .granted = granted,
                   .cores = granted,
                   .quota_path = "/a/b"};
  ac__topology_explain(&t);
  printf("  %s\n", t.reason);
  return t;
}

static bool begins(const ac_topology *t, const char *text) {
  return strncmp(t->reason, text, strlen(text)) == 0;
}

TEST("the reason names what decided, in one sentence") {
  ac_topology t = topology_of(8, 0, 8);
  CHECK(t.limit == AC_LIMIT_ONLINE);
  CHECK(begins(&t, "8 of 8 processors: all that are online"));
  t = topology_of(4, 6, 4);
  CHECK(t.limit == AC_LIMIT_AFFINITY);
  CHECK(begins(&t, "4 of 8 processors: the affinity mask allows no others"));
  t = topology_of(8, 1.5, 2);
  CHECK(t.limit == AC_LIMIT_QUOTA);
  CHECK(begins(&t, "2 of 8 processors: the cgroup /a/b grants 1.5, rounded"));
  t = topology_of(4, 2, 2);
  CHECK(begins(&t, "2 of 8 processors: the cgroup /a/b grants 2;"));
}

TEST("a cgroup's long path leaves room for the whole sentence") {
  ac_topology t = {.online = 1024, .affinity = 1024, .quota = 1.5};
  t.granted = t.cores = 2;
  memset(t.quota_path, 'x', sizeof t.quota_path - 1);
  ac__topology_explain(&t);
  CHECK(strstr(t.reason, "grants 1.5, rounded up") != NULL);
  CHECK(strlen(t.reason) < sizeof t.reason);
}

TEST("what was set counts, up to 1024, and 0 is the machine's again") {
  ac_topology t;
  uint32_t epoch = ac__budget_epoch();
  CHECK(ac_budget_set(1024) == AC_OK);
  CHECK_INT(ac_budget(), 1024);
  CHECK(ac__budget_epoch() != epoch);
  CHECK(ac_budget_set(3) == AC_OK);
  CHECK(ac_topology_read(&t) == AC_OK);
  CHECK_INT(t.cores, 3);
  CHECK_INT(t.user_cap, 3);
  CHECK(t.limit == AC_LIMIT_USER);
  CHECK(strstr(t.reason, "ac_budget_set()") != NULL);
  printf("  %s\n", t.reason);
  CHECK(ac_budget_set(0) == AC_OK);
  CHECK_INT(ac_budget(), t.granted);
}

TEST("a number out of range is refused and changes nothing") {
  int before = ac_budget();
  ac_limit_token token = {.cores = 77};
  CHECK(ac_budget_set(-1) == AC_E_INVAL);
  CHECK(ac_budget_set(1025) == AC_E_INVAL);
  CHECK(strstr(ac_last_error()->detail, "1025") != NULL);
  CHECK(ac_limit_hold(0, &token) == AC_E_INVAL);
  CHECK(ac_limit_hold(1025, &token) == AC_E_INVAL);
  CHECK(ac_limit_hold(1, NULL) == AC_E_INVAL);
  CHECK(ac_topology_read(NULL) == AC_E_INVAL);
  CHECK_INT(token.cores, 77);
  CHECK_INT(ac_budget(), before);
}

TEST("the smallest limit counts, whatever the order of release") {
  ac_limit_token a, b, c, d, none = {0};
  ac_topology t;
  CHECK(ac_budget_set(8) == AC_OK);
  CHECK(ac_limit_hold(4, &a) == AC_OK);
  CHECK_INT(ac_budget(), 4);
  CHECK(ac_limit_hold(2, &b) == AC_OK);
  CHECK(ac_limit_hold(2, &c) == AC_OK);
  CHECK(ac_limit_hold(100, &d) == AC_OK);
  CHECK_INT(ac_budget(), 2);
  CHECK(ac_topology_read(&t) == AC_OK);
  CHECK(t.limit == AC_LIMIT_USER && strstr(t.reason, "a limit is held"));
  ac_limit_release(&a);
  CHECK_INT(a.cores, 0);
  CHECK_INT(ac_budget(), 2);
  ac_limit_release(&b);
  CHECK_INT(ac_budget(), 2);
  ac_limit_release(&c);
  CHECK_INT(ac_budget(), 8);
  CHECK(ac_budget_set(200) == AC_OK);
  CHECK_INT(ac_budget(), 100);
  ac_limit_release(&d);
  ac_limit_release(&d);
  ac_limit_release(&none);
  ac_limit_release(NULL);
  CHECK_INT(ac_budget(), 200);
  CHECK(ac_budget_set(0) == AC_OK);
}

static void *hold_often(void *arg) {
  unsigned seed = (unsigned)(size_t)arg;
  for (int i = 0; i < 5000; i++) {
    ac_limit_token token;
    int cores = 1 + (int)(seed = seed * 1103515245u + 12345u) / 65536 % 6;
    if (cores < 1)
      cores = 1;
    CHECK(ac_limit_hold(cores, &token) == AC_OK);
    CHECK(ac_budget() <= cores);
    ac_limit_release(&token);
  }
  return NULL;
}

TEST("limits held and released by many threads end where they began") {
  pthread_t thread[4];
  CHECK(ac_budget_set(8) == AC_OK);
  for (size_t i = 0; i < 4; i++)
    CHECK(pthread_create(&thread[i], NULL, hold_often, (void *)(i + 1)) == 0);
  for (int i = 0; i < 4; i++)
    pthread_join(thread[i], NULL);
  CHECK_INT(ac_budget(), 8);
  CHECK(ac_budget_set(0) == AC_OK);
}

CHECK_MAIN
