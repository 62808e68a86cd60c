/* cost.c: the never-slower rule.
 *
 * A table holds, for each loop and each power of two of its length, the time an
 * iteration took without help and the time of the whole over its iterations with
 * help. From it the next call is planned:
 *
 *   below 0.6 µs        on the caller; one call in 32 is timed
 *   0.6 µs … 25 µs      helpers that are awake; nobody is woken
 *   25 µs and more      about one sleeper is woken for every 10 µs
 *   never seen          as if long: a loop of few heavy iterations must spread at
 *                       its first call. That costs one wake, 7 µs, once.
 *
 * Between 0.6 µs and 1 ms, where data that lie in the caller's cache may make
 * sharing a loss, the faster of the two is taken, and the other tried again now
 * and then: after 8 calls, then 16, … 256, while it keeps losing.
 *
 * A size never seen is planned by what the loop's other sizes cost. The table is
 * direct-mapped: loops that fall on one entry forget each other's times, which
 * costs speed, never correctness. Entries are changed without locks; a lost
 * update is a lost measurement.
 *
 * Knows nothing of: threads, results.
 */
#include "algo/cost.h"

#include <string.h>

enum {
  TABLE_SIZE = 2048,
  SAMPLE_MASK = 31, /* of small calls, one in 32 is timed */
  AUDIT_FIRST = 8,
  AUDIT_LAST = 256,
  ANY_SIZE = 255 /* size class of the entry that stands for all sizes */
};
#define SMALL_NS 600.0
#define WAKE_NS 25000.0
#define CONTESTED_NS 1e6 /* above, sharing is not questioned */
#define BETTER 0.97      /* sharing must gain so much to be preferred */

typedef struct ac__cost {
  _Atomic uint64_t key;       /* 0 = empty */
  _Atomic float alone_ns;     /* an iteration, without help; 0 = unknown */
  _Atomic float shared_ns;    /* the same, with help */
  _Atomic uint16_t until_audit;
  _Atomic uint16_t period;
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
    SET(entry->period, AUDIT_FIRST);
    SET(entry->until_audit, AUDIT_FIRST);
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

/* Between the two ways, when both may win. */
static ac__mode contest(cost *entry, ac__mode shared) {
  double alone_ns = GET(entry->alone_ns);
  double shared_ns = GET(entry->shared_ns);
  if (alone_ns == 0)
    return AC__MODE_SLOWER;
  if (shared_ns == 0)
    return shared;
  bool is_shared = shared_ns < BETTER * alone_ns;
  uint16_t left = GET(entry->until_audit);
  if (left == 0) { /* try the other */
    uint16_t period = GET(entry->period);
    if (period < AUDIT_LAST)
      period *= 2;
    SET(entry->period, period);
    SET(entry->until_audit, period);
    is_shared = !is_shared;
  } else {
    SET(entry->until_audit, (uint16_t)(left - 1));
  }
  return is_shared ? shared : AC__MODE_SLOWER;
}

ac__plan ac__cost_plan(const void *key, int64_t count, int32_t width) {
  unsigned size_class = 64U - (unsigned)__builtin_clzll((uint64_t)count);
  cost *entry = find(key, size_class);
  double ns = expected_ns(entry, key) * (double)count;
  ac__plan plan = {.serial_ns = ns, .cost = entry};
  if (ns != 0 && ns < SMALL_NS) {
    plan.mode = AC__MODE_SMALL;
    plan.is_timed = (small_calls++ & SAMPLE_MASK) == 0 ||
                    GET(entry->alone_ns) == 0;
  } else {
    plan.is_timed = true;
    plan.mode = ns == 0           ? AC__MODE_UNKNOWN
                : ns < WAKE_NS    ? AC__MODE_AWAKE
                                  : AC__MODE_WIDE;
    if (ns != 0 && ns < CONTESTED_NS && width > 1)
      plan.mode = contest(entry, plan.mode);
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

static void learn(_Atomic float *estimate, double other, double sample,
                  cost *entry) {
  double before = GET(*estimate);
  move(estimate, sample);
  if (before != 0 && other != 0 && (before < other) != (GET(*estimate) < other)) {
    SET(entry->period, AUDIT_FIRST); /* the order has changed: look again soon */
    SET(entry->until_audit, AUDIT_FIRST);
  }
}

static void learn_alone(cost *entry, double ns) {
  learn(&entry->alone_ns, GET(entry->shared_ns), ns, entry);
  cost *any = GET(entry->any);
  if (any != NULL)
    move(&any->alone_ns, ns);
}

void ac__cost_learn(const ac__plan *plan, int64_t count,
                    const ac__outcome *outcome) {
  if (!plan->is_timed)
    return;
  cost *entry = plan->cost;
  double scale = ac__tick_ns() / (double)count;
  double ns = (double)(ac__ticks() - plan->begun) * scale;
  if (!outcome->had_help) {
    learn_alone(entry, ns);
    return;
  }
  learn(&entry->shared_ns, GET(entry->alone_ns), ns, entry);
  /* Of long loops, and at first, the chunks tell what it costs alone. */
  if (outcome->busy_ticks != 0 &&
      (GET(entry->alone_ns) == 0 || plan->serial_ns >= CONTESTED_NS))
    learn_alone(entry, (double)outcome->busy_ticks * scale);
}
