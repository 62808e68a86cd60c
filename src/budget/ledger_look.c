/* ledger_look.c: dead and sleeping holders, found by those who want a core.
 *
 * Nobody watches the ledger. A claim that finds no free slot looks at every
 * holder itself, at most every 10 ms in the whole family. What names a dead
 * thread becomes free. A thread sleeps if the kernel does not call it runnable
 * and its processor clock has stood still since a look at least 50 ms ago; both
 * are asked for, since a runnable thread may wait much longer than that for its
 * turn on a busy machine. The slot of a sleeper is lent: it becomes a debt of
 * the sleeper, marked asleep, and the slot is free. When the sleeper runs
 * again, the next look wakes the debt, and one extra runner gives way. The
 * sleeper itself has nothing to do; when it next enters a region it finds its
 * debt and takes a slot for it if there is one.
 *
 * What a look saw of a holder stays in the entry for the next look, which may
 * be another process's: a hash of thread and processor time, and since when it
 * has been the same. Both in one word, so that two lookers never mix theirs. It
 * is a hint: if it is lost, a sleeper is taken to be awake for 50 ms more.
 *
 * A look costs two files of /proc a holder, some 20 to 40 µs. It may take 1/20
 * of a core's time: after one that took longer than 0.5 ms the next one waits
 * longer than 10 ms.
 *
 * Lookers may overlap, if one is held up for long. The worst that comes of it
 * is a sleeper without an entry; it takes one when it next enters.
 *
 * Knows nothing of: what holders do, why one sleeps.
 */
#include "budget/ledger.h"

#include <string.h>

enum { NS_PER_MS = 1000000, LOOK_SHARE = 20, NOTE_NS = NS_PER_MS };

/* No look is due this far ahead: such a time was not written by us. */
static const int64_t due_most_ns = INT64_C(10000000000);

typedef enum verdict { AWAKE, ASLEEP, DEAD } verdict;

/* ---- One holder ---------------------------------------------------------- */

static bool is_dead(uint64_t word, ac__thread_stat *ret_stat) {
  const uint64_t tid_mask = (UINT64_C(1) << AC__WORD_TID_BITS) - 1;
  uint64_t start_time = word >> AC__WORD_TID_BITS;
  if (!ac__thread_stat_read((int32_t)(word & tid_mask), ret_stat))
    return true;
  if (strchr("ZXx", ret_stat->state) != NULL)
    return true;
  return start_time != 0 && start_time != ret_stat->start_time;
}

/* Never 0, which is no sample. The time may wrap: it is only compared. */
static uint64_t sample_make(uint64_t word, uint64_t cpu_ns, uint64_t now_ns) {
  uint64_t hash = (word + cpu_ns) * UINT64_C(0x9E3779B97F4A7C15) >> 32 | 1;
  return hash << 32 | (uint32_t)(now_ns / NS_PER_MS);
}

static verdict judge(ac__entry *entry, uint64_t word, uint64_t now_ns) {
  ac__thread_stat stat;
  if (is_dead(word, &stat))
    return DEAD;
  uint64_t now = sample_make(word, stat.cpu_ns, now_ns);
  /* relaxed, here and below: a hint, whole in one word. */
  uint64_t then = atomic_load_explicit(&entry->sample, memory_order_relaxed);
  if (stat.state == 'R' || now >> 32 != then >> 32) {
    atomic_store_explicit(&entry->sample, now, memory_order_relaxed);
    return AWAKE;
  }
  uint32_t still_ms = (uint32_t)now - (uint32_t)then;
  return still_ms >= AC__ASLEEP_NS / NS_PER_MS ? ASLEEP : AWAKE;
}

static void change(ac__entry *entry, uint64_t from, uint64_t to) {
  /* release: pairs with the acquire of whoever sees the entry free. Another
   * change got in first if this fails; then that one stands. */
  (void)atomic_compare_exchange_strong_explicit(
      &entry->word, &from, to, memory_order_release, memory_order_relaxed);
}

static uint64_t word_of(const ac__entry *entry) {
  /* acquire: pairs with the release in change() and in ledger.c. */
  return atomic_load_explicit(&entry->word, memory_order_acquire);
}

/* ---- All holders --------------------------------------------------------- */

/* A thread that has an entry before this debt runs but once: the debt was left
 * by a looker that died, or its owner is about to clear it. */
static bool is_twice(const ac__family *family, uint64_t word, int32_t debt) {
  const ac__entry *entry = family->ledger->entry;
  for (int32_t i = 0; i < debt; i++)
    if ((word_of(&entry[i]) & ~AC__WORD_ASLEEP) == word)
      return true;
  return false;
}

static void look_at_debt(const ac__family *family, int32_t i, uint64_t now_ns) {
  ac__entry *entry = &family->ledger->entry[i];
  uint64_t held = word_of(entry), word = held & ~AC__WORD_ASLEEP;
  if (word == 0 || is_twice(family, word, i)) {
    if (held != 0)
      change(entry, held, 0);
    return;
  }
  verdict found = judge(entry, word, now_ns);
  uint64_t want = found == DEAD     ? 0
                  : found == ASLEEP ? word | AC__WORD_ASLEEP
                                    : word;
  if (held != want)
    change(entry, held, want);
}

/* Also those that directly follow the mark: a thread that was killed between
 * taking a debt and raising the mark left one there. */
static void look_at_debts(const ac__family *family, uint64_t now_ns) {
  int32_t end = family->slots + ac__debts_mark(family);
  while (end < AC__LEDGER_ENTRIES && word_of(&family->ledger->entry[end]) != 0)
    end++;
  for (int32_t i = family->slots; i < end; i++)
    look_at_debt(family, i, now_ns);
}

typedef struct slot_set {
  uint64_t bits[AC__CORES_MAX / 64]; /* slot i, from 0 */
} slot_set;

static void look_at_slots(const ac__family *family, uint64_t claimant,
                          uint64_t now_ns, slot_set *ret_sleepers) {
  for (int32_t i = 0; i < family->slots; i++) {
    ac__entry *entry = &family->ledger->entry[i];
    uint64_t word = word_of(entry);
    if (word == 0 || word == claimant)
      continue;
    verdict found = judge(entry, word, now_ns);
    if (found == DEAD)
      change(entry, word, 0);
    else if (found == ASLEEP)
      ret_sleepers->bits[i / 64] |= UINT64_C(1) << (i % 64);
  }
}

/* ---- Lending ------------------------------------------------------------- */

/* Free a sleeper's slot. It is given a debt first, so that it is never without
 * an entry; who dies in between leaves it both, see is_twice(). */
static uint64_t lend(const ac__family *family, int32_t i) {
  ac__entry *slot = &family->ledger->entry[i];
  uint64_t word = word_of(slot), asleep = word | AC__WORD_ASLEEP;
  int32_t debt = word != 0 ? ac__debt_take(family, asleep) : 0;
  if (debt == 0)
    return 0;
  ac__entry *entry = &family->ledger->entry[debt - 1];
  /* relaxed: a hint; without it the sleeper would count as awake for 50 ms. */
  uint64_t sample = atomic_load_explicit(&slot->sample, memory_order_relaxed);
  atomic_store_explicit(&entry->sample, sample, memory_order_relaxed);
  /* release: who sees the slot free sees the debt. relaxed: not lent. */
  uint64_t held = word;
  if (atomic_compare_exchange_strong_explicit(
          &slot->word, &held, 0, memory_order_release, memory_order_relaxed))
    return word;
  change(entry, asleep, 0); /* it woke, and released or moved */
  return 0;
}

static uint64_t lend_next(const ac__family *family, slot_set *sleepers) {
  for (int32_t word = 0; word < AC__CORES_MAX / 64; word++)
    while (sleepers->bits[word] != 0) {
      int bit = __builtin_ctzll(sleepers->bits[word]);
      sleepers->bits[word] &= sleepers->bits[word] - 1;
      uint64_t lender = lend(family, word * 64 + bit);
      if (lender != 0)
        return lender;
    }
  return 0;
}

/* Claim, lending one sleeper's slot after the other until that succeeds. */
static bool claim_or_lend(const ac__family *family, ac__token *token,
                          uint64_t word, slot_set *sleepers) {
  uint64_t lender = 0;
  do {
    int32_t slot = ac__slot_take(family, word, ac__debts_awake(family));
    if (slot != 0) {
      ac__token_hold(token, word, slot, true);
      token->lender = lender;
      return true;
    }
    lender = lend_next(family, sleepers);
  } while (lender != 0);
  return false;
}

/* ---- When to look -------------------------------------------------------- */

/* Whether this thread is the one to look now. Without /proc nobody can: all
 * would seem dead. */
static bool look_begin(const ac__family *family, uint64_t now_ns) {
  _Atomic uint64_t *due = &family->ledger->look_due_ns;
  /* relaxed, here and below: the time says only who looks. */
  uint64_t due_ns = atomic_load_explicit(due, memory_order_relaxed);
  int64_t wait_ns = (int64_t)(due_ns - now_ns);
  if (wait_ns > 0 && wait_ns < due_most_ns)
    return false;
  return ac__ledger_word() >> AC__WORD_TID_BITS != 0 &&
         atomic_compare_exchange_strong_explicit(
             due, &due_ns, now_ns + AC__LOOK_NS, memory_order_relaxed,
             memory_order_relaxed);
}

static void look_end(const ac__family *family, uint64_t began_ns) {
  uint64_t now_ns = ac__clock_ns();
  uint64_t pause_ns = (now_ns - began_ns) * LOOK_SHARE;
  if (pause_ns > AC__LOOK_NS) /* relaxed: as in look_begin() */
    atomic_store_explicit(&family->ledger->look_due_ns, now_ns + pause_ns,
                          memory_order_relaxed);
}

void ac__want(const ac__family *family, uint64_t now_ns) {
  _Atomic uint64_t *wanted = &family->ledger->wanted_ns;
  /* relaxed: a hint that stands alone. Written once a ms, for the line's sake.
   */
  uint64_t wanted_ns = atomic_load_explicit(wanted, memory_order_relaxed);
  if (now_ns - wanted_ns > NOTE_NS)
    atomic_store_explicit(wanted, now_ns, memory_order_relaxed);
}

bool ac__claim_by_look(const ac__family *family, ac__token *token,
                       uint64_t word) {
  uint64_t now_ns = ac__clock_ns();
  ac__want(family, now_ns);
  if (!look_begin(family, now_ns))
    return false;
  slot_set sleepers = {{0}};
  look_at_debts(family, now_ns);
  look_at_slots(family, word, now_ns, &sleepers);
  bool is_held = claim_or_lend(family, token, word, &sleepers);
  look_end(family, now_ns);
  return is_held;
}

void ac__debts_look(const ac__family *family, uint64_t now_ns) {
  if (!look_begin(family, now_ns))
    return;
  uint64_t began_ns = ac__clock_ns(); /* the caller's time may be older */
  look_at_debts(family, now_ns);
  look_end(family, began_ns);
}
