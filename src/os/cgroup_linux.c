/* cgroup_linux.c: how many processors the process's cgroups grant it.
 *
 * cgroups(7), and "Control Group v2" and "CFS Bandwidth Control" in the
 * kernel's documentation. A quota is a time on processors in each period; their
 * ratio is a number of processors. It binds a cgroup and all below it, so the
 * process's own and every ancestor that can be seen are read, and the smallest
 * counts.
 *
 *   /proc/self/cgroup     0::/a/b            the process's path, version 2
 *                         4:cpu,cpuacct:/a   and version 1
 *   /proc/self/mountinfo  … /a /sys/fs/cgroup … - cgroup2 …
 *                         what is mounted where; here its root is /a, so that
 *                         /a/b is found in /sys/fs/cgroup/b
 *   …/b/cpu.max                                  "150000 100000", "max 100000"
 *   …/b/cpu.cfs_quota_us, …/cpu.cfs_period_us    150000 (-1 = none), 100000
 *
 * In a container the mount's root is the container's own cgroup. In a cgroup
 * namespace both paths are relative to the namespace's root, and what lies
 * outside begins with "/..".
 *
 * Invariants: a mount that does not hold the process's cgroup is not read; no
 * path with ".." in it is followed. What is missing or garbled counts as no
 * limit.
 * Knows nothing of: affinity, cpusets (they show in the affinity mask).
 */
#define _GNU_SOURCE 1
#include "os/linux.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The process's cgroups; "" = it has none in that version. */
typedef struct own_paths {
  char v1_cpu[PATH_MAX];
  char v2[PATH_MAX];
} own_paths;

/* One line of mountinfo: a part of a hierarchy, and where it is to be seen. */
typedef struct mount {
  char *root, *point;
  bool is_v2;
} mount;

/* The tightest limit so far. */
typedef struct limit {
  double quota;
  char *cgroup;
  size_t size_bytes;
} limit;

/* ---- Text ---------------------------------------------------------------- */

/* Whether `items` (a,b,c) has `item`. */
static bool list_has(const char *items, const char *item) {
  size_t length = strlen(item);
  while (items != NULL) {
    if (strncmp(items, item, length) == 0 &&
        (items[length] == ',' || items[length] == '\0'))
      return true;
    items = strchr(items, ',');
    items = items != NULL ? items + 1 : NULL;
  }
  return false;
}

/* Replace \ooo, by which the kernel writes blanks and backslashes, in place. */
static void unescape(char *text) {
  char *to = text;
  for (const char *from = text; *from != '\0'; to++) {
    if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
        from[2] <= '7' && from[3] >= '0' && from[3] <= '7') {
      *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + from[3] - '0');
      from += 4;
    } else {
      *to = *from++;
    }
  }
  *to = '\0';
}

static bool has_parent_step(const char *path) {
  for (const char *at = strstr(path, "/.."); at != NULL;
       at = strstr(at + 1, "/.."))
    if (at[3] == '/' || at[3] == '\0')
      return true;
  return false;
}

/* Whether `root` is nothing but steps upwards: "/..", "/../..". */
static bool is_above(const char *root) {
  while (strncmp(root, "/..", 3) == 0)
    root += 3;
  return *root == '\0';
}

/* ---- What is where ------------------------------------------------------- */

/* A line is hierarchy:controllers:path; a path may hold colons. */
static void take_own_path(char *line, own_paths *paths) {
  char *controllers = strchr(line, ':');
  char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
  if (path == NULL || path[1] != '/' || strlen(path + 1) >= PATH_MAX)
    return;
  *controllers++ = '\0';
  *path++ = '\0';
  if (strcmp(line, "0") == 0 && *controllers == '\0')
    memcpy(paths->v2, path, strlen(path) + 1);
  else if (list_has(controllers, "cpu"))
    memcpy(paths->v1_cpu, path, strlen(path) + 1);
}

static void read_own_paths(const char *root, own_paths *ret_paths) {
  char file[PATH_MAX];
  ac__lines lines;
  ret_paths->v1_cpu[0] = ret_paths->v2[0] = '\0';
  (void)snprintf(file, sizeof file, "%s/proc/self/cgroup", root);
  ac__lines_open(&lines, file);
  for (char *line; (line = ac__lines_next(&lines)) != NULL;)
    take_own_path(line, ret_paths);
  ac__lines_close(&lines);
}

/* Cut off the next blank-separated field of *rest; NULL if there is none. */
static char *next_field(char **rest) {
  char *field = *rest;
  if (field == NULL || *field == '\0')
    return NULL;
  char *blank = strchr(field, ' ');
  *rest = blank != NULL ? blank + 1 : NULL;
  if (blank != NULL)
    *blank = '\0';
  return field;
}

/* Fields: number, parent, device, root, mount point, options, any number of
 * optional ones, "-", type, source, options of the file system. */
static bool parse_mount(char *line, mount *ret_mount) {
  char *rest = strstr(line, " - ");
  if (rest == NULL)
    return false;
  *rest = '\0';
  rest += 3;
  const char *type = next_field(&rest);
  const char *source = next_field(&rest);
  if (type == NULL || source == NULL || rest == NULL)
    return false;
  bool is_v2 = strcmp(type, "cgroup2") == 0;
  if (!is_v2 && (strcmp(type, "cgroup") != 0 || !list_has(rest, "cpu")))
    return false;
  for (int i = 0; i < 3; i++)
    (void)next_field(&line);
  char *root = next_field(&line), *point = next_field(&line);
  if (root == NULL || point == NULL || *root != '/' || *point != '/')
    return false;
  unescape(root);
  unescape(point);
  *ret_mount = (mount){.root = root, .point = point, .is_v2 = is_v2};
  return true;
}

/* Where below the mount point the cgroup `path` lies: "" or "/…"; NULL if it
 * does not lie there. */
static const char *below(const mount *at, const char *path) {
  size_t length = strlen(at->root);
  while (length > 0 && at->root[length - 1] == '/')
    length--;
  if (strncmp(path, at->root, length) == 0 &&
      (path[length] == '/' || path[length] == '\0')) {
    path += length;
    return has_parent_step(path) ? NULL : strcmp(path, "/") == 0 ? "" : path;
  }
  /* The mount shows an ancestor of the namespace's root, hence one of the
   * process; the way down from there is not told. */
  return is_above(at->root) && !has_parent_step(path) ? "" : NULL;
}

/* ---- Quotas -------------------------------------------------------------- */

static bool parse_positive(const char *text, const char **ret_end,
                           double *ret_value) {
  char *end;
  if (*text < '0' || *text > '9')
    return false;
  unsigned long long value = strtoull(text, &end, 10);
  if (value == 0 || (*end != ' ' && *end != '\n' && *end != '\0'))
    return false;
  *ret_end = end;
  *ret_value = (double)value;
  return true;
}

static bool read_text(const char *root, const char *folder, const char *name,
                      char *text, size_t size_bytes) {
  char file[2 * PATH_MAX];
  int length = snprintf(file, sizeof file, "%s%s/%s", root, folder, name);
  return length > 0 && (size_t)length < sizeof file &&
         ac__file_read(file, text, size_bytes) > 0;
}

/* @return processors granted by the cgroup in `folder`; 0 = no limit. */
static double read_v2(const char *root, const char *folder) {
  char text[128];
  const char *rest;
  double quota, period;
  if (!read_text(root, folder, "cpu.max", text, sizeof text) ||
      !parse_positive(text, &rest, &quota) || *rest != ' ' ||
      !parse_positive(rest + 1, &rest, &period))
    return 0;
  return quota / period;
}

static double read_v1(const char *root, const char *folder) {
  char text[128];
  const char *rest;
  double quota, period;
  if (!read_text(root, folder, "cpu.cfs_quota_us", text, sizeof text) ||
      !parse_positive(text, &rest, &quota) ||
      !read_text(root, folder, "cpu.cfs_period_us", text, sizeof text) ||
      !parse_positive(text, &rest, &period))
    return 0;
  return quota / period;
}

/* Read a cgroup and all above it, up to the mount point. */
static void read_upwards(const char *root, const mount *at, const char *path,
                         limit *tightest) {
  char folder[2 * PATH_MAX];
  size_t top = strlen(at->point);
  int length = snprintf(folder, sizeof folder, "%s%s", at->point, path);
  if (length < 0 || (size_t)length >= sizeof folder)
    return;
  for (;;) {
    double quota = at->is_v2 ? read_v2(root, folder) : read_v1(root, folder);
    if (quota > 0 && (tightest->quota == 0 || quota < tightest->quota)) {
      tightest->quota = quota;
      (void)snprintf(tightest->cgroup, tightest->size_bytes, "%s", folder);
    }
    char *step = strrchr(folder + top, '/');
    if (step == NULL)
      return;
    *step = '\0';
  }
}

double ac__cgroup_quota(const char *root, char *ret_cgroup, size_t size_bytes) {
  char file[PATH_MAX];
  own_paths paths;
  ac__lines lines;
  limit tightest = {.cgroup = ret_cgroup, .size_bytes = size_bytes};
  ret_cgroup[0] = '\0';
  read_own_paths(root, &paths);
  (void)snprintf(file, sizeof file, "%s/proc/self/mountinfo", root);
  ac__lines_open(&lines, file);
  for (char *line; (line = ac__lines_next(&lines)) != NULL;) {
    mount at;
    if (!parse_mount(line, &at))
      continue;
    const char *own = at.is_v2 ? paths.v2 : paths.v1_cpu;
    const char *path = *own != '\0' ? below(&at, own) : NULL;
    if (path != NULL)
      read_upwards(root, &at, path, &tightest);
  }
  ac__lines_close(&lines);
  return tightest.quota;
}
