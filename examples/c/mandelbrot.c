/* mandelbrot.c: a picture of the Mandelbrot set, row by row in parallel.
 *
 *   mandelbrot [SIZE [IMAGE.pgm]]      default: 4000 x 4000, mandelbrot.pgm
 *
 * Rows differ in cost by a factor of ten: points inside the set take all STEPS,
 * points far outside a few. ac_for() is told nothing of that.
 *
 * The same rows are rendered in three ways: on one thread, by ac_for(), and by
 * OpenMP's loop with schedule(dynamic). The three pictures must be equal.
 */
#include "example.h"

#include <string.h>

enum { STEPS = 100, ROUNDS = 3 };

static const double CENTRE_RE = -0.235, CENTRE_IM = 0.827, HALF_WIDTH = 0.4;

typedef struct picture {
  int64_t size;          /* rows, and pixels in a row */
  unsigned char *pixels; /* black inside the set, the lighter the sooner out */
} picture;

static unsigned char grey(double re, double im) {
  double x = 0;
  double y = 0;
  for (int step = 0; step < STEPS; step++) {
    double xx = x * x;
    double yy = y * y;
    if (xx + yy >= 16)
      return (unsigned char)(255 - 255 * step / STEPS);
    y = 2 * x * y + im;
    x = xx - yy + re;
  }
  return 0;
}

/* Not inlined, so that all three run the same code. */
__attribute__((noinline)) static void render_row(const picture *p,
                                                 int64_t row) {
  double pitch = 2 * HALF_WIDTH / (double)p->size;
  double im = CENTRE_IM + HALF_WIDTH - ((double)row + 0.5) * pitch;
  unsigned char *out = p->pixels + row * p->size;
  for (int64_t col = 0; col < p->size; col++)
    out[col] = grey(CENTRE_RE - HALF_WIDTH + ((double)col + 0.5) * pitch, im);
}

static void render_serial(void *ctx) {
  const picture *p = ctx;
  for (int64_t row = 0; row < p->size; row++)
    render_row(p, row);
}

/* The body of ac_for(): the rows of one piece. */
static ac_status render_rows(ac_range rows, void *ctx) {
  for (int64_t row = rows.begin; row < rows.end; row++)
    render_row(ctx, row);
  return AC_OK;
}

static void render_ours(void *ctx) {
  const picture *p = ctx;
  check(ac_for(NULL, (ac_range){0, p->size}, 0, NULL, render_rows, ctx));
}

#ifdef _OPENMP
static void render_openmp(void *ctx) {
  const picture *p = ctx;
#pragma omp parallel for schedule(dynamic) num_threads(ac_budget())
  for (int64_t row = 0; row < p->size; row++)
    render_row(p, row);
}
#else
#define render_openmp NULL
#endif

static picture new_picture(int64_t size) {
  picture p = {size, calloc((size_t)size, (size_t)size)};
  require(p.pixels != NULL, "memory for the picture was refused");
  return p;
}

static void write_pgm(const picture *p, const char *path) {
  FILE *file = fopen(path, "wb");
  require(file != NULL, "the image file cannot be written");
  fprintf(file, "P5\n%lld %lld\n255\n", (long long)p->size, (long long)p->size);
  size_t count = (size_t)p->size * (size_t)p->size;
  size_t written = fwrite(p->pixels, 1, count, file);
  require(fclose(file) == 0 && written == count, "the disk is full");
}

static void print_pixels(const picture *p) {
  const int64_t shape[] = {p->size, p->size};
  const ac_array array = {p->pixels, AC_UINT8, 2, shape, NULL};
  ac_scalar sum;
  check(ac_sum(NULL, &array, NULL, &sum));
  printf("sum of the pixels: %llu\n", (unsigned long long)sum.u64);
}

int main(int argc, char **argv) {
  int64_t size = size_argument(argc, argv, 4000, 20000);
  const char *path = argc > 2 ? argv[2] : "mandelbrot.pgm";
  size_t count = (size_t)size * (size_t)size;
  char what[64];
  picture serial = new_picture(size);
  picture ours = new_picture(size);
  picture openmp = new_picture(size);

  timing t =
      take_turns(ROUNDS, (side){render_serial, &serial},
                 (side){render_ours, &ours}, (side){render_openmp, &openmp});
  require(memcmp(ours.pixels, serial.pixels, count) == 0,
          "ours and the serial picture differ");
  require(!HAS_OPENMP || memcmp(ours.pixels, openmp.pixels, count) == 0,
          "ours and OpenMP's picture differ");

  (void)snprintf(what, sizeof what, "Mandelbrot set, %lld x %lld",
                 (long long)size, (long long)size);
  print_timing(what, &t);
  print_pixels(&ours);
  write_pgm(&ours, path);
  printf("written: %s\n", path);
  free(serial.pixels);
  free(ours.pixels);
  free(openmp.pixels);
  return 0;
}
