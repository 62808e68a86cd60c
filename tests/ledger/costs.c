/* costs.c: what the core ledger costs, printed; nothing is judged but answers.
 * The figures in docs/decisions/0002-core-ledger.md are from here.
 */
#define _GNU_SOURCE
#include "budget/ledger.h"

#include "check.h"

#include <sys/resource.h>

enum { ROUNDS = 1000000, VAIN_ROUNDS = 20000, REPEATS = 5 };

static ac__ledger memory;
static ac__family family;

static void use_ledger(int slots) {
  for (int i = 0; i < AC__LEDGER_ENTRIES; i++)
    atomic_store(&memory.entry[i].word, 0);
  atomic_store(&memory.debts, 0);
  ac__ledger_format(&memory, slots, 1);
  family = (ac__family){.ledger = &memory, .slots = slots, .fd = -1};
  atomic_store(&ac__family_joined, &family);
}

/* ---- The fast path ------------------------------------------------------- */

static void claim_release(ac__token *token, uint64_t word) {
  CHECK(ac__token_claim(token, word));
  ac__token_release(token);
}

static void renew(ac__token *token, uint64_t word) {
  (void)word;
  ac__token_renew(token);
}

static void ask(ac__token *token, uint64_t word) {
  CHECK(!ac__token_is_recalled(token, word));
}

/* Least of some runs: the others were disturbed. */
static double least_ns(void (*run)(ac__token *, uint64_t), ac__token *token,
                       uint64_t word) {
  double least = 1e30;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    uint64_t began_ns = ac__clock_ns();
    for (int i = 0; i < ROUNDS; i++)
      run(token, word);
    double ns = (double)(ac__clock_ns() - began_ns) / ROUNDS;
    least = ns < least ? ns : least;
  }
  return least;
}

TEST("a claim and a release of a free core need no file of the system") {
  struct rlimit limit, none;
  ac__token token = {0};
  uint64_t word = ac__ledger_word();
  use_ledger(2);
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  printf("  claim and release: %.1f ns\n",
         least_ns(claim_release, &token, word));
  ac__token_enter(&token, word);
  printf("  renew at entry: %.1f ns\n", least_ns(renew, &token, word));
  ac__token_release(&token);
  CHECK(ac__token_claim(&token, word));
  printf("  recalled?: %.1f ns\n", least_ns(ask, &token, word));
  ac__token_release(&token);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* ---- With every core taken ----------------------------------------------- */

static double vain_ns(void) {
  ac__token token = {0};
  uint64_t word = ac__ledger_word(), began_ns = ac__clock_ns();
  atomic_store(&memory.look_due_ns, began_ns + UINT64_C(9000000000));
  for (int i = 0; i < VAIN_ROUNDS; i++)
    (void)ac__token_claim(&token, word);
  CHECK_INT(token.slot, 0);
  return (double)(ac__clock_ns() - began_ns) / VAIN_ROUNDS;
}

/* A look at `slots` holders, all of them this thread: a claim in another's
 * name. */
static double look_us(void) {
  ac__token token = {0};
  atomic_store(&memory.look_due_ns, 0);
  uint64_t began_ns = ac__clock_ns();
  CHECK(!ac__token_claim(&token, ac__ledger_word() ^ 1));
  return (double)(ac__clock_ns() - began_ns) / 1000;
}

TEST("a claim in vain costs a load for each slot, and a look two files each") {
  const int slots[] = {2, 8, 64, 1024};
  for (int i = 0; i < 4; i++) {
    use_ledger(slots[i]);
    for (int k = 0; k < slots[i]; k++)
      atomic_store(&memory.entry[k].word, ac__ledger_word());
    double vain = vain_ns();
    (void)look_us();
    printf("  %4d slots: claim in vain %.0f ns, look %.0f us\n", slots[i], vain,
           look_us());
  }
}

CHECK_MAIN
