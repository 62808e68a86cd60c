/* fuzz.h: what the fuzzers share.
 *
 * A fuzzer defines fuzz_one(), which takes any bytes and must come back, and
 * ends with FUZZ_MAIN(name). Built by scripts/fuzz.sh it is a libFuzzer target.
 * Built as a test it takes each file of tests/fuzz/corpus/<name> once, so that
 * every compiler and sanitizer sees what fuzzing has found.
 *
 * A fuzzer may include a source file of the library with some of its calls
 * replaced by macros. The library is linked as an archive, from which the
 * linker then leaves that file out.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

static void fuzz_one(const uint8_t *data, size_t size);

#ifdef FUZZ_WITH_LIBFUZZER

#include <stdio.h>
#include <stdlib.h>

/** End with a report unless `cond` holds. */
#define FUZZ_CHECK(cond)                                                       \
  do {                                                                         \
    if (!(cond)) {                                                             \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__,        \
              #cond);                                                          \
      abort();                                                                 \
    }                                                                          \
  } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_MAIN(name)                                                        \
  int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {               \
    fuzz_one(data, size);                                                      \
    return 0;                                                                  \
  }

#else /* a test */

#include "check.h"

#include <dirent.h>
#include <string.h>

#define FUZZ_CHECK(cond) (void)CHECK(cond)

enum { FUZZ_INPUT_MAX = 1 << 20, FUZZ_PREFIXES_MAX = 4096 };

/* In memory of just that size, so that a read beyond it is seen. */
static inline void fuzz_exactly(const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size > 0 ? size : 1);
  if (!CHECK(copy != NULL))
    return;
  memcpy(copy, data, size);
  fuzz_one(copy, size);
  free(copy);
}

/* The whole file; and its beginnings, as a file that is cut off. */
static inline bool fuzz_replay_file(const char *folder, const char *name) {
  static uint8_t data[FUZZ_INPUT_MAX];
  char path[1024];
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!CHECK(file != NULL))
    return false;
  size_t size = fread(data, 1, sizeof data, file);
  (void)fclose(file);
  for (size_t cut = 0; cut < size; cut += size / FUZZ_PREFIXES_MAX + 1)
    fuzz_exactly(data, cut);
  fuzz_exactly(data, size);
  if (check_child_status() != 0)
    printf("  the input is %s\n", path);
  return check_child_status() == 0;
}

static inline void fuzz_replay(const char *folder) {
  int count = 0;
  bool is_good = true;
  DIR *corpus = opendir(folder);
  if (!CHECK(corpus != NULL))
    return;
  for (struct dirent *at; is_good && (at = readdir(corpus)) != NULL;)
    if (at->d_name[0] != '.') {
      is_good = fuzz_replay_file(folder, at->d_name);
      count++;
    }
  (void)closedir(corpus);
  CHECK(count > 0);
  printf("  %d inputs, and their beginnings\n", count);
}

#define FUZZ_MAIN(name)                                                        \
  TEST("no input of tests/fuzz/corpus/" name " does harm") {                   \
    fuzz_replay("tests/fuzz/corpus/" name);                                    \
  }                                                                            \
  CHECK_MAIN

#endif
#endif
