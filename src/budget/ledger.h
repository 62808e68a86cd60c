/* ledger.h: how the core ledger lies in shared memory. Private to src/budget
 * and to the tests of the ledger.
 *
 *  - entry: a line of memory with one word: 0, or the thread that holds it.
 *  - word: a thread's number and start time, so that a number used again is
 *    not taken for the thread that had it before.
 *  - slot: an entry that stands for a core: the first `slots` of them.
 *  - debt: an entry beyond the slots: its thread runs without its own core.
 *  - asleep: a mark in the word of a debt: its thread does not run now, so the
 *    debt does not count. A sleeper's slot becomes such a debt: that is what
 *    lending a core means.
 *  - mark: all debts in use lie below it.
 *  - look: a reading of /proc for dead and sleeping holders.
 *
 * Running threads = slots held + debts awake. Both are found by looking at the
 * entries, so there is no counter that a killed process could leave wrong.
 *
 * Invariants
 *  - An entry changes by compare-and-swap on its one word. Whatever
 *    instruction a process dies at, each entry is 0 or names a thread, and a
 *    look frees what names a dead one.
 *  - Holds offsets and counts, never pointers. What is read from here is
 *    bounded before it is used: another process may have written it.
 *
 * An entry has a line of 64 bytes to itself. A thread changes its own entry at
 * the beginning and end of its work and reads it at each region; with several
 * entries on a line, each of those would take the line away from other cores.
 */
#ifndef AC_BUDGET_LEDGER_H
#define AC_BUDGET_LEDGER_H

#include "budget/budget.h"

enum {
  AC__LEDGER_VERSION = 1,
  AC__LEDGER_ENTRIES = AC__CORES_MAX * 2, /* so at least 1024 debts */
  AC__WORD_TID_BITS = 22,                 /* Linux has no thread above 2^22 */
};

#define AC__LEDGER_MAGIC UINT64_C(0x52454744454c4341) /* "ACLEDGER" */
#define AC__WORD_ASLEEP  (UINT64_C(1) << 63)          /* in debts only */

/* When a claim in vain may look, and who counts as asleep. */
#define AC__LOOK_NS   UINT64_C(10000000)
#define AC__ASLEEP_NS UINT64_C(50000000)

typedef struct ac__entry {
  _Alignas(64) _Atomic uint64_t word; /* 0 = free */
  _Atomic uint64_t sample; /* what the last look saw; ledger_look.c */
} ac__entry;

typedef struct ac__ledger {
  /* Written before the ledger is shared, then constant. */
  _Alignas(64) uint64_t magic;
  uint32_t version;
  uint32_t slots;
  uint32_t entries;
  uint32_t unused;
  uint64_t id; /* tells this ledger from any other */

  /* Low half: the mark, in entries above the slots. High half: how often a debt
   * was taken, so that a mark is not lowered over one that was not seen. */
  _Alignas(64) _Atomic uint64_t debts;

  _Alignas(64) _Atomic uint64_t wanted_ns; /* time of the last claim in vain */
  _Atomic uint64_t look_due_ns;            /* time of the next look allowed */

  ac__entry entry[AC__LEDGER_ENTRIES];
} ac__ledger;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && sizeof(long long) == 8,
               "words shared between processes need lock-free atomics");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "an atomic word is only a word");
_Static_assert(sizeof(ac__entry) == 64, "an entry has its own line");
_Static_assert(offsetof(ac__ledger, entry) == 192 &&
                   sizeof(ac__ledger) == 192 + 64 * AC__LEDGER_ENTRIES,
               "the layout that AC__LEDGER_VERSION names");

/** This process's view of its ledger. Never changes once made. */
typedef struct ac__family {
  ac__ledger *ledger;
  int32_t slots; /**< as checked when it was joined; 1 … AC__CORES_MAX */
  int32_t fd;    /**< -1 = the memory is not shared */
} ac__family;

/* ---- ledger_join.c: how a process comes by its ledger -------------------- */

extern _Atomic(const ac__family *) ac__family_joined;
extern _Atomic uint32_t ac__fork_count; /* 1, and one more in each child */

const ac__family *ac__family_join(void);

static inline const ac__family *ac__family_get(void) {
  /* acquire: pairs with the release in ac__family_join(). */
  const ac__family *family =
      atomic_load_explicit(&ac__family_joined, memory_order_acquire);
  return family != NULL ? family : ac__family_join();
}

static inline uint32_t ac__fork_count_now(void) {
  /* relaxed: written only in the child of a fork, by its only thread. */
  return atomic_load_explicit(&ac__fork_count, memory_order_relaxed);
}

/** Make an empty ledger out of zeroed memory. */
void ac__ledger_format(ac__ledger *ledger, int slots, uint64_t id);

/** What is wrong with memory that should be a ledger; NULL = nothing.
 *  @param id  The ledger expected. */
const char *ac__ledger_fault(const ac__ledger *ledger, uint64_t id);

/** Register what keeps the ledger right across a fork. Once; then a load. */
void ac__fork_watch(void);

/* ---- ledger.c: entries --------------------------------------------------- */

/** Take the lowest free slot but `skip`. @return its number from 1; 0 = none.
 */
int32_t ac__slot_take(const ac__family *family, uint64_t word, int skip);

/** Take a free debt, for a word that may be marked asleep.
 *  @return its number from 1, counted with the slots; 0 = all are taken. */
int32_t ac__debt_take(const ac__family *family, uint64_t word);

/** Number of debts whose holders are awake. */
int ac__debts_awake(const ac__family *family);

/** Bound of the debts in use. */
int ac__debts_mark(const ac__family *family);

void ac__token_hold(ac__token *token, uint64_t word, int32_t slot,
                    bool is_extra);

/* ---- ledger_look.c: dead and sleeping holders ---------------------------- */

/** What follows a claim in vain: a note for spinners, and a look if one is due,
 * which may end in a claim after all. */
bool ac__claim_by_look(const ac__family *family, ac__token *token,
                       uint64_t word);

/** Look at debts only, if a look is due: who of the sleepers runs again? */
void ac__debts_look(const ac__family *family, uint64_t now_ns);

/** Leave a note that a core is wanted. */
void ac__want(const ac__family *family, uint64_t now_ns);

#endif
