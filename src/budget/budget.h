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

/** What the machine grants this process, 1 … AC__CORES_MAX, as last read;
 * whatever the user has set. */
int ac__budget_granted(void);

/** Fill `limit` and `reason` of a topology whose other fields are known. */
void ac__topology_explain(ac_topology *topology);

/** What a thread holds in the ledger. Zeroed = nothing. Owned by one thread at
 * a time; another may claim on behalf of a sleeping one and hand it over. A
 * thread should hold one at a time, since it runs on one core. In the child of
 * a fork a copied token counts as nothing. */
typedef struct ac__token {
  uint64_t word;       /**< what stands in the slot: thread and start time */
  int32_t slot;        /**< 1-based index of the entry held; 0 = none */
  int32_t is_debt;     /**< the entry is beyond the cores: held all the same */
  int32_t is_extra;    /**< it was claimed, and must give way to who enters */
  uint64_t lender;     /**< word of the sleeper it was taken from; 0 = none */
  uint32_t generation; /**< of fork, in which it was taken */
} ac__token;

/** What a thread that entered by itself holds: one a thread, whoever of the
 * library took it. Zeroed = nothing was ever taken. */
extern _Thread_local ac__token ac__own_token
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

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

/** Give the entry back; a no-op if none is held, or if it was lent meanwhile.
 */
void ac__token_release(ac__token *token);

/** For a thread that entered by itself, at entry: take an entry anew if the one
 * held was lent while it slept; a cheap load if not. */
void ac__token_renew(ac__token *token);

/** True if a claimed token must go back, by ac__token_release(): a sleeper
 * whose core was lent runs again, or more threads have entered than cores are
 * free, or this slot itself was lent while its holder slept. Ask at chunk
 * borders, whoever had the slot before; of a token that entered it is never
 * true. Looks at most every 10 ms in the whole family, and only while there are
 * debts; two loads otherwise.
 * now_ns: ac__clock_ns(), or a value at most some ms old. */
bool ac__token_is_recalled(ac__token *token, uint64_t now_ns);

/** True if somebody claimed in vain during the last 10 ms: a spinner should
 * then park and release its slot. now_ns: ac__clock_ns(). */
bool ac__ledger_is_wanted(uint64_t now_ns);

/** For tests and reports: entries held by threads that are awake, of all
 * processes; slots; whether other processes share the ledger. */
int ac__ledger_held(void);
int ac__ledger_slots(void);
bool ac__ledger_is_shared(void);

#endif
