/* team.c: teams and the threads that visit them; the process's own team; fork.
 *
 * A team is its helpers (threads of its own, started when first needed) and its
 * guests (other threads that run a region of it). A thread keeps its guest
 * place from its first region to its end, so entering again costs a few loads.
 *
 * Fork: the child has one thread, so every team in it has lost its helpers. The
 * atfork handler only counts the generation on. A team of another generation is
 * made anew, in place, by the first thread that enters it from outside. Code
 * that was inside a region when the process forked runs on serially in the
 * child and its joins return AC_E_FORKED.
 *
 * Knows nothing of: what a region does.
 */
#include "team/team.h"
#include "base/status.h"
#include "team/sleep.h"

#include <string.h>

_Thread_local ac__self ac__self_tls;
_Atomic uint32_t ac__fork_generation;

static _Atomic(ac_team *) own_team;
static pthread_mutex_t own_lock = PTHREAD_MUTEX_INITIALIZER; /* guards making
    it; also every thread's list of places against team destruction */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t end_key; /* gives a thread's places back when it ends */
static bool has_end_key;

/* ---- Fork and thread end ------------------------------------------------- */

static void child_handler(void) {
  ac__self *self = &ac__self_tls;
  /* relaxed: the child has one thread */
  atomic_fetch_add_explicit(&ac__fork_generation, 1, memory_order_relaxed);
  if (self->worker != NULL) { /* a region goes on: revive() leaves its places */
    self->worker->is_orphan = 1;
    for (ac_worker *place = self->own; place != NULL; place = place->next_own)
      place->is_orphan = 1;
  }
  /* Another thread of the parent may have held it. */
  (void)pthread_mutex_init(&own_lock, NULL);
}

/* relaxed: NULL is written under own_lock by the end of the team, in which the
 * place's thread is not; other values never change. */
static ac_team *team_of(const ac_worker *place) {
  return __atomic_load_n(&place->team, __ATOMIC_RELAXED);
}

/* Under own_lock: free the places that this thread had in teams that ended. */
static void drop_dead(ac__self *self) {
  for (ac_worker **link = &self->own; *link != NULL;) {
    ac_worker *place = *link;
    if (team_of(place) == NULL) {
      *link = place->next_own;
      ac__free(place);
    } else {
      link = &place->next_own;
    }
  }
}

static void thread_end(void *unused) {
  ac__self *self = &ac__self_tls;
  (void)unused;
  if (self->generation != ac__generation())
    return;
  ac__token_release(&ac__own_token);
  pthread_mutex_lock(&own_lock);
  drop_dead(self);
  while (self->own != NULL) {
    ac_worker *place = self->own;
    self->own = place->next_own;
    place->next_own = NULL;
    place->in_use = 0;
  }
  pthread_mutex_unlock(&own_lock);
}

static void set_up(void) {
  (void)pthread_atfork(NULL, NULL, child_handler);
  has_end_key = pthread_key_create(&end_key, thread_end) == 0;
}

/* ---- Making and ending --------------------------------------------------- */

/* acquire: who sees this process's sees all of revive() by another thread */
static uint32_t generation_of(ac_team *team) {
  return atomic_load_explicit(&team->generation, memory_order_acquire);
}

/* Places of helpers are their numbers, 1 … AC__WIDTH_MAX. */
static int32_t guest_place(int32_t index) { return AC__WIDTH_MAX + 1 + index; }

static void init_worker(ac_worker *worker, ac_team *team, int32_t number,
                        int32_t place) {
  worker->team = team;
  worker->number = number;
  worker->place = place;
  worker->is_guest = number == 0;
  worker->head.slots = worker->slots;
  worker->head.team_hungry = (const uint32_t *)(const void *)&team->hungry;
  (void)ac__deque_has_room(&worker->head, !ac__barrier_is_asymmetric());
  atomic_store_explicit(&worker->mail.state,
                        number == 0 ? AC__MAIL_BUSY : AC__MAIL_ABSENT,
                        memory_order_relaxed);
}

/* Under the lock. Helpers with lower numbers exist. */
static ac_worker *add_helper(ac_team *team, int32_t number) {
  ac_worker *helper = ac__alloc_lines(sizeof *helper);
  if (helper == NULL)
    return NULL;
  init_worker(helper, team, number, number);
  /* release: pairs with the acquire of whoever reads the pointer */
  atomic_store_explicit(&team->helpers[number], helper, memory_order_release);
  atomic_store_explicit(&team->helper_count, number + 1, memory_order_release);
  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_release);
  atomic_store_explicit(&team->hungry, 1, memory_order_release);
  return helper;
}

ac_worker *ac__team_helper(ac_team *team, int32_t number) {
  if (number > AC__WIDTH_MAX)
    return NULL;
  /* acquire: the helper's fields were set before its pointer */
  ac_worker *helper =
      atomic_load_explicit(&team->helpers[number], memory_order_acquire);
  if (helper != NULL)
    return helper;
  pthread_mutex_lock(&team->lock);
  int32_t count =
      atomic_load_explicit(&team->helper_count, memory_order_relaxed);
  for (; count <= number; count++)
    if (add_helper(team, count) == NULL)
      break;
  pthread_mutex_unlock(&team->lock);
  return atomic_load_explicit(&team->helpers[number], memory_order_acquire);
}

/* A team's extent is one word, so that a refresh that was overtaken cannot
 * leave its width beside the other's epoch: the width in the low 16 bits,
 * whether it is more than there are cores (AC__CROWDED), and in the high half
 * the epoch of the budget that it was taken from. */
enum { EPOCH_SHIFT = 32 };

static int32_t width_of(uint64_t extent) { return (int32_t)(extent & 0xffff); }
static uint32_t epoch_of(uint64_t extent) {
  return (uint32_t)(extent >> EPOCH_SHIFT);
}

/* Take the width from the budget, or as asked, and have so many helpers. */
static int32_t refresh_width(ac_team *team) {
  /* The epoch first: a width newer than its epoch is refreshed again. */
  uint32_t epoch = ac__budget_epoch();
  int32_t width = team->asked_width != 0 ? team->asked_width : ac_budget();
  if (width > 1 && ac__team_helper(team, width - 1) == NULL) {
    /* Memory is short: as many as there are. */
    int32_t count =
        atomic_load_explicit(&team->helper_count, memory_order_relaxed);
    width = count < 1 ? 1 : count;
  }
  uint64_t extent = (uint64_t)epoch << EPOCH_SHIFT | (uint32_t)width |
                    (width > ac__ledger_slots() ? AC__CROWDED : 0);
  /* relaxed: any thread may see the old extent for a while */
  uint64_t before = atomic_load_explicit(&team->extent, memory_order_relaxed);
  do {
    /* The epoch may wrap round. */
    if (width_of(before) != 0 && (int32_t)(epoch - epoch_of(before)) <= 0)
      return width_of(before); /* another refresh was faster */
  } while (!atomic_compare_exchange_weak_explicit(&team->extent, &before,
                                                  extent, memory_order_relaxed,
                                                  memory_order_relaxed));
  if (width > width_of(before) && before != 0)
    /* release: helpers parked beyond may be nudged now */
    atomic_store_explicit(&team->hungry, 1, memory_order_release);
  return width;
}

int32_t ac__team_width(ac_team *team) {
  /* relaxed: as above */
  uint64_t extent = atomic_load_explicit(&team->extent, memory_order_relaxed);
  return epoch_of(extent) == ac__budget_epoch() ? width_of(extent)
                                                : refresh_width(team);
}

static ac_team *make(const ac_team_options *options) {
  (void)pthread_once(&once, set_up);
  ac_team *team = ac__alloc_lines(sizeof *team);
  if (team == NULL)
    return NULL;
  if (pthread_mutex_init(&team->lock, NULL) != 0) {
    ac__free(team);
    return NULL;
  }
  team->asked_width = options->width;
  team->stack_bytes = options->stack_bytes;
  atomic_init(&team->generation, ac__generation());
  atomic_store_explicit(&team->helper_count, 1, memory_order_relaxed);
  (void)refresh_width(team);
  return team;
}

/* End a helper's thread; false if it has none (any more). */
static bool end_helper(ac_worker *helper) {
  uint32_t before;
  /* acquire: pairs with the release in ac__helper_start() */
  if (helper == NULL ||
      __atomic_load_n(&helper->is_started, __ATOMIC_ACQUIRE) != AC__STARTED)
    return false;
  while (!ac__mail_claim(helper, &before))
    ac__thread_yield(); /* it is on its way to its mailbox */
  (void)ac__mail_publish(helper, AC__MAIL_CLOSED);
  ac__mail_wake(helper);
  ac__thread_join(helper->thread);
  __atomic_store_n(&helper->is_started, AC__ENDED, __ATOMIC_RELAXED);
  return true;
}

/* A helper may have started another as it ended: until none is left. */
static void end_helpers(ac_team *team) {
  bool has_ended;
  do {
    int32_t count =
        atomic_load_explicit(&team->helper_count, memory_order_acquire);
    has_ended = false;
    for (int32_t i = 1; i < count; i++)
      has_ended |= end_helper(
          atomic_load_explicit(&team->helpers[i], memory_order_relaxed));
  } while (has_ended);
}

/* A guest's place is in its thread's list, which only that thread changes: mark
 * it, and drop_dead() frees it there. */
static void free_team(ac_team *team) {
  for (int32_t i = 1; i <= AC__WIDTH_MAX; i++)
    ac__free(atomic_load_explicit(&team->helpers[i], memory_order_relaxed));
  pthread_mutex_lock(&own_lock);
  int32_t guests =
      atomic_load_explicit(&team->guest_count, memory_order_relaxed);
  for (int32_t i = 0; i < guests; i++) {
    ac_worker *guest =
        atomic_load_explicit(&team->guests[i], memory_order_relaxed);
    if (guest->in_use && !guest->is_orphan)
      /* relaxed: see team_of() */
      __atomic_store_n(&guest->team, NULL, __ATOMIC_RELAXED);
    else
      ac__free(guest);
  }
  pthread_mutex_unlock(&own_lock);
  (void)pthread_mutex_destroy(&team->lock);
  ac__free(team);
}

ac_status ac_team_create(const ac_team_options *options, ac_team **ret_team) {
  ac_team_options defaults = {0};
  if (options == NULL)
    options = &defaults;
  if (ret_team == NULL)
    return ac__fail(AC_E_INVAL, "ac_team_create", "Give a place for the team.",
                    "ret_team is NULL");
  if (options->width < 0 || options->width > AC__WIDTH_MAX)
    return ac__fail(AC_E_INVAL, "ac_team_create",
                    "Give 1 to 1024 threads, or 0 for the budget.",
                    "width is %d", options->width);
  ac_team *team = make(options);
  if (team == NULL)
    return ac__fail(AC_E_NOMEM, "ac_team_create", "",
                    "memory for a team of %d could not be had", options->width);
  *ret_team = team;
  return AC_OK;
}

void ac_team_destroy(ac_team *team) {
  if (team == NULL)
    return;
  if (generation_of(team) == ac__generation())
    end_helpers(team);
  free_team(team);
}

ac_team *ac__team_own(void) {
  /* acquire: pairs with the release below */
  ac_team *team = atomic_load_explicit(&own_team, memory_order_acquire);
  if (team != NULL)
    return team;
  ac_team_options options = {0};
  pthread_mutex_lock(&own_lock);
  team = atomic_load_explicit(&own_team, memory_order_relaxed);
  if (team == NULL) {
    team = make(&options);
    atomic_store_explicit(&own_team, team, memory_order_release);
  }
  pthread_mutex_unlock(&own_lock);
  return team;
}

int ac_team_width(ac_team *team) {
  if (team == NULL)
    team = ac__team_own();
  return team == NULL ? 1 : ac__team_width(team);
}

/* ---- Visiting ------------------------------------------------------------ */

static void renew_worker(ac_worker *worker, ac_team *team, int32_t number,
                         int32_t place) {
  memset(worker, 0, offsetof(ac_worker, counters));
  init_worker(worker, team, number, place);
}

static void revive_helper(ac_team *team, int32_t number) {
  ac_worker *helper =
      atomic_load_explicit(&team->helpers[number], memory_order_relaxed);
  if (helper->is_orphan) { /* it is the thread that forked: another instead */
    helper = ac__alloc_lines(sizeof *helper);
    atomic_store_explicit(&team->helpers[number], helper, memory_order_release);
    if (helper == NULL)
      return;
  }
  renew_worker(helper, team, number, number);
  atomic_fetch_or_explicit(&team->parked[number / 64],
                           UINT64_C(1) << (number % 64), memory_order_relaxed);
}

/* Make a team of another generation fit for this process: no helper runs, no
 * guest is inside. The child has few threads now; the lock keeps them apart. */
static void revive(ac_team *team) {
  pthread_mutex_lock(&own_lock);
  if (generation_of(team) != ac__generation()) {
    int32_t helpers =
        atomic_load_explicit(&team->helper_count, memory_order_relaxed);
    int32_t guests =
        atomic_load_explicit(&team->guest_count, memory_order_relaxed);
    (void)pthread_mutex_init(&team->lock, NULL);
    for (int32_t i = 1; i < helpers; i++)
      revive_helper(team, i);
    for (int32_t i = 0; i < guests; i++) {
      ac_worker *guest =
          atomic_load_explicit(&team->guests[i], memory_order_relaxed);
      if (!guest->is_orphan)
        renew_worker(guest, team, 0, guest_place(i));
    }
    atomic_store_explicit(&team->hungry, helpers > 1, memory_order_relaxed);
    atomic_store_explicit(&team->sentinel, 0, memory_order_relaxed);
    atomic_store_explicit(&team->looking, 0, memory_order_relaxed);
    atomic_store_explicit(&team->open_groups, 0, memory_order_relaxed);
    team->groups = NULL; /* the parent's: see group.c */
    /* release, and last: pairs with generation_of() */
    atomic_store_explicit(&team->generation, ac__generation(),
                          memory_order_release);
  }
  pthread_mutex_unlock(&own_lock);
}

/* Under own_lock: a free guest place, or a new one. */
static ac_worker *find_place(ac_team *team) {
  int32_t count =
      atomic_load_explicit(&team->guest_count, memory_order_relaxed);
  for (int32_t i = 0; i < count; i++) {
    ac_worker *guest =
        atomic_load_explicit(&team->guests[i], memory_order_relaxed);
    if (!guest->in_use)
      return guest;
  }
  if (count >= AC__PLACES_MAX - AC__WIDTH_MAX - 1)
    return NULL;
  ac_worker *guest = ac__alloc_lines(sizeof *guest);
  if (guest == NULL)
    return NULL;
  init_worker(guest, team, 0, guest_place(count));
  /* release: pairs with the acquire of thieves */
  atomic_store_explicit(&team->guests[count], guest, memory_order_release);
  atomic_store_explicit(&team->guest_count, count + 1, memory_order_release);
  return guest;
}

static ac_worker *take_place(ac__self *self, ac_team *team) {
  if (!has_end_key)
    return NULL;
  pthread_mutex_lock(&own_lock);
  drop_dead(self);
  ac_worker *guest = find_place(team);
  if (guest != NULL) {
    guest->in_use = 1;
    guest->next_own = self->own;
    if (pthread_setspecific(end_key, guest) == 0) {
      self->own = guest;
    } else {
      guest->in_use = 0;
      guest = NULL;
    }
  }
  pthread_mutex_unlock(&own_lock);
  return guest;
}

static ac_worker *own_place(ac__self *self, ac_team *team) {
  for (ac_worker *place = self->own; place != NULL; place = place->next_own)
    if (team_of(place) == team)
      return place;
  return take_place(self, team);
}

/* The thread holds a core for as long as it lives, from its first region on (a
 * worker process's, while it is awake); helpers of a team hold theirs there. */
static void renew_token(ac__self *self) {
  if (self->is_helper)
    return;
  if (ac__own_token.word == 0)
    ac__token_enter(&ac__own_token, ac__ledger_word());
  else
    ac__token_renew(&ac__own_token);
}

static void set_frame(ac_worker *worker, ac__frame *frame) {
  worker->frame = frame;
  worker->head.scope = frame;
}

/* From outside of any region, or from another team's. */
static bool enter_from_outside(ac__self *self, ac_team *team,
                               ac__visit *ret_visit) {
  if (self->worker == NULL && self->generation != ac__generation()) {
    self->own = NULL;
    ac__own_token = (ac__token){0};
    self->is_helper = false;
    self->generation = ac__generation();
  }
  if (generation_of(team) != ac__generation())
    revive(team);
  ac_worker *worker = own_place(self, team);
  if (worker == NULL)
    return false;
  if (self->worker == NULL) {
    renew_token(self);
  } else { /* what it does here is inside of what it did there */
    ret_visit->frame = worker->frame;
    set_frame(worker, self->worker->frame);
  }
  ret_visit->worker = worker;
  ret_visit->is_top = true;
  self->worker = worker;
  return true;
}

bool ac__enter(ac_team *team, ac__visit *ret_visit) {
  ac__self *self = &ac__self_tls;
  ac_worker *before = self->worker;
  ret_visit->worker = NULL;
  ret_visit->before = before;
  ret_visit->is_top = false;
  if (team == NULL && (team = ac__team_own()) == NULL)
    return false;
  if (before != NULL) {
    if (ac__is_orphan())
      return false;
    if (before->team == team) {
      ret_visit->worker = before;
      return true;
    }
  }
  return enter_from_outside(self, team, ret_visit);
}

ac_status ac__enter_failed(const ac__visit *visit, const char *operation) {
  if (visit->before != NULL && ac__is_orphan())
    return ac__fail(AC_E_FORKED, operation,
                    "Leave the region first, or start a program by exec.",
                    "the process was forked inside a region");
  return ac__fail(AC_E_NOMEM, operation, "",
                  "memory for the thread's place in the team was refused");
}

void ac__leave(const ac__visit *visit) {
  ac__self_tls.worker = visit->before;
  if (visit->is_top && visit->before != NULL)
    set_frame(visit->worker, visit->frame);
}

/* ---- Counters ------------------------------------------------------------ */

static void add_counters(ac_counters *sum, const ac_worker *worker) {
  if (worker == NULL)
    return;
    /* relaxed: a count may be a little behind */
#define ADD(name, text)                                                        \
  sum->name += __atomic_load_n(&worker->counters.name, __ATOMIC_RELAXED);
  AC_COUNTER_TABLE(ADD)
#undef ADD
}

void ac_counters_read(ac_team *team, ac_counters *ret_counters) {
  ac_counters sum = {0};
  if (team == NULL)
    team = atomic_load_explicit(&own_team, memory_order_acquire);
  if (team != NULL) {
    int32_t helpers =
        atomic_load_explicit(&team->helper_count, memory_order_acquire);
    int32_t guests =
        atomic_load_explicit(&team->guest_count, memory_order_acquire);
    for (int32_t i = 1; i < helpers; i++)
      add_counters(
          &sum, atomic_load_explicit(&team->helpers[i], memory_order_acquire));
    for (int32_t i = 0; i < guests; i++)
      add_counters(
          &sum, atomic_load_explicit(&team->guests[i], memory_order_acquire));
  }
  *ret_counters = sum;
}
