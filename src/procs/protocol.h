/* protocol.h: what a process and its fork server say to each other.
 *
 * Each message is one struct, over a socket that keeps messages apart. The two
 * ends are one version of the library in related processes, so there is no
 * encoding; sizes are checked all the same.
 *
 * Knows nothing of: what workers do.
 */
#ifndef AC_PROCS_PROTOCOL_H
#define AC_PROCS_PROTOCOL_H

#include <stdint.h>

/* To the server: start worker `number` of a pool. With it come the descriptors
 * of the pool's two segments. */
typedef struct ac__start_request {
  uint64_t pool; /* the sender's name for it */
  int32_t number;
  int32_t unused;
} ac__start_request;

enum ac__notice_kind {
  AC__NOTICE_STARTED = 1, /* `pid` runs; with it comes its descriptor */
  AC__NOTICE_REFUSED = 2, /* it could not be forked */
  AC__NOTICE_ENDED = 3    /* `status`: minus a signal, or the exit status */
};

typedef struct ac__notice {
  uint64_t pool;
  int32_t kind;
  int32_t number;
  int32_t pid;
  int32_t status;
} ac__notice;

#endif
