/* segment.c: memory that processes share, by descriptor.
 *
 * A segment is a memfd sealed against shrinking: a peer may write nonsense into
 * it but cannot take it away, so that reading it never ends in a bus error, the
 * pages of a sparse one aside that nobody has committed.
 *
 * Knows nothing of: what lies in it; how the descriptor travels.
 */
#include "os/os.h"
#include "shm/shm.h"

ac_status ac__segment_create(const char *name, size_t size_bytes,
                             bool is_sparse, ac__segment *ret_segment) {
  int fd;
  void *base;
  ac_status st = is_sparse ? ac__sparse_create(name, size_bytes, &fd, &base)
                           : ac__shared_create(name, size_bytes, &fd, &base);
  if (st == AC_OK)
    *ret_segment =
        (ac__segment){.fd = fd, .base = base, .size_bytes = size_bytes};
  return st;
}

ac_status ac__segment_open(int fd, ac__segment *ret_segment) {
  size_t size_bytes;
  void *base;
  ac_status st = ac__shared_map(fd, &size_bytes, &base);
  if (st == AC_OK)
    *ret_segment =
        (ac__segment){.fd = fd, .base = base, .size_bytes = size_bytes};
  return st;
}

void ac__segment_close(ac__segment *segment) {
  ac__shared_close(segment->fd, segment->base, segment->size_bytes);
  *segment = (ac__segment){.fd = -1};
}
