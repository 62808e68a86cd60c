/* await.c: waiting for work that others do, while helping with it.
 *
 * A join first helps: it runs jobs made inside what it waits for. With none in
 * sight it spins for a while, since most joins end within microseconds; then it
 * blocks, having asked to be woken at the end and when more of that work
 * appears (sleep.c, 5). In a team of more threads than cores a spin would keep
 * the very thread from running that it waits for, so there it blocks at once.
 *
 * Knows nothing of: what is waited for.
 */
#include "team/sleep.h"
#include "team/team.h"

enum {
  SPIN_NS = 40000,
  SPIN_ROUNDS = 32,         /* polls between two looks at the clock */
  POLL_SLICE_NS = 20000000, /* longest sleep of a thread with a poll function */
};

/* Spin until it is over (true) or there may be something to help with, or the
 * time is up (false). */
static bool spin(const ac__wait *wait, uint64_t ticks) {
  uint64_t until = ac__ticks() + ticks;
  do {
    for (int round = 0; round < SPIN_ROUNDS; round++) {
      if (wait->is_over(wait->subject))
        return true;
      ac__cpu_relax();
    }
  } while (ac__ticks() < until);
  return false;
}

static int64_t sleep_ns(const ac__wait *wait, bool has_poll) {
  int64_t longest = has_poll ? POLL_SLICE_NS : -1;
  if (wait->deadline_ns == 0)
    return longest;
  int64_t left = wait->deadline_ns - (int64_t)ac__clock_ns();
  if (left < 1)
    left = 1;
  return longest > 0 && longest < left ? longest : left;
}

static void block(ac_worker *worker, const ac__wait *wait, bool has_poll) {
  AC__COUNT_N(worker, shared_writes, 2); /* that it sleeps, and the question */
  ac__block_prepare(worker);
  if (!wait->ask(wait->subject, worker)) {
    ac__block_cancel(worker);
    return;
  }
  ac__barrier_heavy();
  if (wait->is_over(wait->subject) ||
      (wait->help != NULL && wait->help(wait->subject, worker))) {
    ac__block_cancel(worker);
    return;
  }
  AC__COUNT(worker, waits);
  AC__COUNT(worker, futex_calls);
  (void)ac__block_sleep(worker, sleep_ns(wait, has_poll));
}

static ac_status await_long(ac_worker *worker, const ac__wait *wait,
                            uint64_t spin_ticks) {
  for (;;) {
    if (ac__is_orphan())
      return AC_E_FORKED;
    bool has_poll = ac__self_tls.poll != NULL;
    if (has_poll || wait->deadline_ns != 0) {
      uint64_t now_ns = ac__clock_ns();
      ac_status status = ac__poll(now_ns);
      if (status != AC_OK)
        return status;
      if (wait->deadline_ns != 0 && now_ns >= (uint64_t)wait->deadline_ns)
        return AC_E_TIMEOUT;
    }
    if (wait->help != NULL && wait->help(wait->subject, worker))
      continue;
    if (spin(wait, spin_ticks))
      return AC_OK;
    block(worker, wait, has_poll);
  }
}

ac_status ac__await(ac_worker *worker, const ac__wait *wait) {
  ac_team *team = worker->team;
  uint64_t spin_ticks =
      ac__team_is_crowded(team) ? 0 : (uint64_t)(SPIN_NS / ac__tick_ns());
  if (spin(wait, spin_ticks / 16))
    return AC_OK;
  /* relaxed: a hint; see look_about() in worker.c */
  atomic_fetch_add_explicit(&team->looking, 1, memory_order_relaxed);
  ac_status status = await_long(worker, wait, spin_ticks);
  atomic_fetch_sub_explicit(&team->looking, 1, memory_order_relaxed);
  return status;
}

bool ac__region_await(ac_worker *worker, ac__region *region,
                      const ac__wait *wait) {
  ac_status status;
  while ((status = ac__await(worker, wait)) != AC_OK) {
    ac__region_fail(region, status);
    if (status == AC_E_FORKED)
      return false;
  }
  return true;
}
