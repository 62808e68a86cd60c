/* hello.c: a region in which every thread runs at the same time.
 *
 *   hello [THREADS]      default: 4, also on a machine with fewer cores
 *
 * ac_team_each() differs from a loop: each part has a thread of its own, so the
 * parts may wait for each other. Here nobody goes on until all have arrived.
 */
#include <allcores/allcores.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 64 };

typedef struct meeting {
  atomic_int arrived;
  int width;
  int index[MOST]; /* what ac_worker_index() said in each part */
} meeting;

static ac_status meet(ac_range part, void *ctx) {
  meeting *m = ctx;
  m->index[part.begin] = ac_worker_index();
  atomic_fetch_add(&m->arrived, 1);
  while (atomic_load(&m->arrived) < m->width)
    sched_yield();
  return AC_OK;
}

int main(int argc, char **argv) {
  static meeting m;
  m.width = argc > 1 ? atoi(argv[1]) : 4;
  if (m.width < 1 || m.width > MOST) {
    fprintf(stderr, "usage: %s [THREADS from 1 to %d]\n", argv[0], MOST);
    return 2;
  }
  if (ac_team_each(NULL, m.width, meet, &m) != AC_OK) {
    fprintf(stderr, "%s\n", ac_last_error()->detail);
    return 1;
  }
  for (int i = 0; i < m.width; i++)
    printf("part %d ran as worker %d of %d\n", i, m.index[i], m.width);
  printf("all %d met\n", m.width);
  return 0;
}
