/* balance_ac.c: T5, loops whose iterations cost unequally, on two threads.
 *
 *   triangle  iteration i of a costs i units
 *   peak      one iteration costs as much as all others together; b = 0, 1, 2:
 *             it comes first, in the middle, last
 *
 * The ideal is computed from the iterations' times as measured in a serial run:
 * half the total for the triangle; for the peak what one-at-a-time list
 * scheduling in index order gives (each thread takes the next iteration when it
 * is free), which is as good as a scheduler can do that does not know the
 * costs.
 */
#include "player.h"
#include <allcores/allcores.h>

enum { ITERATIONS_MAX = 4096, TRIANGLE_STEPS = 160, PEAK_STEPS = 40000 };

typedef struct loop {
  int64_t count, peak; /* peak = its index; -1 = a triangle */
  uint64_t results[ITERATIONS_MAX];
  double seconds[ITERATIONS_MAX];
} loop;

static int64_t steps_of(const loop *l, int64_t i) {
  if (l->peak < 0)
    return i * TRIANGLE_STEPS;
  return i == l->peak ? (l->count - 1) * PEAK_STEPS : PEAK_STEPS;
}

/* Each step needs the one before it. */
static uint64_t work(uint64_t seed, int64_t steps) {
  for (int64_t i = 0; i < steps; i++)
    seed = (seed ^ (seed >> 29)) * UINT64_C(6364136223846793005);
  return seed;
}

static ac_status body(ac_range range, void *ctx) {
  loop *l = ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    l->results[i] = work((uint64_t)i + 1, steps_of(l, i));
  return AC_OK;
}

static uint64_t answer_of(const loop *l) {
  uint64_t answer = 0;
  for (int64_t i = 0; i < l->count; i++)
    answer = answer * 31 + l->results[i];
  return answer;
}

static loop *loop_of(turn *t, int is_peak) {
  static loop l;
  if (t->a < 2 || t->a > ITERATIONS_MAX) {
    t->error = "a is out of range";
    return NULL;
  }
  memset(&l, 0, sizeof l);
  l.count = t->a;
  l.peak = is_peak ? (t->b * (t->a - 1)) / 2 : -1;
  return &l;
}

static void play_team(turn *t, int is_peak) {
  static const ac_site at_triangle = AC_SITE("triangle");
  static const ac_site at_peak = AC_SITE("peak");
  static const ac_team_options two = {.width = 2};
  static ac_team *team;
  loop *l = loop_of(t, is_peak);
  if (!l)
    return;
  if (!team && ac_team_create(&two, &team) != AC_OK) {
    t->error = "no team";
    return;
  }
  const double start = seconds_now();
  if (ac_for(team, (ac_range){0, l->count}, 0,
             is_peak ? &at_peak : &at_triangle, body, l) != AC_OK)
    t->error = "the loop failed";
  t->seconds = seconds_now() - start;
  t->answer = answer_of(l);
}

static double list_schedule(const loop *l) {
  double free_at[2] = {0, 0};
  for (int64_t i = 0; i < l->count; i++)
    free_at[free_at[1] < free_at[0]] += l->seconds[i];
  return free_at[0] > free_at[1] ? free_at[0] : free_at[1];
}

static void play_ideal(turn *t, int is_peak) {
  loop *l = loop_of(t, is_peak);
  const double tick = tick_seconds();
  double total = 0;
  if (!l)
    return;
  for (int64_t i = 0; i < l->count; i++) {
    const int64_t start = ticks_now();
    (void)body((ac_range){i, i + 1}, l);
    l->seconds[i] = tick * (double)(ticks_now() - start);
    total += l->seconds[i];
  }
  t->seconds = is_peak ? list_schedule(l) : total / 2;
  t->extra = total;
  t->answer = answer_of(l);
}

static void triangle(turn *t) { play_team(t, 0); }
static void peak(turn *t) { play_team(t, 1); }
static void triangle_ideal(turn *t) { play_ideal(t, 0); }
static void peak_ideal(turn *t) { play_ideal(t, 1); }

int main(void) {
  static const player_case cases[] = {
      {"triangle", triangle},
      {"peak", peak},
      {"triangle-ideal", triangle_ideal},
      {"peak-ideal", peak_ideal},
  };
  return player_main(cases, sizeof cases / sizeof *cases);
}
