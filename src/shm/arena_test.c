/* Arenas in one process: against a model, by many threads, short of memory,
 * and with nonsense in their shared words. How much memory there is is told by
 * this program (its link takes ac__memory_room() from the library's hands). */
#define _GNU_SOURCE 1
#include "shm/arena.h"

#include "base/status.h"
#include "check.h"
#include "os/os.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  OWNERS = 4,
  MODEL_PAGES = 40,
  MODEL_STEPS = 30000,
  THREADS = 4,
  FEW = 12, /* pages for threads */
};

/* ---- An arena ------------------------------------------------------------ */

static ac__segment segment;
static ac__pages pages;

static size_t bytes_of(uint32_t count) {
  return (size_t)count * AC__PAGE_BYTES;
}

/* An arena of `count` pages beside its front. */
static bool arena_open(uint32_t count, uint32_t keep_count) {
  uint32_t front = 1;
  do {
    segment.size_bytes = bytes_of(front + count);
    front++;
  } while (!ac__pages_of(&segment, &pages) || pages.end - pages.first < count);
  return CHECK(ac__segment_create("arena", segment.size_bytes, true,
                                  &segment) == AC_OK) &&
         CHECK(ac__arena_format(&segment, bytes_of(keep_count)) == AC_OK) &&
         CHECK(ac__pages_of(&segment, &pages)) &&
         CHECK_INT(pages.end - pages.first, count);
}

static void arena_close(void) { ac__segment_close(&segment); }

static uint64_t take(uint32_t owner, uint32_t count) {
  uint64_t offset = 0;
  CHECK(ac__arena_take(&segment, owner, bytes_of(count), &offset) == AC_OK);
  return offset;
}

static ac_status try_take(uint32_t owner, uint32_t count) {
  uint64_t offset = 7;
  ac_status st = ac__arena_take(&segment, owner, bytes_of(count), &offset);
  CHECK((st == AC_OK) == (offset != 7));
  return st;
}

static ac__arena_use use_now(void) {
  ac__arena_use use;
  ac__arena_usage(&segment, &use);
  return use;
}

static uint64_t pages_taken(void) {
  return use_now().taken_bytes / AC__PAGE_BYTES;
}

static uint64_t pages_warm(void) {
  return use_now().warm_bytes / AC__PAGE_BYTES;
}

/* Pages, beside the front, that the system has given to the segment. */
static uint64_t pages_committed(void) {
  struct stat st;
  CHECK(fstat(segment.fd, &st) == 0);
  return (uint64_t)st.st_blocks * 512 / AC__PAGE_BYTES - pages.first;
}

static uint64_t word_at(uint32_t page) {
  return atomic_load(&pages.word[page]);
}

static uint32_t page_at(uint64_t offset) {
  return (uint32_t)(offset / AC__PAGE_BYTES);
}

/* Whether all counts are what the words say. */
static bool counts_are_right(void) {
  int64_t all = 0;
  bool is_right = true;
  for (uint32_t page = pages.first; page < pages.end;) {
    uint64_t count = atomic_load(&pages.group[page / AC__GROUP_PAGES]);
    uint64_t free = 0, warm = 0;
    for (uint32_t end = ac__group_end(page, pages.end); page < end; page++) {
      uint64_t word = word_at(page);
      free += ac__page_owner(word) == 0;
      warm += ac__page_owner(word) == 0 && (word & AC__PAGE_WARM) != 0;
    }
    is_right &= (count & 0xffff) == free && (count >> 16 & 0xffff) == warm;
    all += (int64_t)warm;
  }
  return is_right && atomic_load(&pages.arena->warm) == all;
}

/* ---- How much memory there is -------------------------------------------- */

uint64_t __wrap_ac__memory_room(const char *root);

static _Atomic uint64_t told_room = UINT64_MAX;
static _Atomic uint64_t told_limit; /* of a cgroup with an arena's pages alone,
                                       in pages; 0 = as told_room says */
static atomic_int asked;

uint64_t __wrap_ac__memory_room(const char *root) {
  (void)root;
  atomic_fetch_add(&asked, 1);
  uint64_t limit = atomic_load(&told_limit), used = pages_committed();
  if (limit != 0)
    return limit > used ? bytes_of((uint32_t)(limit - used)) : 0;
  return atomic_load(&told_room);
}

/* What the system commits, or does half, then says that it has no more. */
ac_status __real_ac__pages_commit(int fd, uint64_t offset, size_t size_bytes);
ac_status __wrap_ac__pages_commit(int fd, uint64_t offset, size_t size_bytes);

static atomic_int is_half_done;

ac_status __wrap_ac__pages_commit(int fd, uint64_t offset, size_t size_bytes) {
  if (atomic_load(&is_half_done) == 0)
    return __real_ac__pages_commit(fd, offset, size_bytes);
  CHECK(__real_ac__pages_commit(fd, offset, size_bytes / 2) == AC_OK);
  return ac__fail(AC_E_NOMEM, "test", "", "half");
}

/* ---- Taking and giving --------------------------------------------------- */

TEST("runs are whole pages within the segment and committed") {
  if (!arena_open(20, 20))
    return;
  uint64_t a = 1, b = 1;
  CHECK(ac__arena_take(&segment, 1, 1, &a) == AC_OK);
  CHECK(ac__arena_take(&segment, 2, AC__PAGE_BYTES + 1, &b) == AC_OK);
  CHECK(a % AC__PAGE_BYTES == 0 && b % AC__PAGE_BYTES == 0);
  CHECK(a >= bytes_of(pages.first) && b >= bytes_of(pages.first));
  CHECK(b + bytes_of(2) <= segment.size_bytes);
  CHECK(a + bytes_of(1) <= b || b + bytes_of(2) <= a);
  CHECK_INT(pages_committed(), 3);
  CHECK_INT(pages_taken(), 3);
  CHECK(use_now().size_bytes == bytes_of(20));
  memset(segment.base + a, 1, bytes_of(1));
  memset(segment.base + b, 2, bytes_of(2));
  CHECK_INT(pages_committed(), 3);
  CHECK(counts_are_right());
  arena_close();
}

TEST("a warm run is taken without asking for memory, contents and all") {
  if (!arena_open(20, 20))
    return;
  uint64_t a = take(1, 3);
  memset(segment.base + a, 42, bytes_of(3));
  ac__arena_give(&segment, 1, a, bytes_of(3));
  CHECK_INT(pages_warm(), 3);
  atomic_store(&asked, 0);
  atomic_store(&told_room, 0);
  atomic_store(&pages.arena->room_end_ns, 0);
  uint64_t b = take(2, 3);
  CHECK(b == a);
  CHECK_INT(segment.base[b + bytes_of(3) - 1], 42);
  CHECK_INT(atomic_load(&asked), 0);
  atomic_store(&told_room, UINT64_MAX);
  arena_close();
}

TEST("warm pages are found wherever they lie before cold ones are taken") {
  if (!arena_open(5 * AC__GROUP_PAGES, 100))
    return;
  uint64_t a = take(1, 1);
  uint32_t far = 3 * AC__GROUP_PAGES + 17;
  for (int i = 0; i < 2; i++) /* as one that was given there */
    atomic_store(&pages.word[far + (uint32_t)i], 3);
  CHECK(ac__pages_commit(segment.fd, bytes_of(far), bytes_of(2)) == AC_OK);
  for (int i = 0; i < 2; i++)
    atomic_store(&pages.word[far + (uint32_t)i], AC__PAGE_WARM | 3);
  ac__group_add(&pages, far, -2, 0);
  ac__arena_give(&segment, 3, bytes_of(far), bytes_of(2));
  CHECK(page_at(take(1, 2)) == far);
  CHECK_INT(pages_committed(), 3);
  CHECK(counts_are_right());
  ac__arena_give(&segment, 1, a, bytes_of(1));
  arena_close();
}

TEST("a run may be longer than a group") {
  uint32_t count = AC__GROUP_PAGES + 300;
  if (!arena_open(2 * AC__GROUP_PAGES, 2 * AC__GROUP_PAGES))
    return;
  uint64_t a = take(1, 500), b = take(2, count);
  CHECK_INT(pages_taken(), 500 + count);
  CHECK(try_take(1, AC__GROUP_PAGES) == AC_E_NOMEM);
  CHECK(counts_are_right());
  ac__arena_give(&segment, 2, b, bytes_of(count));
  CHECK_INT(pages_warm(), count);
  CHECK(take(3, count) == b);
  ac__arena_give(&segment, 3, b, bytes_of(count));
  ac__arena_give(&segment, 1, a, bytes_of(500));
  CHECK(counts_are_right());
  ac__arena_trim(&segment, 0);
  CHECK_INT(pages_committed(), 0);
  CHECK(counts_are_right());
  arena_close();
}

TEST("what cannot be asked for is refused, and the last page is found") {
  if (!arena_open(10, 10))
    return;
  CHECK(try_take(0, 1) == AC_E_INVAL);
  CHECK(try_take(AC__ARENA_KEEPER, 1) == AC_E_INVAL);
  CHECK(try_take(1, 0) == AC_E_INVAL);
  CHECK(try_take(1, 11) == AC_E_NOMEM);
  uint64_t offset = 7;
  CHECK(ac__arena_take(&segment, 1, SIZE_MAX, &offset) == AC_E_NOMEM);
  CHECK(offset == 7);
  uint64_t all = take(1, 10);
  CHECK(try_take(1, 1) == AC_E_NOMEM);
  for (uint32_t i = 0; i < 10; i++) {
    ac__arena_give(&segment, 1, all + bytes_of(i), bytes_of(1));
    CHECK(try_take(1, 2) == AC_E_NOMEM);
    CHECK(take(2, 1) == all + bytes_of(i));
  }
  CHECK(counts_are_right());
  arena_close();
}

TEST("free pages beyond those to be kept are given back at once") {
  if (!arena_open(20, 5))
    return;
  uint64_t a = take(1, 9), b = take(1, 2);
  ac__arena_give(&segment, 1, b, bytes_of(2));
  CHECK_INT(pages_warm(), 2);
  ac__arena_give(&segment, 1, a, bytes_of(9));
  CHECK_INT(pages_warm(), 5);
  CHECK_INT(pages_committed(), 5);
  CHECK_INT(pages_taken(), 0);
  CHECK(counts_are_right());
  arena_close();
}

TEST("trimming gives back what was idle for long, and nothing else") {
  const uint64_t second_ns = UINT64_C(1000000000);
  if (!arena_open(20, 20))
    return;
  uint64_t a = take(1, 9);
  ac__arena_give(&segment, 1, a + bytes_of(2), bytes_of(6));
  uint64_t blocks = pages_committed();
  ac__arena_trim(&segment, 3600 * second_ns);
  CHECK_INT(pages_warm(), 6);
  for (uint32_t i = 3; i < 5; i++) { /* these were given two seconds ago */
    uint32_t page = page_at(a) + i;
    uint64_t stamp = word_at(page) & AC__PAGE_STAMP;
    stamp -= 2 * second_ns >> AC__STAMP_NS_BITS << 32;
    atomic_store(&pages.word[page], AC__PAGE_WARM | (stamp & AC__PAGE_STAMP));
  }
  ac__arena_trim(&segment, second_ns);
  CHECK_INT(pages_warm(), 4);
  CHECK_INT(pages_committed(), blocks - 2);
  ac__arena_trim(&segment, UINT64_MAX);
  CHECK_INT(pages_warm(), 4);
  ac__arena_trim(&segment, 0);
  CHECK_INT(pages_warm(), 0);
  CHECK_INT(pages_committed(), 3);
  CHECK_INT(pages_taken(), 3);
  CHECK(counts_are_right());
  arena_close();
}

/* ---- Short of memory ----------------------------------------------------- */

TEST("pages that would pass a limit of memory are refused") {
  if (!arena_open(100, 100))
    return;
  atomic_store(&told_room, bytes_of(16));
  CHECK(try_take(1, 17) == AC_E_NOMEM);
  CHECK(strstr(ac_last_error()->detail, "short of memory") != NULL);
  CHECK(try_take(1, 16) == AC_E_NOMEM); /* a part is left to others */
  CHECK_INT(pages_committed(), 0);
  CHECK(try_take(1, 14) == AC_OK);
  CHECK(counts_are_right());
  atomic_store(&told_room, UINT64_MAX);
  arena_close();
}

TEST("an answer about memory holds for a part of what it allows") {
  if (!arena_open(100, 100))
    return;
  atomic_store(&asked, 0);
  atomic_store(&told_room, bytes_of(1600));
  (void)take(1, 1);
  CHECK_INT(atomic_load(&asked), 1);
  uint64_t end_ns = ac__clock_ns() + UINT64_C(40000000);
  atomic_store(&pages.arena->room_end_ns, end_ns);
  atomic_store(&pages.arena->room_bytes, (int64_t)bytes_of(5));
  atomic_store(&told_room, 0);
  (void)take(1, 3);
  if (ac__clock_ns() < end_ns)
    CHECK_INT(atomic_load(&asked), 1);
  CHECK(try_take(1, 3) == AC_E_NOMEM);
  CHECK_INT(atomic_load(&asked), 2);
  /* A time that no such answer can have is not believed. */
  atomic_store(&pages.arena->room_end_ns, UINT64_MAX);
  atomic_store(&pages.arena->room_bytes, INT64_MAX);
  CHECK(try_take(1, 1) == AC_E_NOMEM);
  atomic_store(&told_room, UINT64_MAX);
  arena_close();
}

TEST("for want of room, free warm pages elsewhere are given back") {
  if (!arena_open(30, 30))
    return;
  uint64_t run[10];
  for (int i = 0; i < 10; i++)
    run[i] = take(1, 3);
  for (int i = 0; i < 5; i++) /* warm pages in twos */
    ac__arena_give(&segment, 1, run[i], bytes_of(2));
  ac__arena_give(&segment, 1, run[8], bytes_of(6));
  CHECK(try_take(1, 7) == AC_E_NOMEM);
  CHECK_INT(pages_warm(), 16); /* that would not have helped */
  uint64_t six = take(1, 6);
  pages.arena->keep_pages = 0;
  ac__arena_give(&segment, 1, six, bytes_of(6)); /* the only cold ones */
  atomic_store(&told_limit, pages_committed() + 4);
  atomic_store(&pages.arena->room_end_ns, 0);
  CHECK(take(2, 4) == six);
  CHECK_INT(pages_warm(), 0);
  CHECK_INT(pages_committed(), pages_taken());
  atomic_store(&pages.arena->room_end_ns, 0);
  atomic_store(&told_limit, pages_committed() + 1);
  CHECK(try_take(1, 2) == AC_E_NOMEM);
  CHECK_INT(pages_committed(), pages_taken());
  CHECK(counts_are_right());
  atomic_store(&told_limit, 0);
  arena_close();
}

TEST("pages that the system does not commit are free again") {
  if (!arena_open(10, 10))
    return;
  uint64_t one = take(1, 1);
  ac__arena_give(&segment, 1, one, bytes_of(1));
  int fd = segment.fd, ends[2];
  CHECK(pipe(ends) == 0);
  segment.fd = ends[1];
  CHECK(try_take(1, 4) == AC_E_OS);
  segment.fd = fd;
  close(ends[0]);
  close(ends[1]);
  CHECK_INT(pages_taken(), 0);
  CHECK_INT(pages_warm(), 1);
  CHECK(counts_are_right());
  arena_close();
}

TEST("of pages that were committed in part, none is lost") {
  if (!arena_open(10, 10))
    return;
  uint64_t one = take(1, 1);
  ac__arena_give(&segment, 1, one, bytes_of(1));
  atomic_store(&is_half_done, 1);
  CHECK(try_take(1, 5) == AC_E_NOMEM);
  atomic_store(&is_half_done, 0);
  CHECK_INT(pages_committed(), pages_warm());
  CHECK_INT(pages_taken(), 0);
  CHECK(counts_are_right());
  CHECK(try_take(1, 10) == AC_OK);
  arena_close();
}

/* ---- Against a model ----------------------------------------------------- */

typedef struct model {
  uint32_t owner[MODEL_PAGES]; /* of each page; 0 = free */
  uint64_t state;              /* of the generator */
  int taken, refused;
} model;

static uint32_t below(model *m, uint32_t most) {
  m->state = m->state * UINT64_C(6364136223846793005) + 1442695040888963407u;
  return (uint32_t)(m->state >> 33) % most;
}

static bool model_has_run(const model *m, uint32_t count) {
  uint32_t run = 0;
  for (uint32_t i = 0; i < MODEL_PAGES && run < count; i++)
    run = m->owner[i] == 0 ? run + 1 : 0;
  return run >= count;
}

static void model_take(model *m, uint32_t owner) {
  uint32_t count = 1 + below(m, below(m, 4) == 0 ? 20 : 4);
  uint64_t offset;
  if (ac__arena_take(&segment, owner, bytes_of(count), &offset) != AC_OK) {
    CHECK(!model_has_run(m, count));
    m->refused++;
    return;
  }
  m->taken++;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t at = page_at(offset) + i - pages.first;
    if (!CHECK(at < MODEL_PAGES) || !CHECK_INT(m->owner[at], 0))
      return;
    m->owner[at] = owner;
  }
}

static void model_step(model *m) {
  uint32_t owner = 1 + below(m, OWNERS), what = below(m, 16);
  uint32_t begin = below(m, MODEL_PAGES);
  uint32_t count =
      1 + below(m, MODEL_PAGES - begin < 8 ? MODEL_PAGES - begin : 8);
  uint32_t to = what < 6 ? 0 : 1 + below(m, OWNERS);
  uint64_t offset = bytes_of(pages.first + begin);
  if (what >= 8) {
    model_take(m, owner);
    return;
  }
  if (what < 5)
    ac__arena_give(&segment, owner, offset, bytes_of(count));
  else if (what > 5)
    ac__arena_pass(&segment, owner, to, offset, bytes_of(count));
  else if (below(m, 8) == 0)
    ac__arena_trim(&segment, 0);
  else if (below(m, 8) == 0) {
    begin = 0;
    count = MODEL_PAGES;
    (void)ac__arena_reclaim(&segment, owner);
  } else
    return;
  if (what == 5 && count < MODEL_PAGES)
    return; /* trimmed */
  for (uint32_t i = begin; i < begin + count; i++)
    if (m->owner[i] == owner)
      m->owner[i] = to;
}

/* Each page as the model says, and committed exactly if it is warm. */
static bool model_agrees(const model *m) {
  uint64_t warm = 0;
  for (uint32_t i = 0; i < MODEL_PAGES; i++) {
    uint64_t word = word_at(pages.first + i);
    if (!CHECK_INT(ac__page_owner(word), m->owner[i]) ||
        !CHECK(m->owner[i] == 0 || (word & AC__PAGE_WARM) != 0))
      return false;
    warm += (word & AC__PAGE_WARM) != 0;
  }
  return CHECK_INT(pages_committed(), warm) && CHECK(counts_are_right());
}

TEST("random takes, gives and passes do as a model does") {
  model m = {.state = ac__clock_ns()};
  printf("  seed %llu\n", (unsigned long long)m.state);
  if (!arena_open(MODEL_PAGES, 7))
    return;
  for (int i = 0; i < MODEL_STEPS; i++) {
    model_step(&m);
    if (!model_agrees(&m))
      break;
  }
  CHECK(m.taken > 100 && m.refused > 100);
  arena_close();
}

/* ---- Passing, reclaiming, and what others wrote -------------------------- */

TEST("pages that were passed are the other's to give") {
  if (!arena_open(10, 10))
    return;
  uint64_t a = take(1, 4);
  ac__arena_pass(&segment, 1, 2, a, bytes_of(3));
  ac__arena_give(&segment, 1, a, bytes_of(4));
  CHECK_INT(pages_taken(), 3);
  CHECK_INT(ac__arena_reclaim(&segment, 1), 0);
  CHECK_INT(pages_taken(), 3);
  ac__arena_give(&segment, 2, a, bytes_of(4));
  CHECK_INT(pages_taken(), 0);
  arena_close();
}

TEST("what a dead owner had is free, half done or not, and counted") {
  if (!arena_open(20, 4))
    return;
  uint64_t mine = take(1, 2);
  (void)take(9, 6);
  uint64_t half = take(9, 3);
  for (uint32_t i = 0; i < 2; i++) /* killed before they became warm */
    atomic_fetch_and(&pages.word[page_at(half) + i], AC__PAGE_OWNER);
  atomic_store(&pages.group[0], 0);
  atomic_store(&pages.arena->warm, 0);
  CHECK_INT(ac__arena_reclaim(&segment, 9), bytes_of(9));
  CHECK_INT(pages_taken(), 2);
  CHECK_INT(pages_warm(), 4);
  CHECK_INT(pages_committed(), 6);
  CHECK(counts_are_right());
  CHECK_INT(ac__arena_reclaim(&segment, 9), 0);
  ac__arena_give(&segment, 1, mine, bytes_of(2));
  (void)take(1, 20);
  CHECK_INT(ac__arena_reclaim(&segment, 0), 0);
  CHECK_INT(pages_taken(), 20);
  arena_close();
}

TEST("a keeper that died while trimming is reclaimed too") {
  if (!arena_open(10, 10))
    return;
  uint64_t a = take(1, 3);
  ac__arena_give(&segment, 1, a, bytes_of(3));
  ac__group_add(&pages, page_at(a), -2, -2);
  for (uint32_t i = 0; i < 2; i++)
    atomic_store(&pages.word[page_at(a) + i], AC__ARENA_KEEPER);
  CHECK_INT(ac__arena_reclaim(&segment, AC__ARENA_KEEPER), bytes_of(2));
  CHECK_INT(pages_committed(), 1);
  CHECK(counts_are_right());
  arena_close();
}

TEST("pages that their owner is taking can be neither given nor passed") {
  if (!arena_open(10, 10))
    return;
  uint64_t a = take(1, 3);
  atomic_store(&pages.word[page_at(a) + 1], 1);
  ac__arena_pass(&segment, 1, 2, a, bytes_of(3));
  CHECK_INT(ac__page_owner(word_at(page_at(a))), 2);
  CHECK_INT(ac__page_owner(word_at(page_at(a) + 1)), 1);
  ac__arena_give(&segment, 1, a, bytes_of(3));
  CHECK_INT(pages_taken(), 3);
  arena_close();
}

TEST("offsets and sizes that are nobody's harm nobody") {
  if (!arena_open(10, 10))
    return;
  uint64_t a = take(1, 10);
  const uint64_t offsets[] = {0,
                              1,
                              a - AC__PAGE_BYTES,
                              a + 1,
                              a + bytes_of(1) - 1,
                              segment.size_bytes,
                              segment.size_bytes + AC__PAGE_BYTES,
                              UINT64_MAX,
                              UINT64_MAX - AC__PAGE_BYTES + 1,
                              (uint64_t)1 << 48};
  const size_t sizes[] = {1, AC__PAGE_BYTES, bytes_of(11), SIZE_MAX};
  for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
      ac__arena_give(&segment, 1, offsets[i], sizes[k]);
      ac__arena_pass(&segment, 1, 2, offsets[i], sizes[k]);
    }
  ac__arena_give(&segment, 1, a, 0);
  ac__arena_give(&segment, 1, a, bytes_of(11));
  ac__arena_give(&segment, 1, a, SIZE_MAX);
  ac__arena_give(&segment, 0, a, bytes_of(1));
  ac__arena_give(&segment, 2, a, bytes_of(10));
  ac__arena_pass(&segment, 0, 2, a, bytes_of(1));
  ac__arena_pass(&segment, 1, 0, a, bytes_of(1));
  ac__arena_pass(&segment, 1, AC__ARENA_KEEPER, a, bytes_of(1));
  ac__arena_pass(&segment, 2, 1, a, bytes_of(10));
  for (uint32_t page = pages.first; page < pages.end; page++)
    CHECK_INT(ac__page_owner(word_at(page)), 1);
  ac__arena_give(&segment, 1, a + bytes_of(9), bytes_of(1));
  CHECK_INT(pages_taken(), 9);
  arena_close();
}

TEST("counts and hints written by a mad process are bounded") {
  static const uint64_t mad[] = {0, 1, UINT64_MAX, UINT64_MAX / 2,
                                 UINT64_C(0xffff0000ffff)};
  if (!arena_open(20, 20))
    return;
  for (size_t i = 0; i < sizeof mad / sizeof *mad; i++) {
    for (size_t k = 0; k < AC__ARENA_HINTS; k++)
      atomic_store(&pages.arena->hint[k].page, (uint32_t)mad[i]);
    atomic_store(&pages.group[0], mad[i]);
    atomic_store(&pages.arena->warm, (int64_t)mad[i]);
    atomic_store(&pages.arena->room_bytes, (int64_t)mad[i]);
    atomic_store(&pages.arena->room_end_ns, mad[i]);
    atomic_store(&pages.arena->recount_due_ns, mad[i]);
    pages.arena->keep_pages = mad[i];
    uint64_t a = take(1, 20);
    ac__arena_give(&segment, 1, a, bytes_of(20));
    (void)ac__arena_reclaim(&segment, 1);
    CHECK(counts_are_right());
    ac__arena_trim(&segment, 0);
    CHECK_INT(pages_committed(), 0);
  }
  arena_close();
}

TEST("a segment that is no arena of this version is refused") {
  if (!arena_open(20, 20))
    return;
  CHECK(ac__arena_check(&segment) == AC_OK);
  ac__segment part = segment;
  part.size_bytes -= 1;
  CHECK(ac__arena_check(&part) == AC_E_INVAL);
  part.size_bytes = AC__PAGE_BYTES;
  CHECK(ac__arena_check(&part) == AC_E_INVAL);
  part.size_bytes = 0;
  CHECK(ac__arena_check(&part) == AC_E_INVAL);
  CHECK(ac__arena_format(&part, 0) == AC_E_INVAL);
  CHECK(ac__arena_take(&part, 1, 1, &(uint64_t){0}) == AC_E_INVAL);
  ac__arena_give(&part, 1, bytes_of(1), 1);
  ac__arena_trim(&part, 0);
  CHECK_INT(ac__arena_reclaim(&part, 1), 0);
  ac__arena *a = pages.arena;
  a->magic ^= 1;
  CHECK(ac__arena_check(&segment) == AC_E_INVAL);
  a->magic ^= 1;
  a->version++;
  CHECK(ac__arena_check(&segment) == AC_E_INVAL);
  a->version--;
  a->page_bytes *= 2;
  CHECK(ac__arena_check(&segment) == AC_E_INVAL);
  a->page_bytes /= 2;
  a->size_bytes++;
  CHECK(ac__arena_check(&segment) == AC_E_INVAL);
  a->size_bytes--;
  CHECK(ac__arena_check(&segment) == AC_OK);
  arena_close();
}

/* ---- Large --------------------------------------------------------------- */

TEST("in a full arena of 64 GiB a refusal and the last page cost little") {
  enum { TRIES = 200 };
  uint32_t count = (1 << 20) - 200;
  if (!arena_open(count, 0))
    return;
  for (uint32_t page = pages.first; page < pages.end; page++)
    atomic_store(&pages.word[page], AC__PAGE_WARM | 7);
  CHECK_INT(ac__arena_reclaim(&segment, 8), 0); /* counts anew */
  uint64_t began_ns = ac__clock_ns();
  for (int i = 0; i < TRIES; i++)
    CHECK(try_take(1, 1) == AC_E_NOMEM);
  uint64_t refused_ns = (ac__clock_ns() - began_ns) / TRIES;
  uint32_t last = pages.end - 5;
  pages.arena->keep_pages = 1;
  CHECK(ac__pages_commit(segment.fd, bytes_of(last), bytes_of(1)) == AC_OK);
  ac__arena_give(&segment, 7, bytes_of(last), bytes_of(1));
  began_ns = ac__clock_ns();
  for (int i = 0; i < TRIES; i++) {
    CHECK(page_at(take(1 + (uint32_t)i % 50, 1)) == last);
    ac__arena_give(&segment, 1 + (uint32_t)i % 50, bytes_of(last), bytes_of(1));
  }
  printf("  refused in %llu ns, found in %llu ns\n",
         (unsigned long long)refused_ns,
         (unsigned long long)((ac__clock_ns() - began_ns) / TRIES));
  CHECK(counts_are_right());
  arena_close();
}

/* ---- Many threads -------------------------------------------------------- */

static atomic_int refused, begun, running;
static int rounds; /* of each thread */

/* Take, write, pass on to a neighbour's number, check, give. */
static void *hammer(void *arg) {
  uint32_t owner = 1 + (uint32_t)(uintptr_t)arg;
  model m = {.state = owner};
  for (int i = 0; i < rounds; i++) {
    uint32_t count = 1 + below(&m, 6), to = 1 + below(&m, THREADS);
    uint64_t offset;
    if (ac__arena_take(&segment, owner, bytes_of(count), &offset) != AC_OK) {
      atomic_fetch_add(&refused, 1);
      continue;
    }
    for (uint32_t k = 0; k < count; k++) {
      uint32_t *at = (void *)(segment.base + offset + bytes_of(k));
      at[0] = at[1000] = owner;
    }
    ac__arena_pass(&segment, owner, to, offset, bytes_of(count));
    for (uint32_t k = 0; k < count; k++) {
      const uint32_t *at = (void *)(segment.base + offset + bytes_of(k));
      CHECK(at[0] == owner && at[1000] == owner);
    }
    ac__arena_give(&segment, to, offset, bytes_of(count));
    if (i % 64 == 0)
      ac__arena_trim(&segment, 0);
  }
  atomic_fetch_sub(&running, 1);
  return NULL;
}

/* The same without touching the pages, and so much faster. */
static _Atomic uint32_t holder[FEW]; /* of each page, beside its word */

static void *hammer_lightly(void *arg) {
  uint32_t owner = 1 + (uint32_t)(uintptr_t)arg;
  model m = {.state = owner};
  atomic_fetch_add(&begun, 1);
  for (int i = 0; i < rounds; i++) {
    uint32_t count = 1 + below(&m, 2);
    uint64_t offset;
    if (ac__arena_take(&segment, owner, bytes_of(count), &offset) != AC_OK)
      continue;
    _Atomic uint32_t *held = &holder[page_at(offset) - pages.first];
    for (uint32_t k = 0; k < count; k++)
      CHECK_INT(atomic_exchange(&held[k], owner), 0);
    for (uint32_t k = 0; k < count; k++)
      CHECK_INT(atomic_exchange(&held[k], 0), owner);
    ac__arena_give(&segment, owner, offset, bytes_of(count));
  }
  atomic_fetch_sub(&running, 1);
  return NULL;
}

static void check_counts_are_not_too_low(void) {
  for (uint32_t page = pages.first; page < pages.end;) {
    uint64_t count = atomic_load(&pages.group[page / AC__GROUP_PAGES]);
    uint64_t free = 0;
    for (uint32_t end = ac__group_end(page, pages.end); page < end; page++)
      free += ac__page_owner(word_at(page)) == 0;
    CHECK((count & 0xffff) >= free);
  }
}

/* What this thread does while the others hammer. */
typedef struct meanwhile {
  int recounts, trims;
} meanwhile;

static void hammer_all(void *(*run)(void *), int threads, int each,
                       meanwhile more) {
  pthread_t thread[THREADS];
  uint64_t taken = pages_taken();
  rounds = each;
  atomic_store(&refused, 0);
  atomic_store(&begun, 0);
  atomic_store(&running, threads);
  for (intptr_t i = 0; i < threads; i++)
    CHECK(pthread_create(&thread[i], NULL, run, (void *)i) == 0);
  if (more.recounts > 0)
    while (atomic_load(&begun) < threads)
      ;
  while (atomic_load(&running) > 0 && (more.recounts > 0 || more.trims > 0)) {
    if (more.recounts-- > 0)
      ac__arena_recount(&pages);
    if (more.trims-- > 0)
      ac__arena_trim(&segment, 0);
  }
  for (int i = 0; i < threads; i++)
    pthread_join(thread[i], NULL);
  CHECK_INT(pages_taken(), taken);
  check_counts_are_not_too_low();
  ac__arena_recount(&pages);
  CHECK(counts_are_right());
}

TEST("threads at once never get the same page, where there are plenty") {
  if (!arena_open(THREADS * 12, THREADS * 12))
    return;
  hammer_all(hammer, THREADS, 3000, (meanwhile){0});
  CHECK_INT(atomic_load(&refused), 0);
  CHECK_INT(pages_committed(), pages_warm());
  (void)take(1, THREADS * 12);
  arena_close();
}

TEST("threads at once never get the same page, where there are few") {
  if (!arena_open(THREADS * 2, 3))
    return;
  hammer_all(hammer, THREADS, 3000, (meanwhile){0});
  CHECK_INT(pages_committed(), pages_warm());
  (void)take(1, THREADS * 2);
  arena_close();
}

TEST("threads at once never get the same page, while they are trimmed") {
  if (!arena_open(FEW, FEW))
    return;
  hammer_all(hammer_lightly, THREADS, 20000, (meanwhile){.trims = INT_MAX});
  CHECK_INT(pages_committed(), pages_warm());
  (void)take(1, FEW);
  arena_close();
}

/* All pages are another's but some at the border of two groups. */
TEST("threads at once never get the same page, across groups") {
  uint32_t begin = AC__GROUP_PAGES - 5;
  if (!arena_open(AC__GROUP_PAGES + 4, 100))
    return;
  for (uint32_t page = pages.first; page < begin; page++)
    atomic_store(&pages.word[page], AC__PAGE_WARM | 99);
  ac__arena_recount(&pages);
  hammer_all(hammer, THREADS, 6000, (meanwhile){0});
  CHECK_INT(pages_committed(), pages_warm());
  CHECK(page_at(take(1, pages.end - begin)) == begin);
  arena_close();
}

TEST("counts made anew while threads take and give do not hide free pages") {
  if (!arena_open(FEW, FEW))
    return;
  for (int i = 0; i < 200 && check_child_status() == 0; i++)
    hammer_all(hammer_lightly, 2, 500, (meanwhile){.recounts = 1 + i % 30});
  arena_close();
}

CHECK_MAIN
