/* file_linux.c: reading the small files in which the kernel tells things.
 *
 * Without heap and stdio, since it is used from code that must not take locks.
 */
#define _GNU_SOURCE
#include "os/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* As read(2), going on after signals until the buffer is full or the file ends.
 * @return bytes read; -1 on an error. */
static long read_all(int fd, char *buffer, size_t size_bytes) {
  size_t length = 0;
  while (length < size_bytes) {
    ssize_t got = read(fd, buffer + length, size_bytes - length);
    if (got == 0)
      break;
    if (got > 0)
      length += (size_t)got;
    else if (errno != EINTR)
      return -1;
  }
  return (long)length;
}

long ac__file_read(const char *path, char *buffer, size_t size_bytes) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0)
    return -1;
  long length = read_all(fd, buffer, size_bytes - 1);
  (void)close(fd);
  if (length >= 0)
    buffer[length] = '\0';
  return length;
}
