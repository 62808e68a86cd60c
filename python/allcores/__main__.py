"""The command ``allcores``, as the Python package has it.

    allcores info [--counters] [--json]
    allcores --version

It prints what the C library's own command prints. Human text by default, JSON for
programs. Exit status 0: done; 1: it could not be done, with a sentence on stderr;
2: the command line is wrong.
"""

import argparse
import json
import os
import sys

from allcores import _core
from allcores.budget import info

_SAMPLE = {"loops": 1000, "iterations": 100_000}


class _Parser(argparse.ArgumentParser):
    """Errors in the command's one voice."""

    def error(self, message):
        self.exit(2, f"allcores: {message}; see allcores --help\n")


def _bytes(size_bytes):
    if size_bytes is None:
        return "unknown"
    if size_bytes >= 1 << 20:
        return f"{size_bytes / (1 << 20):g} MiB"
    return f"{size_bytes / (1 << 10):g} KiB"


def _run_sample():
    """Give the team something to count: a program that ran nothing has nothing."""
    numbers = bytes(_SAMPLE["iterations"])
    for _ in range(_SAMPLE["loops"]):
        _core.sum(numbers)


def _rows(read):
    quota = "none"
    if read.quota is not None:
        quota = f"{read.quota:g} processors, by {read.quota_path}"
    return [
        ("processors online", read.online),
        ("allowed by affinity", read.affinity),
        ("quota", quota),
        ("asked for", "nothing" if read.user_cap is None else read.user_cap),
        ("physical cores", read.physical),
        ("threads a core", read.smt),
        ("sockets", read.packages),
        ("NUMA nodes", read.nodes),
        ("L1 data cache", _bytes(read.l1d_bytes)),
        ("L2 cache", _bytes(read.l2_bytes)),
        ("L3 cache", _bytes(read.l3_bytes)),
    ]


def _print_text(read, counters):
    print(f"{'cores used':<20} {read.cores}")
    print(f"{'because':<20} {read.reason}\n")
    for name, text in _rows(read):
        print(f"{name:<20} {text}")
    if counters is None:
        return
    print(
        "\nCounters after a sample: "
        f"{_SAMPLE['loops']} sums of {_SAMPLE['iterations']} numbers each."
    )
    sentences = _core.counter_sentences()
    for name, count in counters.items():
        print(f"{name:<20} {count:>12}  {sentences[name]}")


def _info(options):
    read = info()
    counters = None
    if options.counters:
        _run_sample()
        counters = _core.counters()
    if not options.json:
        _print_text(read, counters)
        return
    found = {"version": _core.version(), **read._asdict()}
    if counters is not None:
        found |= {"sample": _SAMPLE, "counters": counters}
    print(json.dumps(found, indent=2))


def _parser():
    parser = _Parser(
        prog="allcores",
        description="All your cores, never more than that.",
        epilog="Environment: ALLCORES_NUM_THREADS is the number of cores to use, "
        "1 to 1024. Exit status: 0 = done, 1 = it could not be done, 2 = the "
        "command line is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"allcores {_core.version()}"
    )
    commands = parser.add_subparsers(
        title="subcommands", metavar="SUBCOMMAND", required=True
    )
    says = (
        "how many cores a program here uses, and why; the processors, cores, nodes "
        "and caches that it sees"
    )
    command = commands.add_parser(
        "info", help=says, description=says, allow_abbrev=False
    )
    command.add_argument(
        "--counters",
        action="store_true",
        help="run a short sample and show what the team of threads did",
    )
    command.add_argument("--json", action="store_true", help="the same for programs")
    command.set_defaults(run=_info)
    return parser


def main(arguments=None):
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; by default the process's own.

    Returns
    -------
    int
        The exit status. A wrong command line leaves by SystemExit, as argparse does.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone. The interpreter must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("allcores: interrupted", file=sys.stderr)
        return 1
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        print(f"allcores: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
