/* regions_ac.c: T1 and T2, our side. See regions.h. */
#include "regions.h"
#include <allcores/allcores.h>

static ac_status body(ac_range range, void *lines) {
  region_write(lines, range.begin);
  return AC_OK;
}

static int region(line *lines) {
  return ac_team_each(NULL, 2, body, lines) == AC_OK;
}

static void back_to_back(turn *t) { play_back_to_back(t, region); }

static void apart(turn *t) { play_apart(t, region); }

int main(void) {
  static const player_case cases[] = {{"each", back_to_back},
                                      {"each-apart", apart}};
  return player_main(cases, sizeof cases / sizeof *cases);
}
