/* cost.h: what loops cost, learned as they run, and what follows for the next
 * call. See cost.c. */
#ifndef AC_ALGO_COST_H
#define AC_ALGO_COST_H

#include "os/os.h"

/* How a loop is to run. */
typedef enum ac__mode {
  AC__MODE_SMALL,  /* on its caller: too little work to share */
  AC__MODE_SLOWER, /* on its caller: measured slower in parallel */
  AC__MODE_AWAKE,  /* with helpers that are awake; nobody is woken */
  AC__MODE_WIDE,   /* with helpers that sleep, too */
  AC__MODE_UNKNOWN /* never seen: as WIDE, beginning with single iterations */
} ac__mode;

typedef struct ac__plan {
  ac__mode mode;
  bool is_timed;    /* this call is to be measured */
  bool is_waking;   /* wake a helper even for little work: a trial begins */
  double serial_ns; /* expected on one thread; 0 = unknown */
  struct ac__cost *cost;
  uint64_t begun; /* ticks */
} ac__plan;

/* Plan a loop of `count` iterations at a site. The key is the site's or the
 * body's address. `width` is the team's. */
ac__plan ac__cost_plan(const void *key, int64_t count, int32_t width);

/* How a call went. */
typedef struct ac__outcome {
  bool had_help;
  uint64_t busy_ticks; /* of all its chunks on all threads; 0 = not measured */
} ac__outcome;

void ac__cost_learn(const ac__plan *plan, int64_t count,
                    const ac__outcome *outcome);

#endif
