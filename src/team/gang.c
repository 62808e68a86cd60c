/* gang.c: ac_team_each: a number of threads that all run at the same time.
 *
 * The caller reserves the mailboxes of enough idle helpers, making spares beyond
 * the team's width where too few are idle, and only then publishes: so either
 * all run or none does, and a gang inside a gang cannot wait for its own parts.
 * Sleepers are woken as a tree: each one that wakes, wakes half of the rest of
 * its share, so that a wake's 6 µs are paid log2(width) times in a row.
 *
 * Knows nothing of: what the bodies do with each other.
 */
#include "base/status.h"
#include "team/pending.h"
#include "team/team.h"

typedef struct member {
  ac_worker *helper;
  uint32_t before;       /* code of its mailbox when it was claimed */
  _Atomic int64_t base;  /* its bottom when it began; INT64_MAX = not inside */
} member;

typedef struct gang {
  ac__region region;
  ac_body_fn body;
  void *ctx;
  member *members; /* [0] is the caller's and unused */
  alignas(AC__LINE) ac__pending pending;
} gang;

/* Wake the sleepers among members [first, last): the first of each upper half is
 * told to wake the rest of it (find_share). */
static void wake_share(gang *gang, ac_worker *worker, int32_t first,
                       int32_t last) {
  while (first < last) {
    int32_t middle = first + (last - first) / 2;
    if (gang->members[middle].before != AC__MAIL_OPEN) {
      AC__COUNT(worker, wakes);
      AC__COUNT(worker, futex_calls);
      ac__mail_wake(gang->members[middle].helper);
    }
    last = middle;
  }
}

/* The share that member `index` wakes, when [first, last) is halved as in
 * wake_share(). */
static void find_share(int32_t index, int32_t first, int32_t last,
                       int32_t *ret_first, int32_t *ret_last) {
  int32_t middle = first + (last - first) / 2;
  while (middle != index) {
    if (index < middle)
      last = middle;
    else
      first = middle + 1;
    middle = first + (last - first) / 2;
  }
  *ret_first = middle + 1;
  *ret_last = last;
}

static void run_member(const ac__mail *mail, ac_worker *worker) {
  gang *gang = mail->subject;
  ac_worker *owner = gang->region.owner;
  ac__frame frame;
  wake_share(gang, worker, mail->first, mail->last);
  /* relaxed: a hint for who may help */
  atomic_store_explicit(&gang->members[mail->index].base, worker->head.bottom,
                        memory_order_relaxed);
  ac__frame_push(worker, &frame, &gang->region, owner, mail->index);
  ac_status status =
      gang->body((ac_range){mail->index, mail->index + 1}, gang->ctx);
  ac__frame_pop(worker, &frame);
  if (status != AC_OK)
    ac__region_fail(&gang->region, status);
  /* relaxed: as above; what the helper exposes from now on is not ours */
  atomic_store_explicit(&gang->members[mail->index].base, INT64_MAX,
                        memory_order_relaxed);
  AC__COUNT(worker, shared_writes);
  ac__pending_end(&gang->pending, owner);
}

static bool is_over(void *subject) {
  return ac__pending_is_over(&((gang *)subject)->pending);
}

static bool help(void *subject, ac_worker *worker) {
  gang *gang = subject;
  for (int32_t i = 1; i < gang->region.width; i++) {
    int64_t base =
        atomic_load_explicit(&gang->members[i].base, memory_order_relaxed);
    if (ac__help(worker, gang->members[i].helper, base))
      return true;
  }
  return false;
}

static bool ask(void *subject, ac_worker *worker) {
  gang *gang = subject;
  (void)worker;
  for (int32_t i = 1; i < gang->region.width; i++)
    ac__make_hungry(gang->members[i].helper);
  return ac__pending_ask(&gang->pending);
}

/* Reserve a helper that is idle or not yet started; start it if need be. */
static ac_status reserve(ac_team *team, member *member, int32_t *number) {
  for (; *number <= AC__WIDTH_MAX; ++*number) {
    ac_worker *helper = ac__team_helper(team, *number);
    if (helper == NULL)
      return ac__fail(AC_E_NOMEM, "ac_team_each", "Ask for fewer threads.",
                      "memory for thread %d was refused", *number);
    if (!ac__mail_claim(helper, &member->before))
      continue;
    member->helper = helper;
    atomic_init(&member->base, INT64_MAX);
    ++*number;
    if (member->before == AC__MAIL_ABSENT) {
      if (!ac__helper_start(helper)) {
        ac__mail_unclaim(helper, AC__MAIL_ABSENT);
        return ac__fail(AC_E_OS, "ac_team_each",
                        "Raise the limit on threads, or ask for fewer.",
                        "the system refused thread %d", *number - 1);
      }
      member->before = AC__MAIL_OPEN; /* it polls, waiting for the message */
    } else if (helper->token.slot == 0) {
      ac__token_enter(&helper->token, helper->word);
    }
    return AC_OK;
  }
  return ac__fail(AC_E_NOMEM, "ac_team_each", "Ask for fewer threads.",
                  "all %d threads of the team are busy", AC__WIDTH_MAX);
}

static ac_status reserve_all(ac_worker *worker, gang *gang) {
  int32_t number = 1;
  for (int32_t i = 1; i < gang->region.width; i++) {
    ac_status status = reserve(worker->team, &gang->members[i], &number);
    if (status == AC_OK)
      continue;
    while (--i > 0) /* parked ones slept on; the others go back to polling */
      ac__mail_unclaim(gang->members[i].helper, gang->members[i].before);
    return status;
  }
  return AC_OK;
}

static void publish_all(ac_worker *worker, gang *gang) {
  int32_t width = gang->region.width;
  int32_t cpu = ac__cpu_current();
  for (int32_t i = 1; i < width; i++) {
    ac__mail *mail = &gang->members[i].helper->mail;
    mail->index = i;
    mail->run = run_member;
    mail->subject = gang;
    mail->cpu = cpu;
    find_share(i, 1, width, &mail->first, &mail->last);
  }
  for (int32_t i = 1; i < width; i++)
    (void)ac__mail_publish(gang->members[i].helper, AC__MAIL_FULL);
  AC__COUNT_N(worker, shared_writes, 2 * (width - 1));
  AC__COUNT_N(worker, mails, width - 1);
  wake_share(gang, worker, 1, width);
}

static ac_status run_gang(ac_worker *worker, gang *gang) {
  ac_status status = reserve_all(worker, gang);
  if (status != AC_OK)
    return status;
  atomic_init(&gang->pending, (uint32_t)gang->region.width - 1);
  publish_all(worker, gang);

  ac__frame frame;
  ac__frame_push(worker, &frame, &gang->region, NULL, 0);
  status = gang->body((ac_range){0, 1}, gang->ctx);
  if (status != AC_OK)
    ac__region_fail(&gang->region, status);
  const ac__wait wait = {
      .is_over = is_over, .help = help, .ask = ask, .subject = gang};
  while ((status = ac__await(worker, &wait)) != AC_OK) {
    ac__region_fail(&gang->region, status);
    if (status == AC_E_FORKED)
      break;
  }
  ac__frame_pop(worker, &frame);
  return ac__region_finish(&gang->region);
}

static ac_status fail_entry(const ac__entry *entry) {
  if (entry->before != NULL)
    return ac__fail(AC_E_FORKED, "ac_team_each",
                    "Leave the region first, or start a program by exec.",
                    "the process was forked inside a region");
  return ac__fail(AC_E_NOMEM, "ac_team_each", "",
                  "memory for the thread's place in the team was refused");
}

ac_status ac_team_each(ac_team *team, int width, ac_body_fn body, void *ctx) {
  ac__entry entry;
  if (body == NULL || width < 0 || width > AC__WIDTH_MAX)
    return ac__fail(AC_E_INVAL, "ac_team_each",
                    "Give a body and a width of 1 to 1024, or 0 for the team's.",
                    "width is %d%s", width, body == NULL ? ", body NULL" : "");
  if (!ac__enter(team, &entry)) {
    ac__leave(&entry);
    return width == 1 ? body((ac_range){0, 1}, ctx) : fail_entry(&entry);
  }
  ac_worker *worker = entry.worker;
  if (width == 0)
    width = ac__team_width(worker->team);
  AC__COUNT(worker, gangs);
  member members[width];
  gang gang = {.body = body, .ctx = ctx, .members = members};
  ac__region_init(&gang.region, worker, width);
  ac_status status = run_gang(worker, &gang);
  ac__leave(&entry);
  return status;
}
