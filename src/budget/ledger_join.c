/* ledger_join.c: how a process comes by its ledger, and what a fork changes.
 *
 * The first use in a process joins the ledger that ALLCORES_LEDGER names
 * ("process:descriptor:id", from ac_ledger_export) or makes a new one. Each
 * process exports its own descriptor, so that a chain of programs holds when
 * its first one ends. Where memory cannot be shared, the ledger is private: it
 * then keeps the threads of this process within the cores, and nothing fails
 * but the export.
 *
 * A forked child has the same memory. It is another process to the ledger: its
 * thread has another number, and the tokens that it copied are its parent's.
 * ac__fork_count tells: a token made under another count is nobody's. A private
 * ledger is emptied in the child, since nobody else will do so.
 *
 * Limits: all processes of a family see each other in /proc. One in another pid
 * namespace, or hidden by hidepid, is taken for dead when somebody looks, and
 * is then not counted.
 *
 * Knows nothing of: entries (ledger.c).
 */
#include "base/status.h"
#include "budget/ledger.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

_Atomic(const ac__family *) ac__family_joined;
_Atomic uint32_t ac__fork_count = 1;

/* ---- Without sharing ----------------------------------------------------- */

static ac__ledger private_ledger;
static ac__family private_family = {.ledger = &private_ledger, .fd = -1};
static pthread_once_t private_once = PTHREAD_ONCE_INIT;

static void private_make(void) {
  private_family.slots = ac__budget_granted();
  ac__ledger_format(&private_ledger, private_family.slots, 1);
}

static const ac__family *private_get(void) {
  (void)pthread_once(&private_once, private_make);
  return &private_family;
}

/* relaxed, throughout: the child of a fork has only this thread. */
static void private_clear(void) {
  int end = private_family.slots + ac__debts_mark(&private_family);
  for (int i = 0; i < end; i++)
    atomic_store_explicit(&private_ledger.entry[i].word, 0,
                          memory_order_relaxed);
  atomic_store_explicit(&private_ledger.debts, 0, memory_order_relaxed);
}

/* ---- Fork ---------------------------------------------------------------- */

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_child(void) {
  /* relaxed, twice: the only thread there is. */
  atomic_fetch_add_explicit(&ac__fork_count, 1, memory_order_relaxed);
  if (atomic_load_explicit(&ac__family_joined, memory_order_relaxed) ==
      &private_family)
    private_clear();
}

static void fork_register(void) {
  /* If memory for this is refused, a child takes its parent's tokens for its
   * own: it may then free an entry that its parent holds. */
  (void)pthread_atfork(NULL, NULL, in_child);
}

void ac__fork_watch(void) { (void)pthread_once(&fork_once, fork_register); }

/* ---- The memory ---------------------------------------------------------- */

void ac__ledger_format(ac__ledger *ledger, int slots, uint64_t id) {
  ledger->version = AC__LEDGER_VERSION;
  ledger->slots = (uint32_t)slots;
  ledger->entries = AC__LEDGER_ENTRIES;
  ledger->id = id;
  ledger->magic = AC__LEDGER_MAGIC;
}

const char *ac__ledger_fault(const ac__ledger *ledger, uint64_t id) {
  if (ledger->magic != AC__LEDGER_MAGIC)
    return "it is no core ledger";
  if (ledger->version != AC__LEDGER_VERSION)
    return "its layout has another version";
  if (ledger->entries != AC__LEDGER_ENTRIES || ledger->slots < 1 ||
      ledger->slots > AC__CORES_MAX)
    return "its sizes are not possible";
  if (ledger->id != id)
    return "it is another ledger";
  return NULL;
}

/* A number for a new ledger: time, process, and where it lies. */
static uint64_t id_make(const void *base) {
  uint64_t id = ac__clock_ns() ^ (uint64_t)ac__process_id() << 40 ^
                (uint64_t)(uintptr_t)base;
  return id != 0 ? id : 1;
}

static bool shared_create(ac__family *ret_family) {
  int fd;
  void *base;
  if (ac__shared_create("allcores-ledger", sizeof(ac__ledger), &fd, &base) !=
      AC_OK)
    return false;
  int slots = ac__budget_granted();
  ac__ledger_format(base, slots, id_make(base));
  *ret_family = (ac__family){.ledger = base, .slots = slots, .fd = fd};
  return true;
}

/* "process:descriptor:id", the id in hexadecimal. */
static bool text_read(const char *text, int32_t *ret_pid, int *ret_fd,
                      uint64_t *ret_id) {
  char *end;
  long pid = strtol(text, &end, 10);
  if (end == text || *end != ':' || pid <= 0 || pid > INT32_MAX)
    return false;
  const char *rest = end + 1;
  long fd = strtol(rest, &end, 10);
  if (end == rest || *end != ':' || fd < 0 || fd > INT32_MAX)
    return false;
  rest = end + 1;
  unsigned long long id = strtoull(rest, &end, 16);
  if (end == rest || *end != '\0')
    return false;
  *ret_pid = (int32_t)pid;
  *ret_fd = (int)fd;
  *ret_id = id;
  return true;
}

static bool shared_join(ac__family *ret_family) {
  const char *text = getenv("ALLCORES_LEDGER");
  int32_t pid;
  int theirs, fd;
  uint64_t id;
  void *base;
  if (text == NULL || !text_read(text, &pid, &theirs, &id))
    return false;
  if (ac__shared_open(pid, theirs, sizeof(ac__ledger), &fd, &base) != AC_OK)
    return false;
  /* A copy, so that what was checked is what is used. */
  ac__family family = {
      .ledger = base, .slots = (int32_t)((ac__ledger *)base)->slots, .fd = fd};
  if (ac__ledger_fault(base, id) != NULL || family.slots < 1 ||
      family.slots > AC__CORES_MAX) {
    ac__shared_close(fd, base, sizeof(ac__ledger));
    return false;
  }
  *ret_family = family;
  return true;
}

/* ---- Joining ------------------------------------------------------------- */

static const ac__family *family_make(void) {
  ac__family *family = malloc(sizeof *family);
  if (family != NULL && (shared_join(family) || shared_create(family)))
    return family;
  free(family);
  return private_get();
}

static void family_drop(const ac__family *family) {
  if (family->fd < 0)
    return; /* the private one is there for good */
  ac__shared_close(family->fd, family->ledger, sizeof(ac__ledger));
  free((void *)(uintptr_t)family);
}

/* Several threads may come here at once: each makes one, the first counts. No
 * lock, so that a fork in the middle leaves the child free to try again. */
const ac__family *ac__family_join(void) {
  ac_error *error = ac__error_take(); /* a refusal here is not the caller's */
  ac__fork_watch();
  const ac__family *first = NULL, *mine = family_make();
  ac__error_drop(ac__error_take());
  ac__error_give(error);
  /* release: pairs with the acquire in ac__family_get(). acquire: likewise. */
  if (atomic_compare_exchange_strong_explicit(&ac__family_joined, &first, mine,
                                              memory_order_acq_rel,
                                              memory_order_acquire))
    return mine;
  if (first != mine)
    family_drop(mine);
  return first;
}

ac_status ac_ledger_export(char *ret_text, size_t size_bytes) {
  static const char operation[] = "ac_ledger_export";
  char text[64];
  const ac__family *family = ac__family_get();
  if (family->fd < 0)
    return ac__fail(AC_E_OS, operation, "programs started now have their own",
                    "memory to share between processes could not be had");
  int length =
      snprintf(text, sizeof text, "%d:%d:%016llx", (int)ac__process_id(),
               (int)family->fd, (unsigned long long)family->ledger->id);
  if (ret_text == NULL || (size_t)length >= size_bytes)
    return ac__fail(AC_E_INVAL, operation, "give a buffer of 64 bytes",
                    "the text has %d bytes and the buffer %zu", length + 1,
                    ret_text != NULL ? size_bytes : 0);
  (void)snprintf(ret_text, size_bytes, "%s", text);
  return AC_OK;
}
