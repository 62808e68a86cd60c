/* algo.h: what runs. Loops, reductions, joins and groups on a team.
 *
 * Everything here may be nested in everything else and called by any number of
 * threads at once. A call returns when all the work that it started has ended;
 * the writes of that work are then visible to the caller. If a body returns
 * non-zero, that status is returned and what has not begun is left out.
 */
#ifndef ALLCORES_ALGO_H
#define ALLCORES_ALGO_H

#include <allcores/team.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Names a place in the source, so that the cost of the loop there is learned
 * and reported apart from others. Give it static storage:
 * `static const ac_site here = AC_SITE("pressure update");` */
typedef struct ac_site {
  const char *name;
  const char *file;
  int line;
} ac_site;
#define AC_SITE(name)                                                          \
  { (name), __FILE__, __LINE__ }

/** Call `body` over disjoint sub-ranges that cover `range` exactly once.
 *
 * Serial equivalent: body(range, ctx). Order and thread are unspecified. A loop
 * too small to gain runs on its caller.
 *
 * @param team   Borrowed. NULL = the process's own.
 * @param range  In iterations; an empty one is a no-op.
 * @param grain  Fewest iterations a call, the last aside; 0 = chosen from
 *               measured cost.
 * @param site   Where this loop's cost is learned. NULL = keyed by `body`.
 * @param body   May call the library again; must not longjmp out.
 * @param ctx    Borrowed until return.
 * @return AC_OK; the first non-zero status that a body returned, the rest then
 *         being left out; AC_E_INVAL if range.begin > range.end, the range has
 *         over 2^62 iterations, or grain < 0; AC_E_CANCELLED if a region or
 *         group around it was cancelled; AC_E_FORKED.
 */
AC_API ac_status ac_for(ac_team *team, ac_range range, int64_t grain,
                        const ac_site *site, ac_body_fn body, void *ctx);

/** Rows and columns of a tile, in iterations; 0 = chosen. */
typedef struct ac_tile {
  int64_t rows, cols;
} ac_tile;

typedef ac_status (*ac_body_2d_fn)(ac_range rows, ac_range cols, void *ctx);

/** Call `body` over disjoint tiles that cover rows × cols exactly once.
 *
 * Serial equivalent: body(rows, cols, ctx). No tile is larger than `tile`.
 * Parameters and result as for ac_for().
 */
AC_API ac_status ac_for_2d(ac_team *team, ac_range rows, ac_range cols,
                           ac_tile tile, const ac_site *site,
                           ac_body_2d_fn body, void *ctx);

/** A value type with an associative operation. */
typedef struct ac_monoid {
  size_t size_bytes; /**< of one value, 1 … 1 MiB; plain bytes, copied freely */
  const void *identity; /**< borrowed; the value of an empty range */
  /** *left = *left ∘ *right, in that order. */
  void (*combine)(void *left, const void *right, void *ctx);
} ac_monoid;

/** *value = *value ∘ f(begin) ∘ … ∘ f(end − 1), in that order. */
typedef ac_status (*ac_fold_fn)(ac_range range, void *ctx, void *value);

/** Reduce a range by a monoid, with the same bits on any number of threads.
 *
 * Serial equivalent: *ret = identity; fold(range, ctx, ret) — but folded leaf
 * by leaf, each from the identity, and the leaves' values combined pairwise by
 * index (as in a binary counter). The leaf is a function of the range's length
 * and `grain` alone: `grain` iterations if given, else
 * max(1, min(1024, length / 256)).
 *
 * @param ret_value  monoid->size_bytes bytes, written on success only.
 * @return As ac_for(); AC_E_NOMEM if the leaves' values cannot be stored.
 */
AC_API ac_status ac_reduce(ac_team *team, ac_range range, int64_t grain,
                           const ac_site *site, const ac_monoid *monoid,
                           ac_fold_fn fold, void *ctx, void *ret_value);

/** Run `count` tasks, in any order, in parallel where it pays. */
AC_API ac_status ac_invoke(ac_team *team, size_t count, const ac_task *tasks);

/** Run `a` on the caller and `b` there too or on another thread. */
AC_API ac_status ac_join2(ac_team *team, ac_task a, ac_task b);

/* ---- Groups ----------------------------------------------------------- */

/** Tasks spawned from anywhere and waited for together. A group belongs to a
 * team, which must outlive it. */
typedef struct ac_group ac_group;

typedef struct ac_group_options {
  int64_t timeout_ns; /**< from creation until it cancels itself; 0 = never */
} ac_group_options;

/** @param options  Borrowed for the call; NULL = defaults.
 *  @param ret_group  The caller owns it: ac_group_destroy(). It may outlive the
 *                    region that it is made in; its tasks count as inside the
 *                    region, if any, of a thread that waits for it.
 *  @return AC_OK; AC_E_INVAL; AC_E_NOMEM. */
AC_API ac_status ac_group_create(ac_team *team, const ac_group_options *options,
                                 ac_group **ret_group);

/** Hand a task to the group; from any thread, also from the group's own tasks.
 *
 * The task runs on some thread of the team, at the latest in ac_group_wait().
 * @return AC_OK; AC_E_CANCELLED or AC_E_TIMEOUT if the group is cancelled, and
 *         the task will not run; AC_E_NOMEM, likewise; AC_E_FORKED, likewise,
 * of a group that was made before a fork, in the child.
 */
AC_API ac_status ac_group_spawn(ac_group *group, ac_task task);

/** Wait until every task of the group has run or been left out, helping with
 * those of this group only. Any number of threads may wait. The group can be
 * used again afterwards. Not from within one of the group's own tasks.
 *
 * @return AC_OK; the first non-zero status of a task; AC_E_CANCELLED;
 *         AC_E_TIMEOUT if its time ran out; AC_E_STATE from within its own
 * task; AC_E_FORKED as for ac_group_spawn().
 */
AC_API ac_status ac_group_wait(ac_group *group);

/** Leave out the tasks that have not begun; running ones see ac_cancelled(). */
AC_API void ac_group_cancel(ac_group *group);

/** Cancel, wait and free. NULL is a no-op. */
AC_API void ac_group_destroy(ac_group *group);

/* ---- Per-worker storage ------------------------------------------------ */

/** One value for each thread that asks, so that bodies need not share one. */
typedef struct ac_local ac_local;

/** @param size_bytes  Of one value; each begins on a cache line of its own.
 *  @param init        Fills a new value; NULL = zeros.
 *  @return AC_OK; AC_E_INVAL; AC_E_NOMEM. */
AC_API ac_status ac_local_create(size_t size_bytes,
                                 void (*init)(void *value, void *ctx),
                                 void *ctx, ac_local **ret_local);

/** The calling thread's value, made at its first call; NULL if memory for it
 * cannot be had. Valid until ac_local_destroy(). */
AC_API void *ac_local_get(ac_local *local);

/** Call `visit` for each value that was made, in the order in which they were
 * made. No other thread may be in ac_local_get() meanwhile. */
AC_API void ac_local_visit(ac_local *local,
                           void (*visit)(void *value, void *ctx), void *ctx);

AC_API void ac_local_destroy(ac_local *local);

#ifdef __cplusplus
}
#endif
#endif
