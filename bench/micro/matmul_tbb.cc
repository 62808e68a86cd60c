/* matmul_tbb.cc: T6, the side of oneTBB.
 *
 *   three  parallel_for in parallel_for, parallel_reduce inside
 *   two    the same with a serial innermost loop
 *   tiles  parallel_for over a blocked_range2d, a serial innermost loop
 */
#include "matmul.h"
#include <functional>
#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/blocked_range2d.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/parallel_reduce.h>

using range = tbb::blocked_range<int64_t>;

static void multiply_three(matmul *m) {
  tbb::parallel_for(int64_t(0), m->n, [=](int64_t i) {
    tbb::parallel_for(int64_t(0), m->n, [=](int64_t j) {
      m->c[i * m->n + j] = tbb::parallel_reduce(
          range(0, m->n), 0.0,
          [=](const range &r, double s) {
            return matmul_dot(m, i, j, r.begin(), r.end(), s);
          },
          std::plus<double>());
    });
  });
}

static void multiply_two(matmul *m) {
  tbb::parallel_for(int64_t(0), m->n, [=](int64_t i) {
    tbb::parallel_for(int64_t(0), m->n, [=](int64_t j) {
      m->c[i * m->n + j] = matmul_dot(m, i, j, 0, m->n, 0);
    });
  });
}

static void multiply_tiles(matmul *m) {
  tbb::parallel_for(
      tbb::blocked_range2d<int64_t>(0, m->n, 0, m->n),
      [=](const tbb::blocked_range2d<int64_t> &r) {
        for (int64_t i = r.rows().begin(); i < r.rows().end(); i++)
          for (int64_t j = r.cols().begin(); j < r.cols().end(); j++)
            m->c[i * m->n + j] = matmul_dot(m, i, j, 0, m->n, 0);
      });
}

static void three(turn *t) { MATMUL_PLAY(t, multiply_three); }
static void two(turn *t) { MATMUL_PLAY(t, multiply_two); }
static void tiles(turn *t) { MATMUL_PLAY(t, multiply_tiles); }

int main() {
  static const player_case cases[] = {
      {"three", three}, {"two", two}, {"tiles", tiles}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
