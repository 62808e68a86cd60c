/* forkserver.c: the fork server's day.
 *
 * It forks a worker for each request, hands back a descriptor of the worker's
 * process, and tells how each worker ended. The descriptor is made while the
 * child has not been waited for, so it cannot name another process. A worker
 * has its server's end tied to its own (PR_SET_PDEATHSIG, which goes by the
 * thread that forked: this process has one).
 *
 * Invariants: one thread. The table of children is the only state.
 *
 * Knows nothing of: what a pool is, what workers do.
 */
#include "base/status.h"
#include "os/os.h"
#include "procs/protocol.h"

#include <allcores/pool.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { IDLE_NS = 50000000 }; /* without a request */

typedef struct child {
  uint64_t pool;
  int32_t number;
  int32_t pid;
  int pidfd;
} child;

typedef struct forkserver {
  int socket_fd;
  int children_fd;
  const ac_forkserver_ops *ops;
  child *children;
  size_t count, room;
} forkserver;

static void notify(const forkserver *server, const ac__notice *notice,
                   int pidfd) {
  if (pidfd < 0 || !ac__socket_send(server->socket_fd, notice, sizeof *notice,
                                    &pidfd, 1)) /* too many are on their way */
    (void)ac__socket_send_surely(server->socket_fd, notice, sizeof *notice);
}

/* Make room for one more; false if memory is refused. */
static bool make_room(forkserver *server) {
  if (server->count < server->room)
    return true;
  size_t room = server->room * 2 + 16;
  child *grown = realloc(server->children, room * sizeof *grown);
  if (grown == NULL)
    return false;
  server->children = grown;
  server->room = room;
  return true;
}

static _Noreturn void be_worker(forkserver *server, int32_t server_pid,
                                const int *fds, int fd_count, int32_t number) {
  ac__signals_reset();
  ac__fd_close(server->socket_fd);
  ac__fd_close(server->children_fd);
  for (size_t i = 0; i < server->count; i++)
    ac__fd_close(server->children[i].pidfd);
  if (ac__process_tie(server_pid))
    server->ops->child(fds, fd_count, number, server->ops->ctx);
  ac__process_exit(0);
}

static void start(forkserver *server, const ac__request *request,
                  const int *fds, int fd_count) {
  int32_t server_pid = ac__process_id();
  int32_t pid = -1;
  ac__notice notice = {.pool = request->pool,
                       .kind = AC__NOTICE_REFUSED,
                       .number = request->number};
  /* Descriptors that did not arrive are those that there was no room for. */
  if (fd_count >= 2 && fd_count == request->value && make_room(server))
    pid = server->ops->fork != NULL ? server->ops->fork(server->ops->ctx)
                                    : ac__process_fork();
  if (pid == 0)
    be_worker(server, server_pid, fds, fd_count, request->number);
  if (pid < 0) {
    notify(server, &notice, -1);
    return;
  }
  child child = {.pool = request->pool,
                 .number = request->number,
                 .pid = pid,
                 .pidfd = ac__pidfd_open(pid)};
  server->children[server->count++] = child;
  notice.kind = AC__NOTICE_STARTED;
  notice.pid = pid;
  notify(server, &notice, child.pidfd);
}

/* Tell of all children that ended. */
static void reap(forkserver *server) {
  int32_t pid, status;
  while ((pid = ac__process_reap(false, -1, &status)) > 0) {
    for (size_t i = 0; i < server->count; i++) {
      child child = server->children[i];
      if (child.pid != pid)
        continue;
      ac__notice notice = {.pool = child.pool,
                           .kind = AC__NOTICE_ENDED,
                           .number = child.number,
                           .pid = pid,
                           .status = status};
      ac__fd_close(child.pidfd);
      server->children[i] = server->children[--server->count];
      notify(server, &notice, -1);
      break;
    }
  }
}

static void end_child(const forkserver *server, const ac__request *request) {
  ac__notice notice = {.pool = request->pool,
                       .kind = AC__NOTICE_KILLED,
                       .number = request->number,
                       .pid = request->pid};
  for (size_t i = 0; i < server->count; i++)
    if (server->children[i].pid == request->pid)
      ac__process_kill(request->pid, request->value);
  notify(server, &notice, -1);
}

/* Serve what is there to read; false once the peer is gone. */
static bool receive(forkserver *server) {
  ac__request request;
  int fds[AC__FDS_MAX];
  int fd_count;
  long size = ac__socket_receive(server->socket_fd, &request, sizeof request,
                                 fds, &fd_count);
  if (size == (long)sizeof request && request.kind == AC__REQUEST_START)
    start(server, &request, fds, fd_count);
  else if (size == (long)sizeof request && request.kind == AC__REQUEST_KILL)
    end_child(server, &request);
  for (int i = 0; i < fd_count; i++)
    ac__fd_close(fds[i]);
  return size != 0;
}

static void end_children(forkserver *server) {
  int32_t status;
  for (size_t i = 0; i < server->count; i++)
    ac__process_kill(server->children[i].pid, SIGKILL);
  while (ac__process_reap(true, -1, &status) > 0) {
  }
  for (size_t i = 0; i < server->count; i++)
    ac__fd_close(server->children[i].pidfd);
}

ac_status ac_forkserver_serve(int socket_fd, const ac_forkserver_ops *ops) {
  forkserver server = {.socket_fd = socket_fd, .ops = ops};
  if (ops == NULL || ops->child == NULL)
    return ac__fail(AC_E_INVAL, "ac_forkserver_serve",
                    "Give a function for the child.", "there is none");
  ac__interrupts_ignore(); /* the parent sees to Ctrl-C */
  server.children_fd = ac__children_fd();
  if (server.children_fd < 0)
    return ac__fail(AC_E_OS, "ac_forkserver_serve", "",
                    "no descriptor for the ends of children could be had");
  const int fds[2] = {socket_fd, server.children_fd};
  bool goes_on = true;
  bool is_new = ops->idle != NULL;
  while (goes_on) {
    bool may_idle = is_new && server.count > 0;
    uint32_t ready = ac__fds_wait(fds, 2, may_idle ? IDLE_NS : -1);
    if (ready == 0 && may_idle) {
      is_new = false;
      ops->idle(ops->ctx);
    }
    if (ready & 2) {
      ac__children_fd_clear(server.children_fd);
      reap(&server);
    }
    if (ready & 1)
      goes_on = receive(&server);
  }
  end_children(&server);
  free(server.children);
  ac__fd_close(server.children_fd);
  return AC_OK;
}
