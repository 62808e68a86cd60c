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

enum ac__request_kind {
  /* Start worker `number`. With it come `value` descriptors, the first two of
   * the pool's segments. Answered by STARTED or REFUSED. */
  AC__REQUEST_START = 1,
  /* Send the signal `value` to `pid`, for want of a descriptor of it: it cannot
   * be another process's number while the server has not told of its end.
   * Answered by KILLED. */
  AC__REQUEST_KILL = 2
};

/* To the server. */
typedef struct ac__request {
  uint64_t pool; /* the sender's name for it */
  int32_t kind;
  int32_t number;
  int32_t pid;
  int32_t value;
} ac__request;

enum ac__notice_kind {
  AC__NOTICE_STARTED = 1, /* `pid` runs; with it comes its descriptor, unless
                             descriptors are short */
  AC__NOTICE_REFUSED = 2, /* it could not be forked */
  AC__NOTICE_ENDED = 3,   /* `status`: minus a signal, or the exit status */
  AC__NOTICE_KILLED = 4   /* if it had not ended */
};

typedef struct ac__notice {
  uint64_t pool;
  int32_t kind;
  int32_t number;
  int32_t pid;
  int32_t status;
} ac__notice;

#endif
