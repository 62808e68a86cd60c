/* ledger.c: what a thread does with the core ledger: enter, claim, release.
 *
 * A thread that runs in any case enters: it takes a free slot, or a debt. Extra
 * width claims: it may have a free slot only while there are more of them than
 * debts awake. A claim passes over one free slot for each debt and takes the
 * next, so that those it leaves are for the debtors, who look from the lowest
 * up (ac__token_renew).
 *
 * Races. Claims among themselves cannot take too much: each slot goes to one,
 * and each leaves one free for every debt that it saw. A thread that enters
 * while a claim is under way may take a slot that the claim left for another
 * debtor, or turn debtor after the claim counted: then there is one runner too
 * many for each such thread. It does not last: at its next chunk border an
 * extra runner sees fewer free slots than debts and gives its own back, and the
 * next one only if that was not enough (ac__token_is_recalled). So of running
 * threads
 * <= max(cores, entered) + 1, the + 1 pays for the moment in between.
 *
 * Orders. A slot hands over no data, only itself; most orders below could be
 * relaxed for that. Acquire and release are used where one entry must not be
 * seen to change before another.
 *
 * Knows nothing of: teams, /proc (ledger_look.c), where the memory comes from
 * (ledger_join.c).
 */
#include "budget/ledger.h"

_Thread_local ac__token ac__own_token;

/* ---- Entries ------------------------------------------------------------- */

/* Put `word` into a free entry. @return false if it was not free. */
static inline bool take(ac__entry *entry, uint64_t word) {
  uint64_t free_word = 0;
  /* acquire: pairs with the release in put(). relaxed: nothing was taken. */
  if (!atomic_compare_exchange_strong_explicit(&entry->word, &free_word, word,
                                               memory_order_acq_rel,
                                               memory_order_relaxed))
    return false;
  /* relaxed: a hint for looks. What was seen of the last holder is void: the
   * same thread may be here again, woken but not yet running. */
  atomic_store_explicit(&entry->sample, 0, memory_order_relaxed);
  return true;
}

/* Change an entry that holds `from`. @return false if it held another word. */
static inline bool put(ac__entry *entry, uint64_t from, uint64_t to) {
  /* release: pairs with the acquire in take(), and with ac__debts_awake(): who
   * sees a debt cleared sees the slot taken for it before. */
  return atomic_compare_exchange_strong_explicit(
      &entry->word, &from, to, memory_order_release, memory_order_relaxed);
}

static inline uint64_t word_of(const ac__entry *entry) {
  /* acquire: pairs with the release in put(). */
  return atomic_load_explicit(&entry->word, memory_order_acquire);
}

int32_t ac__slot_take(const ac__family *family, uint64_t word, int skip) {
  ac__entry *entry = family->ledger->entry;
  for (int32_t i = 0; i < family->slots; i++) {
    if (word_of(&entry[i]) != 0)
      continue;
    if (skip > 0)
      skip--;
    else if (take(&entry[i], word))
      return i + 1;
  }
  return 0;
}

static int slots_free(const ac__family *family) {
  int count = 0;
  for (int32_t i = 0; i < family->slots; i++)
    count += word_of(&family->ledger->entry[i]) == 0;
  return count;
}

/* ---- Debts --------------------------------------------------------------- */

#define MARK_MASK UINT64_C(0xffffffff)
#define MARK_TURN (MARK_MASK + 1)

static inline int mark_of(const ac__family *family, uint64_t debts) {
  uint64_t most = (uint64_t)(AC__LEDGER_ENTRIES - family->slots);
  uint64_t mark = debts & MARK_MASK;
  return (int)(mark < most ? mark : most); /* whoever wrote it */
}

int ac__debts_mark(const ac__family *family) {
  /* acquire: pairs with the release in mark_raise(). */
  return mark_of(family, atomic_load_explicit(&family->ledger->debts,
                                              memory_order_acquire));
}

/* Let the mark lie above debt `number` (from 0), and void every lowering that
 * began before. Who dies before this leaves a debt that may lie above the mark:
 * no one counts it, and a look finds it when the mark next passes it. */
static void mark_raise(const ac__family *family, int number) {
  _Atomic uint64_t *debts = &family->ledger->debts;
  uint64_t seen = atomic_load_explicit(debts, memory_order_relaxed);
  uint64_t mark, next;
  do {
    mark = seen & MARK_MASK;
    if (mark <= (uint64_t)number)
      mark = (uint64_t)number + 1;
    next = ((seen & ~MARK_MASK) + MARK_TURN) | mark;
    /* release: pairs with the acquire in ac__debts_awake(): who sees this turn
     * sees the debt. relaxed: tried again. */
  } while (!atomic_compare_exchange_weak_explicit(
      debts, &seen, next, memory_order_release, memory_order_relaxed));
}

int32_t ac__debt_take(const ac__family *family, uint64_t word) {
  for (int32_t i = family->slots; i < AC__LEDGER_ENTRIES; i++)
    if (take(&family->ledger->entry[i], word)) {
      mark_raise(family, i - family->slots);
      return i + 1;
    }
  return 0;
}

/* Lowers the mark when the highest debts are free. A debt taken meanwhile was
 * either seen, or its mark_raise() is still to come or made this fail. */
int ac__debts_awake(const ac__family *family) {
  ac__ledger *ledger = family->ledger;
  /* acquire: pairs with the release in mark_raise(). */
  uint64_t seen = atomic_load_explicit(&ledger->debts, memory_order_acquire);
  int mark = mark_of(family, seen), top = 0, awake = 0;
  for (int i = 0; i < mark; i++) {
    uint64_t word = word_of(&ledger->entry[family->slots + i]);
    if (word != 0)
      top = i + 1;
    awake += word != 0 && (word & AC__WORD_ASLEEP) == 0;
  }
  if (top < mark) /* relaxed: says only that debts are free */
    (void)atomic_compare_exchange_strong_explicit(
        &ledger->debts, &seen, (seen & ~MARK_MASK) | (uint64_t)top,
        memory_order_relaxed, memory_order_relaxed);
  return awake;
}

/* Free an entry that names `word`, asleep or not. The mark of a sleeper may
 * change under our hands, by a look. */
static bool entry_free(ac__entry *entry, uint64_t word) {
  uint64_t now = word_of(entry);
  while ((now & ~AC__WORD_ASLEEP) == word) {
    if (put(entry, now, 0))
      return true;
    now = word_of(entry);
  }
  return false;
}

/* Free every debt of a thread but entry number `kept` (from 1; 0 = none). */
static void debts_drop(const ac__family *family, uint64_t word, int32_t kept) {
  int mark = ac__debts_mark(family);
  for (int32_t i = family->slots; i < family->slots + mark; i++)
    if (i + 1 != kept)
      (void)entry_free(&family->ledger->entry[i], word);
}

/* The debt that a thread has, made awake. @return its number; 0 = none. */
static int32_t debt_find(const ac__family *family, uint64_t word) {
  int mark = ac__debts_mark(family);
  for (int32_t i = family->slots; i < family->slots + mark; i++) {
    ac__entry *entry = &family->ledger->entry[i];
    if (word_of(entry) == word || put(entry, word | AC__WORD_ASLEEP, word))
      return i + 1;
  }
  return 0;
}

/* ---- Tokens -------------------------------------------------------------- */

void ac__token_hold(ac__token *token, uint64_t word, int32_t slot,
                    bool is_extra) {
  *token = (ac__token){.word = word,
                       .slot = slot,
                       .is_debt = slot > ac__family_get()->slots,
                       .is_extra = is_extra,
                       .generation = ac__fork_count_now()};
}

/* A copy that a fork made is not ours: its entry is the parent's. */
static inline bool is_ours(const ac__token *token) {
  return token->generation == ac__fork_count_now();
}

static inline bool holds_slot(const ac__family *family,
                              const ac__token *token) {
  return token->slot != 0 && !token->is_debt &&
         word_of(&family->ledger->entry[token->slot - 1]) == token->word;
}

/* The calling thread's word, and the fork count at which it was made. */
static _Thread_local uint64_t own_word;
static _Thread_local uint32_t own_word_generation;

/* A thread whose start time cannot be read has 0 there. */
static uint64_t word_make(void) {
  int32_t tid = ac__thread_id();
  ac__thread_stat stat = {.start_time = 0};
  (void)ac__thread_stat_read(tid, &stat);
  return (stat.start_time << AC__WORD_TID_BITS | (uint64_t)tid) &
         ~AC__WORD_ASLEEP;
}

uint64_t ac__ledger_word(void) {
  ac__fork_watch();
  uint32_t generation = ac__fork_count_now();
  if (own_word_generation != generation) {
    own_word = word_make();
    own_word_generation = generation;
  }
  return own_word;
}

void ac__token_enter(ac__token *token, uint64_t word) {
  const ac__family *family = ac__family_get();
  int32_t slot = ac__slot_take(family, word, 0);
  if (slot == 0) {
    slot = ac__debt_take(family, word);
    ac__want(family, ac__clock_ns());
  }
  ac__token_hold(token, word, slot, false);
}

bool ac__token_claim(ac__token *token, uint64_t word) {
  const ac__family *family = ac__family_get();
  int32_t slot = ac__slot_take(family, word, ac__debts_awake(family));
  if (slot == 0)
    return ac__claim_by_look(family, token, word);
  ac__token_hold(token, word, slot, true);
  return true;
}

void ac__token_release(ac__token *token) {
  const ac__family *family = ac__family_get();
  /* A slot that was lent left a debt behind. */
  if (token->slot != 0 && is_ours(token) &&
      !entry_free(&family->ledger->entry[token->slot - 1], token->word))
    debts_drop(family, token->word, 0);
  *token = (ac__token){0};
}

/* A slot is taken before the debt is cleared: twice in the ledger for a moment
 * keeps a claim away, not at all would let one in. */
static void renew(const ac__family *family, ac__token *token) {
  uint64_t word = token->word;
  int32_t slot = ac__slot_take(family, word, 0);
  if (slot == 0)
    slot = debt_find(family, word);
  if (slot == 0)
    slot = ac__debt_take(family, word);
  debts_drop(family, word, slot);
  ac__token_hold(token, word, slot, false);
}

void ac__token_renew(ac__token *token) {
  const ac__family *family = ac__family_get();
  if (token->word == 0)
    return;
  if (!is_ours(token))
    ac__token_enter(token, ac__ledger_word());
  else if (!holds_slot(family, token))
    renew(family, token);
}

bool ac__token_is_recalled(ac__token *token, uint64_t now_ns) {
  const ac__family *family = ac__family_get();
  if (token->slot == 0 || !token->is_extra)
    return false;
  if (!is_ours(token) || !holds_slot(family, token))
    return true;
  if (ac__debts_mark(family) == 0)
    return false;
  ac__debts_look(family, now_ns);
  int awake = ac__debts_awake(family);
  return awake > 0 && slots_free(family) < awake;
}

/* ---- What others ask ----------------------------------------------------- */

bool ac__ledger_is_wanted(uint64_t now_ns) {
  /* relaxed: a hint that stands alone. */
  uint64_t wanted_ns = atomic_load_explicit(
      &ac__family_get()->ledger->wanted_ns, memory_order_relaxed);
  return (int64_t)(now_ns - wanted_ns) < (int64_t)AC__LOOK_NS;
}

int ac__ledger_held(void) {
  const ac__family *family = ac__family_get();
  return family->slots - slots_free(family) + ac__debts_awake(family);
}

int ac__ledger_slots(void) { return ac__family_get()->slots; }

bool ac__ledger_is_shared(void) { return ac__family_get()->fd >= 0; }
