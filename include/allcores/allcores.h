/* allcores.h: the whole C API.
 *
 *   status.h  what calls return          team.h   who runs: budget, teams
 *   algo.h    loops, reductions, groups  array.h  reductions over typed arrays
 *   spawn.h   tasks at the cost of a call, inlined
 *   pool.h    worker processes: bytes in, bytes out
 */
#ifndef ALLCORES_ALLCORES_H
#define ALLCORES_ALLCORES_H

#include <allcores/algo.h>
#include <allcores/array.h>
#include <allcores/pool.h>
#include <allcores/spawn.h>
#include <allcores/status.h>
#include <allcores/team.h>

#endif
