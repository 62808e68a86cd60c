/* Fuzzer: a core ledger that another process has written nonsense into.
 *
 * Joining it is refused or works; a thread that then enters, claims, renews
 * and releases comes back with a token that fits the ledger's sizes.
 *
 * An input: a line of text, for ALLCORES_LEDGER (none if it is empty); a byte
 * of flags; a byte with the number of steps, and that many bytes of steps; the
 * ledger's head as it lies in memory, 192 bytes; then the word and the sample
 * of each entry, 16 bytes. What is missing is zero. Memory and /proc are
 * replaced: no descriptor, process or thread that an input names is touched.
 */
#define _GNU_SOURCE 1
#include "budget/ledger.h"
#include "base/status.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 128, TOKENS = 3, FAKE_FD = 1000 };

enum flags {
  RIGHT_HEAD = 1, /* as a good ledger has it, but for slots and id */
  RIGHT_SLOTS = 2,
  RIGHT_ID = 4,  /* the one that the text names */
  NO_MEMORY = 8, /* a ledger of one's own cannot be had either */
};

static ac__ledger joined, made;
static char text[TEXT_MAX];
static unsigned flags;

/* ---- What the library asks the system ------------------------------------ */

static char *fuzz_getenv(const char *name) {
  return strcmp(name, "ALLCORES_LEDGER") == 0 && *text != '\0' ? text : NULL;
}

static ac_status fuzz_shared_open(int32_t pid, int fd, size_t size_bytes,
                                  int *ret_fd, void **ret_base) {
  FUZZ_CHECK(pid > 0 && fd >= 0 && size_bytes == sizeof joined);
  *ret_fd = FAKE_FD;
  *ret_base = &joined;
  return AC_OK;
}

static ac_status fuzz_shared_create(const char *name, size_t size_bytes,
                                    int *ret_fd, void **ret_base) {
  FUZZ_CHECK(size_bytes == sizeof made);
  if ((flags & NO_MEMORY) != 0)
    return ac__fail(AC_E_OS, name, "", "refused");
  memset((void *)&made, 0, sizeof made);
  *ret_fd = FAKE_FD;
  *ret_base = &made;
  return AC_OK;
}

static void fuzz_shared_close(int fd, void *base, size_t size_bytes) {
  FUZZ_CHECK(fd == FAKE_FD && base != NULL && size_bytes == sizeof joined);
}

#define getenv            fuzz_getenv
#define ac__shared_open   fuzz_shared_open
#define ac__shared_create fuzz_shared_create
#define ac__shared_close  fuzz_shared_close
#include "budget/ledger_join.c"

/* In place of proc_linux.c: threads of all kinds, by their numbers. */
bool ac__thread_stat_read(int32_t tid, ac__thread_stat *ret_stat) {
  static const char states[] = "RSSSDZXR";
  *ret_stat = (ac__thread_stat){.state = states[tid / 8 % 8],
                                .start_time = (uint64_t)tid % 5 + 1,
                                .cpu_ns = (uint64_t)tid};
  return tid > 0 && tid % 8 != 0;
}

int32_t ac__process_id(void) { return 77; }

/* ---- Taking an input apart ----------------------------------------------- */

typedef struct input {
  const uint8_t *at;
  size_t size;
} input;

static void take(input *from, void *to, size_t size) {
  size = size < from->size ? size : from->size;
  if (size > 0)
    memcpy(to, from->at, size);
  from->at += size;
  from->size -= size;
}

static void take_text(input *from) {
  char byte = '\n';
  size_t length = 0;
  do {
    byte = '\n';
    take(from, &byte, 1);
    if (byte != '\n' && length < sizeof text - 1)
      text[length++] = byte;
  } while (byte != '\n');
  text[length] = '\0';
}

/* The memory is another process's: its words are whatever they are. */
static void take_ledger(input *from) {
  memset((void *)&joined, 0, sizeof joined);
  take(from, (void *)&joined, offsetof(ac__ledger, entry));
  for (int i = 0; i < AC__LEDGER_ENTRIES && from->size > 0; i++) {
    uint64_t words[2] = {0, 0};
    take(from, words, sizeof words);
    atomic_store(&joined.entry[i].word, words[0]);
    atomic_store(&joined.entry[i].sample, words[1]);
  }
}

static void put_right(void) {
  int32_t pid;
  int fd;
  uint64_t id = joined.id;
  uint32_t slots = joined.slots;
  if ((flags & RIGHT_ID) != 0)
    (void)text_read(text, &pid, &fd, &id);
  if ((flags & RIGHT_SLOTS) != 0)
    slots = slots % 8 + 1;
  if ((flags & RIGHT_HEAD) != 0)
    ac__ledger_format(&joined, (int)slots, id);
  joined.slots = slots;
  joined.id = id;
}

/* ---- Steps --------------------------------------------------------------- */

static void check_token(const ac__family *family, const ac__token *token) {
  FUZZ_CHECK(token->slot >= 0 && token->slot <= AC__LEDGER_ENTRIES);
  FUZZ_CHECK(token->slot == 0 ||
             (token->is_debt != 0) == (token->slot > family->slots));
}

static void export(void) {
  char exported[64];
  if (ac_ledger_export(exported, sizeof exported) == AC_OK)
    FUZZ_CHECK(strncmp(exported, "77:1000:", 8) == 0);
}

/* Low bits: what is done. High bits: with which token, or entry. */
static void step(const ac__family *family, ac__token *tokens, uint8_t what) {
  int which = what >> 4;
  ac__token *token = &tokens[which % TOKENS];
  uint64_t word = ac__ledger_word() + (uint64_t)(which % TOKENS);
  switch (what % 10) {
  case 0:
    if (token->slot == 0)
      ac__token_enter(token, word);
    break;
  case 1:
    if (token->slot == 0)
      (void)ac__token_claim(token, word);
    break;
  case 2:
    ac__token_renew(token);
    break;
  case 3:
    (void)ac__token_is_recalled(token, ac__clock_ns());
    break;
  case 4:
    ac__token_release(token);
    FUZZ_CHECK(token->slot == 0);
    break;
  case 5:
    (void)ac__ledger_is_wanted(ac__clock_ns());
    break;
  case 6:
    FUZZ_CHECK(ac__ledger_held() >= 0 &&
               ac__ledger_held() <= AC__LEDGER_ENTRIES);
    break;
  case 7: /* another process: a look is due */
    atomic_store(&family->ledger->look_due_ns, 0);
    break;
  case 8: /* another process: nothing remains as it was */
    family->ledger->slots = ~family->ledger->slots;
    atomic_store(&family->ledger->debts, ~UINT64_C(0) >> which);
    atomic_store(&family->ledger->entry[which].word, (uint64_t)what << which);
    break;
  default:
    export();
  }
  check_token(family, token);
}

static void leave(const ac__family *family) {
  atomic_store(&ac__family_joined, NULL);
  if (family->fd >= 0)
    family_drop(family);
}

static void fuzz_one(const uint8_t *data, size_t size) {
  input rest = {data, size};
  ac__token tokens[TOKENS] = {{0}};
  uint8_t head[2] = {0, 0}, steps[256] = {0};
  take_text(&rest);
  take(&rest, head, sizeof head);
  flags = head[0];
  take(&rest, steps, head[1]);
  take_ledger(&rest);
  put_right();
  const ac__family *family = ac__family_get();
  FUZZ_CHECK(family->slots >= 1 && family->slots <= AC__CORES_MAX);
  FUZZ_CHECK(family->ledger != &joined ||
             ac__ledger_fault(&joined, joined.id) == NULL);
  for (int i = 0; i < head[1]; i++)
    step(family, tokens, steps[i]);
  for (int i = 0; i < TOKENS; i++)
    ac__token_release(&tokens[i]);
  leave(family);
}

FUZZ_MAIN("ledger")
