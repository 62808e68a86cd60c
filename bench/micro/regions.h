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

/* Sleep until `ns` after `start`. */
static inline void sleep_until(const struct timespec *start, long ns) {
  const long sum = start->tv_nsec + ns;
  const struct timespec at = {start->tv_sec + sum / 1000000000,
                              sum % 1000000000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* a = regions, b = ns between them. Processor time of the other threads in such
 * a gap, in seconds: extra = in its second half, when who sleeps is asleep;
 * more = in all of it, so that the way to sleep is part of it. */
static inline void play_apart(turn *t, region_fn region) {
  double *times = (double *)calloc((size_t)t->a, sizeof *times);
  const double tick = tick_seconds();
  double late = 0, whole = 0;
  if (!times) {
    t->error = "no memory";
    return;
  }
  memset(region_lines, 0, sizeof region_lines);
  for (long i = 0; i < t->a; i++) {
    struct timespec ended;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    const double first = seconds_of_others();
    sleep_until(&ended, t->b / 2);
    const double half = seconds_of_others();
    sleep_until(&ended, t->b);
    const double last = seconds_of_others();
    late += last - half;
    whole += last - first;
    const int64_t start = ticks_now();
    if (!region(region_lines))
      t->error = "a region failed";
    times[i] = tick * (double)(ticks_now() - start);
  }
  t->seconds = median_of(times, (size_t)t->a);
  t->extra = late / (double)t->a;
  t->more = whole / (double)t->a;
  t->answer = region_answer(t->a);
  free(times);
}

#endif
