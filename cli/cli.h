/* cli.h: the subcommands of the allcores command. */
#ifndef AC_CLI_CLI_H
#define AC_CLI_CLI_H

/** The command's exit statuses. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/** Print the library's last error as one sentence on stderr.
 * @return CLI_FAILED. */
int cli_fail(void);

/** `allcores info`: the machine, the cores chosen, and why.
 * @param arguments  What follows the subcommand, up to a NULL. */
int cli_info(char **arguments);

#endif
