/* regions_openmp.c: T1 and T2, the side of OpenMP. See regions.h. */
#include "regions.h"

static int parallel_for(line *lines) {
#pragma omp parallel for num_threads(2) schedule(static)
  for (int i = 0; i < 2; i++)
    region_write(lines, i);
  return 1;
}

extern int omp_get_thread_num(void);

static int parallel(line *lines) {
#pragma omp parallel num_threads(2)
  region_write(lines, omp_get_thread_num());
  return 1;
}

static void for_back_to_back(turn *t) { play_back_to_back(t, parallel_for); }

static void for_apart(turn *t) { play_apart(t, parallel_for); }

static void back_to_back(turn *t) { play_back_to_back(t, parallel); }

int main(void) {
  static const player_case cases[] = {{"for", for_back_to_back},
                                      {"for-apart", for_apart},
                                      {"parallel", back_to_back}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
