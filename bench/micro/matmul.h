/* matmul.h: what the sides of T6 share: C = A · B, a × a doubles.
 *
 * The elements are small integers, so every order of addition gives the same
 * bits and the sides can be compared exactly.
 */
#ifndef BENCH_MATMUL_H
#define BENCH_MATMUL_H

#include "player.h"

typedef struct matmul {
  int64_t n, grain;
  double *a, *b, *c;
} matmul;

static inline double *matrix_create(int64_t n) {
  return (double *)calloc((size_t)(n * n), sizeof(double));
}

static inline matmul *matmul_of(turn *t) {
  static matmul m;
  if (m.n != t->a) {
    free(m.a), free(m.b), free(m.c);
    m.n = t->a;
    m.a = matrix_create(m.n);
    m.b = matrix_create(m.n);
    m.c = matrix_create(m.n);
  }
  m.grain = t->b;
  if (!m.a || !m.b || !m.c) {
    m.n = -1;
    t->error = "no memory";
    return NULL;
  }
  for (int64_t i = 0; i < m.n * m.n; i++) {
    m.a[i] = (double)(i % 13 - 6);
    m.b[i] = (double)(i % 17 - 8);
    m.c[i] = -1;
  }
  return &m;
}

static inline uint64_t matmul_answer(const matmul *m) {
  uint64_t answer = 0;
  for (int64_t i = 0; i < m->n * m->n; i++)
    answer = answer * 31 + (uint64_t)(int64_t)m->c[i];
  return answer;
}

/* s + A[i, begin … end) · B[begin … end, j]: the innermost loop of all sides.
 * The addition may be reordered, as in OpenMP's simd reduction. */
static inline double matmul_dot(const matmul *m, int64_t i, int64_t j,
                                int64_t begin, int64_t end, double s) {
  const double *a = m->a + i * m->n, *b = m->b + j;
  const int64_t n = m->n;
#pragma omp simd reduction(+ : s)
  for (int64_t k = begin; k < end; k++)
    s += a[k] * b[k * n];
  return s;
}

/* The user's product, timed; a macro, so that it is inlined in C and C++. */
#define MATMUL_PLAY(turn, multiply)                                            \
  do {                                                                         \
    matmul *m_ = matmul_of(turn);                                              \
    if (!m_)                                                                   \
      return;                                                                  \
    const double start_ = seconds_now();                                       \
    multiply(m_);                                                              \
    (turn)->seconds = seconds_now() - start_;                                  \
    (turn)->answer = matmul_answer(m_);                                        \
  } while (0)

#endif
