/* arena.h: how an arena lies in shared memory. Private to src/shm and to the
 * tests of the arena.
 *
 *   ac__arena | a count for each group of pages | a word for each page | pages
 *
 *  - word: what is known of a page: its owner, whether it is warm, and when it
 *    last became free.
 *  - claimed: of a page, that it has an owner but is cold: it is being
 *    committed or given back. Nobody but the owner's thread in ac__arena_…()
 *    touches it.
 *  - count: of a group of pages, how many are free, and how many of those warm.
 *  - hint: where an owner last took or gave.
 *
 * Invariants
 *  - A word changes by compare-and-swap, but for the claimed pages' own thread.
 *  - WARM is set after a page is committed and cleared, by an owner, before it
 *    is given back. So a page is committed whenever its word says warm, at
 *    every instruction; and memory is committed to a page that is cold only
 *    while it is claimed, so reclaiming its owner finds it.
 *  - Counts are hints: a search leaves out a group that has none free. They may
 *    be too high: who takes lowers a count before the word changes, who frees
 *    raises it after, and who counts anew stores only if no count has changed
 *    meanwhile. They are too low while a take is under way, and where a process
 *    died, until its pages are reclaimed.
 *  - Holds offsets and counts, never pointers. Where things lie follows from
 *    the size of the segment alone; what is read from here is bounded before it
 *    is used: another process may have written it.
 */
#ifndef AC_SHM_ARENA_H
#define AC_SHM_ARENA_H

#include "shm/shm.h"

#include <stdatomic.h>

enum {
  AC__ARENA_VERSION = 1,
  AC__GROUP_PAGES = 1024,
  AC__ARENA_HINTS = 64,
};

#define AC__ARENA_MAGIC     UINT64_C(0x414e4552415f4341) /* "AC_ARENA" */
#define AC__ARENA_PAGES_MAX (UINT64_C(1) << 31)

/* A word: owner, from bit 0; time stamp, from bit 32; warm. */
#define AC__PAGE_WARM  (UINT64_C(1) << 63)
#define AC__PAGE_OWNER UINT64_C(0xffffffff)
#define AC__PAGE_STAMP (~AC__PAGE_WARM & ~AC__PAGE_OWNER)
enum { AC__STAMP_NS_BITS = 24 }; /* 17 ms; so stamps repeat after a year */

/* A count: pages free, from bit 0; those of them warm, from bit 16; a number
 * that every change raises, from bit 32. */
typedef _Atomic uint64_t ac__group;

typedef struct ac__arena_hint {
  _Alignas(64) _Atomic uint32_t page;
} ac__arena_hint;

struct ac__arena {
  /* Written before the arena is shared, then constant. */
  _Alignas(64) uint64_t magic;
  uint32_t version;
  uint32_t page_bytes;
  uint64_t size_bytes; /* of the segment */
  uint64_t keep_pages;

  _Alignas(64) _Atomic int64_t warm; /* free warm pages: a hint */

  _Alignas(64) _Atomic int64_t room_bytes; /* to commit without looking */
  _Atomic uint64_t room_end_ns;            /* until then */
  _Atomic uint64_t recount_due_ns;         /* of the next recount in vain */

  ac__arena_hint hint[AC__ARENA_HINTS]; /* by owner */
};

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && sizeof(long long) == 8,
               "words shared between processes need lock-free atomics");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "an atomic word is only a word");
_Static_assert(offsetof(struct ac__arena, hint) == 192 &&
                   sizeof(struct ac__arena) == 192 + 64 * AC__ARENA_HINTS,
               "the layout that AC__ARENA_VERSION names");

/** Where a process has an arena's parts. Pages count from the segment's front,
 * so those before `first` do not exist. */
typedef struct ac__pages {
  ac__arena *arena;
  ac__group *group;
  _Atomic uint64_t *word;
  uint32_t first, end;
  int fd;
} ac__pages;

/** @return false if the segment's size leaves no room for a page, or too much.
 */
static inline bool ac__pages_of(const ac__segment *segment, ac__pages *ret) {
  uint64_t end = segment->size_bytes / AC__PAGE_BYTES;
  if (end == 0 || end > AC__ARENA_PAGES_MAX)
    return false;
  uint64_t groups = (end + AC__GROUP_PAGES - 1) / AC__GROUP_PAGES;
  uint64_t front = sizeof(ac__arena) + (groups + end) * sizeof(uint64_t);
  uint64_t first = (front + AC__PAGE_BYTES - 1) / AC__PAGE_BYTES;
  void *group = segment->base + sizeof(ac__arena);
  void *word = segment->base + sizeof(ac__arena) + groups * sizeof(uint64_t);
  *ret = (ac__pages){.arena = (void *)segment->base,
                     .group = group,
                     .word = word,
                     .first = (uint32_t)first,
                     .end = (uint32_t)end,
                     .fd = segment->fd};
  return first < end;
}

/** The end of the group that `page` lies in, or `most`. */
static inline uint32_t ac__group_end(uint32_t page, uint32_t most) {
  uint32_t end = page - page % AC__GROUP_PAGES + AC__GROUP_PAGES;
  return end < most ? end : most;
}

static inline uint64_t ac__page_word(const ac__pages *pages, uint32_t page) {
  /* relaxed: who acts upon it does so by a compare-and-swap. */
  return atomic_load_explicit(&pages->word[page], memory_order_relaxed);
}

static inline uint32_t ac__page_owner(uint64_t word) {
  return (uint32_t)(word & AC__PAGE_OWNER);
}

static inline bool ac__page_swap(const ac__pages *pages, uint32_t page,
                                 uint64_t from, uint64_t to) {
  /* acq_rel: a release of what was written to the page, when it becomes free;
   * an acquire of the same, when it is taken. relaxed: nothing was changed. */
  return atomic_compare_exchange_strong_explicit(&pages->word[page], &from, to,
                                                 memory_order_acq_rel,
                                                 memory_order_relaxed);
}

/* ---- arena_keep.c: counts, and giving back ------------------------------- */

/** Change the count of the group that `page` lies in, and the arena's. */
void ac__group_add(const ac__pages *pages, uint32_t page, int free, int warm);

/** Count the pages of all groups anew. */
void ac__arena_recount(const ac__pages *pages);

/** What ac__pages_free() is to do. */
typedef struct ac__freeing {
  uint32_t owner; /**< whose pages */
  uint32_t as;    /**< who owns them while they are given back */
  bool is_dead;   /**< the owner's claimed pages too */
} ac__freeing;

/** Free the pages of an owner in a range. @return how many. */
uint32_t ac__pages_free(const ac__pages *pages, uint32_t begin, uint32_t end,
                        const ac__freeing *how);

/** Trim in the name of `as`. @return how many pages were given back. */
uint32_t ac__pages_trim(const ac__pages *pages, uint32_t as, uint64_t idle_ns);

#endif
