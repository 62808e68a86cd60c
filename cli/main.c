/* main.c: the allcores command.
 *
 * Text for people, --json for programs; what is wrong goes to stderr in one
 * sentence. Exit status: 0 = done, 1 = it could not be done, 2 = it was asked
 * for in a way that is not allowed.
 *
 * Knows nothing of: the library's inside; it sees the public headers only.
 */
#include "cli.h"

#include <allcores/allcores.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: allcores info [--counters] [--json]\n"
    "       allcores --version\n"
    "       allcores --help\n"
    "\n"
    "info         how many cores a program here uses, and why; the "
    "processors,\n"
    "             cores, nodes and caches that it sees\n"
    "  --counters   run a short sample and show what the team of threads did\n"
    "  --json       the same for programs\n"
    "\n"
    "Environment: ALLCORES_NUM_THREADS is the number of cores to use, 1 to "
    "1024.\n"
    "Exit status: 0 = done, 1 = it could not be done, 2 = the command line is\n"
    "wrong.\n";

int cli_fail(void) {
  const ac_error *error = ac_last_error();
  fprintf(stderr, "allcores: %s: %s", error->operation, error->detail);
  if (error->remedy[0] != '\0')
    fprintf(stderr, "; %s", error->remedy);
  fputs("\n", stderr);
  return CLI_FAILED;
}

static int say_usage(const char *given) {
  fprintf(stderr, "allcores: %s%s%s; allowed are info, --version and --help\n",
          given != NULL ? "there is no subcommand '"
                        : "a subcommand is missing",
          given != NULL ? given : "", given != NULL ? "'" : "");
  return CLI_USAGE;
}

static int run(char **arguments) {
  const char *command = arguments[0];
  if (command == NULL)
    return say_usage(NULL);
  if (strcmp(command, "info") == 0)
    return cli_info(arguments + 1);
  bool is_help = strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0;
  if (!is_help && strcmp(command, "--version") != 0)
    return say_usage(command);
  if (arguments[1] != NULL) {
    fprintf(stderr, "allcores: %s takes no '%s'\n", command, arguments[1]);
    return CLI_USAGE;
  }
  if (is_help)
    fputs(help, stdout);
  else
    printf("allcores %s\n", ac_version());
  return CLI_OK;
}

int main(int argc, char **argv) {
  static char *none[] = {NULL};
  int status = run(argc > 0 ? argv + 1 : none);
  if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_OK) {
    perror("allcores: the output could not be written");
    status = CLI_FAILED;
  }
  return status;
}
