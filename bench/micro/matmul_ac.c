/* matmul_ac.c: T6, our side, as a user would write it.
 *
 *   three  ac_for over rows, in it ac_for over columns, in it ac_reduce;
 *          b = the reduction's grain
 *   two    the same with a serial innermost loop
 *   tiles  ac_for_2d with a serial innermost loop
 */
#include "matmul.h"
#include <allcores/allcores.h>

typedef struct cell {
  const matmul *m;
  int64_t i, j;
} cell;

static void add(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(double *)left += *(const double *)right;
}

static const double zero = 0;
static const ac_monoid sum = {sizeof(double), &zero, add};

static ac_status inner(ac_range range, void *ctx, void *value) {
  const cell *at = ctx;
  double *s = value;
  *s = matmul_dot(at->m, at->i, at->j, range.begin, range.end, *s);
  return AC_OK;
}

static ac_status columns_three(ac_range range, void *ctx) {
  cell at = *(const cell *)ctx;
  ac_status status = AC_OK;
  for (at.j = range.begin; at.j < range.end && status == AC_OK; at.j++)
    status = ac_reduce(NULL, (ac_range){0, at.m->n}, at.m->grain, NULL, &sum,
                       inner, &at, &at.m->c[at.i * at.m->n + at.j]);
  return status;
}

static ac_status columns_two(ac_range range, void *ctx) {
  cell at = *(const cell *)ctx;
  for (at.j = range.begin; at.j < range.end; at.j++)
    at.m->c[at.i * at.m->n + at.j] =
        matmul_dot(at.m, at.i, at.j, 0, at.m->n, 0);
  return AC_OK;
}

static ac_status rows_of(ac_range range, const matmul *m, ac_body_fn columns) {
  cell at = {.m = m};
  ac_status status = AC_OK;
  for (at.i = range.begin; at.i < range.end && status == AC_OK; at.i++)
    status = ac_for(NULL, (ac_range){0, m->n}, 0, NULL, columns, &at);
  return status;
}

static ac_status rows_three(ac_range range, void *m) {
  return rows_of(range, m, columns_three);
}

static ac_status rows_two(ac_range range, void *m) {
  return rows_of(range, m, columns_two);
}

static ac_status tile(ac_range rows, ac_range columns, void *m) {
  for (cell at = {.m = m, .i = rows.begin}; at.i < rows.end; at.i++)
    (void)columns_two(columns, &at);
  return AC_OK;
}

static void multiply_three(matmul *m) {
  (void)ac_for(NULL, (ac_range){0, m->n}, 0, NULL, rows_three, m);
}

static void multiply_two(matmul *m) {
  (void)ac_for(NULL, (ac_range){0, m->n}, 0, NULL, rows_two, m);
}

static void multiply_tiles(matmul *m) {
  (void)ac_for_2d(NULL, (ac_range){0, m->n}, (ac_range){0, m->n},
                  (ac_tile){0, 0}, NULL, tile, m);
}

static void three(turn *t) { MATMUL_PLAY(t, multiply_three); }
static void two(turn *t) { MATMUL_PLAY(t, multiply_two); }
static void tiles(turn *t) { MATMUL_PLAY(t, multiply_tiles); }

int main(void) {
  static const player_case cases[] = {
      {"three", three}, {"two", two}, {"tiles", tiles}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
