/* Fuzzer: the command line of the allcores command.
 *
 * An input is the arguments, one a line. Whatever they are: the exit status is
 * 0 and nothing is said on stderr, or it is 2, nothing is said on stdout, and
 * stderr has a sentence of the command's own. What the command prints goes to
 * memory; the sample that --counters runs is left out, being slow.
 */
#define _GNU_SOURCE 1
#include "fuzz.h"

#include <allcores/allcores.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *fuzz_out, *fuzz_err;

static ac_status fuzz_reduce(ac_team *team, ac_range range, int64_t grain,
                             const ac_site *site, const ac_monoid *monoid,
                             ac_fold_fn fold, void *ctx, void *ret_value) {
  (void)team, (void)range, (void)grain, (void)site, (void)fold, (void)ctx;
  memcpy(ret_value, monoid->identity, monoid->size_bytes);
  return AC_OK;
}

int allcores_main(int argc, char **argv);

#undef stdout
#undef stderr
#define stdout       fuzz_out
#define stderr       fuzz_err
#define main         allcores_main
#define ac_reduce    fuzz_reduce
#define printf(...)  fprintf(fuzz_out, __VA_ARGS__)
#define putchar(out) fputc(out, fuzz_out)
#include "../../cli/info.c"
#include "../../cli/main.c"
#undef stdout
#undef stderr
#undef main
#undef printf
#undef putchar

enum { ARGUMENTS_MAX = 32 };

/* Cut `text` at its newlines. @return arguments and the name before them. */
static int take_arguments(char *text, char **argv) {
  static char name[] = "allcores";
  int argc = 0;
  argv[argc++] = name;
  while (text != NULL && *text != '\0' && argc < ARGUMENTS_MAX) {
    argv[argc++] = text;
    text = strchr(text, '\n');
    if (text != NULL)
      *text++ = '\0';
  }
  argv[argc] = NULL;
  return argc;
}

static void check_said(int status, const char *out, const char *err) {
  if (status == CLI_OK) {
    FUZZ_CHECK(out[0] != '\0' && err[0] == '\0');
    return;
  }
  FUZZ_CHECK(status == CLI_USAGE);
  FUZZ_CHECK(out[0] == '\0');
  FUZZ_CHECK(strncmp(err, "allcores: ", 10) == 0);
  FUZZ_CHECK(err[strlen(err) - 1] == '\n');
}

static void run_command(char *text) {
  char *argv[ARGUMENTS_MAX + 2], *out = NULL, *err = NULL;
  size_t out_size, err_size;
  int argc = take_arguments(text, argv);
  fuzz_out = open_memstream(&out, &out_size);
  fuzz_err = open_memstream(&err, &err_size);
  if (fuzz_out == NULL || fuzz_err == NULL)
    abort();
  int status = allcores_main(argc, argv);
  (void)fclose(fuzz_out);
  (void)fclose(fuzz_err);
  check_said(status, out, err);
  free(out);
  free(err);
}

static void fuzz_one(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1);
  if (text == NULL)
    return;
  if (size > 0)
    memcpy(text, data, size);
  text[size] = '\0';
  run_command(text);
  free(text);
}

FUZZ_MAIN("cli")
