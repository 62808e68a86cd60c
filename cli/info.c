/* info.c: `allcores info`.
 *
 * The cores chosen and the reason come first, then what the machine has. The
 * members of the JSON object are the fields of ac_topology and ac_counters,
 * under the same names; a limit that is not there is null.
 *
 * A program that has run nothing has counted nothing, so --counters runs a
 * sample first and says which.
 *
 * Knows nothing of: how the figures are found.
 */
#include "cli.h"

#include <allcores/allcores.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SAMPLE_LOOPS = 1000, SAMPLE_ITERATIONS = 100000 };

typedef struct options {
  bool has_counters, is_json;
} options;

/* ---- Text ---------------------------------------------------------------- */

static void print_bytes(const char *name, int64_t bytes) {
  if (bytes <= 0)
    printf("%-20s unknown\n", name);
  else if (bytes >= 1 << 20)
    printf("%-20s %g MiB\n", name, (double)bytes / (1 << 20));
  else
    printf("%-20s %g KiB\n", name, (double)bytes / (1 << 10));
}

static void print_limits(const ac_topology *t) {
  if (t->quota > 0)
    printf("%-20s %g processors, by %s\n", "quota", t->quota, t->quota_path);
  else
    printf("%-20s none\n", "quota");
  if (t->user_cap > 0)
    printf("%-20s %d\n", "asked for", t->user_cap);
  else
    printf("%-20s nothing\n", "asked for");
}

static void print_text(const ac_topology *t) {
  printf("%-20s %d\n", "cores used", t->cores);
  printf("%-20s %s\n\n", "because", t->reason);
  printf("%-20s %d\n", "processors online", t->online);
  printf("%-20s %d\n", "allowed by affinity", t->affinity);
  print_limits(t);
  printf("%-20s %d\n", "physical cores", t->physical);
  printf("%-20s %d\n", "threads a core", t->smt);
  printf("%-20s %d\n", "sockets", t->packages);
  printf("%-20s %d\n", "NUMA nodes", t->nodes);
  print_bytes("L1 data cache", t->l1d_bytes);
  print_bytes("L2 cache", t->l2_bytes);
  print_bytes("L3 cache", t->l3_bytes);
}

static void print_counters_text(const ac_counters *counters) {
  printf("\nCounters after a sample: %d sums of %d numbers each.\n",
         SAMPLE_LOOPS, SAMPLE_ITERATIONS);
#define PRINT(name, text)                                                      \
  printf("%-20s %12" PRIu64 "  %s\n", #name, counters->name, text);
  AC_COUNTER_TABLE(PRINT)
#undef PRINT
}

/* ---- JSON ---------------------------------------------------------------- */

static void print_json_string(const char *text) {
  putchar('"');
  for (const unsigned char *at = (const unsigned char *)text; *at; at++)
    if (*at == '"' || *at == '\\')
      printf("\\%c", *at);
    else if (*at < 0x20)
      printf("\\u%04x", *at);
    else
      putchar(*at);
  putchar('"');
}

static const char *limit_name(ac_core_limit limit) {
  static const char *const names[] = {[AC_LIMIT_ONLINE] = "online",
                                      [AC_LIMIT_AFFINITY] = "affinity",
                                      [AC_LIMIT_QUOTA] = "quota",
                                      [AC_LIMIT_USER] = "user"};
  return names[limit];
}

/* A number, or null where 0 says that there is none. */
static void print_json_bytes(const char *name, int64_t bytes) {
  if (bytes > 0)
    printf("  \"%s\": %" PRId64 ",\n", name, bytes);
  else
    printf("  \"%s\": null,\n", name);
}

static void print_json_quota(const ac_topology *t) {
  if (t->quota > 0) {
    printf("  \"quota\": %.17g,\n  \"quota_path\": ", t->quota);
    print_json_string(t->quota_path);
    printf(",\n");
  } else {
    printf("  \"quota\": null,\n  \"quota_path\": null,\n");
  }
}

static void print_json_counters(const ac_counters *counters) {
  const char *separator = "\n";
  printf(",\n  \"sample\": {\"loops\": %d, \"iterations\": %d}", SAMPLE_LOOPS,
         SAMPLE_ITERATIONS);
  printf(",\n  \"counters\": {");
#define PRINT(name, text)                                                      \
  printf("%s    \"%s\": %" PRIu64, separator, #name, counters->name);          \
  separator = ",\n";
  AC_COUNTER_TABLE(PRINT)
#undef PRINT
  printf("\n  }");
}

/* @param counters  NULL = not asked for. */
static void print_json(const ac_topology *t, const ac_counters *counters) {
  printf("{\n  \"version\": \"%s\",\n", ac_version());
  printf("  \"cores\": %d,\n  \"reason\": ", t->cores);
  print_json_string(t->reason);
  printf(",\n  \"limit\": \"%s\",\n", limit_name(t->limit));
  printf("  \"online\": %d,\n  \"affinity\": %d,\n", t->online, t->affinity);
  print_json_quota(t);
  printf("  \"granted\": %d,\n", t->granted);
  print_json_bytes("user_cap", t->user_cap);
  printf("  \"physical\": %d,\n  \"smt\": %d,\n", t->physical, t->smt);
  printf("  \"packages\": %d,\n", t->packages);
  print_json_bytes("l1d_bytes", t->l1d_bytes);
  print_json_bytes("l2_bytes", t->l2_bytes);
  print_json_bytes("l3_bytes", t->l3_bytes);
  printf("  \"nodes\": %d", t->nodes);
  if (counters != NULL)
    print_json_counters(counters);
  printf("\n}\n");
}

/* ---- The subcommand ------------------------------------------------------ */

/* *value += begin + … + (end - 1) */
static ac_status add_numbers(ac_range range, void *ctx, void *value) {
  double sum = 0;
  (void)ctx;
  for (int64_t i = range.begin; i < range.end; i++)
    sum += (double)i;
  *(double *)value += sum;
  return AC_OK;
}

static void combine_sums(void *left, const void *right, void *ctx) {
  (void)ctx;
  *(double *)left += *(const double *)right;
}

static ac_status run_sample(void) {
  static const ac_site here = AC_SITE("allcores info");
  static const double zero = 0;
  const ac_monoid sum = {sizeof zero, &zero, combine_sums};
  ac_status st = AC_OK;
  for (int i = 0; st == AC_OK && i < SAMPLE_LOOPS; i++) {
    double value;
    st = ac_reduce(NULL, (ac_range){0, SAMPLE_ITERATIONS}, 0, &here, &sum,
                   add_numbers, NULL, &value);
  }
  return st;
}

static int parse(char **arguments, options *ret_options) {
  options given = {false, false};
  for (; *arguments != NULL; arguments++) {
    if (strcmp(*arguments, "--counters") == 0) {
      given.has_counters = true;
    } else if (strcmp(*arguments, "--json") == 0) {
      given.is_json = true;
    } else {
      fprintf(stderr,
              "allcores: info takes no '%s'; allowed are --counters and "
              "--json\n",
              *arguments);
      return CLI_USAGE;
    }
  }
  *ret_options = given;
  return CLI_OK;
}

int cli_info(char **arguments) {
  options given;
  ac_topology topology;
  ac_counters counters;
  int status = parse(arguments, &given);
  if (status != CLI_OK)
    return status;
  if (ac_topology_read(&topology) != AC_OK ||
      (given.has_counters && run_sample() != AC_OK))
    return cli_fail();
  if (given.has_counters)
    ac_counters_read(NULL, &counters);
  if (given.is_json) {
    print_json(&topology, given.has_counters ? &counters : NULL);
  } else {
    print_text(&topology);
    if (given.has_counters)
      print_counters_text(&counters);
  }
  return CLI_OK;
}
