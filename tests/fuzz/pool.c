/* Fuzzer: a pool's memory that a task has written nonsense into.
 *
 * Joining it is refused or works; then each call of the parent and of a worker
 * on it comes back, and touches nothing outside.
 *
 * An input: a byte of flags; a byte with the number of steps, and that many
 * bytes of steps; the memory from its head on. What is missing is zero, up to
 * the size that the flags say.
 */
#include "base/status.h"
#include "fuzz.h"
#include "os/os.h"
#include "procs/slots.h"

#include <stdlib.h>
#include <string.h>

enum flags {
  RIGHT_HEAD = 1, /* magic and version */
  RIGHT_SIZE = 2, /* as large as the counts ask for, if that is not much */
  NO_ARENA = 4
};

enum { CONTROL_FD = 1000, ARENA_FD = 1001, SIZE_MOST = 1 << 18 };

static uint8_t *control;
static size_t control_bytes;
static unsigned flags;

/* ---- What the library asks of shared memory ------------------------------ */

static ac_status fuzz_segment_open(int fd, ac__segment *ret_segment) {
  static uint8_t arena[64];
  *ret_segment = (ac__segment){.fd = fd, .base = arena, .size_bytes = 64};
  if (fd == CONTROL_FD) {
    ret_segment->base = control;
    ret_segment->size_bytes = control_bytes;
  } else if ((flags & NO_ARENA) != 0) {
    *ret_segment = (ac__segment){.fd = -1};
    return ac__fail(AC_E_OS, "fuzzing", "", "refused");
  }
  return AC_OK;
}

static void fuzz_segment_close(ac__segment *segment) { (void)segment; }

static ac_status fuzz_arena_check(const ac__segment *segment) {
  FUZZ_CHECK(segment->fd == ARENA_FD);
  return AC_OK;
}

#define ac__segment_open  fuzz_segment_open
#define ac__segment_close fuzz_segment_close
#define ac__arena_check   fuzz_arena_check
#include "procs/slots.c"

/* ---- Taking an input apart ----------------------------------------------- */

/* Lay the input where the memory is; false for want of memory. */
static bool lay(const uint8_t *data, size_t size) {
  ac__pool_head head = {0};
  memcpy(&head, data, size < sizeof head ? size : sizeof head);
  if ((flags & RIGHT_HEAD) != 0) {
    head.magic = AC__POOL_MAGIC;
    head.version = AC__POOL_VERSION;
  }
  control_bytes = size;
  if ((flags & RIGHT_SIZE) != 0) {
    size_t right =
        layout_of(head.worker_count, head.slot_count, head.queue_count)
            .size_bytes;
    control_bytes = right < SIZE_MOST ? right : SIZE_MOST;
  }
  size = size < control_bytes ? size : control_bytes;
  control = ac__alloc_lines(control_bytes);
  if (control == NULL)
    return false;
  if (size > 0)
    memcpy(control, data, size);
  memcpy(control, &head, size < sizeof head ? size : sizeof head);
  return true;
}

/* ---- Steps --------------------------------------------------------------- */

typedef struct player {
  ac__pool_memory memory;
  ac__slot *claimed;
} player;

static void claim(player *p, uint32_t worker) {
  ac__slot *slot = ac__slot_claim(&p->memory, worker);
  if (slot == NULL)
    return;
  FUZZ_CHECK(slot >= p->memory.slots &&
             slot < p->memory.slots + p->memory.slot_count);
  p->claimed = slot;
}

static void take(player *p) {
  uint32_t left = p->memory.slot_count;
  uint32_t at = ac__done_take(&p->memory);
  while (at != 0 && at <= p->memory.slot_count && left > 0) {
    at = atomic_load(&p->memory.slots[at - 1].next);
    left--;
  }
}

/* Low bits: what is done. High bits: with which slot or worker. */
static void step(player *p, uint8_t what) {
  ac__pool_memory *memory = &p->memory;
  uint32_t number = (what >> 4) % memory->slot_count;
  uint32_t worker = (what >> 4) % memory->worker_count;
  uint32_t doomed;
  switch (what % 12) {
  case 0:
    claim(p, worker);
    break;
  case 1:
    if (p->claimed != NULL)
      (void)ac__slot_finish(memory, p->claimed, worker);
    break;
  case 2:
    (void)ac__slot_queue(memory, number, what);
    break;
  case 3:
    (void)ac__slot_cancel(&memory->slots[number]);
    break;
  case 4:
    (void)ac__slot_doom(&memory->slots[number], &doomed);
    break;
  case 5:
    take(p);
    break;
  case 6:
    ac__workers_wake(memory, number);
    break;
  case 7:
    ac__worker_forget(memory, worker);
    break;
  case 8:
    (void)ac__queue_is_past(memory, what);
    break;
  case 9:
    FUZZ_CHECK(ac__workers_awake(memory, (int)worker) >= 0);
    break;
  case 10: /* a task: nothing remains as it was */
    atomic_store(&memory->head->head, atomic_load(&memory->head->tail) + what);
    memory->head->slot_count = memory->head->queue_count = UINT32_MAX;
    memory->head->worker_count = UINT32_MAX;
    break;
  default:
    ac__worker_pass_on(memory);
  }
}

static void fuzz_one(const uint8_t *data, size_t size) {
  const int fds[2] = {CONTROL_FD, ARENA_FD};
  player p = {.claimed = NULL};
  if (size < 2 || size < 2 + (size_t)data[1])
    return;
  flags = data[0];
  const uint8_t *steps = data + 2;
  uint8_t count = data[1];
  if (!lay(steps + count, size - 2 - count))
    return;
  if (ac__pool_memory_open(fds, &p.memory) == AC_OK) {
    FUZZ_CHECK((flags & NO_ARENA) == 0);
    FUZZ_CHECK((uint8_t *)(p.memory.slots + p.memory.slot_count) <=
               control + control_bytes);
    for (uint8_t i = 0; i < count; i++)
      step(&p, steps[i]);
  }
  ac__free(control);
}

FUZZ_MAIN("pool")
