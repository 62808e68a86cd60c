/* proc_linux.c: what the kernel says of other threads (proc(5)).
 *
 * The file is /proc/<tid>/task/<tid>/stat: one level up the processor times
 * would be those of the whole process. The name in it may hold anything, so it
 * is read from the last ')' on.
 *
 * Knows nothing of: why one asks.
 */
#define _GNU_SOURCE 1
#include "os/linux.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIELD_UTIME = 14, FIELD_STIME = 15, FIELD_START = 22 }; /* from 1 */

/* Number in field `wanted`, where `text` begins with field `first`. */
static bool field(const char *text, int first, int wanted, uint64_t *ret) {
  for (; first < wanted; first++) {
    text = strchr(text, ' ');
    if (text == NULL)
      return false;
    text++;
  }
  char *end;
  *ret = strtoull(text, &end, 10);
  return end != text;
}

/* Processor time by the scheduler's own account, in ns; 0 if it keeps none. It
 * is brought up to date at each tick of a processor. */
static uint64_t scheduler_ns(int32_t tid) {
  char path[64], text[128];
  uint64_t ns = 0;
  (void)snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", (int)tid,
                 (int)tid);
  if (ac__file_read(path, text, sizeof text) > 0)
    (void)field(text, 1, 1, &ns);
  return ns;
}

static uint64_t ticks_to_ns(uint64_t ticks) {
  return ticks * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK));
}

bool ac__thread_stat_read(int32_t tid, ac__thread_stat *ret_stat) {
  char path[64], text[1024];
  uint64_t start, utime, stime;
  (void)snprintf(path, sizeof path, "/proc/%d/task/%d/stat", (int)tid,
                 (int)tid);
  if (tid <= 0 || ac__file_read(path, text, sizeof text) <= 0)
    return false;
  const char *name_end = strrchr(text, ')');
  if (name_end == NULL || name_end[1] != ' ' || name_end[2] == '\0')
    return false;
  const char *state = name_end + 2; /* field 3 */
  if (!field(state, 3, FIELD_UTIME, &utime) ||
      !field(state, 3, FIELD_STIME, &stime) ||
      !field(state, 3, FIELD_START, &start))
    return false;
  uint64_t cpu_ns = scheduler_ns(tid);
  if (cpu_ns == 0)
    cpu_ns = ticks_to_ns(utime + stime);
  *ret_stat =
      (ac__thread_stat){.state = *state, .start_time = start, .cpu_ns = cpu_ns};
  return true;
}

int32_t ac__process_id(void) { return (int32_t)getpid(); }
