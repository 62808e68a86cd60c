/* budget.h: how many cores the process may use, and which are free now.
 *
 * Two things: the process's own cap (ac_budget_set, ac_limit_hold, the
 * environment), and the ledger, memory shared by all processes of one family in
 * which every running thread holds a slot, one slot a core.
 *
 * Knows nothing of: teams, loops, what a thread does with its core.
 */
#ifndef AC_BUDGET_BUDGET_H
#define AC_BUDGET_BUDGET_H

#include "os/os.h"

enum { AC__CORES_MAX = 1024 }; /* widest team, largest budget */

/** Bumped whenever ac_budget() may have changed. A plain load; see budget.c. */
uint32_t ac__budget_epoch(void);

/** What a thread holds in the ledger. Zeroed = nothing. Owned by one thread at a
 * time; another may claim on behalf of a sleeping one and hand it over. */
typedef struct ac__token {
  uint64_t word;      /**< what stands in the slot: thread and start time */
  int32_t slot;       /**< 1-based index of the entry held; 0 = none */
  int32_t is_debt;    /**< the entry is beyond the cores: held all the same */
  uint64_t lender;    /**< word of the sleeper it was taken from; 0 = none */
  uint64_t lender_cpu_ns; /**< the sleeper's processor time then */
  uint64_t look_ns;   /**< when to look at the lender next */
} ac__token;

/** The calling thread's word. Reads /proc once a thread: keep it. */
uint64_t ac__ledger_word(void);

/** Take an entry for a thread that runs in any case (it entered by itself, or
 * was asked for by number): a free slot, else one in debt. Never fails. */
void ac__token_enter(ac__token *token, uint64_t word);

/** Take a free slot for extra width, for the thread that `word` names.
 *
 * None is free while debts are outstanding. A claim in vain looks for dead and
 * sleeping holders itself, at most every 10 ms in the whole family, and leaves
 * a note for spinners (ac__ledger_is_wanted).
 * @return whether the token now holds a slot. */
bool ac__token_claim(ac__token *token, uint64_t word);

/** Give the entry back; a no-op if none is held, or if it was lent meanwhile. */
void ac__token_release(ac__token *token);

/** For a thread that entered by itself, at entry: take an entry anew if the one
 * held was lent while it slept; a cheap load if not. */
void ac__token_renew(ac__token *token);

/** True if a token claimed from a sleeper must go back, since that one runs
 * again. Looks at most every 10 ms; cheap otherwise. now_ns: ac__clock_ns(). */
bool ac__token_is_recalled(ac__token *token, uint64_t now_ns);

/** True if somebody claimed in vain during the last 10 ms: a spinner should then
 * park and release its slot. now_ns: ac__clock_ns(). */
bool ac__ledger_is_wanted(uint64_t now_ns);

/** For tests and ac_topology: entries held, of all processes; slots. */
int ac__ledger_held(void);
int ac__ledger_slots(void);

#endif
