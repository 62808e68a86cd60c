/* pool.h: worker processes: bytes in, bytes out.
 *
 * A pool is a set of worker processes that run tasks. A task is a message: some
 * bytes, and buffers beside them, which reach the worker through shared memory.
 * A worker that dies fails its own task, or the task is begun again; the others
 * go on and another worker is started.
 *
 * Nothing is done behind the caller's back: what has finished is taken in by
 * ac_pool_next(), from any thread. One thread of the library (the supervisor)
 * hears of deaths, watches time limits and starts workers.
 *
 * A fork of the calling process has no pools: there every call but
 * ac_pool_destroy() returns AC_E_FORKED.
 */
#ifndef ALLCORES_POOL_H
#define ALLCORES_POOL_H

#include <allcores/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ac_pool ac_pool;

/** Bytes that somebody owns. */
typedef struct ac_bytes {
  const void *data;
  size_t size_bytes;
} ac_bytes;

/** What a task takes or gives: bytes, and buffers beside them. Buffers begin on
 * cache lines in the receiver. */
typedef struct ac_message {
  ac_bytes bytes;
  const ac_bytes *buffers;
  size_t buffer_count;
} ac_message;

/* ---- In a worker -------------------------------------------------------- */

/** A worker's link to its pool. */
typedef struct ac_worker_link ac_worker_link;

/** Run one task.
 *
 * @param in    In shared memory; must not be changed. Valid until return, or,
 *              if `*ret_is_held` is set, until ac_worker_let_go().
 * @param ret   The result; what it points to must be valid until the next call.
 * @param ret_is_held  Set to true if something goes on using `in` after return.
 */
typedef void (*ac_worker_fn)(ac_worker_link *link, const ac_message *in,
                             ac_message *ret, bool *ret_is_held, void *ctx);

typedef struct ac_worker_ops {
  /** Called once before the first task, with what ac_pool_options.setup gave.
   * Another status than AC_OK ends the pool: no worker can begin. `ret_text`
   * then says why. NULL = nothing to do. */
  ac_status (*begin)(ac_worker_link *link, ac_bytes setup, ac_bytes *ret_text,
                     void *ctx);
  ac_worker_fn run;
  void *ctx;
  /** Called before the worker sleeps and after it woke; may be NULL. */
  void (*before_sleep)(void *ctx);
  void (*after_sleep)(void *ctx);
} ac_worker_ops;

/** Be worker `number` of the pool whose memory the two descriptors are: run
 * tasks until the pool is closed. Takes ownership of the descriptors. The
 * pool's memory stays mapped: what was kept of a message may be read later.
 * @return AC_OK: the pool was closed, or the worker has run as many tasks as it
 * may; then the process should end. */
AC_API ac_status ac_worker_serve(const int memory_fds[2], int number,
                                 const ac_worker_ops *ops);

/** Bytes that ac_pool_store() put where all workers read them; size 0 if the
 * key names none. */
AC_API ac_bytes ac_worker_fetch(ac_worker_link *link, uint64_t key);

/** A held message is used no more; `in_data` is its bytes' address, as `run`
 * was given it. Any thread of the worker. */
AC_API void ac_worker_let_go(ac_worker_link *link, const void *in_data);

/* ---- The fork server ---------------------------------------------------- */

typedef struct ac_forkserver_ops {
  /** Fork; as fork(). NULL = fork() itself. */
  int (*fork)(void *ctx);
  /** In the child: be worker `number`. `fds` are the pool's memory (two, for
   * ac_worker_serve) and then those of ac_pool_options. Must not return. */
  void (*child)(const int *fds, int fd_count, int number, void *ctx);
  /** Called once, when nothing was asked for a while after the first worker:
   * load here what later workers are likely to need. May be NULL. */
  void (*idle)(void *ctx);
  void *ctx;
} ac_forkserver_ops;

/** Start workers on request until the peer of `socket_fd` ends; then kill them
 * and return. The calling process must have one thread. */
AC_API ac_status ac_forkserver_serve(int socket_fd,
                                     const ac_forkserver_ops *ops);

/** The descriptor at which a program started as a fork server finds its socket.
 */
enum { AC_FORKSERVER_FD = 3 };

/** Most descriptors that a pool's workers can be given. */
enum { AC_POOL_FDS_MAX = 60 };

/** Bytes of memory that can be taken before the system, or a cgroup of this
 * process, is out of it: past that the kernel does not refuse but kills. Takes
 * about 50 µs. */
AC_API uint64_t ac_memory_room(void);

/* ---- The pool ----------------------------------------------------------- */

typedef struct ac_pool_options {
  int workers; /**< 1 … 1024 */
  /** The fork server: a program and its arguments, ending with NULL, started
   * once a process and shared by all pools with the same `server`; it must call
   * ac_forkserver_serve(AC_FORKSERVER_FD, …). NULL: the calling process forks
   * once, here, and the child serves with `worker`. */
  const char *const *server;
  /** With `server` NULL: what workers do. Borrowed for the pool's life. */
  const ac_worker_ops *worker;
  /** With `server` NULL and `forkserver` not: how the child serves. */
  const ac_forkserver_ops *forkserver;
  ac_bytes setup;         /**< handed to each worker's `begin`; copied */
  const int *fds;         /**< descriptors that each worker gets; borrowed */
  int fd_count;           /**< at most AC_POOL_FDS_MAX */
  int64_t tasks_a_worker; /**< a worker ends after so many; 0 = never */
  bool is_lazy;           /**< start workers as tasks come, not all at once */
  bool is_paused; /**< start none before ac_pool_start(), which also gives
                       `setup` and `fds`, made with the pool's help */
} ac_pool_options;

/** Make a pool. @return AC_OK; AC_E_INVAL; AC_E_NOMEM; AC_E_OS. */
AC_API ac_status ac_pool_create(const ac_pool_options *options,
                                ac_pool **ret_pool);

/** Start the workers of a pool that was made paused. See ac_pool_options.
 * @return AC_OK; AC_E_NOMEM; AC_E_INVAL; AC_E_STATE: it was started. */
AC_API ac_status ac_pool_start(ac_pool *pool, ac_bytes setup, const int *fds,
                               int fd_count);

/** End a pool as ac_pool_terminate() does, and free it. Results that were taken
 * in must have been freed. NULL is a no-op. */
AC_API void ac_pool_destroy(ac_pool *pool);

typedef struct ac_pool_task {
  int64_t limit_ns; /**< most time that it may run; 0 = no limit */
  int retries;      /**< how often it is begun again after a worker's death */
} ac_pool_task;

/** Hand over a task. Copies the message.
 * @param ret_key  Names the task; never 0.
 * @return AC_OK; AC_E_NOMEM; AC_E_STATE: the pool was closed or is broken. */
AC_API ac_status ac_pool_submit(ac_pool *pool, const ac_message *message,
                                const ac_pool_task *task, uint64_t *ret_key);

/** How a task ended. */
typedef enum ac_task_end {
  AC_TASK_DONE,      /**< `message` is what the worker gave */
  AC_TASK_CANCELLED, /**< ac_pool_cancel() or the pool's end */
  AC_TASK_DIED,      /**< its worker ended; `exit_status` says how */
  AC_TASK_TIMEOUT,   /**< it ran past its limit and was ended */
  AC_TASK_REFUSED,   /**< no worker can begin; `message.bytes` says why */
  AC_TASK_NOMEM      /**< no memory for its result */
} ac_task_end;

typedef struct ac_pool_result {
  uint64_t key;
  ac_task_end end;
  int32_t pid;         /**< of the last worker that began it; 0 = none */
  int32_t attempts;    /**< how often it was begun */
  int32_t exit_status; /**< of a worker that died: as exit() was given, or
                            minus a signal's number */
  int64_t run_ns;      /**< as measured by the worker */
  bool is_held;        /**< the worker goes on using the task's buffers; those
                            from ac_pool_keep() must be kept while it lives */
  ac_message message;  /**< in shared memory, the caller's until freed */
  void *owned;         /**< the library's */
} ac_pool_result;

/** Take in one finished task; false if there is none. Never blocks. */
AC_API bool ac_pool_next(ac_pool *pool, ac_pool_result *ret_result);

/** Free a result. With `keeps_buffers` its buffers stay, and
 * ac_pool_buffers_free() frees them later. */
AC_API void ac_pool_result_free(ac_pool *pool, ac_pool_result *result,
                                bool keeps_buffers, uint64_t *ret_buffers);
AC_API void ac_pool_buffers_free(ac_pool *pool, uint64_t buffers);

/** Copy bytes to where workers find them. A buffer of a task that lies there,
 * whole or in part, is not copied again; any other is. To be freed with
 * ac_pool_buffers_free(), after the tasks that use it have ended.
 * @return AC_OK; AC_E_NOMEM. */
AC_API ac_status ac_pool_keep(ac_pool *pool, ac_bytes bytes,
                              const void **ret_data, uint64_t *ret_buffers);

/** Sleep until ac_pool_next() has something to give, or ac_pool_ring() is
 * called, at most timeout_ns (negative = no limit); may return early. */
AC_API ac_status ac_pool_wait(ac_pool *pool, int64_t timeout_ns);

/** Counts what has been told to those who wait: results, and ac_pool_ring(). */
AC_API uint32_t ac_pool_bell(ac_pool *pool);

/** As ac_pool_wait(), but does not sleep if there was news since `bell` was
 * read: so a thread may look at what other threads have taken in meanwhile. */
AC_API ac_status ac_pool_wait_from(ac_pool *pool, uint32_t bell,
                                   int64_t timeout_ns);

/** Wake all threads in ac_pool_wait(). */
AC_API void ac_pool_ring(ac_pool *pool);

/** Why no worker can begin; NULL = they can, as far as is known. Valid for the
 * pool's life. */
AC_API const char *ac_pool_refusal(ac_pool *pool);

/** Where a task is. */
typedef enum ac_task_place {
  AC_TASK_GONE, /**< taken in, or unknown */
  AC_TASK_WAITING,
  AC_TASK_RUNNING,
  AC_TASK_ENDED /**< ac_pool_next() will give it */
} ac_task_place;

AC_API ac_task_place ac_pool_where(ac_pool *pool, uint64_t key);

/** Leave a task out if it has not begun; with `kills` end its worker if it has.
 * @return true if it will not give a result: it ends as AC_TASK_CANCELLED. */
AC_API bool ac_pool_cancel(ac_pool *pool, uint64_t key, bool kills);

/** Keep bytes where every worker can read them, for the pool's life. */
AC_API ac_status ac_pool_store(ac_pool *pool, ac_bytes bytes,
                               uint64_t *ret_key);

/** Take no more tasks; workers end when all are done. */
AC_API void ac_pool_close(ac_pool *pool);

/** End all workers now; tasks not done are cancelled. Returns when the workers
 * are gone. A fork server that for seconds neither answers nor runs is killed,
 * and all its workers with it. */
AC_API void ac_pool_terminate(ac_pool *pool);

/** After ac_pool_close(): wait until all tasks and all workers have ended.
 * @return AC_OK; AC_E_TIMEOUT after timeout_ns (negative = no limit). Tasks
 * must be taken in meanwhile if there are more than fit (ac_pool_next). */
AC_API ac_status ac_pool_join(ac_pool *pool, int64_t timeout_ns);

/** Process numbers of the workers that run now.
 * @return how many there are; at most `most` are written. */
AC_API int ac_pool_pids(ac_pool *pool, int32_t *ret_pids, int most);

#ifdef __cplusplus
}
#endif
#endif
