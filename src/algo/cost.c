/* cost.c: the never-slower rule.
 *
 * A table holds, for each loop and each power of two of its length, the time an
 * iteration took without help and the time of the whole over its iterations
 * with help. From it the next call is planned:
 *
 *   below 0.6 µs        on the caller; one call in 32 is timed
 *   0.6 µs … 25 µs      helpers that are awake; nobody is woken
 *   25 µs and more      about one sleeper is woken for every 10 µs
 *   never seen          as if long: a loop of few heavy iterations must spread
 * at its first call. That costs one wake, 7 µs, once.
 *
 * Between 0.6 µs and 1 ms, where data that lie in the caller's cache may make
 * sharing a loss, the faster way is taken, and the other is tried now and then:
 * alone for 3 calls, or shared for 10, of which the first wakes a helper and
 * the next two are not counted, since it is on its way. While the other keeps
 * losing it is tried ever less often: sharing after 4 calls, 16, … 65,536;
 * alone after 4, 8, … 512. Where sharing pays but finds nobody awake, 8 calls
 * in a row, 16, 32, …, a helper is woken: if calls come close together it will
 * stay awake.
 *
 * A size never seen is planned by what the loop's other sizes cost. The table
 * is direct-mapped: loops that fall on one entry forget each other's times,
 * which costs speed, never correctness. Entries are changed without locks; a
 * lost update is a lost measurement.
 *
 * Knows nothing of: threads, results.
 */
#include "algo/cost.h"

#include <string.h>

enum {
  TABLE_SIZE = 2048,
  SAMPLE_MASK = 31, /* of small calls, one in 32 is timed */
  PERIOD_FIRST = 4, /* calls before the other way is tried */
  PERIOD_ALONE_LAST = 512,
  PERIOD_SHARED_LAST = 65536,
  TRIAL_ALONE = 3, /* calls of a trial */
  TRIAL_SHARED = 10,
  TRIAL_UNTIMED = 3, /* of those: the helper is on its way */
  MISSES_FIRST = 8,
  SHARED_SAMPLE = 4, /* of shared calls, one in 4 is timed */
  ANY_SIZE = 255     /* size class of the entry that stands for all sizes */
};
#define SMALL_NS     600.0
#define WAKE_NS      25000.0
#define CONTESTED_NS 1e6  /* above, sharing is not questioned */
#define BETTER       0.97 /* sharing must gain so much to be preferred */

enum { RUN, TRY_ALONE, TRY_SHARED };

typedef struct ac__cost {
  _Atomic uint64_t key;    /* 0 = empty */
  _Atomic float alone_ns;  /* an iteration, without help; 0 = unknown */
  _Atomic float shared_ns; /* the same, with help */
  _Atomic uint32_t phase;  /* RUN, TRY_ALONE, TRY_SHARED */
  _Atomic uint32_t left;   /* calls until it is over */
  _Atomic uint32_t period; /* length of RUN */
  _Atomic uint32_t misses; /* calls in a row that found no helper awake */
  _Atomic(struct ac__cost *) any; /* the loop's entry for all sizes */
} cost;

static cost table[TABLE_SIZE];
static _Thread_local uint32_t small_calls
    __attribute__((tls_model("initial-exec")));

/* All loads and stores of entries are relaxed: each is a hint by itself. */
#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define SET(field, value)                                                      \
  atomic_store_explicit(&(field), (value), memory_order_relaxed)

static uint64_t mix(uint64_t x) {
  x *= UINT64_C(0x9e3779b97f4a7c15);
  return x ^ (x >> 32);
}

static cost *find(const void *key, unsigned size_class) {
  uint64_t name = (uint64_t)(uintptr_t)key * 256 + size_class;
  cost *entry = &table[mix(name) % TABLE_SIZE];
  if (GET(entry->key) != name) {
    SET(entry->key, name);
    SET(entry->alone_ns, 0);
    SET(entry->shared_ns, 0);
    SET(entry->phase, RUN);
    SET(entry->period, PERIOD_FIRST);
    SET(entry->left, PERIOD_FIRST);
    SET(entry->any, NULL);
  }
  return entry;
}

/* Expected ns of an iteration alone; 0 = never seen at any size. */
static double expected_ns(cost *entry, const void *key) {
  double ns = GET(entry->alone_ns);
  if (ns != 0)
    return ns;
  cost *any = find(key, ANY_SIZE);
  SET(entry->any, any);
  return GET(any->alone_ns);
}

static bool prefers_shared(cost *entry) {
  double shared_ns = GET(entry->shared_ns);
  return shared_ns != 0 && shared_ns < BETTER * GET(entry->alone_ns);
}

static void begin_trial(cost *entry) {
  if (prefers_shared(entry)) {
    SET(entry->phase, TRY_ALONE);
    SET(entry->left, TRIAL_ALONE);
  } else {
    SET(entry->shared_ns, 0);
    SET(entry->phase, TRY_SHARED);
    SET(entry->left, TRIAL_SHARED);
  }
}

static void end_trial(cost *entry) {
  bool tried_shared = GET(entry->phase) == TRY_SHARED;
  uint32_t period = PERIOD_FIRST; /* the other way has won: look again soon */
  if (prefers_shared(entry) != tried_shared) {
    uint32_t last = tried_shared ? PERIOD_SHARED_LAST : PERIOD_ALONE_LAST;
    period = GET(entry->period) * (tried_shared ? 4 : 2);
    period = period > last ? last : period;
  }
  SET(entry->period, period);
  SET(entry->phase, RUN);
  SET(entry->left, period);
}

/* Between the two ways, when both may win. */
static void contest(cost *entry, ac__plan *plan) {
  uint32_t left = GET(entry->left);
  if (left == 0) {
    if (GET(entry->phase) == RUN)
      begin_trial(entry);
    else
      end_trial(entry);
    left = GET(entry->left);
  }
  SET(entry->left, left - 1);
  uint32_t phase = GET(entry->phase);
  if (phase == TRY_SHARED) {
    plan->is_waking = left == TRIAL_SHARED;
    plan->is_timed = left <= TRIAL_SHARED - TRIAL_UNTIMED;
  } else if (phase == TRY_ALONE || !prefers_shared(entry)) {
    plan->mode = AC__MODE_SLOWER;
  } else {
    plan->is_timed = left % SHARED_SAMPLE == 0;
    uint32_t misses = GET(entry->misses);
    plan->is_waking = misses >= MISSES_FIRST && (misses & (misses - 1)) == 0;
  }
}

ac__plan ac__cost_plan(const void *key, int64_t count, int32_t width) {
  unsigned size_class = 64U - (unsigned)__builtin_clzll((uint64_t)count);
  cost *entry = find(key, size_class);
  double ns = expected_ns(entry, key) * (double)count;
  ac__plan plan = {.serial_ns = ns, .cost = entry};
  if (ns != 0 && ns < SMALL_NS) {
    plan.mode = AC__MODE_SMALL;
    plan.is_timed =
        (small_calls++ & SAMPLE_MASK) == 0 || GET(entry->alone_ns) == 0;
  } else {
    plan.is_timed = true;
    plan.mode = ns == 0        ? AC__MODE_UNKNOWN
                : ns < WAKE_NS ? AC__MODE_AWAKE
                               : AC__MODE_WIDE;
    if (ns != 0 && ns < CONTESTED_NS && width > 1)
      contest(entry, &plan);
  }
  if (plan.is_timed)
    plan.begun = ac__ticks();
  return plan;
}

/* Move an estimate to a sample: half the way down, an eighth up, and never by
 * more than half its value at once, so that a preempted call counts little. */
static void move(_Atomic float *estimate, double sample) {
  double old = GET(*estimate);
  if (old == 0)
    old = sample;
  else if (sample < old)
    old = (old + sample) / 2;
  else
    old += (sample - old < 4 * old ? sample - old : 4 * old) / 8;
  SET(*estimate, (float)old);
}

static void learn_alone(cost *entry, double ns) {
  move(&entry->alone_ns, ns);
  cost *any = GET(entry->any);
  if (any != NULL)
    move(&any->alone_ns, ns);
}

void ac__cost_learn(const ac__plan *plan, int64_t count,
                    const ac__outcome *outcome) {
  cost *entry = plan->cost;
  if (plan->mode == AC__MODE_AWAKE && !outcome->had_help)
    SET(entry->misses, GET(entry->misses) + 1);
  else if (GET(entry->misses) != 0)
    SET(entry->misses, 0);
  if (!plan->is_timed)
    return;
  double scale = ac__tick_ns() / (double)count;
  double ns = (double)(ac__ticks() - plan->begun) * scale;
  if (!outcome->had_help) {
    learn_alone(entry, ns);
    return;
  }
  if (plan->mode != AC__MODE_UNKNOWN) /* which may have started threads */
    move(&entry->shared_ns, ns);
  /* Of long loops, and at first, the chunks tell what it costs alone. */
  if (outcome->busy_ticks != 0 &&
      (GET(entry->alone_ns) == 0 || plan->serial_ns >= CONTESTED_NS))
    learn_alone(entry, (double)outcome->busy_ticks * scale);
}
