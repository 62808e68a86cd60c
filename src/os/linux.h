/* linux.h: what the Linux files of src/os share. Private to src/os.
 *
 * Knows nothing of: what the files read mean.
 */
#ifndef AC_OS_LINUX_H
#define AC_OS_LINUX_H

#include <stdbool.h>
#include <stddef.h>

/** Bits of an affinity mask: twice the most that a kernel is built for. */
enum { AC__CPUS_MAX = 16384, AC__LONG_BITS = 8 * sizeof(unsigned long) };

typedef struct ac__cpu_set {
  unsigned long words[AC__CPUS_MAX / AC__LONG_BITS];
} ac__cpu_set;

static inline bool ac__cpu_set_has(const ac__cpu_set *set, int cpu) {
  return cpu >= 0 && cpu < AC__CPUS_MAX &&
         (set->words[cpu / AC__LONG_BITS] >> (cpu % AC__LONG_BITS) & 1) != 0;
}

static inline void ac__cpu_set_add(ac__cpu_set *set, int cpu) {
  if (cpu >= 0 && cpu < AC__CPUS_MAX)
    set->words[cpu / AC__LONG_BITS] |= 1UL << (cpu % AC__LONG_BITS);
}

static inline void ac__cpu_set_remove(ac__cpu_set *set, int cpu) {
  if (cpu >= 0 && cpu < AC__CPUS_MAX)
    set->words[cpu / AC__LONG_BITS] &= ~(1UL << (cpu % AC__LONG_BITS));
}

static inline int ac__cpu_set_count(const ac__cpu_set *set) {
  int count = 0;
  for (size_t i = 0; i < sizeof set->words / sizeof set->words[0]; i++)
    count += __builtin_popcountl(set->words[i]);
  return count;
}

/** The calling thread's affinity mask. @return bytes that the kernel's mask
 * has, to write one back with; 0 if it cannot be read. thread_linux.c */
size_t ac__affinity_read(ac__cpu_set *ret_set);

/** Raise a new descriptor above the standard streams', since where those are
 * closed whatever prints would write to it. Closes it if it cannot be raised.
 * @return its number, closed on exec; -1 with errno. -1 is let through.
 * socket_linux.c */
int ac__fd_raise(int fd);

/** Read a file into `buffer`, at most size_bytes - 1, and end it with NUL.
 * No heap, no stdio. @return its length; -1 if it cannot be read, `buffer`
 * then being undefined. file_linux.c */
long ac__file_read(const char *path, char *buffer, size_t size_bytes);

/** The lines of a file, one after the other. No heap: a line that does not fit
 * is left out. file_linux.c */
typedef struct ac__lines {
  int fd; /**< -1 = the file cannot be read */
  size_t begin, end;
  bool is_skipping; /**< within a line that does not fit */
  char buffer[16384];
} ac__lines;

void ac__lines_open(ac__lines *ret_lines, const char *path);
/** @return the next line, without its end, valid until the next call; NULL at
 * the end. */
char *ac__lines_next(ac__lines *lines);
void ac__lines_close(ac__lines *lines);

/** The tightest processor quota on the process's cgroups, in processors; 0 =
 * none. `ret_cgroup` becomes the folder of the one that limits, as the process
 * sees it, "" if none. cgroup_linux.c
 *
 * @param root  As for ac__topology_read_at(). */
double ac__cgroup_quota(const char *root, char *ret_cgroup, size_t size_bytes);

#endif
