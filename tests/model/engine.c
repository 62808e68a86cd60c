/* engine.c: an explicit-state model checker that runs compiled C.
 *
 * Each thread of the model is a coroutine on a small stack of its own. It runs
 * until its next step, that is the next atomic operation that others can see or
 * notice, and leaves a request; the scheduler picks one of the steps that are
 * possible, carries it out and lets that thread run on. A state is all tracked
 * memory, the threads' requests and store buffers, and their live stacks with
 * the saved registers on them; the same state is explored once, so that loops
 * which wait come to an end, and everything is explored, depth first.
 *
 * A store goes into its thread's buffer, from where it reaches memory at any
 * later time, in an order that the memory model allows; the thread's own loads
 * see it at once. So store→load reordering shows, and, in MC_WEAK,
 * store→store reordering where no release forbids it.
 *
 * Found are: what the scenario says is wrong when nothing can go on, what it
 * calls mc_violation() for, and groups of states from which no path leads out
 * while threads run on in circles (Tarjan's strongly connected components, SIAM
 * J. Comput. 1972, computed as we go): a wait that can never end.
 *
 * States are told apart by a 64-bit hash, the exclusive or of a hash of each
 * word with its place, so a step costs what it changes. Going back undoes the
 * words that a step changed.
 *
 * Knows nothing of: what is checked.
 */
#include "engine.h"

#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  THREADS_MAX = 4,
  BUFFER_MAX = 6, /* stores in flight; a thread waits before one more */
  STACK_WORDS = 640,
  WORDS_MAX = 2048, /* tracked */
  RANGES_MAX = 64,
  NAMES_MAX = 128
};

static void die(const char *why) {
  fprintf(stderr, "model: %s\n", why);
  exit(2);
}

/* ---- Coroutines ---------------------------------------------------------- */

/* Push the registers that a call preserves, store the stack pointer, take up
 * another stack and pop its registers. */
void mc_switch(uint64_t *save_sp, uint64_t load_sp);
#if defined(__x86_64__)
enum { SAVED_WORDS = 6, ENTRY_WORD = 6, FRAME_WORDS = 8 };
__asm__(".text\n.globl mc_switch\n.type mc_switch,@function\nmc_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size mc_switch,.-mc_switch\n");
#elif defined(__aarch64__)
enum { ENTRY_WORD = 11, FRAME_WORDS = 20 };
__asm__(".text\n.globl mc_switch\n.type mc_switch,%function\nmc_switch:\n"
        "sub sp,sp,#160\n"
        "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\n"
        "stp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
        "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\n"
        "stp d14,d15,[sp,#144]\n"
        "mov x2,sp\nstr x2,[x0]\nmov sp,x1\n"
        "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\n"
        "ldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
        "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\n"
        "ldp d14,d15,[sp,#144]\n"
        "add sp,sp,#160\nret\n.size mc_switch,.-mc_switch\n");
#else
#error "engine.c switches stacks on x86-64 and on aarch64 only"
#endif

/* ---- Threads ------------------------------------------------------------- */

/* A request, and what has become of it. */
enum kind {
  IDLE, /* not started */
  ENDED,
  ASLEEP, /* in mc_sleep() */
  WOKEN,
  LOAD,
  STORE, /* waits for room in the buffer */
  MODIFY,
  SWAP,
  FENCE,
  SLEEP,
  WAKE,
  HEAVY,
  HEAVY_WAIT, /* for others' stores to be visible */
  CHOOSE,
  START,
  DRAIN /* in traces only */
};

/* All words are 64 bits: no padding, so that states compare. */
typedef struct request {
  uint64_t kind, at, size, a, b, order;
  uint64_t function, line;
} request;

typedef struct store {
  uint64_t at, size, value, is_release;
  uint64_t awaited; /* bit i: thread i's heavy barrier waits for it */
} store;

typedef struct thread {
  uint64_t sp, result;
  request request;
  uint64_t stored; /* entries in the buffer */
  uint64_t old;    /* the first of them: made before the thread's last step */
  store buffer[BUFFER_MAX];
} thread;

static thread threads[THREADS_MAX];
static int thread_count;
static const char *thread_names[THREADS_MAX];
static void (*thread_run[THREADS_MAX])(void *);
static void *thread_arg[THREADS_MAX];
static alignas(64) uint64_t stacks[THREADS_MAX][STACK_WORDS];
static thread *running;
static uint64_t scheduler_sp;
static mc_memory memory_model;
static const char *violation;

static void thread_main(void) {
  thread_run[running - threads](thread_arg[running - threads]);
  running->request = (request){.kind = ENDED};
  mc_switch(&running->sp, scheduler_sp);
  die("a thread went on after its end");
}

int mc_thread(const char *name, void (*run)(void *), void *arg,
              bool is_started) {
  int number = thread_count++;
  if (number >= THREADS_MAX)
    die("too many threads");
  thread_names[number] = name;
  thread_run[number] = run;
  thread_arg[number] = arg;
  uint64_t *frame = &stacks[number][STACK_WORDS - FRAME_WORDS];
  frame[ENTRY_WORD] = (uint64_t)(uintptr_t)thread_main;
  threads[number].sp = (uint64_t)(uintptr_t)frame;
  threads[number].request.kind = is_started ? WOKEN : IDLE;
  return number;
}

bool mc_has_ended(int thread) { return threads[thread].request.kind == ENDED; }

/* ---- Memory -------------------------------------------------------------- */

typedef struct range {
  const char *name;
  uintptr_t begin, end;
  int owner; /* thread; -1 = everybody's; CONSTANT */
} range;

enum { SHARED = -1, CONSTANT = -2 };

static range ranges[RANGES_MAX]; /* the first that fits counts */
static int range_count;
static uint64_t *words[WORDS_MAX];
static uint64_t shadow[WORDS_MAX]; /* the state, as last noted */
static uint64_t shadow_stacks[THREADS_MAX][STACK_WORDS];
static int word_count;
static struct {
  const char *name;
  uintptr_t at;
} names[NAMES_MAX];
static int name_count;

static void add_range(const char *name, const void *at, size_t size,
                      int owner) {
  if (range_count >= RANGES_MAX)
    die("too many ranges");
  uintptr_t begin = (uintptr_t)at;
  ranges[range_count++] = (range){name, begin, begin + size, owner};
}

void mc_track(const char *name, void *at, size_t size_bytes) {
  if ((uintptr_t)at % 8 != 0 || size_bytes % 8 != 0)
    die("tracked memory is not whole words");
  add_range(name, at, size_bytes, SHARED);
  for (size_t i = 0; i < size_bytes / 8; i++) {
    if (word_count >= WORDS_MAX)
      die("too many words");
    words[word_count++] = (uint64_t *)at + i;
  }
}
void mc_constant(const void *at, size_t size_bytes) {
  add_range("constant", at, size_bytes, CONSTANT);
}
void mc_owned(const char *name, void *at, size_t size_bytes, int owner) {
  add_range(name, at, size_bytes, owner);
}
void mc_name(const char *name, const void *at) {
  if (name_count >= NAMES_MAX)
    die("too many names");
  names[name_count].name = name;
  names[name_count++].at = (uintptr_t)at;
}

static const range *find_range(uintptr_t at) {
  static const range stack = {"stack", 0, 0, SHARED};
  if (at >= (uintptr_t)stacks && at < (uintptr_t)(stacks + THREADS_MAX))
    return &stack;
  for (int i = 0; i < range_count; i++)
    if (at >= ranges[i].begin && at < ranges[i].end)
      return &ranges[i];
  die("an atomic access to memory that is not tracked");
  return NULL;
}

static uint64_t read_memory(uint64_t at, uint64_t size) {
  uint64_t value = 0;
  memcpy(&value, (const void *)(uintptr_t)at, size);
  return value;
}
static void write_memory(uint64_t at, uint64_t size, uint64_t value) {
  memcpy((void *)(uintptr_t)at, &value, size);
}

/* The thread's own newest store there, else memory. */
static uint64_t read_as(const thread *t, uint64_t at, uint64_t size) {
  for (uint64_t i = t->stored; i-- > 0;)
    if (t->buffer[i].at == at)
      return t->buffer[i].value;
  return read_memory(at, size);
}

static bool may_drain(const thread *t, uint64_t i) {
  if (i == 0)
    return true;
  if (memory_model == MC_TSO || t->buffer[i].is_release)
    return false;
  for (uint64_t k = 0; k < i; k++)
    if (t->buffer[k].at == t->buffer[i].at)
      return false;
  return true;
}

static void drain(thread *t, uint64_t i) {
  store *s = &t->buffer[i];
  write_memory(s->at, s->size, s->value);
  t->stored--;
  memmove(s, s + 1, (t->stored - i) * sizeof *s);
  t->buffer[t->stored] = (store){0};
  t->old = i < t->old ? t->old - 1 : i;
}

/* A heavy barrier makes visible what other threads had stored when it ran
 * there. Stores go into the buffer at once after the thread's last step, but
 * may as well come later, after the barrier: only those older than that are
 * sure. */
static void begin_barrier(int by) {
  for (int i = 0; i < thread_count; i++)
    for (uint64_t k = 0; k < threads[i].old; k++)
      threads[i].buffer[k].awaited |= UINT64_C(1) << by;
}
static bool is_barrier_over(int by) {
  for (int i = 0; i < thread_count; i++)
    for (uint64_t k = 0; k < threads[i].stored; k++)
      if (threads[i].buffer[k].awaited >> by & 1)
        return false;
  return true;
}

static bool is_release(uint64_t order) {
  return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL ||
         order == __ATOMIC_SEQ_CST;
}

/* ---- Requests, made by threads ------------------------------------------- */

static uint64_t ask(request r, mc_site site) {
  r.function = (uint64_t)(uintptr_t)site.function;
  r.line = (uint64_t)site.line;
  running->request = r;
  mc_switch(&running->sp, scheduler_sp);
  return running->result;
}

uint64_t mc_load(const volatile void *at, size_t size, mc_site site) {
  uintptr_t where = (uintptr_t)at;
  const range *range = find_range(where);
  if (range->owner == CONSTANT || range->owner == running - threads)
    return read_as(running, where, size);
  return ask((request){.kind = LOAD, .at = where, .size = size}, site);
}

void mc_store(volatile void *at, size_t size, uint64_t value, int order,
              mc_site site) {
  uintptr_t where = (uintptr_t)at;
  int owner = find_range(where)->owner;
  if (owner != SHARED && owner != running - threads)
    die("a store to memory said to be constant or another's");
  if (size < 8)
    value &= (UINT64_C(1) << (size * 8)) - 1;
  if (running->stored == BUFFER_MAX)
    (void)ask((request){.kind = STORE, .at = where}, site);
  running->buffer[running->stored++] =
      (store){where, size, value, is_release((uint64_t)order), 0};
}

uint64_t mc_modify(volatile void *at, size_t size, int what, uint64_t value,
                   int order, mc_site site) {
  return ask((request){.kind = MODIFY,
                       .at = (uintptr_t)at,
                       .size = size,
                       .a = (uint64_t)what,
                       .b = value,
                       .order = (uint64_t)order},
             site);
}

bool mc_swap(volatile void *at, size_t size, void *expected, uint64_t desired,
             int order, mc_site site) {
  uint64_t old = read_memory((uintptr_t)expected, size);
  uint64_t seen = ask((request){.kind = SWAP,
                                .at = (uintptr_t)at,
                                .size = size,
                                .a = old,
                                .b = desired,
                                .order = (uint64_t)order},
                      site);
  if (seen == old)
    return true;
  write_memory((uintptr_t)expected, size, seen);
  return false;
}

void mc_fence(int order, mc_site site) {
  if (order == __ATOMIC_SEQ_CST && running->stored != 0)
    (void)ask((request){.kind = FENCE}, site);
}
void mc_sleep(const volatile void *word, uint32_t expected, bool has_limit,
              mc_site site) {
  (void)ask((request){.kind = SLEEP,
                      .at = (uintptr_t)word,
                      .size = 4,
                      .a = expected,
                      .b = has_limit},
            site);
}
void mc_wake(const volatile void *word, mc_site site) {
  (void)ask((request){.kind = WAKE, .at = (uintptr_t)word}, site);
}
void mc_heavy(mc_site site) { (void)ask((request){.kind = HEAVY}, site); }
uint32_t mc_choose(uint32_t n, mc_site site) {
  return (uint32_t)ask((request){.kind = CHOOSE, .a = n}, site);
}
void mc_start(int number, mc_site site) {
  (void)ask((request){.kind = START, .a = (uint64_t)number}, site);
}
void mc_violation(const char *trouble) { violation = trouble; }

/* ---- Steps, taken by the scheduler --------------------------------------- */

/* Stores that must reach memory before the request can be carried out. */
static bool is_held_up(const thread *t) {
  const request *r = &t->request;
  if (memory_model == MC_TSO || is_release(r->order) ||
      (r->kind != MODIFY && r->kind != SWAP))
    return t->stored != 0;
  for (uint64_t i = 0; i < t->stored; i++)
    if (t->buffer[i].at == r->at)
      return true;
  return false;
}

/* In how many ways the thread's request can be carried out now. */
static uint64_t ways(const thread *t) {
  switch ((enum kind)t->request.kind) {
  case IDLE:
  case ENDED:
    return 0;
  case ASLEEP:
    return t->request.b != 0; /* its time-out */
  case STORE:
    return t->stored < BUFFER_MAX;
  case HEAVY_WAIT:
    return is_barrier_over((int)(t - threads));
  case CHOOSE:
    return t->request.a;
  case LOAD:
  case WOKEN:
  case START:
    return 1;
  default:
    return !is_held_up(t);
  }
}

typedef struct step {
  uint64_t by, drains, way; /* drains: 1 + index in the buffer; 0 = request */
} step;

/* The k-th step that is possible; false if there are not so many. */
static bool find_step(uint64_t k, step *ret) {
  for (int i = 0; i < thread_count; i++) {
    const thread *t = &threads[i];
    uint64_t n = ways(t);
    if (k < n) {
      *ret = (step){(uint64_t)i, 0, k};
      return true;
    }
    k -= n;
    for (uint64_t s = 0; s < t->stored; s++)
      if (may_drain(t, s) && k-- == 0) {
        *ret = (step){(uint64_t)i, s + 1, 0};
        return true;
      }
  }
  return false;
}

static uint64_t modified(uint64_t what, uint64_t old, uint64_t value) {
  switch (what) {
  case MC_ADD:
    return old + value;
  case MC_SUB:
    return old - value;
  case MC_OR:
    return old | value;
  case MC_AND:
    return old & value;
  default:
    return value;
  }
}

static void wake_sleeper(uint64_t at) {
  for (int i = 0; i < thread_count; i++)
    if (threads[i].request.kind == ASLEEP && threads[i].request.at == at) {
      threads[i].request = (request){.kind = WOKEN};
      return;
    }
}

/* Carry out a request; false if the thread does not run on yet. */
static bool carry_out(thread *t, uint64_t way) {
  request *r = &t->request;
  switch ((enum kind)r->kind) {
  case LOAD:
    t->result = read_as(t, r->at, r->size);
    break;
  case MODIFY:
    t->result = read_memory(r->at, r->size);
    write_memory(r->at, r->size, modified(r->a, t->result, r->b));
    break;
  case SWAP:
    t->result = read_memory(r->at, r->size);
    if (t->result == r->a)
      write_memory(r->at, r->size, r->b);
    break;
  case SLEEP:
    if (read_memory(r->at, r->size) != r->a)
      break;
    r->kind = ASLEEP;
    return false;
  case WAKE:
    wake_sleeper(r->at);
    break;
  case HEAVY:
    r->kind = HEAVY_WAIT;
    begin_barrier((int)(t - threads));
    return false;
  case CHOOSE:
    t->result = way;
    break;
  case START:
    threads[r->a].request.kind = WOKEN;
    break;
  default:
    break;
  }
  return true;
}

static void clear_below(int number) {
  thread *t = &threads[number];
  uint64_t *sp = (uint64_t *)(uintptr_t)t->sp;
  if (stacks[number][0] != 0 || sp < &stacks[number][8])
    die("a thread's stack is too small");
  memset(stacks[number], 0, (size_t)(sp - stacks[number]) * 8);
}

static void take_step(const step *s) {
  thread *t = &threads[s->by];
  if (s->drains != 0) {
    drain(t, s->drains - 1);
    return;
  }
  if (!carry_out(t, s->way))
    return;
  t->request = (request){0};
  t->old = t->stored;
  running = t;
  mc_runs((int)s->by);
  mc_switch(&scheduler_sp, t->sp);
  t->result = 0;
  clear_below((int)s->by);
}

/* ---- States -------------------------------------------------------------- */

typedef struct change {
  uint64_t *live, *noted;
  uint64_t old;
} change;

static change *changes;
static uint64_t change_count, change_room;
static uint64_t hash;

static void *grow(void *old, uint64_t *room, uint64_t need, size_t size) {
  if (need <= *room)
    return old;
  *room = *room == 0 ? 1 << 12 : *room * 2;
  void *more = realloc(old, *room * size);
  if (more == NULL)
    die("out of memory");
  return more;
}

static uint64_t mix(uint64_t place, uint64_t value) {
  uint64_t x = value + place * UINT64_C(0x9E3779B97F4A7C15);
  x = (x ^ (x >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
  x = (x ^ (x >> 29)) * UINT64_C(0xA0761D6478BD642F);
  return x ^ (x >> 32);
}

/* `place` is never zero, so that a zero word at place p hashes by p alone. */
static void note(uint64_t *live, uint64_t *noted, uint64_t place) {
  if (*live == *noted)
    return;
  changes = grow(changes, &change_room, change_count + 1, sizeof *changes);
  changes[change_count++] = (change){live, noted, *noted};
  hash ^= mix(place, *noted) ^ mix(place, *live);
  *noted = *live;
}

/* Note what has changed, `by` being the thread that ran; others' stacks too,
 * for joins lie there. */
static void note_changes(int by, uint64_t old_sp) {
  for (int i = 0; i < word_count; i++)
    note(words[i], &shadow[i], 1 + (uint64_t)i);
  for (int t = 0; t < thread_count; t++) {
    uint64_t sp = threads[t].sp;
    if (t == by && old_sp < sp)
      sp = old_sp;
    uint64_t i = (sp - (uint64_t)(uintptr_t)stacks[t]) / 8;
    for (; i < STACK_WORDS; i++)
      note(&stacks[t][i], &shadow_stacks[t][i],
           1 + WORDS_MAX + (uint64_t)t * STACK_WORDS + i);
  }
}

static void undo_to(uint64_t count) {
  while (change_count > count) {
    change *c = &changes[--change_count];
    *c->live = *c->noted = c->old;
  }
}

/* The states seen: hash → number, in the order of finding; SETTLED once all
 * that can come after is explored. */
enum { SETTLED = UINT32_MAX };
static uint64_t *seen_hash;
static uint32_t *seen_number;
static uint64_t seen_room, seen_count;

static uint32_t *find_state(uint64_t key) {
  if (key == 0)
    key = 1;
  uint64_t i = key & (seen_room - 1);
  while (seen_hash[i] != 0 && seen_hash[i] != key)
    i = (i + 1) & (seen_room - 1);
  seen_hash[i] = key;
  return &seen_number[i];
}

static void make_room(void) {
  if (seen_count < seen_room / 4 * 3)
    return;
  uint64_t *old_hash = seen_hash;
  uint32_t *old_number = seen_number;
  uint64_t old_room = seen_room;
  seen_room = old_room == 0 ? 1 << 16 : old_room * 2;
  seen_hash = calloc(seen_room, sizeof *seen_hash);
  seen_number = calloc(seen_room, sizeof *seen_number);
  if (seen_hash == NULL || seen_number == NULL)
    die("out of memory");
  for (uint64_t i = 0; i < old_room; i++)
    if (old_hash[i] != 0)
      *find_state(old_hash[i]) = old_number[i];
  free(old_hash);
  free(old_number);
}

/* ---- The search ---------------------------------------------------------- */

typedef struct level {
  uint64_t hash;
  uint64_t change_count; /* before the step that led here */
  uint32_t number, low;  /* Tarjan's */
  uint32_t next;         /* the step to try next */
  uint32_t is_open;      /* a path leads out of its component */
} level;

static level *path;
static uint64_t path_count, path_room;
static uint64_t *component; /* hashes of states whose component is not closed */
static uint64_t component_count, component_room;

static void descend(uint64_t changes_before) {
  seen_count++;
  path = grow(path, &path_room, path_count + 1, sizeof *path);
  path[path_count++] = (level){.hash = hash,
                               .change_count = changes_before,
                               .number = (uint32_t)seen_count,
                               .low = (uint32_t)seen_count};
  *find_state(hash) = (uint32_t)seen_count;
  component =
      grow(component, &component_room, component_count + 1, sizeof *component);
  component[component_count++] = hash;
}

/* All steps from the last level are tried. */
static void settle(const char *(*end)(void)) {
  level *last = &path[path_count - 1];
  bool is_root = last->low == last->number;
  if (last->next == 0)
    violation = end();
  else if (is_root && !last->is_open)
    violation = "threads wait in circles for ever";
  if (violation != NULL)
    return;
  uint64_t key;
  if (is_root)
    do {
      key = component[--component_count];
      *find_state(key) = SETTLED;
    } while (key != last->hash);
  undo_to(last->change_count);
  level *above = last - 1;
  if (--path_count == 0)
    return;
  hash = above->hash;
  above->is_open |= is_root || last->is_open;
  if (!is_root && last->low < above->low)
    above->low = last->low;
}

/* Try one more step from the last level; false if there is none. */
static bool advance(void) {
  level *last = &path[path_count - 1];
  step s;
  if (!find_step(last->next, &s))
    return false;
  last->next++;
  uint64_t before = change_count;
  uint64_t sp = threads[s.by].sp;
  take_step(&s);
  note_changes((int)s.by, sp);
  uint32_t number = *find_state(hash);
  if (number == 0) {
    make_room();
    descend(before);
    return true;
  }
  if (violation != NULL)
    return true;
  if (number == SETTLED)
    last->is_open = 1;
  else if (number < last->low)
    last->low = number;
  undo_to(before);
  hash = last->hash;
  return true;
}

mc_result mc_explore(mc_memory memory, uint64_t states_max,
                     const char *(*end)(void)) {
  mc_result result = {0};
  memory_model = memory;
  mc_track("threads", threads, sizeof(thread) * (size_t)thread_count);
  for (int i = 0; i < word_count; i++)
    shadow[i] = *words[i];
  memcpy(shadow_stacks, stacks, sizeof stacks);
  make_room();
  hash = 1;
  descend(0);
  while (path_count > 0 && violation == NULL) {
    result.steps++;
    if (!advance())
      settle(end);
    if (seen_count > states_max)
      die("more states than allowed: the scenario is too large");
  }
  result.states = seen_count;
  result.trouble = violation;
  return result;
}

/* ---- Traces -------------------------------------------------------------- */

static const char *name_of(uint64_t at, uint64_t *ret_offset) {
  *ret_offset = 0;
  if (at == 0)
    return "";
  for (int i = 0; i < name_count; i++)
    if (names[i].at == at)
      return names[i].name;
  const range *range = find_range(at);
  *ret_offset = range->begin == 0 ? 0 : at - range->begin;
  return range->name;
}

static void print_step(const step *s) {
  static const char *const verbs[] = {[ASLEEP] = "times out",
                                      [WOKEN] = "goes on",
                                      [LOAD] = "load",
                                      [STORE] = "store",
                                      [MODIFY] = "modify",
                                      [SWAP] = "swap",
                                      [FENCE] = "fence",
                                      [SLEEP] = "sleep",
                                      [WAKE] = "wake",
                                      [HEAVY] = "barrier",
                                      [HEAVY_WAIT] = "barrier over",
                                      [CHOOSE] = "choose",
                                      [START] = "start",
                                      [DRAIN] = "visible:"};
  const thread *t = &threads[s->by];
  request r = t->request;
  uint64_t before = 0;
  uint64_t offset;
  if (s->drains != 0) {
    const store *d = &t->buffer[s->drains - 1];
    r = (request){.kind = DRAIN, .at = d->at, .size = d->size, .b = d->value};
  }
  const char *name = name_of(r.at, &offset);
  if (r.size != 0)
    before =
        r.kind == LOAD ? read_as(t, r.at, r.size) : read_memory(r.at, r.size);
  uint64_t swaps = r.kind == SWAP && r.a == before;
  take_step(s);
  printf("  %-8s %-12s %s", thread_names[s->by], verbs[r.kind], name);
  if (offset != 0)
    printf("+%u", (unsigned)offset);
  if (r.size != 0)
    printf(" %#llx", (unsigned long long)before);
  if (r.kind == DRAIN || r.kind == MODIFY || swaps)
    printf(" -> %#llx", (unsigned long long)read_memory(r.at, r.size));
  if (r.kind == CHOOSE)
    printf(" %u", (unsigned)s->way);
  if (r.function != 0)
    printf("  (%s:%u)", (const char *)(uintptr_t)r.function, (unsigned)r.line);
  printf("\n");
}

void mc_print_trace(void) {
  /* Go back to the beginning and take the same steps again. */
  uint64_t depth = path_count;
  undo_to(0);
  for (uint64_t i = 0; i < depth; i++) {
    step s;
    if (path[i].next == 0 || !find_step(path[i].next - 1, &s))
      break;
    print_step(&s);
  }
}
