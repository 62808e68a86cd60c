"""The fork server: a small interpreter with one thread, from which workers are forked.

Run as a program by the parent process (`_processes.py`), with its socket as descriptor
3. It imports next to nothing, since each module here is a module in every worker.

With the argument ``spawn`` its workers are interpreters of their own: each child
becomes ``python -m allcores._worker`` and imports anew.
"""

import os
import sys


def be_worker(fds, number):
    """In a forked child."""
    from allcores import _worker

    _worker.main(fds, number)


def be_program(fds, number):
    """In a forked child: start a new interpreter, which inherits the descriptors."""
    for fd in fds:
        os.set_inheritable(fd, True)
    program = [sys.executable, *sys.orig_argv[1:-1][: _options()], "-m"]
    program += ["allcores._worker", str(number), *map(str, fds)]
    os.execv(sys.executable, program)


def _options():
    """How many of the interpreter's own options come first among its arguments."""
    words = sys.orig_argv[1:]
    return words.index("-c") if "-c" in words else 0


def main():
    import gc
    import signal

    from allcores import _procs, _worker  # noqa: F401, so that children have it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to Ctrl-C
    child = be_program if sys.argv[-1] == "spawn" else be_worker
    gc.collect()
    gc.freeze()  # what is here stays shared with the children
    _procs.forkserver_serve(_procs.FORKSERVER_FD, child)


if __name__ == "__main__":
    main()
