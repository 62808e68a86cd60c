/* for_test.c: loops, tiles, tasks: everything is called once, errors come out.
 */
#include "check.h"
#include "os/os.h"

#include <allcores/allcores.h>
#include <pthread.h>
#include <string.h>

enum { UNITS_MAX = 20000, ROUNDS = 300 };

static const int widths[] = {1, 2, 3, 8, 64};
enum { TEAMS = sizeof widths / sizeof *widths };

static ac_team *team_of(int i) {
  static ac_team *teams[TEAMS];
  if (teams[i] == NULL) {
    ac_team_options options = {.width = widths[i]};
    CHECK_INT(ac_team_create(&options, &teams[i]), AC_OK);
  }
  return teams[i];
}

static uint64_t seed;
static uint64_t draw(void) {
  if (seed == 0) {
    seed = ac__clock_ns() | 1;
    printf("seed %llu\n", (unsigned long long)seed);
  }
  seed += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t x = seed;
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static void spend(uint64_t ns) {
  for (uint64_t until = ac__clock_ns() + ns; ac__clock_ns() < until;)
    ac__cpu_relax();
}

/* ---- Covering ------------------------------------------------------------ */

typedef struct cover {
  int64_t begin, end;
  int64_t grain;
  bool is_slow;
  uint8_t runs[UNITS_MAX]; /* plain: a race is a failure under the sanitizer */
  _Atomic int64_t short_calls;
  _Atomic uint64_t calls;
} cover;

static ac_status cover_body(ac_range range, void *ctx) {
  cover *cover = ctx;
  CHECK(range.begin < range.end);
  CHECK(range.begin >= cover->begin && range.end <= cover->end);
  CHECK(ac_worker_index() >= 0 && ac_worker_index() < ac_region_width());
  for (int64_t i = range.begin; i < range.end; i++)
    cover->runs[i - cover->begin]++;
  if (range.end - range.begin < cover->grain)
    atomic_fetch_add_explicit(&cover->short_calls,
                              range.end != cover->end ? 2 : 1,
                              memory_order_relaxed);
  atomic_fetch_add_explicit(&cover->calls, 1, memory_order_relaxed);
  if (cover->is_slow)
    spend(2000);
  return AC_OK;
}

static void check_cover(ac_team *team, int64_t begin, int64_t length,
                        int64_t grain, const ac_site *site, bool is_slow) {
  static cover cover;
  memset(&cover, 0, sizeof cover);
  cover.begin = begin;
  cover.end = begin + length;
  cover.grain = grain;
  cover.is_slow = is_slow;
  CHECK_INT(ac_for(team, (ac_range){begin, begin + length}, grain, site,
                   cover_body, &cover),
            AC_OK);
  bool once = true;
  for (int64_t i = 0; i < length; i++)
    once = once && cover.runs[i] == 1;
  if (!CHECK(once))
    printf("  [%lld, +%lld), grain %lld\n", (long long)begin, (long long)length,
           (long long)grain);
  CHECK(atomic_load(&cover.short_calls) <= 1);
}

TEST("a loop covers its range exactly once") {
  static const ac_site sites[3] = {AC_SITE("a"), AC_SITE("b"), AC_SITE("c")};
  for (int round = 0; round < ROUNDS; round++) {
    int64_t length = (int64_t)(draw() % (draw() % 2 ? 40 : UNITS_MAX));
    int64_t begin = (int64_t)(draw() % 1000000) - 500000;
    int64_t grain = draw() % 2 ? 0 : (int64_t)(1 + draw() % 300);
    ac_team *team = draw() % 4 == 0 ? NULL : team_of((int)(draw() % TEAMS));
    const ac_site *site = draw() % 2 ? NULL : &sites[draw() % 3];
    check_cover(team, begin, length, grain, site,
                length < 2000 && draw() % 4 == 0);
  }
}

TEST("a loop covers ranges at both ends of the integers") {
  for (int i = 0; i < TEAMS; i++) {
    check_cover(team_of(i), INT64_MIN, 1000, 0, NULL, false);
    check_cover(team_of(i), INT64_MIN, 1, 7, NULL, false);
    check_cover(team_of(i), INT64_MAX - 1000, 1000, 3, NULL, true);
    check_cover(team_of(i), INT64_MAX - 1, 1, 0, NULL, false);
    check_cover(team_of(i), -5, 10, INT64_MAX, NULL, false);
  }
}

static ac_status never(ac_range range, void *ctx) {
  (void)range, (void)ctx;
  CHECK(!"called");
  return AC_OK;
}

TEST("an empty range calls nothing") {
  CHECK_INT(ac_for(NULL, (ac_range){5, 5}, 0, NULL, never, NULL), AC_OK);
  CHECK_INT(
      ac_for(NULL, (ac_range){INT64_MIN, INT64_MIN}, 9, NULL, never, NULL),
      AC_OK);
  CHECK_INT(ac_for_2d(NULL, (ac_range){0, 0}, (ac_range){0, 9}, (ac_tile){0},
                      NULL, (ac_body_2d_fn)(void (*)(void))never, NULL),
            AC_OK);
  CHECK_INT(ac_invoke(NULL, 0, NULL), AC_OK);
}

typedef struct extent {
  _Atomic int64_t total;
  _Atomic int64_t calls;
  int64_t grain;
} extent;

static ac_status extent_body(ac_range range, void *ctx) {
  extent *extent = ctx;
  CHECK(range.begin < range.end);
  atomic_fetch_add(&extent->total, range.end - range.begin);
  atomic_fetch_add(&extent->calls, 1);
  return AC_OK;
}

TEST("ranges of over 2^31 iterations are covered") {
  static const int64_t lengths[] = {INT64_C(1) << 32, (INT64_C(1) << 62) - 1,
                                    INT64_C(1) << 62};
  for (int i = 0; i < TEAMS; i++)
    for (int k = 0; k < 3; k++)
      for (int64_t grain = lengths[k] / 1000 - 1; grain > 0; grain = -1) {
        extent extent = {.grain = grain};
        CHECK_INT(ac_for(team_of(i), (ac_range){-9, lengths[k] - 9}, grain,
                         NULL, extent_body, &extent),
                  AC_OK);
        CHECK_INT(atomic_load(&extent.total), lengths[k]);
        CHECK(atomic_load(&extent.calls) <= 1001);
      }
  extent extent = {0};
  CHECK_INT(ac_for(team_of(1), (ac_range){0, INT64_C(1) << 33}, 0, NULL,
                   extent_body, &extent),
            AC_OK);
  CHECK_INT(atomic_load(&extent.total), INT64_C(1) << 33);
}

/* ---- Nesting ------------------------------------------------------------- */

enum { SIDE = 12 };

typedef struct cube {
  ac_team *teams[3];
  uint8_t runs[SIDE][SIDE][SIDE];
} cube;
typedef struct place {
  cube *cube;
  int64_t i, k;
} place;

static ac_status cube_inner(ac_range range, void *ctx) {
  const place *place = ctx;
  for (int64_t m = range.begin; m < range.end; m++)
    place->cube->runs[place->i][place->k][m]++;
  return AC_OK;
}

static ac_status cube_middle(ac_range range, void *ctx) {
  place at = *(place *)ctx;
  for (at.k = range.begin; at.k < range.end; at.k++)
    CHECK_INT(ac_for(at.cube->teams[2], (ac_range){0, SIDE}, 1, NULL,
                     cube_inner, &at),
              AC_OK);
  return AC_OK;
}

static ac_status cube_outer(ac_range range, void *ctx) {
  place at = {.cube = ctx};
  for (at.i = range.begin; at.i < range.end; at.i++)
    CHECK_INT(ac_for(at.cube->teams[1], (ac_range){0, SIDE}, 0, NULL,
                     cube_middle, &at),
              AC_OK);
  return AC_OK;
}

TEST("loops nested three deep, over several teams, cover the cube") {
  static cube cube;
  for (int round = 0; round < 60; round++) {
    memset(&cube, 0, sizeof cube);
    for (int i = 0; i < 3; i++)
      cube.teams[i] = round % 3 == 0   ? NULL
                      : round % 3 == 1 ? team_of(2 + round % 3)
                                       : team_of((int)(draw() % TEAMS));
    CHECK_INT(
        ac_for(cube.teams[0], (ac_range){0, SIDE}, 0, NULL, cube_outer, &cube),
        AC_OK);
    const uint8_t *runs = &cube.runs[0][0][0];
    int wrong = 0;
    for (int i = 0; i < SIDE * SIDE * SIDE; i++)
      wrong += runs[i] != 1;
    CHECK_INT(wrong, 0);
  }
}

/* ---- Errors -------------------------------------------------------------- */

typedef struct trouble {
  int64_t at;
  ac_status status;
  _Atomic int64_t calls;
} trouble;

static ac_status trouble_body(ac_range range, void *ctx) {
  trouble *trouble = ctx;
  atomic_fetch_add(&trouble->calls, 1);
  spend(1000);
  if (trouble->at >= range.begin && trouble->at < range.end)
    return trouble->status;
  return AC_OK;
}

TEST("the status of a body comes out, and what had not begun is left out") {
  for (int i = 0; i < TEAMS; i++)
    for (ac_status status = 5; status >= -20; status -= 25) {
      trouble trouble = {.at = 3, .status = status};
      CHECK_INT(ac_for(team_of(i), (ac_range){0, 100000}, 1, NULL, trouble_body,
                       &trouble),
                status);
      CHECK(atomic_load(&trouble.calls) < 90000);
    }
}

static ac_status all_fail(ac_range range, void *ctx) {
  (void)ctx;
  return (ac_status)(range.begin + 1);
}

TEST("of several statuses one that was returned wins") {
  for (int round = 0; round < 200; round++) {
    ac_status status = ac_for(team_of(round % TEAMS), (ac_range){0, 50}, 1,
                              NULL, all_fail, NULL);
    CHECK(status >= 1 && status <= 50);
  }
}

static ac_status deep_fail(ac_range range, void *ctx) {
  if (range.begin <= 7 && range.end > 7)
    return ac_for(ctx, (ac_range){9, 3}, 0, NULL, never, NULL);
  spend(20000);
  return AC_OK;
}

TEST("the text of an error comes to the caller, from whatever thread") {
  for (int i = 0; i < TEAMS; i++)
    for (int round = 0; round < 10; round++) {
      (void)ac_for(NULL, (ac_range){0, 1}, -1, NULL, never, NULL);
      CHECK_INT(
          ac_for(team_of(i), (ac_range){0, 16}, 1, NULL, deep_fail, team_of(i)),
          AC_E_INVAL);
      CHECK(strstr(ac_last_error()->detail, "[9, 3)") != NULL);
      CHECK(strcmp(ac_last_error()->operation, "ac_for") == 0);
    }
}

TEST("arguments that are not allowed are refused with a sentence") {
  ac_range good = {0, 4};
  CHECK_INT(ac_for(NULL, (ac_range){1, 0}, 0, NULL, never, NULL), AC_E_INVAL);
  CHECK_INT(
      ac_for(NULL, (ac_range){INT64_MIN, INT64_MAX}, 0, NULL, never, NULL),
      AC_E_INVAL);
  CHECK_INT(
      ac_for(NULL, (ac_range){0, (INT64_C(1) << 62) + 1}, 0, NULL, never, NULL),
      AC_E_INVAL);
  CHECK_INT(ac_for(NULL, good, -1, NULL, never, NULL), AC_E_INVAL);
  CHECK_INT(ac_for(NULL, good, 0, NULL, NULL, NULL), AC_E_INVAL);
  CHECK_INT(ac_for_2d(NULL, good, (ac_range){1, 0}, (ac_tile){0}, NULL,
                      (ac_body_2d_fn)(void (*)(void))never, NULL),
            AC_E_INVAL);
  CHECK_INT(ac_for_2d(NULL, good, good, (ac_tile){-1, 0}, NULL,
                      (ac_body_2d_fn)(void (*)(void))never, NULL),
            AC_E_INVAL);
  CHECK_INT(ac_for_2d(NULL, good, good, (ac_tile){0}, NULL, NULL, NULL),
            AC_E_INVAL);
  CHECK_INT(ac_invoke(NULL, 2, NULL), AC_E_INVAL);
  CHECK_INT(ac_join2(NULL, (ac_task){0}, (ac_task){0}), AC_E_INVAL);
  CHECK(ac_last_error()->status == AC_E_INVAL);
  CHECK(ac_last_error()->detail[0] != '\0');
}

/* ---- Tiles --------------------------------------------------------------- */

typedef struct board {
  ac_range rows, cols;
  ac_tile tile;
  uint8_t runs[200][200];
} board;

static ac_status board_body(ac_range rows, ac_range cols, void *ctx) {
  board *board = ctx;
  CHECK(rows.begin < rows.end && cols.begin < cols.end);
  CHECK(board->tile.rows == 0 || rows.end - rows.begin <= board->tile.rows);
  CHECK(board->tile.cols == 0 || cols.end - cols.begin <= board->tile.cols);
  for (int64_t i = rows.begin; i < rows.end; i++)
    for (int64_t k = cols.begin; k < cols.end; k++)
      board->runs[i - board->rows.begin][k - board->cols.begin]++;
  return AC_OK;
}

TEST("tiles cover rows and columns exactly once, none larger than asked") {
  static board board;
  for (int round = 0; round < 120; round++) {
    int64_t rows = (int64_t)(draw() % 200);
    int64_t cols = (int64_t)(draw() % 200);
    memset(&board, 0, sizeof board);
    board.rows.begin = (int64_t)(draw() % 3) - 1000;
    board.rows.end = board.rows.begin + rows;
    board.cols.begin = draw() % 2 ? INT64_MIN : INT64_MAX - 200;
    board.cols.end = board.cols.begin + cols;
    board.tile.rows = (int64_t)(draw() % 40);
    board.tile.cols = draw() % 8 == 0 ? INT64_MAX : (int64_t)(draw() % 40);
    CHECK_INT(ac_for_2d(team_of((int)(draw() % TEAMS)), board.rows, board.cols,
                        board.tile, NULL, board_body, &board),
              AC_OK);
    int wrong = 0;
    for (int i = 0; i < 200; i++)
      for (int k = 0; k < 200; k++)
        wrong += board.runs[i][k] != (i < rows && k < cols);
    CHECK_INT(wrong, 0);
  }
}

/* ---- Tasks --------------------------------------------------------------- */

typedef struct counted {
  int runs;
  ac_status status;
} counted;

static ac_status count_run(void *ctx) {
  counted *counted = ctx;
  counted->runs++;
  return counted->status;
}

TEST("each of the tasks runs once") {
  counted counts[500];
  ac_task tasks[500];
  for (int round = 0; round < 50; round++) {
    size_t count = 1 + draw() % 500;
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < count; i++)
      tasks[i] = (ac_task){count_run, &counts[i]};
    CHECK_INT(ac_invoke(team_of(round % TEAMS), count, tasks), AC_OK);
    for (size_t i = 0; i < count; i++)
      CHECK_INT(counts[i].runs, 1);
  }
}

TEST("of two joined tasks both run, and the status of either comes out") {
  for (int i = 0; i < TEAMS; i++) {
    counted a = {0};
    counted b = {0};
    CHECK_INT(ac_join2(team_of(i), (ac_task){count_run, &a},
                       (ac_task){count_run, &b}),
              AC_OK);
    CHECK_INT(a.runs, 1);
    CHECK_INT(b.runs, 1);
    a.status = 4;
    CHECK_INT(ac_join2(team_of(i), (ac_task){count_run, &a},
                       (ac_task){count_run, &b}),
              4);
    a.status = 0;
    b.status = 6;
    CHECK_INT(ac_join2(team_of(i), (ac_task){count_run, &a},
                       (ac_task){count_run, &b}),
              6);
  }
}

/* ---- Indices ------------------------------------------------------------- */

typedef struct indices {
  atomic_int in_use[1100];
  _Atomic int width;
} indices;

static ac_status index_body(ac_range range, void *ctx) {
  indices *indices = ctx;
  int index = ac_worker_index();
  CHECK(index >= 0 && index < ac_region_width());
  CHECK_INT(atomic_fetch_add(&indices->in_use[index], 1), 0);
  spend((uint64_t)(range.end - range.begin) * 300);
  CHECK_INT(ac_worker_index(), index);
  CHECK_INT(atomic_fetch_sub(&indices->in_use[index], 1), 1);
  return AC_OK;
}

TEST("no two threads share an index within a region") {
  static indices indices;
  for (int round = 0; round < 40; round++)
    CHECK_INT(ac_for(team_of(round % TEAMS), (ac_range){0, 2000}, 1, NULL,
                     index_body, &indices),
              AC_OK);
  CHECK_INT(ac_worker_index(), 0);
  CHECK_INT(ac_region_width(), 1);
}

static void *index_caller(void *ctx) {
  static const ac_site site = AC_SITE("own");
  static _Thread_local indices own;
  (void)ctx;
  for (int round = 0; round < 20; round++)
    CHECK_INT(
        ac_for(team_of(3), (ac_range){0, 500}, 1, &site, index_body, &own),
        AC_OK);
  return NULL;
}

TEST("regions of several callers at once keep their indices apart") {
  pthread_t threads[8];
  (void)team_of(3);
  for (int i = 0; i < 8; i++)
    CHECK_INT(pthread_create(&threads[i], NULL, index_caller, NULL), 0);
  for (int i = 0; i < 8; i++)
    CHECK_INT(pthread_join(threads[i], NULL), 0);
}

static ac_status fail_silently(ac_range range, void *ctx) {
  (void)range, (void)ctx;
  return AC_E_INVAL;
}

static ac_status fail_with_text(ac_range range, void *ctx) {
  return ac_for(NULL, range, -1, NULL, fail_silently, ctx);
}

TEST("the text of an older failure is not taken for a body's") {
  for (int64_t length = 1; length < 3000; length = length * 3 / 2 + 1) {
    const ac_range range = {0, length};
    CHECK_INT(fail_with_text(range, NULL), AC_E_INVAL);
    CHECK_INT(ac_last_error()->status, AC_E_INVAL);
    CHECK_INT(ac_for(NULL, range, 1, NULL, fail_silently, NULL), AC_E_INVAL);
    CHECK_INT(ac_last_error()->status, AC_OK);
    CHECK_INT(ac_for(NULL, range, 1, NULL, fail_with_text, NULL), AC_E_INVAL);
    CHECK_INT(ac_last_error()->status, AC_E_INVAL);
  }
}

TEST("the teams end") {
  for (int i = 0; i < TEAMS; i++)
    ac_team_destroy(team_of(i));
}

CHECK_MAIN
