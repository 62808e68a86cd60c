/* arena.c: taking runs of pages from an arena, giving and passing them.
 *
 * A take looks for a run of warm pages first, from where this owner last took
 * or gave (next fit), then for a run of any pages. Then it claims them, one
 * compare-and-swap a page; if another is faster, it puts back what it has and
 * looks on behind that page. Cold pages are committed while they are claimed,
 * and become warm after. Groups without a free page are passed over by their
 * counts, so that a large and full arena costs one load a group, not one a
 * page.
 *
 * Committing asks how much memory there is, since past the limit of a cgroup
 * the kernel does not refuse but kills. An answer holds for a while, and for a
 * small part of what it allows.
 *
 * Knows nothing of: how pages are given back (arena_keep.c).
 */
#include "shm/arena.h"

#include "base/status.h"
#include "os/os.h"

#define OPERATION "taking shared memory"
#define NONE      UINT32_MAX

enum {
  WARM_LOOK = 8 * AC__GROUP_PAGES, /* words that a look for warm ones reads */
  FEW_PAGES = 8 * AC__GROUP_PAGES, /* recounted at each refusal */
  TRIES_MAX = 1000,                /* runs seen free that others took first */
};

/* How long an answer about memory holds, and for what part of it; how much is
 * left to others; how often a large arena may be recounted in vain. */
#define ROOM_NS    UINT64_C(50000000)
#define ROOM_PART  16
#define ROOM_LEFT  16
#define RECOUNT_NS UINT64_C(10000000)

static uint64_t pages_for(size_t size_bytes) {
  return size_bytes / AC__PAGE_BYTES + (size_bytes % AC__PAGE_BYTES != 0);
}

/* ---- Making and checking ------------------------------------------------- */

ac_status ac__arena_format(ac__segment *segment, size_t keep_bytes) {
  ac__pages pages;
  if (!ac__pages_of(segment, &pages))
    return ac__fail(AC_E_INVAL, "making an arena", "",
                    "%zu bytes are too few or too many", segment->size_bytes);
  ac_status st =
      ac__pages_commit(segment->fd, 0, (size_t)pages.first * AC__PAGE_BYTES);
  if (st != AC_OK)
    return st;
  *pages.arena = (ac__arena){.magic = AC__ARENA_MAGIC,
                             .version = AC__ARENA_VERSION,
                             .page_bytes = AC__PAGE_BYTES,
                             .size_bytes = segment->size_bytes,
                             .keep_pages = keep_bytes / AC__PAGE_BYTES};
  for (uint32_t page = pages.first; page < pages.end;) {
    uint32_t end = ac__group_end(page, pages.end);
    /* relaxed: nobody else has the segment yet. */
    atomic_store_explicit(&pages.group[page / AC__GROUP_PAGES], end - page,
                          memory_order_relaxed);
    page = end;
  }
  return AC_OK;
}

ac_status ac__arena_check(const ac__segment *segment) {
  ac__pages pages;
  const char *fault = NULL;
  if (!ac__pages_of(segment, &pages))
    fault = "its size is not that of an arena";
  else if (pages.arena->magic != AC__ARENA_MAGIC)
    fault = "it is no arena";
  else if (pages.arena->version != AC__ARENA_VERSION ||
           pages.arena->page_bytes != AC__PAGE_BYTES)
    fault = "it is an arena of another version";
  else if (pages.arena->size_bytes != segment->size_bytes)
    fault = "it was made with another size";
  if (fault != NULL)
    return ac__fail(AC_E_INVAL, "opening an arena", "",
                    "a segment of %zu bytes cannot be used: %s",
                    segment->size_bytes, fault);
  return AC_OK;
}

/* ---- Finding ------------------------------------------------------------- */

static inline bool is_free(uint64_t word, bool is_warm) {
  return (word & AC__PAGE_OWNER) == 0 &&
         (!is_warm || (word & AC__PAGE_WARM) != 0);
}

static inline bool group_has(const ac__pages *pages, uint32_t page,
                             bool is_warm) {
  /* relaxed: a hint. */
  uint64_t count = atomic_load_explicit(&pages->group[page / AC__GROUP_PAGES],
                                        memory_order_relaxed);
  return (count & (is_warm ? 0xffff0000u : 0xffffu)) != 0;
}

/* The first run of `count` free pages in [from, to). @return where it begins;
 * NONE. `left` is how many words may still be read. */
static uint32_t find(const ac__pages *pages, uint32_t count, uint32_t from,
                     uint32_t to, bool is_warm, uint64_t *left) {
  uint32_t run = 0;
  for (uint32_t page = from; page<to && * left> 0;) {
    uint32_t end = ac__group_end(page, to);
    if (!group_has(pages, page, is_warm)) {
      run = 0;
      page = end;
      continue;
    }
    *left -= *left < end - page ? *left : end - page;
    for (; page < end; page++) {
      run = is_free(ac__page_word(pages, page), is_warm) ? run + 1 : 0;
      if (run == count)
        return page + 1 - count;
    }
  }
  return NONE;
}

/* ---- Claiming ------------------------------------------------------------ */

/* Put back pages that were claimed, as they were; but not those that a mad
 * ac__arena_give() of the same owner has freed meanwhile. */
static void unclaim(const ac__pages *pages, uint32_t owner, uint32_t begin,
                    uint32_t end) {
  while (begin < end) {
    uint32_t first = begin, stop = ac__group_end(begin, end);
    int free = 0, warm = 0;
    for (; begin < stop; begin++) {
      uint64_t word = ac__page_word(pages, begin);
      if (ac__page_owner(word) != owner ||
          !ac__page_swap(pages, begin, word, word & ~AC__PAGE_OWNER))
        continue;
      free++;
      warm += (word & AC__PAGE_WARM) != 0;
    }
    ac__group_add(pages, first, free, warm);
  }
}

/* Claim pages of one group. @return `end`, or the page that was not free; then
 * nothing is claimed. `cold` grows by the cold ones. */
static uint32_t claim_piece(const ac__pages *pages, uint32_t owner,
                            uint32_t begin, uint32_t end, uint32_t *cold) {
  int seen = 0, warm = 0;
  uint32_t page;
  for (page = begin; page < end; page++)
    seen += (ac__page_word(pages, page) & AC__PAGE_WARM) != 0;
  int count = (int)(end - begin);
  ac__group_add(pages, begin, -count, -seen);
  for (page = begin; page < end; page++) {
    uint64_t word = ac__page_word(pages, page);
    if (ac__page_owner(word) != 0 ||
        !ac__page_swap(pages, page, word, word | owner))
      break;
    warm += (word & AC__PAGE_WARM) != 0;
  }
  if (page < end) {
    /* What unclaim() does not add for the pages that were not had. */
    ac__group_add(pages, begin, (int)(end - page), seen - warm);
    unclaim(pages, owner, begin, page);
    return page;
  }
  if (warm != seen)
    ac__group_add(pages, begin, 0, seen - warm);
  *cold += (uint32_t)(count - warm);
  return end;
}

/* As claim_piece(), of a run in any groups. */
static uint32_t claim(const ac__pages *pages, uint32_t owner, uint32_t begin,
                      uint32_t end, uint32_t *ret_cold) {
  *ret_cold = 0;
  for (uint32_t page = begin; page < end;) {
    uint32_t stop = ac__group_end(page, end);
    uint32_t got = claim_piece(pages, owner, page, stop, ret_cold);
    if (got < stop) {
      unclaim(pages, owner, begin, page);
      return got;
    }
    page = stop;
  }
  return end;
}

typedef struct wish {
  uint32_t owner, count;
  int tries;     /* runs lost to others so far */
  bool is_short; /* a run was there, memory was not */
} wish;

/* Find and claim in [from, to). @return where the run begins; NONE. */
static uint32_t find_and_claim(const ac__pages *pages, wish *wish,
                               uint32_t from, uint32_t to, bool is_warm,
                               uint64_t *left, uint32_t *ret_cold) {
  while (wish->tries < TRIES_MAX) {
    uint32_t begin = find(pages, wish->count, from, to, is_warm, left);
    if (begin == NONE)
      return NONE;
    uint32_t end = begin + wish->count;
    from = claim(pages, wish->owner, begin, end, ret_cold);
    if (from == end)
      return begin;
    from++;
    wish->tries++;
  }
  return NONE;
}

/* From the hint to the end, then from the front to just behind the hint. */
static uint32_t look_round(const ac__pages *pages, wish *wish, uint32_t hint,
                           bool is_warm, uint32_t *ret_cold) {
  uint64_t left = is_warm ? WARM_LOOK : UINT64_MAX;
  uint32_t begin =
      find_and_claim(pages, wish, hint, pages->end, is_warm, &left, ret_cold);
  if (begin != NONE || hint == pages->first)
    return begin;
  uint32_t rest = pages->end - hint;
  uint32_t to = wish->count <= rest ? hint + wish->count - 1 : pages->end;
  return find_and_claim(pages, wish, pages->first, to, is_warm, &left,
                        ret_cold);
}

static bool may_recount(const ac__pages *pages) {
  if (pages->end <= FEW_PAGES)
    return true;
  uint64_t now_ns = ac__clock_ns();
  /* relaxed: a time that stands alone. */
  uint64_t due_ns =
      atomic_load_explicit(&pages->arena->recount_due_ns, memory_order_relaxed);
  if (now_ns < due_ns && due_ns - now_ns <= RECOUNT_NS)
    return false;
  atomic_store_explicit(&pages->arena->recount_due_ns, now_ns + RECOUNT_NS,
                        memory_order_relaxed);
  return true;
}

/* @return where a run begins that is now claimed; NONE. */
static uint32_t claim_some(const ac__pages *pages, wish *wish,
                           uint32_t *ret_cold) {
  /* relaxed: hints. */
  _Atomic uint32_t *at =
      &pages->arena->hint[wish->owner % AC__ARENA_HINTS].page;
  uint32_t hint = atomic_load_explicit(at, memory_order_relaxed);
  int64_t warm =
      atomic_load_explicit(&pages->arena->warm, memory_order_relaxed);
  uint32_t begin = NONE;
  if (hint < pages->first || hint >= pages->end)
    hint = pages->first;
  if (warm >= (int64_t)wish->count)
    begin = look_round(pages, wish, hint, true, ret_cold);
  if (begin == NONE)
    begin = look_round(pages, wish, hint, false, ret_cold);
  if (begin == NONE && may_recount(pages)) {
    ac__arena_recount(pages);
    begin = look_round(pages, wish, hint, false, ret_cold);
  }
  if (begin != NONE)
    atomic_store_explicit(at, begin + wish->count, memory_order_relaxed);
  return begin;
}

/* ---- Committing ---------------------------------------------------------- */

/* Whether there is memory for so many bytes more. Who look at once may be told
 * yes for the same bytes; that is what the part left to others is for. */
static bool has_room(ac__arena *arena, uint64_t size_bytes) {
  uint64_t now_ns = ac__clock_ns();
  /* relaxed, all of these: numbers that stand alone. */
  uint64_t end_ns =
      atomic_load_explicit(&arena->room_end_ns, memory_order_relaxed);
  if (now_ns < end_ns && end_ns - now_ns <= ROOM_NS &&
      size_bytes <= INT64_MAX &&
      atomic_fetch_sub_explicit(&arena->room_bytes, (int64_t)size_bytes,
                                memory_order_relaxed) >= (int64_t)size_bytes)
    return true;
  uint64_t room = ac__memory_room("");
  room -= room / ROOM_LEFT;
  if (size_bytes > room)
    return false;
  room = (room - size_bytes) / ROOM_PART;
  atomic_store_explicit(&arena->room_bytes,
                        (int64_t)(room < INT64_MAX ? room : INT64_MAX),
                        memory_order_relaxed);
  atomic_store_explicit(&arena->room_end_ns, now_ns + ROOM_NS,
                        memory_order_relaxed);
  return true;
}

/* Commit pages that are claimed, and make them warm. */
static ac_status warm_up(const ac__pages *pages, uint32_t begin, uint32_t end) {
  ac_status st = ac__pages_commit(pages->fd, (uint64_t)begin * AC__PAGE_BYTES,
                                  (size_t)(end - begin) * AC__PAGE_BYTES);
  if (st != AC_OK) { /* what was had of it */
    ac__pages_return(pages->fd, (uint64_t)begin * AC__PAGE_BYTES,
                     (size_t)(end - begin) * AC__PAGE_BYTES);
    return st;
  }
  for (uint32_t page = begin; page < end; page++)
    /* relaxed: nobody else changes a claimed page or acts on it being warm. */
    atomic_store_explicit(&pages->word[page],
                          ac__page_word(pages, page) | AC__PAGE_WARM,
                          memory_order_relaxed);
  return AC_OK;
}

/* Make the cold pages of a run that is claimed warm. */
static ac_status warm_run(const ac__pages *pages, uint32_t begin,
                          uint32_t end) {
  ac_status st = AC_OK;
  for (uint32_t page = begin; page < end && st == AC_OK;) {
    uint32_t from = page;
    while (page < end && (ac__page_word(pages, page) & AC__PAGE_WARM) == 0)
      page++;
    if (page > from)
      st = warm_up(pages, from, page);
    else
      page++;
  }
  return st;
}

/* ---- Take, give, pass ---------------------------------------------------- */

static ac_status fail_short(const ac__pages *pages, uint32_t count,
                            const char *why) {
  return ac__fail(
      AC_E_NOMEM, OPERATION, "",
      "%llu bytes could not be had of an arena of %llu: %s",
      (unsigned long long)count * AC__PAGE_BYTES,
      (unsigned long long)(pages->end - pages->first) * AC__PAGE_BYTES, why);
}

static ac_status take(const ac__pages *pages, wish *wish, uint32_t *ret_begin) {
  uint32_t cold = 0, begin = claim_some(pages, wish, &cold);
  ac_status st = AC_OK;
  if (begin == NONE)
    return fail_short(pages, wish->count, "no run of so many pages is free");
  if (cold > 0 && !has_room(pages->arena, (uint64_t)cold * AC__PAGE_BYTES))
    st = fail_short(pages, wish->count,
                    "the system or its cgroup is short of memory");
  if (cold > 0 && st == AC_OK)
    st = warm_run(pages, begin, begin + wish->count);
  wish->is_short = st == AC_E_NOMEM;
  if (st != AC_OK)
    unclaim(pages, wish->owner, begin, begin + wish->count);
  else
    *ret_begin = begin;
  return st;
}

ac_status ac__arena_take(ac__segment *segment, uint32_t owner,
                         size_t size_bytes, uint64_t *ret_offset) {
  ac__pages pages;
  uint64_t count = pages_for(size_bytes);
  uint32_t begin;
  if (!ac__pages_of(segment, &pages) || owner == 0 ||
      owner == AC__ARENA_KEEPER || count == 0)
    return ac__fail(AC_E_INVAL, OPERATION, "",
                    "%zu bytes for owner %u of an arena of %zu", size_bytes,
                    (unsigned)owner, segment->size_bytes);
  if (count > pages.end - pages.first)
    return fail_short(&pages, count < NONE ? (uint32_t)count : NONE,
                      "it is not that large");
  wish wish = {.owner = owner, .count = (uint32_t)count};
  ac_status st = take(&pages, &wish, &begin);
  if (wish.is_short && ac__pages_trim(&pages, owner, 0) > 0) {
    wish.tries = 0;
    st = take(&pages, &wish, &begin);
  }
  if (st == AC_OK)
    *ret_offset = (uint64_t)begin * AC__PAGE_BYTES;
  return st;
}

/* The pages of a run that another process may have named. */
static bool bound(const ac__segment *segment, const ac__pages *pages,
                  uint64_t offset, size_t size_bytes, uint32_t *ret_begin,
                  uint32_t *ret_end) {
  uint64_t begin = offset / AC__PAGE_BYTES, count = pages_for(size_bytes);
  if (offset % AC__PAGE_BYTES != 0 || offset > segment->size_bytes ||
      begin < pages->first || begin >= pages->end || count == 0 ||
      count > pages->end - begin)
    return false;
  *ret_begin = (uint32_t)begin;
  *ret_end = (uint32_t)(begin + count);
  return true;
}

void ac__arena_give(ac__segment *segment, uint32_t owner, uint64_t offset,
                    size_t size_bytes) {
  ac__pages pages;
  uint32_t begin, end;
  if (owner == 0 || !ac__pages_of(segment, &pages) ||
      !bound(segment, &pages, offset, size_bytes, &begin, &end))
    return;
  ac__freeing how = {.owner = owner, .as = owner};
  if (ac__pages_free(&pages, begin, end, &how) > 0)
    /* relaxed: a hint. What was used last is likely in a cache. */
    atomic_store_explicit(&pages.arena->hint[owner % AC__ARENA_HINTS].page,
                          begin, memory_order_relaxed);
}

void ac__arena_pass(ac__segment *segment, uint32_t from, uint32_t to,
                    uint64_t offset, size_t size_bytes) {
  ac__pages pages;
  uint32_t begin, end;
  if (from == 0 || to == 0 || to == AC__ARENA_KEEPER ||
      !ac__pages_of(segment, &pages) ||
      !bound(segment, &pages, offset, size_bytes, &begin, &end))
    return;
  for (uint32_t page = begin; page < end; page++) {
    uint64_t word = ac__page_word(&pages, page);
    if (ac__page_owner(word) == from && (word & AC__PAGE_WARM) != 0)
      (void)ac__page_swap(&pages, page, word, (word & ~AC__PAGE_OWNER) | to);
  }
}

/* ---- What others ask ----------------------------------------------------- */

void ac__arena_usage(const ac__segment *segment, ac__arena_use *ret_use) {
  ac__pages pages;
  *ret_use = (ac__arena_use){0};
  if (!ac__pages_of(segment, &pages))
    return;
  for (uint32_t page = pages.first; page < pages.end; page++) {
    uint64_t word = ac__page_word(&pages, page);
    if (ac__page_owner(word) != 0)
      ret_use->taken_bytes += AC__PAGE_BYTES;
    else if ((word & AC__PAGE_WARM) != 0)
      ret_use->warm_bytes += AC__PAGE_BYTES;
  }
  ret_use->size_bytes = (uint64_t)(pages.end - pages.first) * AC__PAGE_BYTES;
}
