/* regions.h: what the two sides of T1 and T2 share.
 *
 * A region runs one body on each of two threads; each writes its index into a
 * cache line of its own and counts there how often it was called, so that the
 * answer shows that no region was left out.
 */
#ifndef BENCH_REGIONS_H
#define BENCH_REGIONS_H

#include "player.h"

typedef struct line {
  int64_t index;
  int64_t calls;
  char pad[112]; /* two lines: neighbours are fetched in pairs */
} line;

/* One region; false if it could not be run. */
typedef int (*region_fn)(line *lines);

static _Alignas(128) line region_lines[2];

static inline void region_write(line *lines, int64_t index) {
  lines[index].index = index;
  lines[index].calls++;
}

static inline uint64_t region_answer(int64_t regions) {
  const line *l = region_lines;
  touch(l);
  return l[0].index == 0 && l[1].index == 1 && l[0].calls == regions &&
         l[1].calls == regions;
}

/* a = regions; before them as many again for waking up, up to 500. */
static inline void play_back_to_back(turn *t, region_fn region) {
  const long warm = t->a < 500 ? t->a : 500;
  memset(region_lines, 0, sizeof region_lines);
  for (long i = 0; i < warm; i++)
    if (!region(region_lines))
      t->error = "a region failed";
  const double start = seconds_now();
  for (long i = 0; i < t->a; i++)
    if (!region(region_lines))
      t->error = "a region failed";
  t->seconds = (seconds_now() - start) / (double)t->a;
  t->answer = region_answer(t->a + warm);
}

/* a = regions, b = ns between them. extra = processor time of the other threads
 * between two regions, in seconds: the worker's way to sleep is part of it. */
static inline void play_apart(turn *t, region_fn region) {
  double *times = (double *)calloc((size_t)t->a, sizeof *times);
  const struct timespec gap = {t->b / 1000000000, t->b % 1000000000};
  const double tick = tick_seconds();
  double idle = 0;
  if (!times) {
    t->error = "no memory";
    return;
  }
  memset(region_lines, 0, sizeof region_lines);
  for (long i = 0; i < t->a; i++) {
    const double before = seconds_of_others();
    clock_nanosleep(CLOCK_MONOTONIC, 0, &gap, NULL);
    idle += seconds_of_others() - before;
    const int64_t start = ticks_now();
    if (!region(region_lines))
      t->error = "a region failed";
    times[i] = tick * (double)(ticks_now() - start);
  }
  t->seconds = median_of(times, (size_t)t->a);
  t->extra = idle / (double)t->a;
  t->answer = region_answer(t->a);
  free(times);
}

#endif
