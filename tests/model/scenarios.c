/* scenarios.c: what is explored: small teams, each with one thing to do.
 *
 *   scenarios NAME tso|weak [trace]    one of those listed below
 *   scenarios                          their names and how large they are
 *
 * Prints "NAME MODEL: ok, N states", status 0; or what is wrong, status 1, with
 * the steps that lead there if asked for. Status 2: the model itself failed.
 */
#include "world.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int jobs; /* jobs and messages of the scenario */

/* ---- What is to hold at the end ------------------------------------------ */

/* Nothing can go on: guests have ended, and each job was run once, or was taken
 * back once instead. */
static const char *all_done(void) {
  for (int i = 0; i < guests; i++)
    if (!mc_has_ended(i))
      return "a guest waits for ever";
  for (int i = 0; i < jobs; i++) {
    if (world.ran[i] + world.taken[i] == 0)
      return "a job or message is lost";
    if (world.ran[i] + world.taken[i] > 1)
      return "a job or message is run twice, or run and taken back";
  }
  return NULL;
}

/* ---- Jobs ---------------------------------------------------------------- */

static void count_run(ac_worker *worker, void *index) {
  (void)worker;
  world.ran[(uintptr_t)index]++;
}

static void spawn(void *guest, int first, int count, ac_strand_fn fn) {
  for (int i = first; i < first + count; i++)
    ac_spawn(guest, &world.strands[i], fn, (void *)(uintptr_t)i);
}

/* Ends only beside the other one: each needs a thread. */
static void meet(ac_worker *worker, void *index) {
  uintptr_t self = (uintptr_t)index;
  atomic_store_explicit(&world.begun[self], 1, memory_order_release);
  while (atomic_load_explicit(&world.begun[1 - self], memory_order_acquire) ==
         0)
    ac__cpu_relax();
  count_run(worker, index);
}

static ac__job plain_jobs[JOBS_MAX]; /* known by their places */

static void had(const ac__job *job) {
  if (job == NULL || job < plain_jobs || job >= plain_jobs + JOBS_MAX)
    mc_violation("a thief has a job that nobody pushed");
  else
    world.ran[job - plain_jobs]++;
}

/* ---- Push against park --------------------------------------------------- */

static void push_one(void *guest) { spawn(guest, 0, 1, count_run); }
static void push_other(void *guest) { spawn(guest, 1, 1, count_run); }
static void push_meeting(void *guest) { spawn(guest, 0, 2, meet); }

static void push(void) {
  add_guest(push_one);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 1;
}
static void push_to_absent(void) {
  add_guest(push_one);
  add_helper(ABSENT);
  finish_setup(0, false);
  jobs = 1;
}
static void push_by_two(void) {
  add_guest(push_one);
  add_guest(push_other);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}
static void push_refused(void) {
  add_guest(push_one);
  add_helper(WOKEN_UP);
  finish_setup(2, false);
  jobs = 1;
}
static void push_refused_two(void) {
  add_guest(push_one);
  add_helper(PARKED);
  add_helper(WOKEN_UP);
  finish_setup(1, false);
  jobs = 1;
}
static void ripple(void) {
  add_guest(push_meeting);
  add_helper(PARKED);
  add_helper(PARKED);
  finish_setup(0, false);
  jobs = 2;
}
static void ripple_late(void) {
  add_guest(push_meeting);
  add_helper(PARKED);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}

/* A helper was nudged for a task that its owner takes back, if it can, before
 * it pushes two jobs that meet. No strands: fewer steps. */
static void meet_plainly(ac__job *job, ac_worker *thief) {
  meet(thief, (void *)(job - plain_jobs));
}
static void push_again(void *guest) {
  if (atomic_exchange_explicit(&team.open_groups, 0, memory_order_acq_rel))
    world.taken[GROUP_JOB]++;
  for (int i = 0; i < 2; i++)
    (void)ac__job_push(guest, &plain_jobs[i], false);
}
static void ripple_again(void) {
  plain_jobs[0].run = plain_jobs[1].run = meet_plainly;
  add_guest(push_again);
  add_helper(NUDGED);
  add_helper(PARKED);
  finish_setup(0, true);
  *(uint32_t *)(uintptr_t)&team.hungry = 0; /* whoever nudged took it down */
  *(uint32_t *)(uintptr_t)&team.open_groups = 1;
  world.taken[2]++;
  jobs = 4;
}
static void ripple_refused(void) {
  add_guest(push_meeting);
  add_helper(PARKED);
  add_helper(PARKED);
  finish_setup(3, false);
  jobs = 2;
}

/* A helper finds no core while the sentinel gets one. What they are to run was
 * pushed before. */
static void do_nothing(void *guest) { (void)guest; }
static void ripple_past_sentinel(void) {
  plain_jobs[0].run = plain_jobs[1].run = meet_plainly;
  add_guest(do_nothing);
  add_helper(WATCHING);
  add_helper(NUDGED);
  finish_setup(2, false);
  workers[0].slots[0] = &plain_jobs[0];
  workers[0].slots[1] = &plain_jobs[1];
  workers[0].head.bottom = 2;
  *(uint32_t *)(uintptr_t)&team.hungry = 0; /* the sentinel took it down */
  jobs = 2;
}

/* A store where group.c modifies: that it is visible is announce()'s to see to.
 */
static void announce_task(void *guest) {
  atomic_store_explicit(&team.open_groups, 1, memory_order_relaxed);
  ac__team_announce(guest);
}
static void announce(void) {
  add_guest(announce_task);
  add_helper(WOKEN_UP);
  finish_setup(0, true);
  world.taken[0] = world.taken[1] = world.taken[2] = 1;
  jobs = 4;
}

/* ---- Mail against park --------------------------------------------------- */

static ac_status run_message(ac_range range, void *first) {
  for (int64_t i = range.begin; i < range.end; i++) {
    world.ran[(intptr_t)first + i]++;
    atomic_store_explicit(&world.result[(intptr_t)first + i], 1,
                          memory_order_relaxed);
  }
  return AC_OK;
}

/* Send message `index` to anybody; false if nobody takes it. */
static bool send(ac_worker *guest, int index, ac__region *region,
                 ac__invitation *ret) {
  const ac__piece piece = {
      .body = run_message, .region = region, .range = {index, index + 1}};
  bool is_sent =
      ac__team_invite(guest, &piece, 1, 1 + helpers, AC__REACH_ASLEEP, ret);
  if (!is_sent)
    world.taken[index]++;
  return is_sent;
}

static void send_some(void *guest, int first, int count, bool takes_back) {
  ac__invitation sent[2];
  bool is_sent[2];
  for (int i = 0; i < count; i++)
    is_sent[i] = send(guest, first + i, &world.region, &sent[i]);
  for (int i = 0; takes_back && i < count; i++)
    if (is_sent[i] && ac__team_uninvite(guest, &sent[i]))
      world.taken[first + i]++;
}

static void send_two(void *guest) { send_some(guest, 0, 2, false); }
static void send_two_take_back(void *guest) { send_some(guest, 0, 2, true); }
static void send_first(void *guest) { send_some(guest, 0, 1, true); }
static void send_second(void *guest) { send_some(guest, 1, 1, true); }

static void mail(void) {
  add_guest(send_two);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}
static void mail_to_absent(void) {
  add_guest(send_two_take_back);
  add_helper(ABSENT);
  finish_setup(0, false);
  jobs = 2;
}
static void mail_taken_back(void) {
  add_guest(send_two_take_back);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}
static void mail_by_two(void) {
  add_guest(send_first);
  add_guest(send_second);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}
static void send_third(void *guest) { send_some(guest, 2, 1, false); }
/* One sends twice, the second time by lane, while the other mails. */
static void mail_between(void) {
  add_guest(send_two);
  add_guest(send_third);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 3;
}
static void mail_refused(void) {
  add_guest(send_two_take_back);
  add_helper(WOKEN_UP);
  finish_setup(2, false);
  jobs = 2;
}
/* One mails, the other pushes: claim against nudge. */
static void mail_and_push(void) {
  add_guest(send_first);
  add_guest(push_other);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}

/* The message is refused while the other pushes. */
static void mail_refused_and_push(void) {
  add_guest(send_first);
  add_guest(push_other);
  add_helper(PARKED);
  finish_setup(1, false);
  jobs = 2;
}

/* Mail to the sentinel, which waits for a job that the other one must find. */
static ac_status wait_for_job(ac_range range, void *ctx) {
  while (atomic_load_explicit(&world.begun[1], memory_order_acquire) == 0)
    ac__cpu_relax();
  return run_message(range, ctx);
}
static void begin_plainly(ac__job *job, ac_worker *thief) {
  (void)thief;
  atomic_store_explicit(&world.begun[job - plain_jobs], 1,
                        memory_order_release);
  had(job);
}
static void mail_then_push(void *guest) {
  const ac__piece piece = {
      .body = wait_for_job, .region = &world.region, .range = {2, 3}};
  ac__invitation sent;
  if (!ac__team_invite(guest, &piece, 1, 1 + helpers, AC__REACH_ASLEEP, &sent))
    world.taken[2]++;
  (void)ac__job_push(guest, &plain_jobs[1], false);
}
static void mail_to_sentinel(void) {
  plain_jobs[1].run = begin_plainly;
  add_guest(mail_then_push);
  add_helper(WATCHING);
  add_helper(PARKED);
  finish_setup(1, false);
  *(uint32_t *)(uintptr_t)&team.hungry = 0; /* the sentinel took it down */
  world.taken[0]++;
  jobs = 3;
}

/* The same to one that was nudged in vain. */
static void mail_to_scout(void) {
  plain_jobs[1].run = begin_plainly;
  add_guest(mail_then_push);
  add_helper(NUDGED);
  add_helper(PARKED);
  finish_setup(0, false);
  *(uint32_t *)(uintptr_t)&team.hungry = 0; /* whoever nudged took it down */
  world.taken[0]++;
  jobs = 3;
}

/* ---- Joins --------------------------------------------------------------- */

static void check_units(int first, int count) {
  for (int i = first; i < first + count; i++)
    if (world.ran[i] != 1 ||
        atomic_load_explicit(&world.result[i], memory_order_relaxed) != 1)
      mc_violation("a join returned too early, or a unit ran twice");
}

/* Two units from `first` on, handed to a helper that is awake, by mail or, the
 * second time, by lane. */
static void run_short_loop(ac_worker *guest, int first) {
  const ac__visit visit = {.worker = guest, .is_top = true};
  const ac__work work = {
      .units = 2, .run = run_message, .ctx = (void *)(intptr_t)first};
  const ac__plan plan = {.mode = AC__MODE_AWAKE, .serial_ns = 2000};
  ac__outcome outcome;
  (void)run_brief(&visit, &work, &plan, 2, &outcome);
  check_units(first, 2);
}
static void loop_short_twice(void *guest) {
  run_short_loop(guest, 0);
  run_short_loop(guest, 2);
}

/* The same in parts, for helpers asleep too. */
static void run_wide_loop(ac_worker *guest, ac_body_fn body) {
  const ac__visit visit = {.worker = guest, .is_top = true};
  const ac__work work = {.units = 2, .run = body};
  const ac__plan plan = {.mode = AC__MODE_WIDE, .serial_ns = 30000};
  ac__outcome outcome;
  (void)run_wide(&visit, &work, &plan, 2, &outcome);
  check_units(0, 2);
}
static void loop_wide_once(void *guest) { run_wide_loop(guest, run_message); }

/* A unit that a helper runs pushes a job that another must run: the owner. */
static ac_status run_with_child(ac_range range, void *ctx) {
  ac_worker *self = ac__self_tls.worker;
  if (self != &workers[0]) {
    ac_spawn(self, &world.strands[0], count_run, (void *)2);
    while (__atomic_load_n(&world.strands[0].state, __ATOMIC_ACQUIRE) !=
           AC__STRAND_DONE)
      ac__cpu_relax();
  }
  return run_message(range, ctx);
}
static void loop_with_child(void *guest) {
  run_wide_loop(guest, run_with_child);
  if (world.ran[2] == 0)
    world.taken[2]++; /* the owner had both units */
}
static void loop_helps(void) {
  add_guest(loop_with_child);
  add_helper(PARKED);
  finish_setup(0, false);
  jobs = 3;
}

static void loop_short(void) {
  add_guest(loop_short_twice);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 4;
}
static void loop_wide(void) {
  add_guest(loop_wide_once);
  add_helper(PARKED);
  finish_setup(0, false);
  jobs = 2;
}
/* The strand's child waits for its parent to be run beside it: whoever runs the
 * parent pushes the child and does not take it, so the other must come. */
static void parent(ac_worker *worker, void *index) {
  ac_spawn(worker, &world.strands[1], count_run, (void *)1);
  while (__atomic_load_n(&world.strands[1].state, __ATOMIC_ACQUIRE) !=
         AC__STRAND_DONE)
    ac__cpu_relax();
  count_run(worker, index);
}
static void fork_join(void *guest) {
  ac_spawn(guest, &world.strands[0], parent, NULL);
  ac_sync(guest, &world.strands[0], parent, NULL);
  if (world.ran[0] != 1 || world.ran[1] != 1)
    mc_violation("a join returned too early");
}
static void join_helps(void) {
  add_guest(fork_join);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}

static void leave_result(ac_worker *worker, void *index) {
  count_run(worker, index);
  atomic_store_explicit(&world.result[(uintptr_t)index], 1,
                        memory_order_relaxed);
}

/* Plain fork and join, in two rounds on one strand. */
static void fork_rounds(void *guest) {
  for (int i = 0; i < 2; i++) {
    void *index = (void *)(uintptr_t)i;
    ac_spawn(guest, &world.strands[0], leave_result, index);
    ac_sync(guest, &world.strands[0], leave_result, index);
    check_units(i, 1);
  }
}
/* Two at once: a thief may have both while the owner takes the newer. */
static void fork_two(void *guest) {
  spawn(guest, 0, 2, count_run);
  for (uintptr_t i = 2; i-- > 0;)
    ac_sync(guest, &world.strands[i], count_run, (void *)i);
}
static void join_two(void) {
  add_guest(fork_two);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}
static void join_strands(void) {
  add_guest(fork_rounds);
  add_helper(WOKEN_UP);
  finish_setup(0, false);
  jobs = 2;
}

/* ---- The deque ----------------------------------------------------------- */

static void push_plain(ac_worker *worker, int index) {
  ac__deque_push(&worker->head, &plain_jobs[index]);
}
/* Take the newest, number `index`. */
static void take_plain(ac_worker *worker, int index) {
  if (ac__deque_take(&worker->head))
    had(&plain_jobs[index]);
}

static void own_two(void *worker) {
  push_plain(worker, 0);
  push_plain(worker, 1);
  take_plain(worker, 1);
  take_plain(worker, 0);
}
/* Room for two: the third overwrites the first if that was stolen. */
static void own_three(void *worker) {
  push_plain(worker, 0);
  push_plain(worker, 1);
  bool fits = ac__deque_has_room(&((ac_worker *)worker)->head, false);
  if (fits)
    push_plain(worker, 2);
  else
    world.taken[2]++;
  for (int i = fits ? 2 : 1; i >= 0; i--)
    take_plain(worker, i);
}
static void thieve(void *worker) {
  (void)worker;
  for (int i = 0; i < 2; i++) {
    bool is_lost = false;
    ac__job *job = ac__deque_steal(&workers[0].head, 0, NULL, &is_lost);
    if (job != NULL)
      had(job);
  }
}
static void deque(void) {
  add_guest(own_two);
  add_guest(thieve);
  finish_setup(0, false);
  jobs = 2;
}
static void deque_two_thieves(void) {
  add_guest(own_two);
  add_guest(thieve);
  add_guest(thieve);
  finish_setup(0, false);
  jobs = 2;
}
static void deque_wraps(void) {
  add_guest(own_three);
  add_guest(thieve);
  finish_setup(0, false);
  jobs = 3;
}

/* ---- The list ------------------------------------------------------------ */

typedef enum size { SMALL, LARGE, HUGE } size; /* at most 1 s, 10 s, a minute */

typedef struct scenario {
  const char *name;
  void (*setup)(void);
  bool is_symmetric;
  size size;
} scenario;

#define BOTH(name)                                                             \
  {#name, name, false, SMALL}, { #name "_symmetric", name, true, SMALL }
static const scenario scenarios[] = {
    {"deque", deque, false, SMALL},
    {"deque_two_thieves", deque_two_thieves, false, SMALL},
    {"deque_wraps", deque_wraps, false, SMALL},
    BOTH(push),
    BOTH(push_by_two),
    BOTH(announce),
    {"push_to_absent", push_to_absent, false, SMALL},
    {"push_refused", push_refused, false, SMALL},
    {"push_refused_two", push_refused_two, false, LARGE},
    BOTH(ripple),
    {"ripple_again", ripple_again, false, HUGE},
    {"ripple_again_symmetric", ripple_again, true, HUGE},
    {"ripple_refused", ripple_refused, false, LARGE},
    {"ripple_past_sentinel", ripple_past_sentinel, false, SMALL},
    {"ripple_late", ripple_late, false, LARGE},
    BOTH(mail),
    {"mail_between", mail_between, false, SMALL},
    {"mail_to_absent", mail_to_absent, false, SMALL},
    {"mail_taken_back", mail_taken_back, false, SMALL},
    {"mail_by_two", mail_by_two, false, SMALL},
    {"mail_refused", mail_refused, false, SMALL},
    {"mail_and_push", mail_and_push, false, SMALL},
    {"mail_refused_and_push", mail_refused_and_push, false, SMALL},
    {"mail_to_sentinel", mail_to_sentinel, false, LARGE},
    {"mail_to_scout", mail_to_scout, false, LARGE},
    BOTH(loop_short),
    BOTH(loop_wide),
    BOTH(loop_helps),
    {"join_two", join_two, false, SMALL},
    BOTH(join_strands),
    BOTH(join_helps),
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

int main(int argc, char **argv) {
  enum { STATES_MAX = 20000000 };
  static const char *const sizes[] = {"small", "large", "huge"};
  if (argc < 3) {
    for (int i = 0; i < SCENARIOS; i++)
      printf("%s %s\n", scenarios[i].name, sizes[scenarios[i].size]);
    return 0;
  }
  const scenario *chosen = NULL;
  for (int i = 0; i < SCENARIOS; i++)
    if (strcmp(argv[1], scenarios[i].name) == 0)
      chosen = &scenarios[i];
  if (chosen == NULL) {
    fprintf(stderr, "no scenario '%s'\n", argv[1]);
    return 2;
  }
  is_symmetric = chosen->is_symmetric;
  chosen->setup();
  mc_memory memory = strcmp(argv[2], "weak") == 0 ? MC_WEAK : MC_TSO;
  mc_result result = mc_explore(memory, STATES_MAX, all_done);
  printf("%s %s: %s, %llu states, %llu steps\n", chosen->name, argv[2],
         result.trouble == NULL ? "ok" : result.trouble,
         (unsigned long long)result.states, (unsigned long long)result.steps);
  if (result.trouble != NULL && argc > 3)
    mc_print_trace();
  return result.trouble != NULL;
}
