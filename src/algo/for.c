/* for.c: ac_for, ac_for_2d, ac_invoke and ac_join2: loops as units of work.
 *
 * A unit is `grain` iterations (a tile, a task); the engine in loop.c decides
 * who runs which. A loop of more units than the engine counts, 2^31, is run as
 * several, one after the other.
 *
 * Knows nothing of: threads.
 */
#include "algo/loop.h"
#include "base/status.h"
#include "os/os.h"

/* Iterations of a legal range, or −1. */
static int64_t length_of(ac_range range) {
  if (range.begin > range.end)
    return -1;
  uint64_t length = (uint64_t)range.end - (uint64_t)range.begin;
  return length > UINT64_C(1) << 62 ? -1 : (int64_t)length;
}

static ac_status fail_range(const char *operation, ac_range range) {
  return ac__fail(AC_E_INVAL, operation,
                  "Give begin <= end and at most 2^62 iterations.",
                  "the range is [%lld, %lld)", (long long)range.begin,
                  (long long)range.end);
}

static int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/* ---- ac_for -------------------------------------------------------------- */

typedef struct for_loop {
  ac_range range;
  int64_t grain;
  ac_body_fn body;
  void *ctx;
} for_loop;

static ac_status run_for(ac_range units, void *ctx) {
  const for_loop *loop = ctx;
  int64_t begin = loop->range.begin + units.begin * loop->grain;
  int64_t left = loop->range.end - begin;
  int64_t most = (units.end - units.begin) * loop->grain;
  return loop->body((ac_range){begin, begin + (left < most ? left : most)},
                    loop->ctx);
}

ac_status ac_for(ac_team *team, ac_range range, int64_t grain,
                 const ac_site *site, ac_body_fn body, void *ctx) {
  int64_t length = length_of(range);
  if (length < 0)
    return fail_range("ac_for", range);
  if (grain < 0 || body == NULL)
    return ac__fail(AC_E_INVAL, "ac_for",
                    "Give a body and a grain of at least 1, or 0.",
                    "grain is %lld%s", (long long)grain,
                    body == NULL ? ", body is NULL" : "");
  if (grain == 0)
    grain = 1;
  const void *key =
      site != NULL ? (const void *)site : (const void *)(uintptr_t)body;
  ac_status status = AC_OK;
  while (range.begin < range.end && status == AC_OK) {
    for_loop loop = {.range = range, .grain = grain, .body = body, .ctx = ctx};
    if (ceil_div(range.end - range.begin, grain) > AC__UNITS_MAX)
      loop.range.end = range.begin + AC__UNITS_MAX * grain;
    int64_t part = loop.range.end - range.begin;
    const ac__work work = {.units = ceil_div(part, grain),
                           .iterations = part,
                           .key = key,
                           .run = run_for,
                           .ctx = &loop};
    status = ac__loop(team, &work);
    range.begin = loop.range.end;
  }
  return status;
}

/* ---- ac_for_2d ----------------------------------------------------------- */

enum { TILE_ROWS = 32, TILE_COLS = 32 }; /* chosen: 8 KiB of doubles */

typedef struct for_2d {
  ac_range rows, cols;
  ac_tile tile;
  int64_t tiles_across;
  ac_body_2d_fn body;
  void *ctx;
} for_2d;

static ac_range cut(ac_range range, int64_t index, int64_t size) {
  int64_t begin = range.begin + index * size;
  int64_t left = range.end - begin;
  return (ac_range){begin, begin + (left < size ? left : size)};
}

static ac_status run_tiles(ac_range units, void *ctx) {
  const for_2d *loop = ctx;
  for (int64_t unit = units.begin; unit < units.end; unit++) {
    ac_status status = loop->body(
        cut(loop->rows, unit / loop->tiles_across, loop->tile.rows),
        cut(loop->cols, unit % loop->tiles_across, loop->tile.cols), loop->ctx);
    if (status != AC_OK)
      return status;
  }
  return AC_OK;
}

/* Tiles over the whole; −1 if they are more than can be counted. */
static int64_t tile_count(int64_t rows, int64_t cols, ac_tile tile) {
  int64_t down = ceil_div(rows, tile.rows);
  int64_t across = ceil_div(cols, tile.cols);
  int64_t count;
  if (__builtin_mul_overflow(down, across, &count) || count > AC__UNITS_MAX)
    return -1;
  return count;
}

ac_status ac_for_2d(ac_team *team, ac_range rows, ac_range cols, ac_tile tile,
                    const ac_site *site, ac_body_2d_fn body, void *ctx) {
  int64_t row_count = length_of(rows);
  int64_t col_count = length_of(cols);
  if (row_count < 0 || col_count < 0)
    return fail_range("ac_for_2d", row_count < 0 ? rows : cols);
  if (tile.rows < 0 || tile.cols < 0 || body == NULL)
    return ac__fail(AC_E_INVAL, "ac_for_2d",
                    "Give a body and tiles of at least 1 by 1, or 0.",
                    "the tile is %lld by %lld%s", (long long)tile.rows,
                    (long long)tile.cols, body == NULL ? ", body is NULL" : "");
  if (row_count == 0 || col_count == 0)
    return AC_OK;
  if (tile.rows == 0)
    tile.rows = TILE_ROWS;
  if (tile.cols == 0)
    tile.cols = TILE_COLS;
  int64_t units = tile_count(row_count, col_count, tile);
  if (units < 0)
    return ac__fail(AC_E_INVAL, "ac_for_2d", "Give larger tiles.",
                    "there are more than 2^31 tiles of %lld by %lld",
                    (long long)tile.rows, (long long)tile.cols);
  for_2d loop = {.rows = rows,
                 .cols = cols,
                 .tile = tile,
                 .tiles_across = ceil_div(col_count, tile.cols),
                 .body = body,
                 .ctx = ctx};
  const ac__work work = {.units = units,
                         .iterations = units,
                         .key = site != NULL ? (const void *)site
                                             : (const void *)(uintptr_t)body,
                         .run = run_tiles,
                         .ctx = &loop};
  return ac__loop(team, &work);
}

/* ---- ac_invoke and ac_join2 ---------------------------------------------- */

static ac_status run_tasks(ac_range units, void *ctx) {
  const ac_task *tasks = ctx;
  for (int64_t unit = units.begin; unit < units.end; unit++) {
    ac_status status = tasks[unit].run(tasks[unit].ctx);
    if (status != AC_OK)
      return status;
  }
  return AC_OK;
}

static ac_status invoke(const char *operation, ac_team *team, size_t count,
                        const ac_task *tasks) {
  if (count == 0)
    return AC_OK;
  if (tasks == NULL || count > (size_t)AC__UNITS_MAX)
    return ac__fail(AC_E_INVAL, operation, "Give at most 2^31 - 1 tasks.",
                    "count is %zu%s", count,
                    tasks == NULL ? ", tasks is NULL" : "");
  for (size_t i = 0; i < count; i++)
    if (tasks[i].run == NULL)
      return ac__fail(AC_E_INVAL, operation, "Give each task a function.",
                      "task %zu has none", i);
  const ac__work work = {.units = (int64_t)count,
                         .iterations = (int64_t)count,
                         .key = (const void *)(uintptr_t)tasks[0].run,
                         .run = run_tasks,
                         .ctx = (void *)(uintptr_t)tasks};
  return ac__loop(team, &work);
}

ac_status ac_invoke(ac_team *team, size_t count, const ac_task *tasks) {
  return invoke("ac_invoke", team, count, tasks);
}

ac_status ac_join2(ac_team *team, ac_task a, ac_task b) {
  const ac_task both[2] = {a, b};
  return invoke("ac_join2", team, 2, both);
}
