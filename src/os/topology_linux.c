/* topology_linux.c: the machine as the process sees it.
 *
 * From sysfs (the kernel's documentation, "Export CPU topology info via sysfs"
 * and ABI/stable/sysfs-devices-node): processors form cores, cores packages,
 * and nodes are processors with memory of their own. Each core's and each
 * package's list of processors is read once, from the first allowed processor
 * in it, so that a machine of 256 costs as many reads as it has cores.
 *
 * Invariants: counts are at least 1; what is missing or garbled is left out: a
 * processor without siblings is a core of its own, one without a package shares
 * the others', and without nodes there is one.
 * Knows nothing of: what the number of cores is used for.
 */
#define _GNU_SOURCE 1
#include "os/linux.h"
#include "os/os.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPU_DIR  "/sys/devices/system/cpu"
#define NODE_DIR "/sys/devices/system/node"

enum { LIST_BYTES = 16384, CACHES_MAX = 16 };

/* ---- Reading ------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static bool
read_text(const char *root, char *text, size_t size_bytes, const char *format,
          ...) {
  char path[PATH_MAX];
  va_list args;
  int prefix = snprintf(path, sizeof path, "%s", root);
  if (prefix < 0 || (size_t)prefix >= sizeof path)
    return false;
  va_start(args, format);
  int rest =
      vsnprintf(path + prefix, sizeof path - (size_t)prefix, format, args);
  va_end(args);
  return rest > 0 && (size_t)rest < sizeof path - (size_t)prefix &&
         ac__file_read(path, text, size_bytes) >= 0;
}

/* A number of a processor or node. Moves *text behind it. */
static bool parse_number(const char **text, int *ret_number) {
  char *end;
  if (**text < '0' || **text > '9')
    return false;
  unsigned long number = strtoul(*text, &end, 10);
  if (number >= AC__CPUS_MAX)
    return false;
  *text = end;
  *ret_number = (int)number;
  return true;
}

/* A list as "0,2-3", with or without a newline; an empty one is a list too. */
static bool parse_list(const char *text, ac__cpu_set *ret_set) {
  ac__cpu_set set = {0};
  while (*text != '\n' && *text != '\0') {
    int first, last;
    if (!parse_number(&text, &first))
      return false;
    last = first;
    if (*text == '-') {
      text++;
      if (!parse_number(&text, &last) || last < first)
        return false;
    }
    for (int cpu = first; cpu <= last; cpu++)
      ac__cpu_set_add(&set, cpu);
    if (*text == ',')
      text++;
    else if (*text != '\n' && *text != '\0')
      return false;
  }
  *ret_set = set;
  return true;
}

/* ---- Processors ---------------------------------------------------------- */

static bool read_online(const char *root, ac__cpu_set *ret_set) {
  char text[LIST_BYTES];
  return read_text(root, text, sizeof text, CPU_DIR "/online") &&
         parse_list(text, ret_set) && ac__cpu_set_count(ret_set) > 0;
}

/* The mask that a recorded tree tells of. */
static bool read_recorded_affinity(const char *root, ac__cpu_set *ret_set) {
  static const char key[] = "Cpus_allowed_list:";
  char path[PATH_MAX];
  ac__lines lines;
  bool is_found = false;
  (void)snprintf(path, sizeof path, "%s/proc/self/status", root);
  ac__lines_open(&lines, path);
  for (char *line; !is_found && (line = ac__lines_next(&lines)) != NULL;)
    if (strncmp(line, key, sizeof key - 1) == 0) {
      line += sizeof key - 1;
      is_found = parse_list(line + strspn(line, "\t "), ret_set) &&
                 ac__cpu_set_count(ret_set) > 0;
    }
  ac__lines_close(&lines);
  return is_found;
}

static void intersect(ac__cpu_set *set, const ac__cpu_set *other) {
  for (size_t i = 0; i < sizeof set->words / sizeof set->words[0]; i++)
    set->words[i] &= other->words[i];
}

static void subtract(ac__cpu_set *set, const ac__cpu_set *other) {
  for (size_t i = 0; i < sizeof set->words / sizeof set->words[0]; i++)
    set->words[i] &= ~other->words[i];
}

static int first_of(const ac__cpu_set *set) {
  for (size_t i = 0; i < sizeof set->words / sizeof set->words[0]; i++)
    if (set->words[i] != 0)
      return (int)(i * AC__LONG_BITS) + __builtin_ctzl(set->words[i]);
  return -1;
}

/* Processors online, and those of them that the process may use. Where one is
 * not known the other stands in for it; where neither is, there is one. */
static void read_processors(const char *root, ac__cpu_set *ret_online,
                            ac__cpu_set *ret_allowed) {
  ac__cpu_set online = {0}, allowed = {0};
  bool has_online = read_online(root, &online);
  bool has_allowed = *root == '\0' ? ac__affinity_read(&allowed) > 0
                                   : read_recorded_affinity(root, &allowed);
  if (!has_online && !has_allowed)
    ac__cpu_set_add(&allowed, 0);
  else if (!has_allowed)
    allowed = online;
  if (!has_online)
    online = allowed;
  ac__cpu_set both = allowed;
  intersect(&both, &online);
  *ret_online = online;
  *ret_allowed = ac__cpu_set_count(&both) > 0 ? both : allowed;
}

/* ---- Cores, packages, nodes, caches -------------------------------------- */

/* The processors that share a core or package with `cpu`, by one of two names:
 * the newer, and the one that kernels before 5.3 have. */
static bool read_group(const char *root, int cpu, const char *const names[2],
                       ac__cpu_set *ret_group) {
  char text[LIST_BYTES];
  for (int i = 0; i < 2; i++)
    if (read_text(root, text, sizeof text, CPU_DIR "/cpu%d/topology/%s", cpu,
                  names[i]) &&
        parse_list(text, ret_group) && ac__cpu_set_has(ret_group, cpu))
      return true;
  return false;
}

static void count_cores(const char *root, const ac__cpu_set *allowed,
                        ac_topology *topology) {
  static const char *const names[2] = {"core_cpus_list",
                                       "thread_siblings_list"};
  ac__cpu_set left = *allowed, core;
  topology->smt = 1;
  for (int cpu; (cpu = first_of(&left)) >= 0;) {
    if (!read_group(root, cpu, names, &core)) {
      memset(&core, 0, sizeof core);
      ac__cpu_set_add(&core, cpu);
    }
    int threads = ac__cpu_set_count(&core);
    topology->smt = threads > topology->smt ? threads : topology->smt;
    topology->physical++;
    subtract(&left, &core);
  }
}

static int count_packages(const char *root, const ac__cpu_set *allowed) {
  static const char *const names[2] = {"package_cpus_list",
                                       "core_siblings_list"};
  ac__cpu_set left = *allowed, package;
  int packages = 0;
  for (int cpu; (cpu = first_of(&left)) >= 0;) {
    if (read_group(root, cpu, names, &package)) {
      packages++;
      subtract(&left, &package);
    } else {
      ac__cpu_set_remove(&left, cpu);
    }
  }
  return packages > 0 ? packages : 1;
}

static int count_nodes(const char *root, const ac__cpu_set *allowed) {
  char text[LIST_BYTES];
  ac__cpu_set left, cpus;
  int nodes = 0;
  if (!read_text(root, text, sizeof text, NODE_DIR "/online") ||
      !parse_list(text, &left))
    return 1;
  for (int node; (node = first_of(&left)) >= 0;) {
    ac__cpu_set_remove(&left, node);
    if (!read_text(root, text, sizeof text, NODE_DIR "/node%d/cpulist", node) ||
        !parse_list(text, &cpus))
      continue;
    intersect(&cpus, allowed); /* a node may have memory alone */
    nodes += ac__cpu_set_count(&cpus) > 0;
  }
  return nodes > 0 ? nodes : 1;
}

/* A size as "48K"; 0 if it is garbled. */
static int64_t parse_size(const char *text) {
  char *end;
  if (*text < '0' || *text > '9')
    return 0;
  unsigned long long size = strtoull(text, &end, 10);
  int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
  if (shift > 0)
    end++;
  if ((*end != '\n' && *end != '\0') || size > (UINT64_MAX >> 1 >> shift))
    return 0;
  return (int64_t)(size << shift);
}

static void read_caches(const char *root, int cpu, ac_topology *topology) {
  int64_t *const sizes[] = {NULL, &topology->l1d_bytes, &topology->l2_bytes,
                            &topology->l3_bytes};
  for (int i = 0; i < CACHES_MAX; i++) {
    char level[32], type[32], size[32];
#define READ(text)                                                             \
  read_text(root, text, sizeof(text), CPU_DIR "/cpu%d/cache/index%d/" #text,   \
            cpu, i)
    if (!READ(level) || !READ(type) || !READ(size))
      continue;
#undef READ
    if (level[0] >= '1' && level[0] <= '3' && strcmp(level + 1, "\n") == 0 &&
        strcmp(type, "Instruction\n") != 0)
      *sizes[level[0] - '0'] = parse_size(size);
  }
}

/* ---- All of it ----------------------------------------------------------- */

/* Whole processors, rounded up, since half a processor still needs a thread. */
static int granted_cores(int affinity, double quota) {
  if (quota <= 0 || quota >= affinity)
    return affinity;
  int whole = (int)quota;
  return whole + (quota > whole);
}

ac_status ac__topology_read_at(const char *root, ac_topology *ret_topology) {
  ac_topology topology = {0};
  ac__cpu_set online, allowed;
  read_processors(root, &online, &allowed);
  topology.online = ac__cpu_set_count(&online);
  topology.affinity = ac__cpu_set_count(&allowed);
  count_cores(root, &allowed, &topology);
  topology.packages = count_packages(root, &allowed);
  topology.nodes = count_nodes(root, &allowed);
  read_caches(root, first_of(&allowed), &topology);
  topology.quota =
      ac__cgroup_quota(root, topology.quota_path, sizeof topology.quota_path);
  topology.granted = granted_cores(topology.affinity, topology.quota);
  *ret_topology = topology;
  return AC_OK;
}
