/* check.h: the whole test harness, for plain C programs.
 *
 *   #include "check.h"
 *   TEST("an empty range calls nothing") {
 *     CHECK(ac_for(NULL, range, 0, NULL, body, NULL) == AC_OK);
 *     if (!CHECK(pointer != NULL))
 *       return;
 *   }
 *   CHECK_MAIN
 *
 * A test's name is a sentence. Tests run in the order in which they stand in
 * the file, in one process. A failing CHECK prints its place and goes on. The
 * last line is "N passed, N failed", with ", N skipped" if any were; the exit
 * status is 1 if any failed. CHECK may be used from any thread; a forked child
 * should leave by _exit(check_child_status()).
 *
 * One file of a program includes this header. Knows nothing of: the library.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHECK_TESTS_MAX = 256 };

typedef struct check_test {
  const char *name;
  void (*run)(void);
} check_test;

static check_test check_tests[CHECK_TESTS_MAX];
static int check_test_count;
static const char *check_skip_reason; /* set by SKIP in the running test */
static atomic_int check_failures;     /* failed CHECKs in the running test */

/* The program's arguments, for tests that are given a path. */
__attribute__((unused)) static int check_argc;
__attribute__((unused)) static char **check_argv;

static inline void check_add(const char *name, void (*run)(void)) {
  if (check_test_count == CHECK_TESTS_MAX) {
    fprintf(stderr, "check.h: more than %d tests\n", CHECK_TESTS_MAX);
    abort();
  }
  check_tests[check_test_count++] = (check_test){name, run};
}

static inline bool check_that(bool holds, const char *text, const char *file,
                              int line) {
  if (!holds) {
    /* relaxed: a count; the test joins its threads before it is read. */
    atomic_fetch_add_explicit(&check_failures, 1, memory_order_relaxed);
    printf("%s:%d: does not hold: %s\n", file, line, text);
    fflush(stdout);
  }
  return holds;
}

static inline bool check_equal(long long got, long long want, const char *text,
                               const char *file, int line) {
  if (got != want)
    printf("  %s is %lld, should be %lld\n", text, got, want);
  return check_that(got == want, text, file, line);
}

/** For a forked child: 0 if no CHECK of the running test has failed. */
static inline int check_child_status(void) {
  /* relaxed: as above. */
  return atomic_load_explicit(&check_failures, memory_order_relaxed) != 0;
}

/** Count a failure unless `cond` holds; its value is that of `cond`. */
#define CHECK(cond) check_that((cond), #cond, __FILE__, __LINE__)

/** As CHECK(got == want) for integers, printing both. */
#define CHECK_INT(got, want)                                                   \
  check_equal((long long)(got), (long long)(want), #got, __FILE__, __LINE__)

/** Leave the test, saying why it cannot be run here. */
#define SKIP(reason)                                                           \
  do {                                                                         \
    check_skip_reason = (reason);                                              \
    return;                                                                    \
  } while (0)

#define CHECK_JOIN_(a, b) a##b
#define CHECK_JOIN(a, b)  CHECK_JOIN_(a, b)

/** Define a test. */
#define TEST(sentence) CHECK_TEST_(sentence, __LINE__)
#define CHECK_TEST_(sentence, line)                                            \
  static void CHECK_JOIN(check_run_, line)(void);                              \
  __attribute__((constructor)) static void CHECK_JOIN(check_add_,              \
                                                      line)(void) {            \
    check_add((sentence), CHECK_JOIN(check_run_, line));                       \
  }                                                                            \
  static void CHECK_JOIN(check_run_, line)(void)

static inline int check_run_all(int argc, char **argv) {
  int passed = 0, failed = 0, skipped = 0;
  check_argc = argc;
  check_argv = argv;
  for (int i = 0; i < check_test_count; i++) {
    check_skip_reason = NULL;
    /* relaxed: no other thread runs between tests. */
    atomic_store_explicit(&check_failures, 0, memory_order_relaxed);
    check_tests[i].run();
    if (check_child_status() != 0) {
      failed++;
      printf("FAILED: %s\n", check_tests[i].name);
    } else if (check_skip_reason != NULL) {
      skipped++;
      printf("skipped: %s: %s\n", check_tests[i].name, check_skip_reason);
    } else {
      passed++;
      printf("ok: %s\n", check_tests[i].name);
    }
    fflush(stdout);
  }
  printf("%d passed, %d failed", passed, failed);
  if (skipped > 0)
    printf(", %d skipped", skipped);
  printf("\n");
  return failed != 0;
}

#define CHECK_MAIN                                                             \
  int main(int argc, char **argv) { return check_run_all(argc, argv); }

#endif
