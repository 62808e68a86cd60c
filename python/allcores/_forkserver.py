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
    options = sys.orig_argv[1 : sys.orig_argv.index("-c")]
    program = f"import sys; sys.path[0] = {sys.path[0]!r}; "
    program += "from allcores._worker import main_spawned; main_spawned()"
    words = [sys.executable, *options, "-c", program, str(number), *map(str, fds)]
    os.execv(sys.executable, words)


def load_more():
    """Once, when nobody waits: what tasks often import and takes no thread."""
    if sys.argv[-1] != "spawn":
        import gc
        import multiprocessing.process  # noqa: F401
        import random  # noqa: F401

        gc.freeze()


def main():
    import _signal  # the signal module is larger
    import gc

    from allcores import _procs

    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # the parent sees to Ctrl-C

    if sys.argv[-1] != "spawn":
        from allcores import _receiving, _worker  # noqa: F401, so that children have it
    child = be_program if sys.argv[-1] == "spawn" else be_worker
    gc.freeze()  # what is here stays shared with the children
    _procs.forkserver_serve(_procs.FORKSERVER_FD, child, load_more)


if __name__ == "__main__":
    main()
