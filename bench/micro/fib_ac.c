/* fib_ac.c: T3, our side: fib(a), a task a call, on a team of b threads. */
#include "player.h"
#include <allcores/allcores.h>

struct fib {
  long n, value;
};

static void fib(ac_worker *w, void *arg) {
  struct fib *f = arg;
  if (f->n < 2) {
    f->value = f->n;
    return;
  }
  struct fib a = {.n = f->n - 1}, b = {.n = f->n - 2};
  ac_strand strand;
  ac_spawn(w, &strand, fib, &a);
  fib(w, &b);
  ac_sync(w, &strand, fib, &a);
  f->value = a.value + b.value;
}

static ac_team *team_of(long width) {
  static ac_team *teams[3];
  const ac_team_options options = {.width = (int)width};
  if (width < 1 || width > 2)
    return NULL;
  if (!teams[width] && ac_team_create(&options, &teams[width]) != AC_OK)
    return NULL;
  return teams[width];
}

static void play(turn *t) {
  ac_team *team = team_of(t->b);
  struct fib f = {.n = t->a};
  if (!team) {
    t->error = "no team";
    return;
  }
  const double start = seconds_now();
  if (ac_run(team, fib, &f) != AC_OK)
    t->error = ac_last_error()->detail;
  t->seconds = seconds_now() - start;
  t->answer = (uint64_t)f.value;
}

int main(void) {
  static const player_case cases[] = {{"fib", play}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
