/* loop.c: the engine under every loop.
 *
 * A loop is a number of units, each run once. It has parts, one for each thread
 * that may take part: a part is the units that its thread has still to run, two
 * numbers in one word. A member claims chunks at the front of its own part;
 * when that is empty it takes the upper half of another's (the range stealing
 * of Intel's and LLVM's OpenMP runtimes, "static_steal"). So a thread that
 * comes late, or leaves, or is slow, delays nothing but the chunk that it runs.
 *
 * Members come in three ways: as owner; by mail, to idle helpers when the loop
 * begins (spread, as a tree); and by a ticket that lies in a member's deque
 * while units are left: a thief of the ticket joins. While any thread of the
 * team is idle and units are left, a ticket is there for it, renewed at chunk
 * borders; this is how a loop widens in mid-flight, and how inner loops take
 * the cores that the outer loop no longer needs.
 *
 * A chunk is as many units as take 2 to 5 µs by the last chunk's time, at least
 * one. Short loops (AWAKE) skip all this: each helper is handed a fixed piece
 * in its mailbox and the caller takes back what nobody has begun.
 *
 * Invariants
 *  - the region's `pending` counts members other than the owner, mails and
 * tickets out; the loop's memory lives until it is zero.
 *  - A unit is in one part or in one member's hands; it is run once, or left
 * out if the region is cancelled.
 *  - Nothing here allocates: parts lie on the owner's stack.
 *
 * Knows nothing of: what a unit is.
 */
#include "algo/loop.h"
#include "algo/cost.h"
#include "base/status.h"
#include "team/team.h"

enum {
  CHUNK_NS = 2000, /* of a short loop that all helpers were called to */
  CHUNK_LONG_NS = 5000,
  LONG_NS = 200000,
  CHUNK_ALONE_NS = 20000, /* nobody may join: borders are for polling only */
  BORDER_NS = 50000,      /* between two full looks at budget and poll */
  WAKE_WORK_NS = 10000,   /* work that justifies waking one more helper */
  QUIET_NS = 25000,       /* a loop shorter than that wakes nobody */
  LAG_NS = 150,           /* until a mailed helper begins */
  PIECE_NS = 300,         /* least work that is worth a thread */
  PIECES_MAX = 8,
  ROUNDS_MAX = 8,
  ROUND_NS = 32000,       /* least work in a round */
  NESTED_NS = 5000,       /* an inner loop shorter than that is not offered */
  WAKE_AGAIN_NS = 200000, /* between two wakes for short loops */
  PATIENCE = 32,          /* polls before an owner takes pieces back */
  INVITATIONS_MAX = 12,   /* halvings of the widest team */
  PARTS_FEW = 16,         /* of narrow loops: a short stack */
  PARTS_MANY = 128
};

/* The units left to one member: next in the low half, end in the high. */
typedef struct part {
  alignas(AC__LINE) _Atomic uint64_t range;
  _Atomic uint32_t stay;       /* odd while a member is here; counts on */
  _Atomic(ac_worker *) worker; /* who is, or was, here */
  _Atomic int64_t base;        /* its bottom when it came */
} part;

/* How parts map to units. A part is not one stretch of the loop but `rounds`
 * blocks, one from each of as many stretches: so members go through the loop
 * together from its begin to its end, as if they drew from one list, and a
 * heavy iteration in the middle is begun when its turn comes; and yet the same
 * member has the same units each time, which its caches remember. */
typedef struct layout {
  int64_t parts; /* dealt out at first */
  int64_t rounds;
  int64_t block; /* units of a part in a round */
} layout;

typedef struct loop {
  ac__job ticket; /* first: a thief gets its address */
  ac__region region;
  const ac__work *work;
  const ac__plan *plan;
  part *parts;
  layout layout;
  double unit_ns;  /* expected; 0 = unknown */
  double chunk_ns; /* how long a chunk is to take */
  bool is_quiet;   /* its tickets wake nobody */
  alignas(AC__LINE) _Atomic uint64_t
      busy;                 /* ticks that all chunks took, of those who left */
  _Atomic uint32_t members; /* that ever came, beside the owner */
  _Atomic int32_t high;     /* parts [0, high) may hold units */
  _Atomic uint64_t used[AC__WIDTH_MAX / 64]; /* bit i: part i has a member */
} loop;

/* ---- Parts --------------------------------------------------------------- */

static uint64_t pack(uint32_t next, uint32_t end) {
  return (uint64_t)end << 32 | next;
}
static uint32_t next_of(uint64_t range) { return (uint32_t)range; }
static uint32_t end_of(uint64_t range) { return (uint32_t)(range >> 32); }

/* Claim up to `most` units at the front of a part. */
static bool claim(part *own, uint32_t most, uint32_t *ret_first,
                  uint32_t *ret_last) {
  /* relaxed: units carry no data; the region's join orders what bodies write */
  uint64_t range = atomic_load_explicit(&own->range, memory_order_relaxed);
  for (;;) {
    uint32_t next = next_of(range);
    uint32_t end = end_of(range);
    if (next >= end)
      return false;
    uint32_t last = end - next > most ? next + most : end;
    if (atomic_compare_exchange_weak_explicit(
            &own->range, &range, pack(last, end), memory_order_relaxed,
            memory_order_relaxed)) {
      *ret_first = next;
      *ret_last = last;
      return true;
    }
  }
}

/* Take the upper half of some other part into `own`, which is empty. */
static bool split(loop *loop, part *own, ac_worker *worker) {
  int32_t high = atomic_load_explicit(&loop->high, memory_order_relaxed);
  int32_t self = (int32_t)(own - loop->parts);
  for (int32_t i = 1; i < high; i++) {
    part *other = &loop->parts[(self + i) % high];
    uint64_t range = atomic_load_explicit(&other->range, memory_order_relaxed);
    while (next_of(range) < end_of(range)) {
      uint32_t end = end_of(range);
      uint32_t middle = next_of(range) + (end - next_of(range)) / 2;
      /* relaxed: as in claim() */
      if (atomic_compare_exchange_weak_explicit(
              &other->range, &range, pack(next_of(range), middle),
              memory_order_relaxed, memory_order_relaxed)) {
        atomic_store_explicit(&own->range, pack(middle, end),
                              memory_order_relaxed);
        AC__COUNT(worker, splits);
        AC__COUNT_N(worker, shared_writes, 2);
        return true;
      }
    }
  }
  return false;
}

/* ---- Places and units -------------------------------------------------------
 *
 * Parts hold places. Place x is block x / block % rounds of part
 * x / (block * rounds); the few at the end that fill no block are themselves.
 */

/* The units at places [first, …): as many as lie together, at most to `last`.
 */
static ac_range units_at(const layout *layout, int64_t first, int64_t last) {
  int64_t per_part = layout->block * layout->rounds;
  int64_t part = first / per_part;
  if (part >= layout->parts)
    return (ac_range){first, last};
  int64_t round = first % per_part / layout->block;
  int64_t offset = first % layout->block;
  int64_t begin = (round * layout->parts + part) * layout->block + offset;
  int64_t count = layout->block - offset;
  return (ac_range){begin,
                    begin + (last - first < count ? last - first : count)};
}

static layout layout_of(const ac__work *work, const ac__plan *plan,
                        int64_t parts) {
  int64_t rounds = ROUNDS_MAX;
  if (parts == 1)
    rounds = 1;
  else if (plan->serial_ns != 0 && plan->serial_ns < ROUNDS_MAX * ROUND_NS)
    rounds = 1 + (int64_t)(plan->serial_ns / ROUND_NS);
  if (rounds * parts > work->units)
    rounds = 1;
  return (layout){.parts = parts,
                  .rounds = rounds,
                  .block = work->units / (parts * rounds)};
}

/* ---- Members ------------------------------------------------------------- */

/* Take an index, `wish` if it is free; -1 if all are taken. */
static int32_t take_index(loop *loop, int32_t wish) {
  int32_t width = loop->region.width;
  if (wish >= width)
    wish = wish % width;
  for (int32_t i = 0; i < (width + 63) / 64 + 1; i++) {
    int32_t word = i == 0 ? wish / 64 : i - 1;
    uint64_t all = width - word * 64 >= 64
                       ? ~UINT64_C(0)
                       : (UINT64_C(1) << (width - word * 64)) - 1;
    uint64_t used =
        atomic_load_explicit(&loop->used[word], memory_order_relaxed);
    while ((used & all) != all) {
      uint64_t bit = i == 0 ? UINT64_C(1) << (wish % 64) : ~used & (used + 1);
      if (i == 0 && (used & bit))
        break;
      /* acquire: pairs with the release in drop_index(): the last member there
       * has done with its part */
      if (atomic_compare_exchange_weak_explicit(
              &loop->used[word], &used, used | bit, memory_order_acquire,
              memory_order_relaxed))
        return word * 64 + __builtin_ctzll(bit);
    }
  }
  return -1;
}

static void drop_index(loop *loop, int32_t index) {
  /* release: pairs with the acquire in take_index() */
  atomic_fetch_and_explicit(&loop->used[index / 64],
                            ~(UINT64_C(1) << (index % 64)),
                            memory_order_release);
}

static void raise_high(loop *loop, int32_t index) {
  int32_t high = atomic_load_explicit(&loop->high, memory_order_relaxed);
  while (high <= index && !atomic_compare_exchange_weak_explicit(
                              &loop->high, &high, index + 1,
                              memory_order_relaxed, memory_order_relaxed)) {
  }
}

/* What one member keeps while it takes part. */
typedef struct member {
  loop *loop;
  ac_worker *worker;
  part *own;
  int64_t ticket;  /* index of its ticket in its deque; -1 = none */
  uint32_t chunk;  /* units */
  uint64_t border; /* ticks of the last full look */
  uint64_t busy;   /* ticks that its chunks took */
  int32_t invitation_count;
  ac__invitation invitations[INVITATIONS_MAX];
} member;

static ac_status join_by_mail(ac_range helpers, void *ctx);

/* Hand the loop to idle helpers with numbers in [first, last): to one at the
 * middle, which is to hand it to those above, then the lower half likewise. */
static void spread(member *member, int32_t first, int32_t last) {
  loop *loop = member->loop;
  ac__piece piece = {.body = join_by_mail, .ctx = loop};
  while (first < last && member->invitation_count < INVITATIONS_MAX) {
    int32_t middle = first + (last - first) / 2;
    ac__invitation *invitation = &member->invitations[member->invitation_count];
    piece.range.end = last;
    ac__pending_add(&loop->region.pending, 1);
    AC__COUNT(member->worker, shared_writes);
    if (ac__team_invite(member->worker, &piece, middle, last, AC__REACH_ASLEEP,
                        invitation)) {
      member->invitation_count++;
    } else {
      /* relaxed: we hold the loop; the count cannot reach zero */
      atomic_fetch_sub_explicit(&loop->region.pending, 1, memory_order_relaxed);
      AC__COUNT(member->worker, shared_writes);
    }
    last = middle;
  }
}

/* Has every part a member? */
static bool is_full(const loop *loop) {
  int32_t width = loop->region.width;
  for (int32_t word = 0; word * 64 < width; word++) {
    int32_t parts = width - word * 64 < 64 ? width - word * 64 : 64;
    /* relaxed: a hint */
    if (__builtin_popcountll(atomic_load_explicit(
            &loop->used[word], memory_order_relaxed)) < parts)
      return false;
  }
  return true;
}

/* A short loop wakes nobody for itself. But many may follow each other, and who
 * is woken for one stays awake for the next: so now and then it may. */
static bool may_wake(ac_worker *worker) {
  if (!ac__is_wanted(worker))
    return false;
  uint64_t now = ac__ticks();
  if ((double)(now - worker->woke_ticks) * ac__tick_ns() < WAKE_AGAIN_NS)
    return false;
  worker->woke_ticks = now;
  return true;
}

/* Keep a ticket in the deque while units are left for others. */
static void offer(member *member) {
  loop *loop = member->loop;
  if (member->ticket >= 0 && !ac__job_is_gone(member->worker, member->ticket))
    return;
  member->ticket = -1;
  if (is_full(loop))
    return;
  int64_t bottom = member->worker->head.bottom;
  bool is_quiet = loop->is_quiet && !may_wake(member->worker);
  ac__pending_add(&loop->region.pending, 1);
  AC__COUNT(member->worker, shared_writes);
  if (ac__job_push(member->worker, &loop->ticket, is_quiet)) {
    member->ticket = bottom;
    return;
  }
  /* relaxed: as in spread() */
  atomic_fetch_sub_explicit(&loop->region.pending, 1, memory_order_relaxed);
}

/* Take back what nobody has accepted. */
static void withdraw(member *member) {
  uint32_t unused = 0;
  if (member->ticket >= 0 && ac__job_take(member->worker))
    unused++;
  for (int32_t i = 0; i < member->invitation_count; i++)
    if (ac__team_uninvite(member->worker, &member->invitations[i]))
      unused++;
  if (unused == 0)
    return;
  /* relaxed: as in spread() */
  atomic_fetch_sub_explicit(&member->loop->region.pending, unused,
                            memory_order_relaxed);
  AC__COUNT(member->worker, shared_writes);
}

/* A ticket that nobody took may have been pushed when nobody wanted it, and the
 * budget may have widened since: ask again. */
static void remind(const member *member) {
  ac_worker *worker = member->worker;
  (void)ac__team_width(worker->team);
  if (!member->loop->is_quiet && member->ticket >= 0 &&
      !ac__job_is_gone(worker, member->ticket) && ac__is_wanted(worker))
    ac__notify(worker);
}

/* Between two chunks. `elapsed` and `now` are ticks. */
static bool goes_on(member *member, uint32_t ran, uint64_t elapsed,
                    uint64_t now, double tick_ns) {
  loop *loop = member->loop;
  double target_ns = loop->chunk_ns;
  double ns = (double)elapsed * tick_ns;
  if (ns < target_ns / 2) {
    if (member->chunk < UINT32_MAX / 2 && ran == member->chunk)
      member->chunk *= 2;
  } else if (ns > target_ns * 2 && member->chunk > 1) {
    double fit = (double)ran * target_ns / ns;
    member->chunk = fit < 1 ? 1 : (uint32_t)fit;
  }
  if ((double)(now - member->border) * tick_ns >= BORDER_NS) {
    ac__verdict verdict = ac__border(member->worker);
    member->border = now;
    if (verdict == AC__GO_ON)
      remind(member);
    /* An owner stays to the end, even if its core is wanted. */
    return verdict == AC__GO_ON ||
           (verdict == AC__YIELD && member->worker == loop->region.owner);
  }
  ac_status status = ac__frame_status(member->worker->frame);
  if (status != AC_OK)
    ac__region_fail(&loop->region, status); /* of a region around this one */
  return status == AC_OK;
}

static ac_status run_places(const loop *loop, int64_t first, int64_t last) {
  ac_status status = AC_OK;
  while (first < last && status == AC_OK) {
    ac_range units = units_at(&loop->layout, first, last);
    status = loop->work->run(units, loop->work->ctx);
    first += units.end - units.begin;
  }
  return status;
}

/* Run units until none are left, or the region is cancelled, or the core is
 * wanted elsewhere. */
static void run_units(member *member) {
  loop *loop = member->loop;
  double tick_ns = ac__tick_ns();
  uint64_t now = ac__ticks();
  member->border = now;
  do {
    uint32_t first;
    uint32_t last;
    while (claim(member->own, member->chunk, &first, &last)) {
      if (last < end_of(atomic_load_explicit(&member->own->range,
                                             memory_order_relaxed)))
        offer(member);
      uint32_t errors = ac__error_count;
      ac_status status = run_places(loop, first, last);
      uint64_t then = now;
      now = ac__ticks();
      member->busy += now - then;
      if (status != AC_OK)
        ac__region_fail_body(&loop->region, status, errors);
      if (!goes_on(member, last - first, now - then, now, tick_ns))
        return;
    }
  } while (split(loop, member->own, member->worker));
}

static uint32_t first_chunk(const loop *loop) {
  if (loop->unit_ns == 0)
    return 1;
  double units = loop->chunk_ns / loop->unit_ns;
  return units < 1 ? 1 : units > 1e9 ? 1000000000 : (uint32_t)units;
}

/* Begin or end a stay. Only the part's member does. */
static void move_stay(part *own) {
  /* release: pairs with the acquire in stay_of(): who sees it sees worker and
   * base, and all that was exposed during the stays before */
  atomic_store_explicit(
      &own->stay, atomic_load_explicit(&own->stay, memory_order_relaxed) + 1,
      memory_order_release);
}

static uint32_t stay_of(const part *part) {
  return atomic_load_explicit(&part->stay, memory_order_acquire);
}

/* Take part with the given index; helpers [first, last) are to be invited. */
static void take_part(loop *loop, ac_worker *worker, int32_t index,
                      int32_t first, int32_t last) {
  bool is_owner = worker == loop->region.owner;
  member member = {.loop = loop,
                   .worker = worker,
                   .own = &loop->parts[index],
                   .ticket = -1,
                   .chunk = first_chunk(loop)};
  ac__frame frame;
  ac__frame_push(worker, &frame, &loop->region,
                 is_owner ? NULL : loop->region.owner, index);
  if (!is_owner) {
    /* relaxed: published by the stay below */
    atomic_store_explicit(&member.own->base, worker->head.bottom,
                          memory_order_relaxed);
    atomic_store_explicit(&member.own->worker, worker, memory_order_relaxed);
    move_stay(member.own);
    /* seq_cst: as in ac__strand_run() */
    atomic_thread_fence(memory_order_seq_cst);
    /* relaxed: an owner already blocked did not know of us */
    if (atomic_load_explicit(&loop->region.owner->sleep,
                             memory_order_relaxed) == AC__BLOCKED)
      ac__make_hungry(worker);
  }
  spread(&member, first, last);
  run_units(&member);
  withdraw(&member);
  /* relaxed: for the cost alone, read after the join */
  atomic_fetch_add_explicit(&loop->busy, member.busy, memory_order_relaxed);
  if (!is_owner)
    move_stay(member.own);
  ac__frame_pop(worker, &frame);
}

/* Join as a member that came from outside, and leave again. */
static void join(loop *loop, ac_worker *worker, int32_t first, int32_t last) {
  ac_worker *owner = loop->region.owner;
  int32_t index = take_index(loop, worker->number);
  AC__COUNT_N(worker, shared_writes, 5);
  if (index >= 0) {
    raise_high(loop, index);
    /* relaxed: for the cost alone */
    atomic_fetch_add_explicit(&loop->members, 1, memory_order_relaxed);
    take_part(loop, worker, index, first, last);
    drop_index(loop, index);
  }
  if (ac__pending_end(&loop->region.pending, owner))
    AC__COUNT(worker, futex_calls);
}

/* A bare piece: its range are the helpers to hand the loop on to. */
static ac_status join_by_mail(ac_range helpers, void *ctx) {
  join(ctx, ac__self_tls.worker, (int32_t)helpers.begin, (int32_t)helpers.end);
  return AC_OK;
}

static void join_by_ticket(ac__job *job, ac_worker *thief) {
  AC__COUNT(thief, entries);
  join((loop *)job, thief, 0, 0);
}

/* ---- The owner's wait ---------------------------------------------------- */

static bool is_over(void *subject) {
  return ac__pending_is_over(&((loop *)subject)->region.pending);
}

typedef struct stay {
  const part *part;
  uint32_t number;
} stay;

static bool stay_goes_on(const void *subject) {
  const stay *stay = subject;
  return stay_of(stay->part) == stay->number;
}

/* Run a job that a member exposes inside this loop. */
static bool help(void *subject, ac_worker *worker) {
  loop *loop = subject;
  int32_t high = atomic_load_explicit(&loop->high, memory_order_relaxed);
  for (int32_t i = 1; i < high; i++) {
    part *part = &loop->parts[i];
    const stay stay = {part, stay_of(part)};
    const ac__still still = {stay_goes_on, &stay};
    /* relaxed: of this stay, or else `still` does not hold */
    if (stay.number % 2 == 1 &&
        ac__help(
            worker, atomic_load_explicit(&part->worker, memory_order_relaxed),
            atomic_load_explicit(&part->base, memory_order_relaxed), &still))
      return true;
  }
  return false;
}

static bool ask(void *subject, ac_worker *worker) {
  loop *loop = subject;
  (void)worker;
  int32_t high = atomic_load_explicit(&loop->high, memory_order_relaxed);
  for (int32_t i = 1; i < high; i++) {
    if (stay_of(&loop->parts[i]) % 2 == 1)
      ac__make_hungry(
          atomic_load_explicit(&loop->parts[i].worker, memory_order_relaxed));
  }
  return ac__pending_ask(&loop->region.pending);
}

static void await_members(loop *loop, ac_worker *worker) {
  const ac__wait wait = {
      .is_over = is_over, .help = help, .ask = ask, .subject = loop};
  (void)ac__region_await(worker, &loop->region, &wait);
}

/* All members have gone. One that left because its core was wanted may have
 * taken units from a part, and not yet put them into its own, when the owner
 * saw none.
 */
static bool has_units(const loop *loop) {
  int32_t high = atomic_load_explicit(&loop->high, memory_order_relaxed);
  /* relaxed: the join has ordered what the members wrote */
  if (atomic_load_explicit(&loop->region.status, memory_order_relaxed) != AC_OK)
    return false;
  for (int32_t i = 0; i < high; i++) {
    uint64_t range =
        atomic_load_explicit(&loop->parts[i].range, memory_order_relaxed);
    if (next_of(range) < end_of(range))
      return true;
  }
  return false;
}

/* ---- Wide loops ---------------------------------------------------------- */

/* How many helpers to invite at once. */
static int32_t helpers_worth(const loop *loop, bool is_top) {
  int32_t most = loop->region.width - 1;
  if (!is_top)
    return 0; /* nested: who is idle comes by itself */
  if (loop->plan->mode == AC__MODE_UNKNOWN)
    return most < 1 ? most : 1;
  double worth = loop->plan->serial_ns / WAKE_WORK_NS;
  return worth < most ? (int32_t)worth : most;
}

/* Deal the places out to the first parts; the last gets what fills no block. */
static void deal(loop *loop) {
  int64_t per_part = loop->layout.block * loop->layout.rounds;
  int64_t count = loop->layout.parts;
  for (int32_t i = 0; i < loop->region.width; i++) {
    uint64_t range = 0;
    if (i < count)
      range = pack(
          (uint32_t)(i * per_part),
          (uint32_t)(i + 1 < count ? (i + 1) * per_part : loop->work->units));
    atomic_init(&loop->parts[i].range, range);
    atomic_init(&loop->parts[i].stay, 0);
  }
}

/* Units in `parts`, one for each of up to `width` threads. */
static ac_status run_parts(const ac__visit *visit, const ac__work *work,
                           const ac__plan *plan, int32_t width, part *parts,
                           ac__outcome *ret_outcome) {
  ac_worker *worker = visit->worker;
  loop loop;
  ac__region_init(&loop.region, worker, width);
  loop.ticket.run = join_by_ticket;
  loop.work = work;
  loop.plan = plan;
  loop.parts = parts;
  loop.unit_ns = plan->serial_ns / (double)work->units;
  loop.chunk_ns =
      width == 1 ? CHUNK_ALONE_NS
      : visit->is_top && loop.unit_ns != 0 && plan->serial_ns < LONG_NS
          ? CHUNK_NS
          : CHUNK_LONG_NS;
  loop.is_quiet = plan->serial_ns != 0 && plan->serial_ns < QUIET_NS;
  atomic_init(&loop.busy, 0);
  atomic_init(&loop.members, 0);
  for (int32_t word = 0; word * 64 < width; word++)
    atomic_init(&loop.used[word], word == 0);
  int32_t helpers = helpers_worth(&loop, visit->is_top);
  atomic_init(&loop.high, helpers + 1);
  loop.layout = layout_of(work, plan, helpers + 1);
  deal(&loop);
  take_part(&loop, worker, 0, 1, helpers + 1);
  await_members(&loop, worker);
  while (has_units(&loop)) {
    take_part(&loop, worker, 0, 0, 0);
    await_members(&loop, worker);
  }
  ret_outcome->had_help =
      atomic_load_explicit(&loop.members, memory_order_relaxed) != 0;
  ret_outcome->busy_ticks =
      atomic_load_explicit(&loop.busy, memory_order_relaxed);
  return ac__region_finish(&loop.region);
}

/* Apart, so that a narrow loop does not pay for the parts of a wide one. */
__attribute__((noinline)) static ac_status
run_many(const ac__visit *visit, const ac__work *work, const ac__plan *plan,
         int32_t width, ac__outcome *ret_outcome) {
  part parts[PARTS_MANY];
  return run_parts(visit, work, plan, width, parts, ret_outcome);
}
__attribute__((noinline)) static ac_status
run_most(const ac__visit *visit, const ac__work *work, const ac__plan *plan,
         int32_t width, ac__outcome *ret_outcome) {
  part parts[AC__WIDTH_MAX];
  return run_parts(visit, work, plan, width, parts, ret_outcome);
}

static ac_status run_wide(const ac__visit *visit, const ac__work *work,
                          const ac__plan *plan, int32_t width,
                          ac__outcome *ret_outcome) {
  if (width > PARTS_MANY)
    return run_most(visit, work, plan, width, ret_outcome);
  if (width > PARTS_FEW)
    return run_many(visit, work, plan, width, ret_outcome);
  part parts[PARTS_FEW];
  return run_parts(visit, work, plan, width, parts, ret_outcome);
}

/* ---- Short loops: fixed pieces for helpers that are awake ---------------- */

typedef struct brief {
  ac__region region;
  int32_t sent;
  ac__invitation invitations[PIECES_MAX];
  ac_range pieces[PIECES_MAX];
} brief;

/* The lanes first: they are the owner's last helpers, and most likely done. */
static bool brief_is_over(void *subject) {
  brief *brief = subject;
  for (int32_t i = 0; i < brief->sent; i++)
    if (brief->invitations[i].is_by_lane &&
        !ac__lane_is_done(brief->region.owner,
                          brief->invitations[i].helper->number))
      return false;
  return ac__pending_is_over(&brief->region.pending);
}

static bool brief_ask(void *subject, ac_worker *worker) {
  brief *brief = subject;
  (void)worker;
  /* Of helpers by lane nothing is asked: they look at `sleep` (lane.c). */
  (void)ac__pending_ask(&brief->region.pending);
  return !brief_is_over(brief);
}

static void run_own(brief *brief, const ac__work *work, ac_range units) {
  /* relaxed: a reason to leave it out; the join acquires it */
  if (atomic_load_explicit(&brief->region.status, memory_order_relaxed) !=
      AC_OK)
    return;
  const ac__piece piece = {.body = work->run,
                           .ctx = work->ctx,
                           .region = &brief->region,
                           .range = units};
  ac__piece_run(brief->region.owner, &piece, NULL);
}

/* Units that the owner keeps, of which `helpers` helpers get equal shares of
 * the rest: they begin a little later than it does. */
static int64_t owner_share(const ac__work *work, const ac__plan *plan,
                           int32_t helpers) {
  double units = (double)work->units;
  double lag = LAG_NS / (plan->serial_ns / units);
  double share = (units + lag * helpers) / (helpers + 1);
  return share > units ? work->units : (int64_t)(share + 0.5);
}

/* Hand the units from `begin` on to up to `helpers` helpers that are awake;
 * returns the first unit that nobody got. */
static int64_t hand_out(brief *brief, const ac__work *work, int64_t begin,
                        int32_t helpers, ac__reach reach) {
  ac_worker *worker = brief->region.owner;
  ac__piece piece = {
      .body = work->run, .ctx = work->ctx, .region = &brief->region};
  int32_t number = 1;
  for (int32_t left = helpers; left > 0 && begin < work->units; left--) {
    ac__invitation *invitation = &brief->invitations[brief->sent];
    piece.index = brief->sent + 1;
    piece.range =
        (ac_range){begin, begin + (work->units - begin + left - 1) / left};
    /* relaxed: nobody waits yet. A lane counts for itself. */
    atomic_fetch_add_explicit(&brief->region.pending, 1, memory_order_relaxed);
    bool is_sent = ac__team_invite(worker, &piece, number, brief->region.width,
                                   reach, invitation);
    AC__COUNT(worker, shared_writes);
    if (!is_sent || invitation->is_by_lane) {
      atomic_fetch_sub_explicit(&brief->region.pending, 1,
                                memory_order_relaxed);
      AC__COUNT(worker, shared_writes);
    }
    if (!is_sent)
      break;
    number = invitation->helper->number + 1;
    brief->pieces[brief->sent++] = piece.range;
    begin = piece.range.end;
  }
  return begin;
}

/* Run what helpers have not begun, after a moment in which most are done. */
static void take_back(brief *brief, const ac__work *work) {
  for (int round = 0; round < PATIENCE; round++) {
    if (brief_is_over(brief))
      return;
    ac__cpu_relax();
  }
  for (int32_t i = brief->sent - 1; i >= 0; i--) {
    ac_range piece = brief->pieces[i];
    bool is_by_lane = brief->invitations[i].is_by_lane;
    if (!ac__team_uninvite(brief->region.owner, &brief->invitations[i]))
      continue;
    brief->sent--;
    brief->invitations[i] = brief->invitations[brief->sent];
    brief->pieces[i] = brief->pieces[brief->sent];
    if (!is_by_lane)
      /* relaxed: the owner's own part of the count */
      atomic_fetch_sub_explicit(&brief->region.pending, 1,
                                memory_order_relaxed);
    run_own(brief, work, piece);
  }
}

static ac_status run_brief(const ac__visit *visit, const ac__work *work,
                           const ac__plan *plan, int32_t width,
                           ac__outcome *ret_outcome) {
  brief brief;
  int32_t most = (int32_t)(plan->serial_ns / PIECE_NS) - 1;
  int32_t helpers = most < width - 1 ? most : width - 1;
  if (helpers > PIECES_MAX)
    helpers = PIECES_MAX;
  brief.sent = 0;
  ac__region_init(&brief.region, visit->worker, width);
  int64_t rest = owner_share(work, plan, helpers);
  int64_t begin =
      hand_out(&brief, work, rest, helpers,
               plan->is_waking ? AC__REACH_ASLEEP : AC__REACH_AWAKE);
  ret_outcome->had_help = brief.sent > 0;
  run_own(&brief, work, (ac_range){0, rest});
  if (begin < work->units)
    run_own(&brief, work, (ac_range){begin, work->units});
  take_back(&brief, work);
  const ac__wait wait = {
      .is_over = brief_is_over, .ask = brief_ask, .subject = &brief};
  (void)ac__region_await(visit->worker, &brief.region, &wait);
  return ac__region_finish(&brief.region);
}

/* ---- Choosing ------------------------------------------------------------ */

/* On the caller in one call, for loops too short to be worth a border. */
static ac_status run_alone(ac_worker *worker, const ac__work *work) {
  ac_range all = {0, work->units};
  if (worker->frame == NULL) { /* nothing is around it: index 0 of 1 as it is */
    uint32_t errors = ac__error_count;
    return ac__status_of_body(work->run(all, work->ctx), errors);
  }
  ac__region region;
  ac__region_init(&region, worker, 1);
  const ac__piece piece = {
      .body = work->run, .ctx = work->ctx, .region = &region, .range = all};
  ac__piece_run(worker, &piece, NULL);
  return ac__region_finish(&region);
}

/* On the caller without a team: memory for its place was refused, or it is the
 * child of a fork in mid-region. */
static ac_status run_outside(const ac__work *work) {
  enum { BLOCK = 1024 };
  for (int64_t first = 0; first < work->units; first += BLOCK) {
    int64_t last = first + BLOCK < work->units ? first + BLOCK : work->units;
    ac_status status = work->run((ac_range){first, last}, work->ctx);
    if (status == AC_OK)
      status = ac__poll(ac__clock_ns());
    if (status != AC_OK)
      return status;
  }
  return AC_OK;
}

/* Threads worth having parts for. */
static int32_t useful_width(int32_t width, const ac__work *work,
                            const ac__plan *plan) {
  if (plan->mode == AC__MODE_SLOWER)
    return 1;
  if (width > work->units)
    width = (int32_t)work->units;
  double most = 1 + plan->serial_ns / PIECE_NS;
  return plan->serial_ns != 0 && most < width ? (int32_t)most : width;
}

/* Is an inner loop not worth offering to others? */
static bool is_kept(const ac_worker *worker, const ac__plan *plan) {
  return plan->serial_ns != 0 &&
         (plan->serial_ns < NESTED_NS ||
          (plan->serial_ns < QUIET_NS && !ac__has_takers(worker)));
}

static void count_serial(ac_worker *worker, ac__mode mode, bool is_brief) {
  AC__COUNT(worker, regions_serial);
  if (mode == AC__MODE_SMALL)
    AC__COUNT(worker, serial_small);
  else if (mode == AC__MODE_SLOWER)
    AC__COUNT(worker, serial_slower);
  else if (is_brief)
    AC__COUNT(worker, serial_asleep);
  else
    AC__COUNT(worker, serial_width);
}

static ac_status run_entered(const ac__visit *visit, const ac__work *work) {
  ac_worker *worker = visit->worker;
  ac_status status = ac__status_around(worker);
  ac__outcome outcome = {0};
  if (status != AC_OK)
    return status;
  ac__plan plan =
      ac__cost_plan(work->key, work->iterations, ac__team_width(worker->team));
  int32_t width = useful_width(ac__team_width(worker->team), work, &plan);
  bool is_brief = plan.mode == AC__MODE_AWAKE && visit->is_top && width > 1;
  AC__COUNT(worker, regions);
  if (plan.mode == AC__MODE_SMALL ||
      (plan.mode == AC__MODE_SLOWER && plan.serial_ns < BORDER_NS) ||
      (!visit->is_top && is_kept(worker, &plan)))
    status = run_alone(worker, work);
  else if (is_brief)
    status = run_brief(visit, work, &plan, width, &outcome);
  else
    status = run_wide(visit, work, &plan, width, &outcome);
  if (!outcome.had_help)
    count_serial(worker, plan.mode, is_brief);
  if (status == AC_OK)
    ac__cost_learn(&plan, work->iterations, &outcome);
  return status;
}

ac_status ac__loop(ac_team *team, const ac__work *work) {
  ac__visit visit;
  ac_status status =
      ac__enter(team, &visit) ? run_entered(&visit, work) : run_outside(work);
  ac__leave(&visit);
  return status;
}
