/* ledger_test.c: the core ledger within one process. Forks and other programs
 * are in ledger_fork_test.c; processes killed at random in tests/ledger. */
#define _GNU_SOURCE
#include "budget/ledger.h"

#include "check.h"

#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SLOTS = 4, THREADS = 8, ROUNDS = 20000 };

#define DEADLINE_NS UINT64_C(20000000000)

static ac__ledger memory;
static ac__family family;

/* Make an empty ledger with `slots` slots the process's own. */
static void use_ledger(int slots) {
  memset(&memory, 0, sizeof memory);
  ac__ledger_format(&memory, slots, 7);
  family = (ac__family){.ledger = &memory, .slots = slots, .fd = -1};
  atomic_store(&ac__family_joined, &family);
}

static uint64_t word_at(int32_t slot) {
  return atomic_load(&memory.entry[slot - 1].word);
}

static int entries_used(void) {
  int used = 0;
  for (int i = 1; i <= AC__LEDGER_ENTRIES; i++)
    used += word_at(i) != 0;
  return used;
}

/* Words of threads that do not exist: this thread's number, other times. */
static uint64_t dead_word(int i) {
  return ac__ledger_word() + ((uint64_t)(i + 1) << AC__WORD_TID_BITS);
}

/* Claim until it succeeds, at most for DEADLINE_NS. */
static bool claim_at_last(ac__token *token, uint64_t word) {
  uint64_t began_ns = ac__clock_ns();
  while (ac__clock_ns() - began_ns < DEADLINE_NS)
    if (ac__token_claim(token, word))
      return true;
  return false;
}

static bool is_recalled_at_last(ac__token *token) {
  uint64_t began_ns = ac__clock_ns(), now_ns = began_ns;
  for (; now_ns - began_ns < DEADLINE_NS; now_ns = ac__clock_ns())
    if (ac__token_is_recalled(token, now_ns))
      return true;
  return false;
}

/* No look is made from here on. */
static void put_off_looks(void) {
  atomic_store(&memory.look_due_ns, ac__clock_ns() + UINT64_C(9000000000));
}

/* ---- Claims and debts ---------------------------------------------------- */

TEST("claims take the lowest free slots, and releases give them back") {
  use_ledger(2);
  ac__token a = {0}, b = {0}, c = {0};
  uint64_t word = ac__ledger_word();
  CHECK(ac__token_claim(&a, word) && ac__token_claim(&b, word));
  CHECK_INT(a.slot, 1);
  CHECK_INT(b.slot, 2);
  CHECK(word_at(1) == word && word_at(2) == word);
  CHECK(!ac__token_claim(&c, word));
  CHECK_INT(c.slot, 0);
  CHECK_INT(ac__ledger_held(), 2);
  ac__token_release(&a);
  CHECK_INT(a.slot, 0);
  CHECK(ac__token_claim(&c, word));
  CHECK_INT(c.slot, 1);
  ac__token_release(&b);
  ac__token_release(&c);
  ac__token_release(&c);
  CHECK_INT(ac__ledger_held(), 0);
  CHECK_INT(ac__ledger_slots(), 2);
}

TEST("a thread that enters a full ledger is in debt, and nothing is claimed") {
  use_ledger(2);
  put_off_looks();
  ac__token token[4] = {{0}}, extra = {0};
  for (int i = 0; i < 4; i++)
    ac__token_enter(&token[i], dead_word(i));
  CHECK(!token[1].is_debt && token[2].is_debt && token[3].is_debt);
  CHECK_INT(token[3].slot, 4);
  CHECK_INT(ac__ledger_held(), 4);
  ac__token_release(&token[0]);
  CHECK(!ac__token_claim(&extra, ac__ledger_word()));
  ac__token_release(&token[1]);
  CHECK(!ac__token_claim(&extra, ac__ledger_word()));
  ac__token_release(&token[2]);
  CHECK(ac__token_claim(&extra, ac__ledger_word()));
  CHECK_INT(extra.slot, 2); /* the lowest is left for the debtor */
  ac__token_release(&extra);
  ac__token_release(&token[3]);
  CHECK_INT(entries_used(), 0);
}

TEST("a debtor moves to a free slot when it renews") {
  use_ledger(1);
  put_off_looks();
  ac__token slot = {0}, debt = {0};
  ac__token_enter(&slot, dead_word(0));
  ac__token_enter(&debt, dead_word(1));
  ac__token_renew(&debt);
  CHECK(debt.is_debt);
  CHECK_INT(entries_used(), 2);
  ac__token_release(&slot);
  ac__token_renew(&debt);
  CHECK(!debt.is_debt);
  CHECK_INT(debt.slot, 1);
  CHECK_INT(entries_used(), 1);
  ac__token_renew(&debt);
  CHECK_INT(debt.slot, 1);
  ac__token_release(&debt);
  CHECK_INT(entries_used(), 0);
}

TEST("the mark of debts rises with them and falls again") {
  use_ledger(1);
  put_off_looks();
  ac__token slot = {0}, debt[5] = {{0}};
  ac__token_enter(&slot, dead_word(0));
  for (int i = 0; i < 5; i++)
    ac__token_enter(&debt[i], dead_word(i + 1));
  CHECK_INT(ac__debts_mark(&family), 5);
  CHECK_INT(ac__debts_awake(&family), 5);
  ac__token_release(&debt[4]);
  ac__token_release(&debt[2]);
  CHECK_INT(ac__debts_awake(&family), 3);
  CHECK_INT(ac__debts_mark(&family), 4);
  for (int i = 0; i < 5; i++)
    ac__token_release(&debt[i]);
  CHECK_INT(ac__debts_awake(&family), 0);
  CHECK_INT(ac__debts_mark(&family), 0);
}

TEST("a token without an entry does no harm when even the debts are full") {
  use_ledger(SLOTS);
  for (int i = 0; i < AC__LEDGER_ENTRIES; i++)
    atomic_store(&memory.entry[i].word, dead_word(i + 1));
  ac__token token = {0};
  ac__token_enter(&token, ac__ledger_word());
  CHECK_INT(token.slot, 0);
  CHECK(!ac__token_is_recalled(&token, ac__clock_ns()));
  atomic_store(&memory.entry[2].word, 0);
  ac__token_renew(&token);
  CHECK_INT(token.slot, 3);
  ac__token_release(&token);
  ac__token_enter(&token, ac__ledger_word());
  ac__token_release(&token);
  CHECK_INT(word_at(3), 0);
}

TEST(
    "an extra runner gives way to those who entered, and no more than needed") {
  use_ledger(SLOTS);
  put_off_looks();
  ac__token extra[3] = {{0}}, entered[3] = {{0}};
  ac__token_enter(&entered[0], dead_word(0));
  for (int i = 0; i < 3; i++)
    CHECK(ac__token_claim(&extra[i], dead_word(10 + i)));
  uint64_t now_ns = ac__clock_ns();
  CHECK(!ac__token_is_recalled(&extra[0], now_ns));
  ac__token_enter(&entered[1], dead_word(1));
  ac__token_enter(&entered[2], dead_word(2));
  CHECK(!ac__token_is_recalled(&entered[1], now_ns)); /* entered: never */
  for (int i = 0; i < 2; i++) {
    CHECK(ac__token_is_recalled(&extra[i], now_ns));
    ac__token_release(&extra[i]);
  }
  CHECK(!ac__token_is_recalled(&extra[2], now_ns));
  CHECK_INT(ac__ledger_held(), SLOTS);
}

TEST("a claim in vain leaves a note for spinners") {
  use_ledger(1);
  put_off_looks();
  ac__token a = {0}, b = {0};
  uint64_t now_ns = ac__clock_ns();
  CHECK(!ac__ledger_is_wanted(now_ns));
  CHECK(ac__token_claim(&a, dead_word(0)));
  CHECK(!ac__ledger_is_wanted(now_ns));
  CHECK(!ac__token_claim(&b, dead_word(1)));
  now_ns = ac__clock_ns();
  CHECK(ac__ledger_is_wanted(now_ns));
  CHECK(!ac__ledger_is_wanted(now_ns + 2 * AC__LOOK_NS));
}

/* ---- The dead and the sleeping ------------------------------------------- */

TEST("the entries of the dead are free after a look") {
  use_ledger(SLOTS);
  ac__token token[SLOTS + 2] = {{0}}, mine[SLOTS] = {{0}};
  for (int i = 0; i < SLOTS + 2; i++)
    ac__token_enter(&token[i], dead_word(i));
  for (int i = 0; i < SLOTS; i++)
    CHECK(claim_at_last(&mine[i], ac__ledger_word()));
  CHECK_INT(entries_used(), SLOTS);
  CHECK_INT(ac__debts_awake(&family), 0);
  ac__token_release(&token[0]); /* not its own any more */
  CHECK_INT(entries_used(), SLOTS);
}

TEST("a debt left above the mark is found by a look") {
  use_ledger(1);
  atomic_store(&memory.entry[0].word, dead_word(0));
  atomic_store(&memory.entry[1].word, dead_word(1));
  CHECK_INT(ac__debts_mark(&family), 0);
  ac__token token = {0};
  CHECK(claim_at_last(&token, ac__ledger_word()));
  CHECK_INT(entries_used(), 1);
}

/* A thread that holds a slot and sleeps, then runs, then ends. */
typedef struct holder {
  _Atomic uint64_t word; /* set once it holds its token */
  atomic_int order;      /* 0 = sleep, 1 = run, 2 = end */
  pthread_mutex_t lock;
  pthread_cond_t cond;
  ac__token token;
  bool is_at_slot; /* after renewing at the end */
} holder;

static void *hold(void *arg) {
  holder *h = arg;
  uint64_t word = ac__ledger_word();
  ac__token_enter(&h->token, word);
  atomic_store(&h->word, word);
  pthread_mutex_lock(&h->lock);
  while (atomic_load(&h->order) == 0)
    pthread_cond_wait(&h->cond, &h->lock);
  pthread_mutex_unlock(&h->lock);
  while (atomic_load(&h->order) == 1)
    ;
  ac__token_renew(&h->token);
  h->is_at_slot = !h->token.is_debt && h->token.slot != 0;
  ac__token_release(&h->token);
  return NULL;
}

static void holder_start(holder *h, pthread_t *ret_thread, int order) {
  *h = (holder){.lock = PTHREAD_MUTEX_INITIALIZER,
                .cond = PTHREAD_COND_INITIALIZER,
                .order = order};
  CHECK(pthread_create(ret_thread, NULL, hold, h) == 0);
  while (atomic_load(&h->word) == 0)
    sched_yield();
}

static void holder_order(holder *h, int order) {
  pthread_mutex_lock(&h->lock);
  atomic_store(&h->order, order);
  pthread_cond_signal(&h->cond);
  pthread_mutex_unlock(&h->lock);
}

TEST("a sleeper lends its slot and is counted again when it runs") {
  use_ledger(1);
  holder h;
  pthread_t thread;
  holder_start(&h, &thread, 0);
  ac__token token = {0};
  uint64_t began_ns = ac__clock_ns();
  CHECK(claim_at_last(&token, ac__ledger_word()));
  CHECK(ac__clock_ns() - began_ns >= AC__ASLEEP_NS - 2000000);
  CHECK(token.lender == h.word);
  CHECK_INT(token.slot, 1);
  CHECK(word_at(2) == (h.word | AC__WORD_ASLEEP));
  CHECK_INT(ac__ledger_held(), 1);
  CHECK(!ac__token_is_recalled(&token, ac__clock_ns()));
  holder_order(&h, 1);
  CHECK(is_recalled_at_last(&token));
  CHECK(word_at(2) == h.word);
  CHECK_INT(ac__ledger_held(), 2);
  ac__token_release(&token);
  holder_order(&h, 2);
  pthread_join(thread, NULL);
  CHECK(h.is_at_slot);
  CHECK_INT(entries_used(), 0);
}

TEST("a lender that releases leaves nothing behind") {
  use_ledger(1);
  holder h;
  pthread_t thread;
  holder_start(&h, &thread, 0);
  ac__token token = {0};
  CHECK(claim_at_last(&token, ac__ledger_word()));
  CHECK_INT(entries_used(), 2);
  ac__token lent = h.token;
  ac__token_release(&lent); /* as its team would, on its behalf */
  CHECK_INT(entries_used(), 1);
  CHECK(word_at(1) == ac__ledger_word());
  ac__token_release(&token);
  holder_order(&h, 2);
  pthread_join(thread, NULL);
  CHECK_INT(entries_used(), 0);
}

TEST("a debtor that sleeps does not keep a core idle") {
  use_ledger(2);
  holder h[3];
  pthread_t thread[3];
  ac__token token[2] = {{0}};
  for (int i = 0; i < 3; i++)
    holder_start(&h[i], &thread[i], 0);
  CHECK(h[2].token.is_debt);
  CHECK(claim_at_last(&token[0], ac__ledger_word()));
  CHECK(claim_at_last(&token[1], ac__ledger_word()));
  CHECK_INT(ac__debts_awake(&family), 0);
  CHECK_INT(entries_used(), 5);
  for (int i = 0; i < 2; i++)
    ac__token_release(&token[i]);
  for (int i = 0; i < 3; i++) {
    holder_order(&h[i], 2);
    pthread_join(thread[i], NULL);
  }
  CHECK_INT(entries_used(), 0);
}

TEST("a thread that runs never lends") {
  use_ledger(1);
  holder h;
  pthread_t thread;
  holder_start(&h, &thread, 1);
  ac__token token = {0};
  uint64_t began_ns = ac__clock_ns();
  while (ac__clock_ns() - began_ns < 4 * AC__ASLEEP_NS)
    if (ac__token_claim(&token, ac__ledger_word()))
      break;
  CHECK_INT(token.slot, 0);
  atomic_store(&h.order, 2);
  pthread_join(thread, NULL);
  CHECK(claim_at_last(&token, ac__ledger_word()));
  ac__token_release(&token);
}

/* ---- Many threads -------------------------------------------------------- */

static atomic_int running, most_running, claims_made;

static void *claim_often(void *arg) {
  (void)arg;
  ac__token token = {0};
  uint64_t word = ac__ledger_word();
  for (int i = 0; i < ROUNDS; i++) {
    if (!ac__token_claim(&token, word))
      continue;
    int now = atomic_fetch_add(&running, 1) + 1;
    int most = atomic_load(&most_running);
    while (now > most &&
           !atomic_compare_exchange_weak(&most_running, &most, now))
      ;
    atomic_fetch_add(&claims_made, 1);
    atomic_fetch_sub(&running, 1);
    ac__token_release(&token);
  }
  return NULL;
}

TEST("claims of many threads at once never give out more than the slots") {
  use_ledger(3);
  pthread_t thread[THREADS];
  for (int i = 0; i < THREADS; i++)
    CHECK(pthread_create(&thread[i], NULL, claim_often, NULL) == 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(thread[i], NULL);
  CHECK(atomic_load(&most_running) <= 3);
  CHECK(atomic_load(&claims_made) > 0);
  CHECK_INT(entries_used(), 0);
}

static void *enter_often(void *arg) {
  (void)arg;
  ac__token token = {0};
  uint64_t word = ac__ledger_word();
  for (int i = 0; i < ROUNDS / 10; i++) {
    ac__token_enter(&token, word);
    for (int k = 0; k < 3; k++)
      ac__token_renew(&token);
    ac__token_release(&token);
  }
  return NULL;
}

TEST("threads that enter, renew and leave at once leave an empty ledger") {
  use_ledger(2);
  pthread_t thread[THREADS];
  for (int i = 0; i < THREADS; i++)
    CHECK(pthread_create(&thread[i], NULL, i % 2 ? enter_often : claim_often,
                         NULL) == 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(thread[i], NULL);
  CHECK_INT(entries_used(), 0);
  CHECK_INT(ac__debts_awake(&family), 0);
  CHECK_INT(ac__debts_mark(&family), 0);
}

/* ---- Memory that others wrote -------------------------------------------- */

TEST("sizes and times written by a mad process are bounded") {
  use_ledger(2);
  atomic_store(&memory.debts, UINT64_MAX);
  atomic_store(&memory.wanted_ns, UINT64_MAX);
  atomic_store(&memory.look_due_ns, UINT64_MAX / 2);
  memory.slots = UINT32_MAX;
  CHECK_INT(ac__debts_mark(&family), AC__LEDGER_ENTRIES - 2);
  ac__token token[2] = {{0}}, mine = {0};
  for (int i = 0; i < 2; i++)
    ac__token_enter(&token[i], dead_word(i));
  CHECK(claim_at_last(&mine, ac__ledger_word()));
  CHECK_INT(ac__ledger_slots(), 2);
  ac__token_release(&mine);
}

TEST("memory that is no ledger of this version is refused") {
  use_ledger(2);
  ac__ledger *l = &memory;
  CHECK(ac__ledger_fault(l, 7) == NULL);
  CHECK(ac__ledger_fault(l, 8) != NULL);
  l->magic ^= 1;
  CHECK(ac__ledger_fault(l, 7) != NULL);
  ac__ledger_format(l, 2, 7);
  l->version++;
  CHECK(ac__ledger_fault(l, 7) != NULL);
  ac__ledger_format(l, 0, 7);
  CHECK(ac__ledger_fault(l, 7) != NULL);
  ac__ledger_format(l, AC__CORES_MAX + 1, 7);
  CHECK(ac__ledger_fault(l, 7) != NULL);
  ac__ledger_format(l, -1, 7);
  CHECK(ac__ledger_fault(l, 7) != NULL);
  ac__ledger_format(l, AC__CORES_MAX, 7);
  CHECK(ac__ledger_fault(l, 7) == NULL);
  l->entries = AC__LEDGER_ENTRIES + 1;
  CHECK(ac__ledger_fault(l, 7) != NULL);
}

/* Join anew by what ALLCORES_LEDGER says. Earlier ledgers stay as they are. */
static const ac__family *join_anew(const char *text) {
  __attribute__((used)) static const ac__family *earlier[64];
  static int count;
  earlier[count++] = ac__family_get();
  if (text != NULL)
    setenv("ALLCORES_LEDGER", text, 1);
  else
    unsetenv("ALLCORES_LEDGER");
  atomic_store(&ac__family_joined, NULL);
  return ac__family_get();
}

TEST("a process makes a ledger of the machine's cores when none is named") {
  const ac__family *made = join_anew(NULL);
  CHECK_INT(made->slots, ac__budget_granted());
  CHECK(ac__ledger_is_shared());
  CHECK(ac__ledger_fault(made->ledger, made->ledger->id) == NULL);
  CHECK(ac_last_error()->status == AC_OK);
}

TEST("what is exported is joined, and anything else makes a new ledger") {
  char text[64], small[8];
  const ac__family *first = join_anew(NULL);
  CHECK(ac_ledger_export(NULL, 64) == AC_E_INVAL);
  CHECK(ac_ledger_export(small, sizeof small) == AC_E_INVAL);
  CHECK(strlen(ac_last_error()->detail) > 0);
  CHECK(ac_ledger_export(text, sizeof text) == AC_OK);
  const ac__family *joined = join_anew(text);
  CHECK(joined->ledger != first->ledger);
  CHECK(joined->ledger->id == first->ledger->id);

  char other[80];
  int dot[2];
  CHECK(pipe(dot) == 0);
  unsigned long long id = (unsigned long long)first->ledger->id;
  const char *pattern[] = {"",
                           "%d",
                           "%d:%d",
                           "%d:%d:",
                           "%d:%d:%llxg",
                           "-%d:%d:%llx",
                           "%d:-%d:%llx",
                           " :%d%d:%llx",
                           "nonsense"};
  for (size_t i = 0; i < sizeof pattern / sizeof pattern[0]; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(other, sizeof other, pattern[i], (int)getpid(), first->fd, id);
#pragma GCC diagnostic pop
    CHECK(join_anew(other)->ledger->id != first->ledger->id);
  }
  snprintf(other, sizeof other, "%d:%d:%llx", (int)getpid(), first->fd, id + 1);
  CHECK(join_anew(other)->ledger->id != first->ledger->id);
  snprintf(other, sizeof other, "%d:%d:%llx", (int)getpid(), dot[0], id);
  CHECK(join_anew(other)->ledger->id != first->ledger->id);
  snprintf(other, sizeof other, "%d:%d:%llx", 0x3fffff, 3, id);
  CHECK(join_anew(other)->ledger->id != first->ledger->id);
  close(dot[0]);
  close(dot[1]);
}

TEST("a garbled header is not joined") {
  char text[64];
  for (int i = 0; i < 4; i++) {
    ac__ledger *ledger = join_anew(NULL)->ledger;
    CHECK(ac_ledger_export(text, sizeof text) == AC_OK);
    uint64_t id = ledger->id;
    if (i == 1)
      ledger->magic = 0;
    if (i == 2)
      ledger->slots = 1000000;
    if (i == 3)
      ledger->version = 0;
    bool is_joined = join_anew(text)->ledger->id == id;
    CHECK(is_joined == (i == 0));
  }
}

TEST("where memory cannot be shared the ledger is private and works") {
  struct rlimit limit, none;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  (void)join_anew(NULL);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(!ac__ledger_is_shared());
  ac__token token = {0};
  CHECK(ac__token_claim(&token, ac__ledger_word()));
  CHECK_INT(ac__ledger_held(), 1);
  ac__token_release(&token);
  CHECK_INT(ac__ledger_held(), 0);
  char text[64] = "x";
  CHECK(ac_ledger_export(text, sizeof text) == AC_E_OS);
  CHECK(strcmp(text, "x") == 0);
}

CHECK_MAIN
