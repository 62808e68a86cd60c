/* player.h: a program that plays one side of a benchmark, a turn at a time.
 *
 * Each side (ours and every peer) is a process of its own, so that each can
 * have its own environment and none loads the other's runtime. bench/run.py
 * hands out the turns through pipes:
 *
 *   in   <case> <a> <b>\n                   play this case once
 *   out  <seconds> <answer> <extra> <more>\n       or "error <why>\n"
 *
 * `seconds` is the time of one unit of the case (a region, a call), `answer` is
 * compared between the sides, `extra` and `more` are what the case says.
 * Between turns a player waits in read() and uses no processor time, once its
 * idle workers rest.
 *
 * Knows nothing of: which side it is, ratios, goals.
 */
#ifndef BENCH_PLAYER_H
#define BENCH_PLAYER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct turn {
  long a, b;          /* as asked for */
  double seconds;     /* of one unit */
  uint64_t answer;    /* equal on all sides */
  double extra, more; /* see the case */
  const char *error;  /* NULL = played */
} turn;

typedef struct player_case {
  const char *name;
  void (*play)(turn *t);
} player_case;

static inline double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline double seconds_now(void) { return seconds_of(CLOCK_MONOTONIC); }

/* Ticks of the finest clock: the time-stamp counter where there is one. Some
 * processors advance it in steps of 10 ns: take midmean_of() many spans. The
 * fences keep the work that is timed between its two readings. */
static inline int64_t ticks_now(void) {
#if defined(__x86_64__)
  unsigned processor;
  const uint64_t ticks = __builtin_ia32_rdtscp(&processor);
  __builtin_ia32_lfence();
  return (int64_t)ticks;
#else
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#endif
}

/* Length of a tick, measured once over 20 ms. */
static inline double tick_seconds(void) {
  static double length;
  if (length == 0) {
    const double start = seconds_now();
    const int64_t ticks = ticks_now();
    while (seconds_now() - start < 20e-3) {
    }
    length = (seconds_now() - start) / (double)(ticks_now() - ticks);
  }
  return length;
}

/* Processor time of all threads but the caller. The caller's own clock is read
 * on both sides of the process's, so that what the readings cost cancels. */
static inline double seconds_of_others(void) {
  const double before = seconds_of(CLOCK_THREAD_CPUTIME_ID);
  const double all = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  return all - (before + seconds_of(CLOCK_THREAD_CPUTIME_ID)) / 2;
}

static inline int compare_doubles(const void *left, const void *right) {
  const double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* Sorts `values`. */
static inline double median_of(double *values, size_t count) {
  qsort(values, count, sizeof *values, compare_doubles);
  return count % 2 ? values[count / 2]
                   : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Mean of the middle half, which no outlier moves and no coarse clock steps.
 * Sorts `values`. */
static inline double midmean_of(double *values, size_t count) {
  const size_t first = count / 4, last = count - count / 4;
  double sum = 0;
  qsort(values, count, sizeof *values, compare_doubles);
  for (size_t i = first; i < last; i++)
    sum += values[i];
  return sum / (double)(last - first);
}

/* Hide from the compiler what memory holds: the work before and after stays. */
static inline void touch(const void *memory) {
  __asm__ __volatile__("" ::"r"(memory) : "memory");
}

static inline uint64_t bits_of(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline void player_answer(const player_case *cases, size_t count,
                                 const char *name, turn *t) {
  t->error = "there is no such case";
  for (size_t i = 0; i < count; i++)
    if (strcmp(cases[i].name, name) == 0) {
      t->error = NULL;
      cases[i].play(t);
      break;
    }
  if (t->error)
    printf("error %s\n", t->error);
  else
    printf("%.9e %016llx %.9e %.9e\n", t->seconds,
           (unsigned long long)t->answer, t->extra, t->more);
  fflush(stdout);
}

static inline int player_main(const player_case *cases, size_t count) {
  char line[128], name[64];
  while (fgets(line, sizeof line, stdin)) {
    turn t;
    memset(&t, 0, sizeof t);
    if (sscanf(line, "%63s %ld %ld", name, &t.a, &t.b) < 1)
      continue;
    player_answer(cases, count, name, &t);
  }
  return 0;
}

#endif
