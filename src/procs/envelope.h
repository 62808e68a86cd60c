/* envelope.h: how a message lies in shared memory.
 *
 *   size of the bytes, number of buffers; offset and size of each buffer; the
 *   bytes; the buffers, each on a cache line of its own. Offsets count from the
 *   envelope's begin. A buffer that lies in the arena already may stay where it
 *   is: its offset is the arena's, and marked (AC__IN_ARENA).
 *
 * Knows nothing of: where the envelope lies, what the message says.
 */
#ifndef AC_PROCS_ENVELOPE_H
#define AC_PROCS_ENVELOPE_H

#include "shm/shm.h"

#include <allcores/pool.h>
#include <stdint.h>

#define AC__IN_ARENA (UINT64_C(1) << 63) /* of a buffer's offset */

/* Bytes that a message takes; SIZE_MAX if they cannot be counted. `stays` says
 * of each buffer whether it lies in the arena and stays there; NULL = none. */
size_t ac__envelope_bytes(const ac_message *message, const bool *stays);

/* Write a message to `to`, which is on a cache line and has room for it. The
 * arena is that of the buffers that stay. */
void ac__envelope_write(const ac__segment *arena, uint8_t *to,
                        const ac_message *message, const bool *stays);

/* Read what lies in `size_bytes` at `from`. The buffers' array grows as needed
 * (malloc), and is the caller's to free.
 * @return false if what lies there is no message, or memory is short. */
bool ac__envelope_read(const ac__segment *arena, const uint8_t *from,
                       size_t size_bytes, ac_message *ret_message,
                       ac_bytes **buffers, size_t *buffers_room);

#endif
