/* futex_linux.c: sleeping on a word, and barriers on other threads' behalf.
 *
 * The heavy barrier is membarrier(2), PRIVATE_EXPEDITED: every thread of the
 * process that runs passes a full barrier before the call returns, so the other
 * side of a store-load race needs none (asymmetric fences; Dice, Huang and
 * Yang, "Asymmetric Dekker synchronization", 2001). A process registers its
 * intent first. A forked child inherits the registration together with the
 * memory that it is for; should a kernel not do so, the barrier registers
 * again.
 *
 * Where the kernel refuses (before Linux 4.14, seccomp), and where the
 * environment says ALLCORES_NO_MEMBARRIER=1, both sides must fence.
 *
 * Invariant: which of the two it is never changes in a process or its children.
 * Knows nothing of: what the words mean.
 */
#define _GNU_SOURCE 1
#include "os/os.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct timespec) == 2 * sizeof(long),
               "the futex system call takes the C library's timespec");
_Static_assert(sizeof(_Atomic uint32_t) == 4, "a futex is 32 bits");

enum { NS_PER_S = 1000000000 };
enum { MODE_UNKNOWN, MODE_ASYMMETRIC, MODE_SYMMETRIC };

static _Atomic uint32_t barrier_mode; /* MODE_… */

static void wait_on(const _Atomic uint32_t *word, int operation,
                    uint32_t expected, int64_t timeout_ns) {
  struct timespec limit = {.tv_sec = timeout_ns / NS_PER_S,
                           .tv_nsec = timeout_ns % NS_PER_S};
  /* Whether it slept, was woken, interrupted or timed out: callers look. */
  (void)syscall(SYS_futex, word, operation, expected,
                timeout_ns < 0 ? NULL : &limit, NULL, 0);
}

void ac__futex_wait(const _Atomic uint32_t *word, uint32_t expected,
                    int64_t timeout_ns) {
  wait_on(word, FUTEX_WAIT_PRIVATE, expected, timeout_ns);
}

void ac__futex_wake(const _Atomic uint32_t *word, int count) {
  (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void ac__futex_wait_shared(const _Atomic uint32_t *word, uint32_t expected,
                           int64_t timeout_ns) {
  wait_on(word, FUTEX_WAIT, expected, timeout_ns);
}

void ac__futex_wake_shared(const _Atomic uint32_t *word, int count) {
  (void)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

static bool membarrier(int command) {
  return syscall(SYS_membarrier, command, 0, 0) == 0;
}

static bool membarrier_works(void) {
  const char *refused = getenv("ALLCORES_NO_MEMBARRIER");
  if (refused != NULL && strcmp(refused, "1") == 0)
    return false;
  return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) &&
         membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

/* Of threads that decide at once the first to say so wins. */
static uint32_t decide_mode(void) {
  uint32_t seen = MODE_UNKNOWN;
  uint32_t mine = membarrier_works() ? MODE_ASYMMETRIC : MODE_SYMMETRIC;
  /* relaxed: the word is all there is to see. */
  if (atomic_compare_exchange_strong_explicit(&barrier_mode, &seen, mine,
                                              memory_order_relaxed,
                                              memory_order_relaxed))
    return mine;
  return seen;
}

bool ac__barrier_is_asymmetric(void) {
  /* relaxed: as in decide_mode(). */
  uint32_t mode = atomic_load_explicit(&barrier_mode, memory_order_relaxed);
  if (__builtin_expect(mode == MODE_UNKNOWN, 0))
    mode = decide_mode();
  return mode == MODE_ASYMMETRIC;
}

/* Once asymmetric there is no way back, since other threads do without fences.
 * EPERM means that the memory is not registered. Else the call fails only for
 * want of kernel memory, which passes, or because the program forbade it to
 * itself after it had worked; then the slow barrier of the whole machine is
 * tried, and beyond that nothing can be done. */
static void barrier_again(void) {
  enum { TRIES = 1000 };
  for (int i = 0; i < TRIES; i++) {
    if (errno == EPERM)
      (void)membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) ||
        membarrier(MEMBARRIER_CMD_GLOBAL))
      return;
    ac__thread_yield();
  }
}

void ac__barrier_heavy(void) {
  /* seq_cst: orders the caller's own store and load; the system call does it
   * for the other threads. It also is what is left in the symmetric mode, where
   * it pairs with the fence of the other side. */
  atomic_thread_fence(memory_order_seq_cst);
  if (ac__barrier_is_asymmetric() &&
      !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
    barrier_again();
}
