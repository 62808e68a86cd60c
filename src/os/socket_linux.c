/* socket_linux.c: short messages between related processes, with descriptors.
 *
 * Sockets of the family AF_UNIX and the type SOCK_SEQPACKET: a message arrives
 * whole or not at all, and the end of a peer is seen at once.
 *
 * Knows nothing of: what the messages say.
 */
#define _GNU_SOURCE 1
#include "base/status.h"
#include "os/linux.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NS_PER_S = 1000000000, POLL_MAX = 32 };

typedef union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int) * AC__FDS_MAX)];
} control;

ac_status ac__socket_pair(int ret_fds[2]) {
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_fds) == 0) {
    ret_fds[0] = ac__fd_raise(ret_fds[0]);
    ret_fds[1] = ac__fd_raise(ret_fds[1]);
    if (ret_fds[0] >= 0 && ret_fds[1] >= 0)
      return AC_OK;
    int error = errno;
    ac__fd_close(ret_fds[0]);
    ac__fd_close(ret_fds[1]);
    errno = error;
  }
  return ac__fail(AC_E_OS, "connecting two processes",
                  "close files, or raise the limit on them (ulimit -n)",
                  "a pair of sockets was refused: %s", strerror(errno));
}

bool ac__socket_send(int fd, const void *data, size_t size_bytes,
                     const int *fds, int fd_count) {
  struct iovec part = {.iov_base = (void *)(uintptr_t)data,
                       .iov_len = size_bytes};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  control control;
  ssize_t sent;
  if (fd_count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)fd_count);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)fd_count);
    memcpy(CMSG_DATA(head), fds, sizeof(int) * (size_t)fd_count);
  }
  do
    sent = sendmsg(fd, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == (ssize_t)size_bytes;
}

bool ac__socket_send_surely(int fd, const void *data, size_t size_bytes) {
  const struct timespec pause = {.tv_nsec = 1000000};
  while (!ac__socket_send(fd, data, size_bytes, NULL, 0)) {
    if (errno != ENOBUFS && errno != ENOMEM && errno != EAGAIN)
      return false;
    (void)nanosleep(&pause, NULL);
  }
  return true;
}

/* Take the descriptors that came with a message. */
static int take_fds(struct msghdr *message, int *ret_fds) {
  int count = 0;
  for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL;
       head = CMSG_NXTHDR(message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
      continue;
    int n = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(head) + sizeof(int) * (size_t)i, sizeof fd);
      if (count == AC__FDS_MAX)
        (void)close(fd);
      else if ((fd = ac__fd_raise(fd)) >= 0)
        ret_fds[count++] = fd;
    }
  }
  return count;
}

long ac__socket_receive(int fd, void *data, size_t size_bytes, int *ret_fds,
                        int *ret_fd_count) {
  struct iovec part = {.iov_base = data, .iov_len = size_bytes};
  control control;
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  *ret_fd_count = 0;
  ssize_t received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (received < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : 0;
  *ret_fd_count = take_fds(&message, ret_fds);
  return received;
}

int ac__bell_create(void) {
  return ac__fd_raise(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void ac__bell_ring(int fd) {
  uint64_t one = 1;
  (void)!write(fd, &one, sizeof one); /* full: it rings already */
}

void ac__bell_clear(int fd) {
  uint64_t count;
  (void)!read(fd, &count, sizeof count);
}

uint32_t ac__fds_wait(const int *fds, int count, int64_t timeout_ns) {
  struct pollfd polled[POLL_MAX];
  struct timespec limit = {.tv_sec = timeout_ns / NS_PER_S,
                           .tv_nsec = timeout_ns % NS_PER_S};
  uint32_t ready = 0;
  for (int i = 0; i < count; i++)
    polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  if (ppoll(polled, (nfds_t)count, timeout_ns < 0 ? NULL : &limit, NULL) > 0)
    for (int i = 0; i < count; i++)
      if (polled[i].revents != 0)
        ready |= UINT32_C(1) << i;
  return ready;
}

int ac__fd_raise(int fd) {
  if (fd < 0 || fd > STDERR_FILENO)
    return fd;
  int raised = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  int error = errno;
  (void)close(fd);
  errno = error;
  return raised;
}

void ac__fd_close(int fd) {
  if (fd >= 0)
    (void)close(fd);
}
