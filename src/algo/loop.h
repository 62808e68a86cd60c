/* loop.h: the engine under every loop: units of work, run once each. */
#ifndef AC_ALGO_LOOP_H
#define AC_ALGO_LOOP_H

#include <allcores/algo.h>

/* What a loop runs. Units are numbered from 0. */
typedef struct ac__work {
  int64_t units;      /* 1 … AC__UNITS_MAX */
  int64_t iterations; /* of the whole: what its cost is counted in */
  const void *key;    /* where its cost is learned */
  /* Run units [range.begin, range.end). */
  ac_body_fn run;
  void *ctx;
} ac__work;

#define AC__UNITS_MAX INT64_C(0x7fffffff)

/* Run all units, on as many threads as pays. */
ac_status ac__loop(ac_team *team, const ac__work *work);

#endif
