/* Fuzzer: what the kernel tells of processors, cgroups and threads, garbled.
 *
 * An input is a set of files, each behind a line with its path, as head(1)
 * prints them:
 *
 *   ==> /proc/self/cgroup <==
 *   0::/job
 *   ==> /sys/fs/cgroup/job/cpu.max <==
 *   150000 100000
 *
 * No real file is read: open, read and close are replaced in file_linux.c,
 * through which all parsers of src/os read. An input of odd length is handed
 * out in pieces of seven bytes.
 */
#define _GNU_SOURCE 1
#include "fuzz.h"
#include "os/linux.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { FILES_MAX = 64, HANDLES_MAX = 8, FIRST_HANDLE = 1000, PIECE_BYTES = 7 };

typedef struct slice {
  const uint8_t *at;
  size_t size;
} slice;

static struct { slice name, text; } files[FILES_MAX];
static slice handles[HANDLES_MAX]; /* what is left to read; at NULL = closed */
static int file_count;
static size_t piece_bytes;

/* ---- Files of the input -------------------------------------------------- */

static const char root[] = "/fuzz"; /* of the tree; see ac__topology_read_at */

static int fuzz_open(const char *path, int flags) {
  (void)flags;
  if (strncmp(path, root, sizeof root - 1) == 0)
    path += sizeof root - 1;
  size_t length = strlen(path);
  for (int i = 0; i < file_count; i++)
    if (files[i].name.size == length &&
        memcmp(files[i].name.at, path, length) == 0)
      for (int handle = 0; handle < HANDLES_MAX; handle++)
        if (handles[handle].at == NULL) {
          handles[handle] = files[i].text;
          return FIRST_HANDLE + handle;
        }
  errno = ENOENT;
  return -1;
}

static ssize_t fuzz_read(int fd, void *buffer, size_t size) {
  slice *left = &handles[fd - FIRST_HANDLE];
  size = size < piece_bytes ? size : piece_bytes;
  size = size < left->size ? size : left->size;
  memcpy(buffer, left->at, size);
  left->at += size;
  left->size -= size;
  return (ssize_t)size;
}

static int fuzz_close(int fd) {
  handles[fd - FIRST_HANDLE].at = NULL;
  return 0;
}

#define open  fuzz_open
#define read  fuzz_read
#define close fuzz_close
#include "os/file_linux.c"
#undef open
#undef read
#undef close

/* ---- Taking an input apart ----------------------------------------------- */

static slice take_line(slice *rest) {
  const uint8_t *end = memchr(rest->at, '\n', rest->size);
  size_t size = end != NULL ? (size_t)(end - rest->at) : rest->size;
  slice line = {rest->at, size};
  size += end != NULL;
  rest->at += size;
  rest->size -= size;
  return line;
}

static bool is_head(slice line, slice *ret_name) {
  if (line.size < 8 || memcmp(line.at, "==> ", 4) != 0 ||
      memcmp(line.at + line.size - 4, " <==", 4) != 0)
    return false;
  *ret_name = (slice){line.at + 4, line.size - 8};
  return true;
}

static void take_files(slice rest) {
  file_count = 0;
  while (rest.size > 0) {
    slice name, line = take_line(&rest);
    if (is_head(line, &name)) {
      if (file_count == FILES_MAX)
        return;
      files[file_count].name = name;
      files[file_count++].text = (slice){rest.at, 0};
    } else if (file_count > 0) {
      slice *text = &files[file_count - 1].text;
      text->size = (size_t)(rest.at - text->at);
    }
  }
}

/* ---- The fuzzer ---------------------------------------------------------- */

static void check_topology(const ac_topology *t) {
  FUZZ_CHECK(t->online >= 1 && t->affinity >= 1);
  FUZZ_CHECK(t->physical >= 1 && t->physical <= t->affinity);
  FUZZ_CHECK(t->packages >= 1 && t->nodes >= 1 && t->smt >= 1);
  FUZZ_CHECK(t->granted >= 1 && t->granted <= t->affinity);
  FUZZ_CHECK(t->l1d_bytes >= 0 && t->l2_bytes >= 0 && t->l3_bytes >= 0);
  FUZZ_CHECK(t->quota >= 0 && (t->quota > 0) == (t->quota_path[0] != '\0'));
  FUZZ_CHECK(memchr(t->quota_path, '\0', sizeof t->quota_path) != NULL);
}

static void fuzz_one(const uint8_t *data, size_t size) {
  static const uint8_t nothing;
  ac_topology topology;
  ac__thread_stat stat;
  piece_bytes = size % 2 != 0 ? PIECE_BYTES : SIZE_MAX;
  take_files((slice){size > 0 ? data : &nothing, size});
  if (ac__topology_read_at(root, &topology) == AC_OK)
    check_topology(&topology);
  (void)ac__thread_stat_read(7, &stat);
  for (int handle = 0; handle < HANDLES_MAX; handle++)
    FUZZ_CHECK(handles[handle].at == NULL);
}

FUZZ_MAIN("topology")
