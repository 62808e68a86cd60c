"""What a worker process is: set up as its parent was, then one task after another.

The parent hands over, as bytes, what `setup_of` made: folder, search path, arguments,
environment, file mode mask, processors, warning filters, and the initializer. What
cannot be set up is told to the parent as text, and no task is run.

Knows nothing of: pickling of tasks (`_shipping.py`), shared memory.
"""

import marshal
import os
import sys

# What a worker lacks of its parent's environment, or has otherwise.
_OWN = frozenset({"ALLCORES_LEDGER"})


# ---- In the parent -------------------------------------------------------------


def setup_of(initializer, relays):
    """The bytes that a worker is set up with; small, since each reads them.

    Parameters
    ----------
    initializer : bytes or None
        `Sender.pack_setup`'s payload.
    relays : bool
        What tasks print goes to the parent's `sys.stdout` and `sys.stderr`, which are
        not this process's standard streams (a notebook's, a test's).
    """
    warnings = sys.modules.get("warnings")
    filters = [] if warnings is None else _plain_filters(warnings.filters)
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = None
    return marshal.dumps(
        {
            "cwd": folder,
            "path": [item for item in sys.path if type(item) is str],
            "argv": [item for item in sys.argv if type(item) is str],
            "environ": dict(os.environ),
            "umask": _umask(),
            "processors": list(os.sched_getaffinity(0)),
            "filters": filters,
            "multiprocessing": "multiprocessing.process" in sys.modules,
            "parent": _parent_names(),
            "main": _main_file(),
            "initializer": initializer,
            "relays": relays,
        }
    )


def _umask():
    mask = os.umask(0o077)  # it can be read only so; the stricter, for that moment
    os.umask(mask)
    return mask


def _plain_filters(filters):
    """Warning filters whose category is a built-in one, as plain values: a pattern as
    a list of its text, since a plain text stands for itself."""
    plain = []
    for action, message, category, module, line in filters:
        if getattr(category, "__module__", None) != "builtins":
            continue
        texts = [
            item if item is None or type(item) is str else [item.pattern]
            for item in (message, module)
        ]
        plain.append((action, texts[0], category.__name__, texts[1], line))
    return plain


def _parent_names():
    """The name, number and key by which multiprocessing knows this process."""
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return "MainProcess", os.getpid(), None
    current = process.current_process()
    return current.name, os.getpid(), bytes(current.authkey)


def _main_file():
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return file if type(file) is str else None


# ---- In the worker -------------------------------------------------------------


def main(fds, number, *, is_copy=False):
    """Be worker `number`; never returns.

    Parameters
    ----------
    is_copy : bool
        It was forked from the parent itself: what that has registered to be called at
        its end is not this process's to call.
    """
    from allcores import _procs

    worker = _Worker(fds, number)
    status = 1
    try:
        if _procs.worker_serve(fds[0], fds[1], number, worker.begin, worker.run, None):
            status = 0
        if not is_copy:
            _leave()
        flush()
    finally:
        os._exit(status)


class _Worker:
    def __init__(self, fds, number):
        self.fds = fds[2:]
        self.number = number
        self.receiver = None
        self.printed = None

    def begin(self, link, setup):
        """None, or why no task can run."""
        try:
            given = marshal.loads(setup)
            _set_up(given, self.number)
            if "random" in sys.modules:
                sys.modules["random"].seed()  # else all draw the same numbers
            from allcores import _procs
            from allcores._receiving import Receiver

            self.receiver = Receiver(lambda key: _procs.worker_fetch(link, key))
            main_module = sys.modules["__main__"]
            if given["main"] is not None and not hasattr(main_module, "__file__"):
                main_module.__file__ = given["main"]
            if given["relays"]:
                from allcores._printed import Printed

                self.printed = Printed()
            if given["initializer"] is not None:
                self.receiver.run_setup(given["initializer"], self.fds)
            flush()
        except BaseException:
            import traceback

            flush()
            text = traceback.format_exc()
            return text.encode("utf-8", "backslashreplace").decode()

    def run(self, payload, buffers):
        answer = self.receiver.run(payload, buffers)
        if self.printed is not None:
            return self.printed.add_to(answer)
        flush()
        return answer


def _set_up(given, number):
    if given["cwd"] is not None:
        try:
            os.chdir(given["cwd"])
        except OSError:
            pass  # removed meanwhile; the parent has it no more either
    os.umask(given["umask"])
    try:
        os.sched_setaffinity(0, given["processors"])
    except OSError:
        pass  # they were taken away from the processes meanwhile
    sys.path[:] = given["path"]
    sys.argv[:] = given["argv"]
    own = {name: os.environ[name] for name in _OWN if name in os.environ}
    if dict(os.environ) != given["environ"]:
        os.environ.clear()
        os.environ.update(given["environ"])
    os.environ.update(own)
    if given["filters"]:
        _set_filters(given["filters"])
    _Identity(given["parent"], number).install(given["multiprocessing"])


def _set_filters(plain):
    import _warnings  # the warnings module is larger, and shares its filters
    import builtins

    filters = []
    for action, message, category, module, line in plain:
        message, module = _pattern(message, True), _pattern(module, False)
        filters.append((action, message, getattr(builtins, category), module, line))
    if _warnings.filters != filters:
        _warnings.filters[:] = filters
        _warnings._filters_mutated()


def _pattern(text, ignores_case):
    if type(text) is not list:
        return text
    import re

    return re.compile(text[0], re.IGNORECASE if ignores_case else 0)


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # none, closed, or nobody reads it any more


def _leave():
    """What an interpreter does at its end, as far as a task may count on it."""
    import atexit

    atexit._run_exitfuncs()


class _Identity:
    """Who multiprocessing says that this process is.

    Set when its module is imported, since importing it takes as long as starting a
    worker does.
    """

    def __init__(self, parent, number):
        self.parent = parent
        self.number = number

    def install(self, is_wanted):
        if is_wanted or "multiprocessing.process" in sys.modules:
            import multiprocessing.process

            self.apply(multiprocessing.process)
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name != "multiprocessing.process":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.apply(module)

        spec.loader.exec_module = exec_module
        return spec

    def apply(self, process):
        import itertools

        name, pid, key = self.parent

        class Worker(process.BaseProcess):
            """A worker process of allcores."""

            def __init__(self, number, config):
                self._identity = (number,)
                self._config = config
                self._parent_pid = pid
                self._parent_name = name
                self._popen = None
                self._closed = False
                self._target = None
                self._args = ()
                self._kwargs = {}
                self._name = f"AllcoresWorker-{number}"

        config = dict(process.current_process()._config, daemon=True)
        if key is not None:
            config["authkey"] = process.AuthenticationString(key)
        process._current_process = Worker(self.number + 1, config)
        process._process_counter = itertools.count(1)
        process._parent_process = process._ParentProcess(name, pid, _lifeline())


def _lifeline():
    """What parent_process().join() waits for: it ends when this process does."""
    read, _ = os.pipe()
    return read


def main_spawned():
    """Be a worker that was not forked: the start method "spawn"."""
    import _signal

    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    number, *fds = map(int, sys.argv[1:])
    for fd in fds:
        os.set_inheritable(fd, False)  # what tasks start does not get them
    main(fds, number)
