/* example.h: what the larger examples share: arguments, a clock, turns, one
 * line of figures.
 *
 * Serial, ours and the peer take turns, so that a machine that is busy for a
 * while does not favour one of them. What counts is the fastest turn of each.
 *
 * The peer is OpenMP as the compiler brings it, libgomp with gcc. Where there
 * is none, HAS_OPENMP is 0 and the line says so.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <allcores/allcores.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef _OPENMP
enum { HAS_OPENMP = 1 };
#else
enum { HAS_OPENMP = 0 };
#endif

#ifdef __clang__
#define OPENMP_NAME "libomp"
#else
#define OPENMP_NAME "libgomp"
#endif

/* One way to do the work; run is NULL if there is none. */
typedef struct side {
  void (*run)(void *ctx);
  void *ctx;
} side;

/* The time of the fastest turn, in ms; 0 = not run. */
typedef struct timing {
  double ours_ms, serial_ms, openmp_ms;
} timing;

static inline double now_ms(void) {
  struct timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Give one side its turn; keep the least time. */
static inline void take_turn(const side *side, double *least_ms) {
  double begun = now_ms();
  side->run(side->ctx);
  double took = now_ms() - begun;
  if (*least_ms == 0 || took < *least_ms)
    *least_ms = took;
}

/* OpenMP's threads go on spinning for some 10 ms after a loop. */
static inline void let_openmp_rest(void) {
  const struct timespec rest = {.tv_nsec = 30 * 1000 * 1000};
  (void)nanosleep(&rest, NULL);
}

static inline timing take_turns(int rounds, side serial, side ours,
                                side openmp) {
  timing t = {0};
  for (int round = 0; round < rounds; round++) {
    take_turn(&serial, &t.serial_ms);
    take_turn(&ours, &t.ours_ms);
    if (openmp.run == NULL)
      continue;
    take_turn(&openmp, &t.openmp_ms);
    let_openmp_rest();
  }
  return t;
}

/* Say what went wrong and end the program, unless all is well. */
static inline void check(ac_status status) {
  if (status == AC_OK)
    return;
  const ac_error *error = ac_last_error();
  fprintf(stderr, "%s: %s: %s. %s\n", error->operation, ac_status_name(status),
          error->detail, error->remedy);
  exit(1);
}

/* The same for an answer that must be right. */
static inline void require(int is_right, const char *what) {
  if (is_right)
    return;
  fprintf(stderr, "wrong: %s\n", what);
  exit(1);
}

/* The program's first argument as a number from 1 to `most`. */
static inline int64_t size_argument(int argc, char **argv, int64_t usual,
                                    int64_t most) {
  if (argc < 2)
    return usual;
  char *end;
  long long size = strtoll(argv[1], &end, 10);
  if (end == argv[1] || *end != '\0' || size < 1 || size > most) {
    fprintf(stderr, "usage: %s [SIZE from 1 to %lld]\n", argv[0],
            (long long)most);
    exit(2);
  }
  return size;
}

static inline void print_timing(const char *what, const timing *t) {
  printf("%s: ours %.1f ms, serial %.1f ms", what, t->ours_ms, t->serial_ms);
  if (HAS_OPENMP)
    printf(", %s %.1f ms", OPENMP_NAME, t->openmp_ms);
  printf("; ours / serial %.2f", t->ours_ms / t->serial_ms);
  if (HAS_OPENMP)
    printf(", ours / %s %.2f\n", OPENMP_NAME, t->ours_ms / t->openmp_ms);
  else
    printf(" (built without OpenMP)\n");
}

#endif
