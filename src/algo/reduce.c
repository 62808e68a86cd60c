/* reduce.c: ac_reduce: the same bits on any number of threads.
 *
 * The range is cut into leaves whose length depends on the range's length (or
 * the given grain) alone. Each leaf is folded from the identity, and the values
 * of leaves are combined as a binary counter carries: two neighbours of equal
 * rank become one of the next, and what is left at the end is combined from the
 * right. So the tree splits n leaves at the largest power of two below n, and a
 * block of 2^k leaves that begins at a multiple of 2^k is a node of it. Blocks
 * are the loop's units: whoever runs one folds it serially, on a counter of its
 * own; the caller combines the blocks' values on the same tree. Who ran
 * which block leaves no trace. A range of more than 2^16 leaves is reduced
 * segment by segment, each a node again, so that a loop can be cancelled in
 * time.
 *
 * Invariant: neither leaf nor block depends on time, threads or machine.
 *
 * Knows nothing of: threads, what a value is.
 */
#include "algo/loop.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

enum {
  LEAF_MAX = 1024,     /* iterations of a leaf that was not asked for */
  LEAVES_MIN = 256,    /* that a range is cut into, if it is so long */
  BLOCKS_MAX = 1024,   /* units of a loop */
  BLOCK_RANK_MAX = 6,  /* a unit is at most 2^6 leaves, so that it ends soon */
  VALUE_MAX = 1 << 20, /* bytes of a value */
  RANKS = 63,
  ON_STACK = 8192 /* bytes of values kept on the stack */
};

/* Values waiting to be combined; bit r of `count` says that rank r holds one.
 */
typedef struct counter {
  const ac_monoid *monoid;
  void *ctx;
  char *values; /* of ranks 0, 1, … */
  uint64_t count;
} counter;

/* Copy a value; most are of 8 bytes, which a call would double the cost of. */
static inline void copy_value(void *to, const void *from, size_t size_bytes) {
  if (size_bytes == 8)
    memcpy(to, from, 8);
  else
    memcpy(to, from, size_bytes);
}

static char *value_at(const counter *counter, int rank) {
  return counter->values + (size_t)rank * counter->monoid->size_bytes;
}

/* Where to put the next value of rank 0. It must then be carried. */
static void *next_value(const counter *counter) {
  /* Rank 0 may be taken: the new one goes above all ranks in use for now. */
  int free_rank =
      counter->count == 0 ? 0 : 64 - __builtin_clzll(counter->count);
  return value_at(counter, free_rank);
}

/* Carry the value that was put at next_value(). */
static void carry(counter *counter) {
  char *value = next_value(counter);
  int rank = 0;
  for (; counter->count >> rank & 1; rank++) {
    char *left = value_at(counter, rank);
    counter->monoid->combine(left, value, counter->ctx);
    value = left;
  }
  if (value != value_at(counter, rank))
    copy_value(value_at(counter, rank), value, counter->monoid->size_bytes);
  counter->count += 1;
}

/* Combine what is left, from the right; the value lies where it says. */
static void *settle(counter *counter) {
  int rank = __builtin_ctzll(counter->count);
  char *value = value_at(counter, rank);
  for (rank++; counter->count >> rank != 0; rank++)
    if (counter->count >> rank & 1) {
      char *left = value_at(counter, rank);
      counter->monoid->combine(left, value, counter->ctx);
      value = left;
    }
  return value;
}

typedef struct reduction {
  ac_range range;
  int64_t leaf; /* iterations */
  int64_t leaves;
  int block_rank; /* a block is 2^block_rank leaves */
  const ac_monoid *monoid;
  ac_fold_fn fold;
  void *ctx;
  char *values; /* one for each block */
} reduction;

static ac_status fold_leaf(const reduction *reduction, int64_t leaf,
                           void *value) {
  int64_t begin = reduction->range.begin + leaf * reduction->leaf;
  int64_t left = reduction->range.end - begin;
  copy_value(value, reduction->monoid->identity, reduction->monoid->size_bytes);
  return reduction->fold(
      (ac_range){begin,
                 begin + (left < reduction->leaf ? left : reduction->leaf)},
      reduction->ctx, value);
}

/* Fold the leaves [first, last) with `values` as the counter's memory. */
static ac_status fold_leaves(const reduction *reduction, int64_t first,
                             int64_t last, char *values, void **ret_value) {
  counter counter = {
      .monoid = reduction->monoid, .ctx = reduction->ctx, .values = values};
  for (int64_t leaf = first; leaf < last; leaf++) {
    ac_status status = fold_leaf(reduction, leaf, next_value(&counter));
    if (status != AC_OK)
      return status;
    carry(&counter);
  }
  *ret_value = settle(&counter);
  return AC_OK;
}

/* Ranks that a counter of `count` values needs, the incoming one included. */
static int ranks_of(int64_t count) {
  return 65 - __builtin_clzll((uint64_t)count);
}

/* Memory for values: `stack` if it is large enough, else from the heap. */
static char *values_for(size_t count, size_t size_bytes, char *stack) {
  return count * size_bytes <= ON_STACK ? stack : malloc(count * size_bytes);
}

static ac_status fail_memory(size_t count, size_t size_bytes) {
  return ac__fail(AC_E_NOMEM, "ac_reduce", "Give a larger grain.",
                  "memory for %zu values of %zu bytes was refused", count,
                  size_bytes);
}

static ac_status run_blocks(ac_range units, void *ctx) {
  const reduction *reduction = ctx;
  size_t size_bytes = reduction->monoid->size_bytes;
  if (reduction->block_rank == 0) { /* a block is a leaf */
    for (int64_t unit = units.begin; unit < units.end; unit++) {
      ac_status status = fold_leaf(
          reduction, unit, reduction->values + (size_t)unit * size_bytes);
      if (status != AC_OK)
        return status;
    }
    return AC_OK;
  }
  _Alignas(64) char stack[ON_STACK];
  int64_t block = INT64_C(1) << reduction->block_rank;
  size_t ranks = (size_t)ranks_of(block);
  char *values = values_for(ranks, size_bytes, stack);
  ac_status status = AC_OK;
  if (values == NULL)
    return fail_memory(ranks, size_bytes);
  for (int64_t unit = units.begin; unit < units.end && status == AC_OK;
       unit++) {
    int64_t first = unit * block;
    int64_t last = first + block;
    void *value;
    status = fold_leaves(reduction, first,
                         last < reduction->leaves ? last : reduction->leaves,
                         values, &value);
    if (status == AC_OK)
      copy_value(reduction->values + (size_t)unit * size_bytes, value,
                 size_bytes);
  }
  if (values != stack)
    free(values);
  return status;
}

/* Combine the blocks' values in place: neighbours, then every second, every
 * fourth … The same tree as the counter's, without moving a value. */
static void combine_blocks(const reduction *reduction, int64_t blocks) {
  const ac_monoid *monoid = reduction->monoid;
  size_t step = monoid->size_bytes;
  size_t end = (size_t)blocks * step;
  for (; step < end; step *= 2)
    for (size_t at = 0; at + step < end; at += 2 * step)
      monoid->combine(reduction->values + at, reduction->values + at + step,
                      reduction->ctx);
}

/* A range of at most SEGMENT leaves, as one loop. */
static ac_status reduce_segment(ac_team *team, reduction *reduction,
                                const void *key, void *ret_value) {
  size_t size_bytes = reduction->monoid->size_bytes;
  _Alignas(64) char stack[ON_STACK];
  reduction->block_rank = 0;
  while ((reduction->leaves - 1) >> reduction->block_rank >= BLOCKS_MAX)
    reduction->block_rank++;
  int64_t blocks = ((reduction->leaves - 1) >> reduction->block_rank) + 1;
  reduction->values = values_for((size_t)blocks, size_bytes, stack);
  if (reduction->values == NULL)
    return fail_memory((size_t)blocks, size_bytes);
  const ac__work work = {.units = blocks,
                         .iterations =
                             reduction->range.end - reduction->range.begin,
                         .key = key,
                         .run = run_blocks,
                         .ctx = reduction};
  ac_status status = ac__loop(team, &work);
  if (status == AC_OK) {
    combine_blocks(reduction, blocks);
    copy_value(ret_value, reduction->values, size_bytes);
  }
  if (reduction->values != stack)
    free(reduction->values);
  return status;
}

#define SEGMENT ((int64_t)BLOCKS_MAX << BLOCK_RANK_MAX) /* leaves */

static ac_status reduce_segments(ac_team *team, const reduction *whole,
                                 const void *key, void *ret_value) {
  size_t size_bytes = whole->monoid->size_bytes;
  _Alignas(64) char stack[ON_STACK];
  char *values = values_for(RANKS, size_bytes, stack);
  counter counter = {
      .monoid = whole->monoid, .ctx = whole->ctx, .values = values};
  ac_status status = AC_OK;
  if (values == NULL)
    return fail_memory(RANKS, size_bytes);
  for (int64_t leaf = 0; leaf < whole->leaves && status == AC_OK;
       leaf += SEGMENT) {
    reduction part = *whole;
    part.range.begin += leaf * whole->leaf;
    part.leaves = whole->leaves - leaf;
    if (part.leaves > SEGMENT) {
      part.leaves = SEGMENT;
      part.range.end = part.range.begin + SEGMENT * whole->leaf;
    }
    status = reduce_segment(team, &part, key, next_value(&counter));
    if (status == AC_OK)
      carry(&counter);
  }
  if (status == AC_OK)
    memcpy(ret_value, settle(&counter), size_bytes);
  if (values != stack)
    free(values);
  return status;
}

static ac_status check(ac_range range, int64_t grain, const ac_monoid *monoid,
                       ac_fold_fn fold) {
  if (range.begin > range.end ||
      (uint64_t)range.end - (uint64_t)range.begin > UINT64_C(1) << 62)
    return ac__fail(AC_E_INVAL, "ac_reduce",
                    "Give begin <= end and at most 2^62 iterations.",
                    "the range is [%lld, %lld)", (long long)range.begin,
                    (long long)range.end);
  if (grain < 0)
    return ac__fail(AC_E_INVAL, "ac_reduce", "Give a grain of 1 or more, or 0.",
                    "grain is %lld", (long long)grain);
  if (monoid == NULL || monoid->combine == NULL || monoid->identity == NULL ||
      fold == NULL)
    return ac__fail(AC_E_INVAL, "ac_reduce",
                    "Give a fold, and a monoid with identity and combine.",
                    "one of them is NULL");
  if (monoid->size_bytes < 1 || monoid->size_bytes > VALUE_MAX)
    return ac__fail(AC_E_INVAL, "ac_reduce", "Give 1 byte to 1 MiB.",
                    "a value has %zu bytes", monoid->size_bytes);
  return AC_OK;
}

ac_status ac_reduce(ac_team *team, ac_range range, int64_t grain,
                    const ac_site *site, const ac_monoid *monoid,
                    ac_fold_fn fold, void *ctx, void *ret_value) {
  ac_status status = check(range, grain, monoid, fold);
  if (status != AC_OK)
    return status;
  int64_t length = range.end - range.begin;
  if (length == 0) {
    memcpy(ret_value, monoid->identity, monoid->size_bytes);
    return AC_OK;
  }
  if (grain == 0) {
    grain = length / LEAVES_MIN;
    grain = grain < 1 ? 1 : grain > LEAF_MAX ? LEAF_MAX : grain;
  }
  reduction reduction = {.range = range,
                         .leaf = grain,
                         .leaves = (length - 1) / grain + 1,
                         .monoid = monoid,
                         .fold = fold,
                         .ctx = ctx};
  const void *key =
      site != NULL ? (const void *)site : (const void *)(uintptr_t)fold;
  return reduction.leaves <= SEGMENT
             ? reduce_segment(team, &reduction, key, ret_value)
             : reduce_segments(team, &reduction, key, ret_value);
}
