/* matmul_openmp.c: T6, the side of OpenMP: collapse(2) over rows and columns.
 *
 * A collapse(3) would need an atomic addition for each product.
 */
#include "matmul.h"

static void multiply(matmul *m) {
  const int64_t n = m->n;
#pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      m->c[i * n + j] = matmul_dot(m, i, j, 0, n, 0);
}

static void two(turn *t) { MATMUL_PLAY(t, multiply); }

int main(void) {
  static const player_case cases[] = {{"two", two}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
