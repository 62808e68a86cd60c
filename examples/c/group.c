/* group.c: task groups: tasks that spawn tasks, a search that stops when one
 * finds it, and work with a deadline.
 *
 *   group [NUMBERS]      default: 200,000
 */
#include "example.h"

#include <stdatomic.h>

enum { PIECE = 1000 }; /* numbers that one task looks at */

static int is_prime(int64_t n) {
  if (n < 2)
    return 0;
  for (int64_t d = 2; d * d <= n; d++)
    if (n % d == 0)
      return 0;
  return 1;
}

/* ---- Tasks that spawn tasks ---------------------------------------------- */

typedef struct count {
  ac_group *group;
  ac_range numbers;
  _Atomic int64_t *primes;
} count;

static ac_status count_primes(void *ctx) {
  count *c = ctx;
  ac_status status = AC_OK;
  if (c->numbers.end - c->numbers.begin >
      PIECE) { /* the upper half to others */
    count *rest = malloc(sizeof *rest);
    require(rest != NULL, "memory for a task was refused");
    *rest = *c;
    rest->numbers.begin = (c->numbers.begin + c->numbers.end) / 2;
    c->numbers.end = rest->numbers.begin;
    status = ac_group_spawn(c->group, (ac_task){count_primes, rest});
    if (status != AC_OK) {
      free(rest);
      free(c);
      return status;
    }
    return count_primes(c);
  }
  int64_t found = 0;
  for (int64_t n = c->numbers.begin; n < c->numbers.end; n++)
    found += is_prime(n);
  atomic_fetch_add(c->primes, found);
  free(c);
  return AC_OK;
}

static void show_count(int64_t numbers) {
  _Atomic int64_t primes = 0;
  ac_group *group;
  check(ac_group_create(NULL, NULL, &group));
  count *all = malloc(sizeof *all);
  require(all != NULL, "memory for a task was refused");
  *all = (count){group, {0, numbers}, &primes};
  check(ac_group_spawn(group, (ac_task){count_primes, all}));
  check(ac_group_wait(group));
  ac_group_destroy(group);
  printf("primes below %lld: %lld\n", (long long)numbers, (long long)primes);
}

/* ---- A search that stops ------------------------------------------------- */

typedef struct search {
  ac_group *group;
  _Atomic int64_t found;
} search;

/* Finds the number, cancels the group, and so ends the other tasks. */
static ac_status seek(void *ctx) {
  search *s = ctx;
  for (int64_t n = INT64_C(1000000); !ac_cancelled(); n++)
    if (is_prime(n)) {
      atomic_store(&s->found, n);
      ac_group_cancel(s->group);
    }
  return AC_OK;
}

static void show_search(void) {
  search s = {0};
  check(ac_group_create(NULL, NULL, &s.group));
  for (int i = 0; i < 100; i++) /* refused once one has found it */
    if (ac_group_spawn(s.group, (ac_task){seek, &s}) != AC_OK)
      break;
  ac_status status = ac_group_wait(s.group);
  ac_group_destroy(s.group);
  printf("first prime from a million on: %lld; the group: %s\n",
         (long long)s.found, ac_status_name(status));
}

/* ---- A deadline ---------------------------------------------------------- */

/* A task that gives up says so by its status. */
static ac_status work_for_ever(void *ctx) {
  (void)ctx;
  while (!ac_cancelled()) {
  }
  return AC_E_TIMEOUT;
}

static void show_deadline(void) {
  const ac_group_options options = {.timeout_ns = 50 * 1000 * 1000};
  double begun = now_ms();
  ac_group *group;
  check(ac_group_create(NULL, &options, &group));
  for (int i = 0; i < 10; i++)
    if (ac_group_spawn(group, (ac_task){work_for_ever, NULL}) != AC_OK)
      break;
  ac_status status = ac_group_wait(group);
  double took = now_ms() - begun;
  ac_group_destroy(group);
  require(took >= 50, "the deadline came too early");
  printf("after the deadline: %s\n", ac_status_name(status));
  fprintf(stderr, "(a deadline of 50 ms took %.1f ms)\n", took);
}

int main(int argc, char **argv) {
  show_count(size_argument(argc, argv, 200000, 100000000));
  show_search();
  show_deadline();
  return 0;
}
