/* arena_keep.c: freeing an arena's pages, giving them back to the system, and
 * the counts by which a search passes over what is full.
 *
 * A free page stays warm, since committing one costs more than taking it, until
 * there are more than the arena keeps or it was idle for long. To give a page
 * back is to claim it (so that nobody takes it meanwhile), punch a hole where
 * it lies, and free it cold. Whoever dies in between leaves a claimed page that
 * names it.
 *
 * Why counts may be too high but not, for long, too low: see arena.h. A recount
 * reads a count, then the words of its group, and stores what it saw if the
 * count has not changed. Suppose a page is freed and its count raised after
 * that: the recount may have seen it free, and then it is counted twice; never
 * not at all. Suppose a page is taken: its count was lowered before, so either
 * the recount read it lowered, or it stores nothing, or it stores what the
 * taker then lowers.
 *
 * Knows nothing of: finding runs.
 */
#include "os/os.h"
#include "shm/arena.h"

enum {
  DROP_PAGES = 256, /* given back by one system call, at most */
  RECOUNT_TRIES = 4,
};

/* ---- Counts -------------------------------------------------------------- */

static int clamp(int value) {
  return value < 0 ? 0 : value > AC__GROUP_PAGES ? AC__GROUP_PAGES : value;
}

static uint64_t count_make(uint64_t before, int free, int warm) {
  return ((before >> 32) + 1) << 32 | (uint64_t)clamp(warm) << 16 |
         (uint64_t)clamp(free);
}

void ac__group_add(const ac__pages *pages, uint32_t page, int free, int warm) {
  ac__group *group = &pages->group[page / AC__GROUP_PAGES];
  uint64_t next, seen = atomic_load_explicit(group, memory_order_relaxed);
  do
    next = count_make(seen, (int)(seen & 0xffff) + free,
                      (int)(seen >> 16 & 0xffff) + warm);
  /* acq_rel: pairs with ac__arena_recount(): the words changed after this are
   * not seen by who stored the count before; those changed before it are seen
   * by who reads the count after. relaxed: tried again. */
  while (!atomic_compare_exchange_weak_explicit(
      group, &seen, next, memory_order_acq_rel, memory_order_relaxed));
  if (warm != 0) /* relaxed: a hint that stands alone */
    atomic_fetch_add_explicit(&pages->arena->warm, warm, memory_order_relaxed);
}

/* @return the group's free warm pages. */
static int recount_group(const ac__pages *pages, uint32_t begin, uint32_t end) {
  ac__group *group = &pages->group[begin / AC__GROUP_PAGES];
  int warm = 0;
  for (int i = 0; i < RECOUNT_TRIES; i++) {
    /* acquire: pairs with the release in ac__group_add(). */
    uint64_t seen = atomic_load_explicit(group, memory_order_acquire);
    int free = 0;
    warm = 0;
    for (uint32_t page = begin; page < end; page++) {
      uint64_t word = ac__page_word(pages, page);
      free += ac__page_owner(word) == 0;
      warm += ac__page_owner(word) == 0 && (word & AC__PAGE_WARM) != 0;
    }
    /* release: pairs with the acquire in ac__group_add(): the words were read
     * before. relaxed: tried again. */
    if (atomic_compare_exchange_strong_explicit(
            group, &seen, count_make(seen, free, warm), memory_order_release,
            memory_order_relaxed))
      break;
  }
  return warm;
}

void ac__arena_recount(const ac__pages *pages) {
  int64_t warm = 0;
  for (uint32_t page = pages->first; page < pages->end;) {
    uint32_t end = ac__group_end(page, pages->end);
    warm += recount_group(pages, page, end);
    page = end;
  }
  /* relaxed: a hint. What others added meanwhile is lost: some pages more or
   * fewer are kept warm. */
  atomic_store_explicit(&pages->arena->warm, warm, memory_order_relaxed);
}

/* ---- Giving back --------------------------------------------------------- */

/* Give claimed pages of one group back to the system, then free them. */
static void drop(const ac__pages *pages, uint32_t begin, uint32_t end) {
  if (begin == end)
    return;
  ac__pages_return(pages->fd, (uint64_t)begin * AC__PAGE_BYTES,
                   (size_t)(end - begin) * AC__PAGE_BYTES);
  for (uint32_t page = begin; page < end; page++)
    /* release: pairs with the acquire in ac__page_swap(): a taker commits the
     * page after the hole was made. */
    atomic_store_explicit(&pages->word[page], 0, memory_order_release);
  ac__group_add(pages, begin, (int)(end - begin), 0);
}

/* A run of claimed pages that grows until it is dropped. */
typedef struct claimed {
  uint32_t begin, end;
} claimed;

static void claimed_add(const ac__pages *pages, claimed *run, uint32_t page) {
  if (page != run->end || run->end - run->begin == DROP_PAGES) {
    drop(pages, run->begin, run->end);
    run->begin = page;
  }
  run->end = page + 1;
}

static uint32_t stamp_now(void) {
  return (uint32_t)(ac__clock_ns() >> AC__STAMP_NS_BITS) & 0x7fffffff;
}

/* How many pages more may stay warm. */
static int64_t keep_more(const ac__arena *arena) {
  /* relaxed: a hint. */
  int64_t warm = atomic_load_explicit(&arena->warm, memory_order_relaxed);
  uint64_t most = arena->keep_pages;
  if (most > AC__ARENA_PAGES_MAX)
    most = AC__ARENA_PAGES_MAX;
  return (int64_t)most - (warm > 0 ? warm : 0);
}

typedef struct freed {
  int64_t keep; /* pages that may yet stay warm */
  int warm;     /* pages of this group that did */
  claimed run;
} freed;

/* Free a page if it stays warm, else claim it. @return false if neither. */
static bool free_page(const ac__pages *pages, uint32_t page, uint64_t word,
                      uint64_t stamp, const ac__freeing *how, freed *f) {
  bool is_warm = (word & AC__PAGE_WARM) != 0;
  bool is_kept = is_warm && f->keep > 0;
  if ((!is_warm && !how->is_dead) ||
      !ac__page_swap(pages, page, word,
                     is_kept ? AC__PAGE_WARM | stamp : how->as))
    return false;
  f->keep -= is_kept;
  f->warm += is_kept;
  if (!is_kept)
    claimed_add(pages, &f->run, page);
  return true;
}

/* As ac__pages_free(), of pages in one group. */
static uint32_t free_piece(const ac__pages *pages, uint32_t begin, uint32_t end,
                           uint64_t stamp, const ac__freeing *how, freed *f) {
  uint32_t count = 0;
  f->warm = 0;
  f->run = (claimed){begin, begin};
  for (uint32_t page = begin; page < end; page++) {
    uint64_t word = ac__page_word(pages, page);
    if (ac__page_owner(word) == how->owner)
      count += free_page(pages, page, word, stamp, how, f);
  }
  drop(pages, f->run.begin, f->run.end);
  if (f->warm > 0)
    ac__group_add(pages, begin, f->warm, f->warm);
  return count;
}

uint32_t ac__pages_free(const ac__pages *pages, uint32_t begin, uint32_t end,
                        const ac__freeing *how) {
  uint64_t stamp = (uint64_t)stamp_now() << 32;
  freed f = {.keep = keep_more(pages->arena)};
  uint32_t count = 0;
  while (begin < end) {
    uint32_t stop = ac__group_end(begin, end);
    count += free_piece(pages, begin, stop, stamp, how, &f);
    begin = stop;
  }
  return count;
}

size_t ac__arena_reclaim(ac__segment *segment, uint32_t owner) {
  ac__pages pages;
  if (owner == 0 || !ac__pages_of(segment, &pages))
    return 0;
  ac__freeing how = {.owner = owner, .as = AC__ARENA_KEEPER, .is_dead = true};
  uint32_t count = ac__pages_free(&pages, pages.first, pages.end, &how);
  ac__arena_recount(&pages); /* its counts may have been half done */
  return (size_t)count * AC__PAGE_BYTES;
}

/* ---- Trimming ------------------------------------------------------------ */

/* Claim a page if it is free, warm and idle. */
static bool claim_idle(const ac__pages *pages, uint32_t page, uint32_t as,
                       uint64_t idle_ns, uint32_t now) {
  uint64_t word = ac__page_word(pages, page);
  uint32_t age = (now - (uint32_t)(word >> 32)) & 0x7fffffff;
  if (ac__page_owner(word) != 0 || (word & AC__PAGE_WARM) == 0 ||
      (idle_ns > 0 && age <= (idle_ns >> AC__STAMP_NS_BITS) + 1))
    return false;
  ac__group_add(pages, page, -1, -1);
  if (ac__page_swap(pages, page, word, as))
    return true;
  ac__group_add(pages, page, 1, 1);
  return false;
}

static uint32_t trim_piece(const ac__pages *pages, uint32_t begin, uint32_t end,
                           uint32_t as, uint64_t idle_ns) {
  uint32_t now = stamp_now(), count = 0;
  claimed run = {begin, begin};
  for (uint32_t page = begin; page < end; page++)
    if (claim_idle(pages, page, as, idle_ns, now)) {
      claimed_add(pages, &run, page);
      count++;
    }
  drop(pages, run.begin, run.end);
  return count;
}

uint32_t ac__pages_trim(const ac__pages *pages, uint32_t as, uint64_t idle_ns) {
  uint32_t count = 0;
  for (uint32_t page = pages->first; page < pages->end;) {
    uint32_t end = ac__group_end(page, pages->end);
    /* relaxed: a hint. */
    uint64_t seen = atomic_load_explicit(&pages->group[page / AC__GROUP_PAGES],
                                         memory_order_relaxed);
    if ((seen >> 16 & 0xffff) != 0)
      count += trim_piece(pages, page, end, as, idle_ns);
    page = end;
  }
  return count;
}

void ac__arena_trim(ac__segment *segment, uint64_t idle_ns) {
  ac__pages pages;
  if (ac__pages_of(segment, &pages))
    (void)ac__pages_trim(&pages, AC__ARENA_KEEPER, idle_ns);
}
