/* file_linux.c: reading the small files in which the kernel tells things.
 *
 * Without heap and stdio, since it is used from code that must not take locks.
 */
#define _GNU_SOURCE 1
#include "os/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
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

void ac__lines_open(ac__lines *ret_lines, const char *path) {
  ret_lines->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  ret_lines->begin = ret_lines->end = 0;
  ret_lines->is_skipping = false;
}

/* Read more behind what is there. @return false at the end of the file. */
static bool fill(ac__lines *lines) {
  memmove(lines->buffer, lines->buffer + lines->begin,
          lines->end - lines->begin);
  lines->end -= lines->begin;
  lines->begin = 0;
  if (lines->end == sizeof lines->buffer) {
    lines->end = 0;
    lines->is_skipping = true;
  }
  long got;
  do
    got = read(lines->fd, lines->buffer + lines->end,
               sizeof lines->buffer - lines->end);
  while (got < 0 && errno == EINTR);
  if (got > 0)
    lines->end += (size_t)got;
  return got > 0;
}

char *ac__lines_next(ac__lines *lines) {
  while (lines->fd >= 0) {
    char *line = lines->buffer + lines->begin;
    char *newline = memchr(line, '\n', lines->end - lines->begin);
    if (newline == NULL) {
      if (!fill(lines))
        return NULL; /* what has no end is no line */
      continue;
    }
    *newline = '\0';
    lines->begin = (size_t)(newline + 1 - lines->buffer);
    if (!lines->is_skipping)
      return line;
    lines->is_skipping = false;
  }
  return NULL;
}

void ac__lines_close(ac__lines *lines) {
  if (lines->fd >= 0)
    (void)close(lines->fd);
  lines->fd = -1;
}
