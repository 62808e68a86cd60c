/* pool.h: the parent's side of a pool, and of a fork server. Private.
 *
 *   task     what was submitted; lives until its result is freed.
 *   crew     the pool's workers: which run, which are to be started.
 *   server   the socket to a fork server, and the thread that listens to it
 *            (the supervisor), which serves all pools of that server.
 *
 * Locks: a server's lock is taken before a pool's, never after. The supervisor
 * holds its server's lock while it works, so a pool that has left the server's
 * list is not touched by it any more.
 */
#ifndef AC_PROCS_POOL_H
#define AC_PROCS_POOL_H

#include "procs/envelope.h"
#include "procs/protocol.h"
#include "procs/slots.h"

#include <pthread.h>

typedef struct task {
  struct task *next; /* in the backlog, or among those that ended */
  uint64_t key;
  int64_t limit_ns;
  int32_t retries; /* left */
  int32_t attempts;
  int32_t slot; /* -1 = none */
  ac_task_place place;
  ac_task_end end; /* once doomed: what it will be */
  int32_t pid;
  int32_t exit_status;
  int64_t run_ns;
  uint64_t doomed_ns; /* 0 = it is not */
  bool is_held;       /* its worker goes on using its buffers */
  bool is_killed;     /* TERM has not helped: KILL was sent */
  /* Its message: a copy while it waits for a slot, or a run of the arena. */
  uint8_t *in;
  uint64_t in_offset;
  size_t in_bytes;
  /* Its result, likewise. */
  uint8_t *out;
  uint64_t out_offset;
  size_t out_bytes;
  ac_bytes *buffers;
  size_t buffers_room;
} task;

enum { CREW_NONE, CREW_WANTED, CREW_STARTING, CREW_RUNS };

typedef struct crew_member {
  int state;
  int32_t pid;
  int pidfd;      /* -1: descriptors were short */
  bool was_ready; /* and note_early() has seen it so */
  int32_t signal; /* then: what the fork server is to send; 0 = nothing */
  uint32_t owner;
} crew_member;

/* A run of the arena that ac_pool_keep() has made. */
typedef struct kept_run {
  uint64_t offset, size_bytes;
} kept_run;

typedef struct ac__server ac__server;

struct ac_pool {
  ac_pool *next; /* in the server's list; under its lock */
  ac__server *server;
  uint64_t id;
  uint32_t generation; /* of fork */
  int workers;
  bool is_lazy;
  bool is_paused;
  int fd_count; /* descriptors that each worker gets, the caller's */
  int fds[AC_POOL_FDS_MAX];

  pthread_mutex_t lock; /* guards all that follows */
  pthread_cond_t crew_changed;
  ac__pool_memory memory;
  kept_run *kept; /* by their offsets */
  size_t kept_count, kept_room;
  task **tasks; /* by the low half of their keys */
  uint32_t task_count, task_room;
  uint32_t *free_keys; /* numbers of `tasks` that are free, with generation */
  uint32_t free_key_count;
  uint32_t *key_uses; /* generation of each number */
  task *backlog, **backlog_end;
  task *ended, **ended_end;
  _Atomic uint32_t ended_count; /* read without the lock, as a hint */
  uint32_t *free_slots;
  uint32_t free_slot_count;
  uint32_t slot_count; /* that have memory; more are added as needed */
  task **slot_tasks;
  uint64_t *slot_positions; /* in the queue */
  uint32_t *stale_slots;    /* cancelled, still in the queue */
  uint32_t stale_count;
  uint32_t unfinished; /* tasks that have not ended */
  uint32_t limited;    /* tasks in slots with a limit, or doomed */
  crew_member *crew;
  _Atomic int alive; /* WANTED, STARTING or RUNS; a hint without the lock */
  int refused;       /* rounds of starts in a row that were refused */
  uint32_t next_owner;
  int early_deaths; /* of workers that were not ready, since one became so */
  int32_t early_status;
  uint64_t trim_ns;  /* when to look next for pages to give back; 0 = never */
  uint64_t retry_ns; /* no worker could be forked: not before */
  bool is_closing, is_terminated;
  const char *refusal; /* no worker can begin: why; set once */
  char *refusal_text;  /* likewise, if there was memory for it */
};

/* ---- tasks.c: from submit to result. All under the pool's lock ----------- */

/* Take in what workers have finished, and fill slots from the backlog. */
void ac__tasks_collect(ac_pool *pool);

/* What a dead worker had: fail it or queue it again. */
void ac__tasks_bury(ac_pool *pool, uint32_t worker, int32_t pid,
                    int32_t exit_status);

/* End every task that has not begun. */
void ac__tasks_drop(ac_pool *pool, ac_task_end end);

/* Doom what has run past its limit; send KILL after TERM. Returns when to look
 * again; 0 = never. */
uint64_t ac__tasks_check_limits(ac_pool *pool, uint64_t now_ns);

/* A task that no slot holds has ended. */
void ac__task_end(ac_pool *pool, task *task, ac_task_end end);

/* Take a task that nobody has begun out of its slot; false if one has. */
bool ac__task_unslot(ac_pool *pool, task *task);

/* Doom a running task. */
bool ac__task_doom(ac_pool *pool, task *task, ac_task_end end);

/* Wake the threads that wait in the parent, if something has ended. What a dead
 * worker was about to tell is told by ac__tasks_bury(). */
void ac__tasks_ring(ac_pool *pool);

bool ac__pool_is_parents(const ac_pool *pool);

/* ---- crew.c: workers. Under the pool's lock ------------------------------ */

/* Have as many workers started as are wanted now. True if some are. */
bool ac__crew_fill(ac_pool *pool, uint64_t now_ns);

/* What the fork server is to do next, without the descriptors; false = nothing.
 */
bool ac__crew_next(ac_pool *pool, ac__request *ret_request);

/* A request could not be sent. */
void ac__crew_unsent(ac_pool *pool, const ac__request *request);

void ac__crew_notice(ac_pool *pool, const ac__notice *notice, int pidfd);

/* The fork server has ended, and with it all its workers. */
void ac__crew_lost(ac_pool *pool);

/* No worker will begin any more: tasks that have not begun are refused; those
 * that run go on. Copies the text. */
void ac__crew_refuse(ac_pool *pool, const char *text, size_t size_bytes);

/* Send a signal, soon. False if the worker's process is not known yet, or gone.
 */
bool ac__crew_kill(ac_pool *pool, uint32_t worker, int signal_number);

/* Pages of the arena are in use, and will be free and warm. */
void ac__pool_note_pages(ac_pool *pool);

/* The supervisor's look at a pool; returns when to look again, 0 = never. */
uint64_t ac__pool_tick(ac_pool *pool, uint64_t now_ns);

/* ---- server.c ------------------------------------------------------------ */

/* Find or start the fork server that the options name, and put the pool into
 * its list. */
ac_status ac__server_join(const ac_pool_options *options, ac_pool *pool);

/* Leave it. A server of this pool alone ends. */
void ac__server_leave(ac_pool *pool);

/* Have the supervisor look at its pools. */
void ac__server_ring(ac__server *server);

/* Has the server's process used its processor since `*worked_ns`, which becomes
 * what it has used by now? */
bool ac__server_works(ac__server *server, uint64_t *worked_ns);

/* Kill the server's process: the supervisor sees to the rest. */
void ac__server_kill(ac__server *server);

/* Forks of this process so far: it counts them. */
uint32_t ac__server_generation(void);

#endif
