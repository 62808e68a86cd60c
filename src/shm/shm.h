/* shm.h: memory that a process shares with its workers: segments, and arenas
 * that give out runs of a segment's pages.
 *
 *  - segment: a memfd and its mapping. Whoever gets the descriptor, by
 *    inheritance or by message, opens the same memory.
 *  - sparse: of a segment, that its pages are holes until they are committed.
 *  - page: AC__PAGE_BYTES of an arena, with one word that says whose it is.
 *  - owner: who holds a page: a number that the users of an arena agree on, one
 *    a process. 0 is nobody.
 *  - warm: of a page, that memory is committed to it. Cold: that it is a hole.
 *
 * Knows nothing of: what lies in the memory, who is alive.
 */
#ifndef AC_SHM_SHM_H
#define AC_SHM_SHM_H

#include <allcores/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Segments (segment.c) ------------------------------------------------ */

typedef struct ac__segment {
  int fd; /**< closed on exec, unless it was opened otherwise */
  uint8_t *base;
  size_t size_bytes;
} ac__segment;

/** Make a segment of zeros that nobody can shrink or grow.
 *
 * @param is_sparse  Its pages are not reserved: commit before touching, or a
 *                   shortage is a bus error. Else they all are, now.
 * @return AC_OK; AC_E_OS. */
ac_status ac__segment_create(const char *name, size_t size_bytes,
                             bool is_sparse, ac__segment *ret_segment);

/** Map the whole of a segment by its descriptor, which is the segment's on
 * success and stays the caller's on failure. @return AC_OK; AC_E_OS if it is no
 * segment. */
ac_status ac__segment_open(int fd, ac__segment *ret_segment);

/** Unmap and close; what is -1 or NULL is left out. */
void ac__segment_close(ac__segment *segment);

/* ---- Arenas (arena.c, arena_keep.c) --------------------------------------
 *
 * An arena fills a sparse segment. Any thread of any process that has it open
 * may call anything below at any time, but that ac__arena_reclaim() is for an
 * owner all of whose threads have ended. There is no lock; whatever instruction
 * a process dies at, ac__arena_reclaim() frees what it held.
 *
 * Giving a run and taking it hand over what was written there: a taker sees all
 * that was written before the run was given.
 */

enum { AC__PAGE_BYTES = 65536 };

/** An owner that no caller may be: who trims and reclaims. */
#define AC__ARENA_KEEPER UINT32_MAX

/** Lies at the front of the segment. */
typedef struct ac__arena ac__arena;

/** Make an arena of a new segment, before anybody else has it open.
 *
 * @param keep_bytes  Free pages stay warm up to this; those beyond are given
 *                    back to the system as they become free.
 * @return AC_OK; AC_E_INVAL if the segment is too small or too large;
 *         AC_E_NOMEM; AC_E_OS. */
ac_status ac__arena_format(ac__segment *segment, size_t keep_bytes);

/** Look whether a segment from elsewhere holds an arena of this version.
 * @return AC_OK; AC_E_INVAL. */
ac_status ac__arena_check(const ac__segment *segment);

/** Take a run of whole pages, committed, with anything in them.
 *
 * Warm pages are preferred; those cost no system call. Pages that are cold are
 * committed if the system and its cgroups have room for them; for want of room,
 * free warm pages are given back and it is tried once more. In a nearly full
 * arena a run may be refused that somebody else is about to give or did not get
 * whole.
 *
 * @param owner       1 … AC__ARENA_KEEPER - 1.
 * @param size_bytes  At least 1; rounded up to pages.
 * @param ret_offset  From segment->base; a multiple of AC__PAGE_BYTES.
 * @return AC_OK; AC_E_NOMEM; AC_E_INVAL; AC_E_OS. */
ac_status ac__arena_take(ac__segment *segment, uint32_t owner,
                         size_t size_bytes, uint64_t *ret_offset);

/** Free a run or any part of one. An offset that is no page's, a size that
 * leaves the segment and pages of other owners are left alone, so offset and
 * size may come from another process; but a page that `owner` holds is freed,
 * whoever uses it. */
void ac__arena_give(ac__segment *segment, uint32_t owner, uint64_t offset,
                    size_t size_bytes);

/** Make the pages of a run that are `from`'s those of `to`, one by one. Bounded
 * as ac__arena_give(). */
void ac__arena_pass(ac__segment *segment, uint32_t from, uint32_t to,
                    uint64_t offset, size_t size_bytes);

/** Free every page of an owner that has ended. Looks at all pages, and sets the
 * counts right. Until then the number must not be used anew.
 * @return bytes freed. */
size_t ac__arena_reclaim(ac__segment *segment, uint32_t owner);

/** Give back to the system the free warm pages that nobody took for idle_ns, up
 * to 34 ms longer. If a process dies in here, ac__arena_reclaim() of
 * AC__ARENA_KEEPER frees what it was about to give back; no other process may
 * trim or reclaim meanwhile. */
void ac__arena_trim(ac__segment *segment, uint64_t idle_ns);

typedef struct ac__arena_use {
  uint64_t taken_bytes; /**< pages with an owner */
  uint64_t warm_bytes;  /**< free pages that are warm */
  uint64_t size_bytes;  /**< all pages, free or not */
} ac__arena_use;

/** Count pages, while others may take and give. Looks at all of them. */
void ac__arena_usage(const ac__segment *segment, ac__arena_use *ret_use);

#endif
