/* server.c: a fork server, seen from its parent; the supervisor.
 *
 * One thread a server: it reads what the server has to tell, hands that to the
 * pools, looks at their time limits, and asks for workers, never more than
 * IN_FLIGHT at a time, so that neither end ever waits for the other's socket.
 *
 * A server is a program, shared by all pools that name the same one and kept
 * for the process's life, or a fork of this process, for one pool alone. If a
 * shared one ends, another is started; tasks of its workers fail as with any
 * death. After a fork of this process the child closes its copies of the
 * sockets, so that the parent's end is still the last.
 *
 * Locks: that of the list, a server's, a pool's; and last that of the sockets:
 * a fork of this process must find each socket in its server's struct.
 *
 * Knows nothing of: tasks.
 */
#include "base/status.h"
#include "procs/pool.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum {
  IN_FLIGHT = 16, /* requests not yet answered */
  RESTARTS_MAX = 3,
  RESTART_NS = 1000000000 /* ends closer than that count towards the most */
};

struct ac__server {
  ac__server *next;
  char **argv; /* NULL: a fork of this process */
  pthread_mutex_t lock;
  ac__thread thread;
  int socket_fd;
  int bell_fd;
  int32_t pid;
  ac_pool *pools;
  int in_flight;
  int restarts;
  uint64_t started_ns;
  bool is_stopping;
  bool is_lost; /* it has ended, and there will be no other */
};

static pthread_mutex_t servers_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t sockets_lock = PTHREAD_MUTEX_INITIALIZER;
static ac__server *servers;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic uint32_t generation;
static _Atomic uint64_t pool_ids;

/* ---- Fork ---------------------------------------------------------------- */

static _Thread_local bool has_locks; /* this thread forks a server */

static void before_fork(void) {
  if (has_locks)
    return;
  (void)pthread_mutex_lock(&servers_lock);
  (void)pthread_mutex_lock(&sockets_lock);
}

static void in_parent(void) {
  if (has_locks)
    return;
  (void)pthread_mutex_unlock(&sockets_lock);
  (void)pthread_mutex_unlock(&servers_lock);
}

static void in_child(void) {
  /* relaxed: the child has one thread */
  atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
  for (ac__server *server = servers; server != NULL; server = server->next) {
    ac__fd_close(server->socket_fd);
    ac__fd_close(server->bell_fd);
    server->socket_fd = server->bell_fd = -1;
  }
  servers = NULL; /* the parent's; what points to them is not used any more */
  (void)pthread_mutex_init(&servers_lock, NULL);
  (void)pthread_mutex_init(&sockets_lock, NULL);
}

static void set_up(void) {
  (void)pthread_atfork(before_fork, in_parent, in_child);
}

uint32_t ac__server_generation(void) {
  /* relaxed: changes only in a child that has one thread */
  return atomic_load_explicit(&generation, memory_order_relaxed);
}

/* ---- Starting a server --------------------------------------------------- */

static char **copy_argv(const char *const *argv) {
  size_t count = 0;
  while (argv[count] != NULL)
    count++;
  char **copy = calloc(count + 1, sizeof *copy);
  for (size_t i = 0; copy != NULL && i < count; i++) {
    copy[i] = strdup(argv[i]);
    if (copy[i] != NULL)
      continue;
    while (i-- > 0)
      free(copy[i]);
    free(copy);
    return NULL;
  }
  return copy;
}

static bool is_same(char *const *a, const char *const *b) {
  for (; *a != NULL && *b != NULL; a++, b++)
    if (strcmp(*a, *b) != 0)
      return false;
  return *a == NULL && *b == NULL;
}

static void close_socket(ac__server *server) {
  (void)pthread_mutex_lock(&sockets_lock);
  ac__fd_close(server->socket_fd);
  server->socket_fd = -1;
  (void)pthread_mutex_unlock(&sockets_lock);
}

/* Start the program; its socket becomes ours. */
static ac_status spawn(ac__server *server) {
  int fds[2];
  (void)pthread_mutex_lock(&sockets_lock);
  ac_status st = ac__socket_pair(fds);
  if (st == AC_OK) {
    st = ac__process_spawn((const char *const *)server->argv, fds[1],
                           &server->pid);
    ac__fd_close(fds[1]);
    if (st == AC_OK)
      server->socket_fd = fds[0];
    else
      ac__fd_close(fds[0]);
  }
  (void)pthread_mutex_unlock(&sockets_lock);
  server->started_ns = ac__clock_ns();
  return st;
}

/* Workers of a forked server do what the options say. */
static void be_own_worker(const int *fds, int fd_count, int number, void *ctx) {
  (void)fd_count;
  ac__process_exit(ac_worker_serve(fds, number, ctx) == AC_OK ? 0 : 1);
}

static ac_status fork_locked(ac__server *server,
                             const ac_pool_options *options) {
  int fds[2];
  ac_forkserver_ops ops = {.child = be_own_worker,
                           .ctx = (void *)(uintptr_t)options->worker};
  ac_status st = ac__socket_pair(fds);
  if (st != AC_OK)
    return st;
  if (options->forkserver != NULL)
    ops = *options->forkserver;
  has_locks = true;
  int32_t pid = ops.fork != NULL ? ops.fork(ops.ctx) : ac__process_fork();
  has_locks = false;
  if (pid == 0) {
    ac__fd_close(fds[0]);
    ac__signals_reset();
    ac__process_exit(ac_forkserver_serve(fds[1], &ops) == AC_OK ? 0 : 1);
  }
  ac__fd_close(fds[1]);
  if (pid < 0) {
    ac__fd_close(fds[0]);
    return ac__fail(AC_E_OS, "ac_pool_create",
                    "Raise the limit of processes, or end some.",
                    "this process could not be forked");
  }
  server->socket_fd = fds[0];
  server->pid = pid;
  return AC_OK;
}

/* Under the list's lock. */
static ac_status fork_off(ac__server *server, const ac_pool_options *options) {
  (void)pthread_mutex_lock(&sockets_lock);
  ac_status st = fork_locked(server, options);
  (void)pthread_mutex_unlock(&sockets_lock);
  return st;
}

/* ---- The supervisor ------------------------------------------------------ */

static ac_pool *pool_of(ac__server *server, uint64_t id) {
  ac_pool *pool = server->pools;
  while (pool != NULL && pool->id != id)
    pool = pool->next;
  return pool;
}

/* Read what the server has to tell; false once it has ended. */
static bool receive(ac__server *server) {
  ac__notice notice;
  int fds[AC__FDS_MAX];
  int fd_count;
  long size;
  while ((size = ac__socket_receive(server->socket_fd, &notice, sizeof notice,
                                    fds, &fd_count)) > 0) {
    int pidfd = fd_count > 0 ? fds[0] : -1;
    ac_pool *pool =
        size == (long)sizeof notice ? pool_of(server, notice.pool) : NULL;
    if (notice.kind != AC__NOTICE_ENDED && server->in_flight > 0)
      server->in_flight--;
    if (pool == NULL) { /* it has left: its workers are not wanted */
      if (pidfd >= 0)
        (void)ac__pidfd_kill(pidfd, 9);
      ac__fd_close(pidfd);
      continue;
    }
    (void)pthread_mutex_lock(&pool->lock);
    ac__crew_notice(pool, &notice, pidfd);
    ac__tasks_ring(pool);
    (void)pthread_mutex_unlock(&pool->lock);
  }
  return size != 0;
}

static bool ask(const ac__server *server, const ac_pool *pool,
                ac__request *request) {
  int fds[AC__FDS_MAX] = {pool->memory.control.fd, pool->memory.arena.fd};
  int fd_count = 0;
  if (request->kind == AC__REQUEST_START) {
    fd_count = request->value = 2 + pool->fd_count;
    for (int i = 0; i < pool->fd_count; i++)
      fds[2 + i] = pool->fds[i];
  }
  return ac__socket_send(server->socket_fd, request, sizeof *request, fds,
                         fd_count);
}

/* Have workers started, and signals sent. */
static void ask_for_pools(ac__server *server) {
  for (ac_pool *pool = server->pools; pool != NULL; pool = pool->next) {
    ac__request request;
    (void)pthread_mutex_lock(&pool->lock);
    while (server->in_flight < IN_FLIGHT && ac__crew_next(pool, &request)) {
      if (!ask(server, pool, &request)) {
        ac__crew_unsent(pool, &request);
        ac__tasks_ring(pool);
        break; /* the server has ended, or something is short */
      }
      server->in_flight++;
    }
    (void)pthread_mutex_unlock(&pool->lock);
  }
}

/* The server's socket is closed: wait for its end, and enforce it. */
static void reap_server(const ac__server *server) {
  const int64_t most_ns = 2000000000;
  int32_t status;
  int pidfd = ac__pidfd_open(server->pid);
  if (pidfd >= 0)
    (void)ac__fds_wait(&pidfd, 1, most_ns);
  ac__fd_close(pidfd);
  if (ac__process_reap(false, server->pid, &status) != 0)
    return;
  ac__process_kill(server->pid, SIGKILL);
  (void)ac__process_reap(true, server->pid, &status);
}

/* The server has ended, and its workers with it. False if there will be no
 * other. */
static bool replace(ac__server *server) {
  bool is_late = ac__clock_ns() - server->started_ns > RESTART_NS;
  close_socket(server);
  server->in_flight = 0;
  reap_server(server);
  server->restarts = is_late ? 0 : server->restarts + 1;
  bool has_another = !server->is_stopping && server->argv != NULL &&
                     server->restarts < RESTARTS_MAX && spawn(server) == AC_OK;
  for (ac_pool *pool = server->pools; pool != NULL; pool = pool->next) {
    (void)pthread_mutex_lock(&pool->lock);
    ac__crew_lost(pool);
    ac__tasks_ring(pool);
    (void)pthread_mutex_unlock(&pool->lock);
  }
  return has_another;
}

/* There is no server: of pools that were in its list, and that joined since. */
static void refuse_all(ac__server *server) {
  static const char lost[] = "the fork server has ended";
  for (ac_pool *pool = server->pools; pool != NULL; pool = pool->next) {
    (void)pthread_mutex_lock(&pool->lock);
    ac__crew_refuse(pool, lost, sizeof lost - 1);
    ac__tasks_ring(pool);
    (void)pthread_mutex_unlock(&pool->lock);
  }
}

static uint64_t tick_all(ac__server *server) {
  uint64_t now_ns = ac__clock_ns();
  uint64_t due_ns = 0;
  for (ac_pool *pool = server->pools; pool != NULL; pool = pool->next) {
    (void)pthread_mutex_lock(&pool->lock);
    uint64_t its_ns = ac__pool_tick(pool, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    if (its_ns != 0 && (due_ns == 0 || its_ns < due_ns))
      due_ns = its_ns;
  }
  return due_ns == 0 ? 0 : due_ns > now_ns ? due_ns - now_ns : 1;
}

static void *supervise(void *arg) {
  ac__server *server = arg;
  (void)pthread_mutex_lock(&server->lock);
  while (!server->is_stopping) {
    if (server->is_lost)
      refuse_all(server);
    uint64_t wait_ns = tick_all(server);
    if (!server->is_lost)
      ask_for_pools(server);
    const int fds[2] = {server->bell_fd, server->socket_fd};
    int fd_count = server->is_lost ? 1 : 2;
    (void)pthread_mutex_unlock(&server->lock);
    uint32_t ready =
        ac__fds_wait(fds, fd_count, wait_ns == 0 ? -1 : (int64_t)wait_ns);
    (void)pthread_mutex_lock(&server->lock);
    if (ready & 1)
      ac__bell_clear(server->bell_fd);
    if ((ready & 2) && !receive(server))
      server->is_lost = !replace(server);
  }
  (void)pthread_mutex_unlock(&server->lock);
  return NULL;
}

bool ac__server_works(ac__server *server, uint64_t *worked_ns) {
  ac__thread_stat stat = {0};
  (void)pthread_mutex_lock(&server->lock);
  bool is_there =
      server->socket_fd >= 0 && ac__thread_stat_read(server->pid, &stat);
  (void)pthread_mutex_unlock(&server->lock);
  bool is_stopped = stat.state == 'T' || stat.state == 't';
  bool works = is_there && !is_stopped && stat.cpu_ns > *worked_ns;
  *worked_ns = stat.cpu_ns;
  return works;
}

void ac__server_kill(ac__server *server) {
  (void)pthread_mutex_lock(&server->lock);
  if (server->socket_fd >= 0) /* it has not been waited for */
    ac__process_kill(server->pid, SIGKILL);
  (void)pthread_mutex_unlock(&server->lock);
}

void ac__server_ring(ac__server *server) { ac__bell_ring(server->bell_fd); }

/* ---- Joining and leaving ------------------------------------------------- */

static void free_server(ac__server *server) {
  for (char **word = server->argv; word != NULL && *word != NULL; word++)
    free(*word);
  free(server->argv);
  ac__fd_close(server->socket_fd);
  ac__fd_close(server->bell_fd);
  (void)pthread_mutex_destroy(&server->lock);
  free(server);
}

/* A new server with its process and its thread. */
static ac_status make_server(const ac_pool_options *options,
                             ac__server **ret_server) {
  int32_t status;
  ac__server *server = calloc(1, sizeof *server);
  if (server == NULL || pthread_mutex_init(&server->lock, NULL) != 0) {
    free(server);
    return ac__fail(AC_E_NOMEM, "ac_pool_create", "",
                    "memory for the fork server was refused");
  }
  server->socket_fd = -1;
  server->bell_fd = ac__bell_create();
  ac_status st = AC_OK;
  if (server->bell_fd < 0)
    st = ac__fail(AC_E_OS, "ac_pool_create",
                  "Close files, or raise the limit on them (ulimit -n).",
                  "a descriptor was refused");
  else if (options->server == NULL)
    st = fork_off(server, options);
  else if ((server->argv = copy_argv(options->server)) == NULL)
    st = ac__fail(AC_E_NOMEM, "ac_pool_create", "",
                  "memory for the fork server was refused");
  else
    st = spawn(server);
  if (st == AC_OK) {
    st = ac__thread_start(&server->thread, 0, "allcores-pool", supervise,
                          server);
    if (st != AC_OK) {
      ac__fd_close(server->socket_fd);
      server->socket_fd = -1;
      (void)ac__process_reap(true, server->pid, &status);
    }
  }
  if (st != AC_OK) {
    free_server(server);
    return st;
  }
  *ret_server = server;
  return AC_OK;
}

/* Put a pool into a server's list; false if it is an old one that is lost. */
static bool add_pool(ac__server *server, ac_pool *pool, bool is_new) {
  (void)pthread_mutex_lock(&server->lock);
  bool may_join = is_new || !server->is_lost;
  if (may_join) {
    pool->server = server;
    pool->next = server->pools;
    server->pools = pool;
  }
  (void)pthread_mutex_unlock(&server->lock);
  return may_join;
}

ac_status ac__server_join(const ac_pool_options *options, ac_pool *pool) {
  ac_status st = AC_OK;
  pool->id = atomic_fetch_add_explicit(&pool_ids, 1, memory_order_relaxed);
  (void)pthread_once(&once, set_up);
  (void)pthread_mutex_lock(&servers_lock);
  ac__server *server = servers;
  while (server != NULL && (options->server == NULL || server->argv == NULL ||
                            !is_same(server->argv, options->server) ||
                            !add_pool(server, pool, false)))
    server = server->next;
  if (server == NULL) {
    st = make_server(options, &server);
    if (st == AC_OK) {
      server->next = servers;
      servers = server;
      (void)add_pool(server, pool, true);
    }
  }
  (void)pthread_mutex_unlock(&servers_lock);
  return st;
}

static void leave_list(ac__server *server) {
  (void)pthread_mutex_lock(&servers_lock);
  ac__server **at = &servers;
  while (*at != NULL && *at != server)
    at = &(*at)->next;
  if (*at != NULL)
    *at = server->next;
  (void)pthread_mutex_unlock(&servers_lock);
}

/* A server that no pool can join any more, and none is in. */
static void end_server(ac__server *server) {
  (void)pthread_mutex_lock(&server->lock);
  server->is_stopping = true;
  (void)pthread_mutex_unlock(&server->lock);
  ac__bell_ring(server->bell_fd);
  ac__thread_join(server->thread);
  /* While it is in the list no fork of this process keeps its socket open. */
  bool has_process = server->socket_fd >= 0;
  close_socket(server);
  leave_list(server);
  if (has_process)
    reap_server(server);
  free_server(server);
}

void ac__server_leave(ac_pool *pool) {
  ac__server *server = pool->server;
  (void)pthread_mutex_lock(&server->lock);
  ac_pool **at = &server->pools;
  while (*at != NULL && *at != pool)
    at = &(*at)->next;
  if (*at != NULL)
    *at = pool->next;
  bool is_over =
      server->argv == NULL || (server->is_lost && server->pools == NULL);
  (void)pthread_mutex_unlock(&server->lock);
  pool->server = NULL;
  if (is_over)
    end_server(server);
}
