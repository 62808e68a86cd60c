"""Workers that are processes.

Joins `_shipping.py`, which makes bytes of tasks, with `_procs`, which moves bytes
between processes. See docs/decisions/0004-worker-processes.md.

A large array that several tasks of one call are given is copied into shared memory
once (`share`): each task then names that copy. A worker that goes on using such a copy
after its task keeps it from being freed for as long as the workers live.

Invariant: `_procs` holds each ticket until its outcome was acknowledged (`done`), so an
exception that a signal's handler raises, wherever it comes, loses none.

Knows nothing of: how a task is pickled, shared memory.
"""

import atexit
import os
import sys
import time
import weakref

from allcores import _core, _procs
from allcores._printed import PRINTED, show_printed
from allcores._workers import (
    SLICE_SECONDS,
    InitializerError,
    RemoteTraceback,
    TaskTimeoutError,
    Ticket,
    WorkerDiedError,
    Workers,
)

__all__ = ["ProcessWorkers"]

START_METHODS = ("forkserver", "fork", "spawn")

# ac_task_end of allcores/pool.h.
_DONE, _CANCELLED, _DIED, _TIMEOUT, _REFUSED, _NOMEM = range(6)
# ac_task_place.
_RUNNING = 2

SHARED_BYTES = 1 << 20  # smaller buffers are copied for each task
PAGE_BYTES = 1 << 16  # what a stored blob takes at least
STORED_MOST = 1 << 28
_FDS_MOST = 60
_RETRIES_MOST = (1 << 31) - 1
SHARED_MOST = 8  # copies that a call keeps for its later tasks

_PROGRAM = (
    "import sys; sys.path[0] = {folder!r}; "
    "from allcores._forkserver import main; main()"
)

_living = weakref.WeakSet()


class ProcessWorkers(Workers):
    """`count` worker processes.

    Parameters
    ----------
    count : int
        1 to 1024.
    start_method : {"forkserver", "fork", "spawn"}
        How workers come to be: forked from a small server, which is the default;
        forked from a copy of this process, made here; or started as new interpreters.
    initializer : callable, optional
        Called by each worker before its first task. If it raises, all tasks fail with
        InitializerError, and `submit` raises it.
    initargs : tuple
    max_tasks_per_child : int, optional
        Tasks after which a worker is replaced by another.
    lazy : bool
        Start workers as tasks come, in place of all at once.
    """

    kind = "processes"

    def __init__(
        self,
        count,
        *,
        start_method="forkserver",
        initializer=None,
        initargs=(),
        max_tasks_per_child=None,
        lazy=False,
    ):
        if start_method not in START_METHODS:
            raise ValueError(
                f"start_method is 'forkserver', 'fork' or 'spawn', not {start_method!r}"
            )
        super().__init__(count)
        self._sleeping = 0
        self._refusal = None
        self._shared = {}  # key -> copies in shared memory that the task uses
        self._stored_bytes = 0
        self._held = []  # copies that some worker goes on using
        self._setup_fds = []
        self._pid = os.getpid()
        _tell_of_ledger()
        server = None if start_method == "fork" else _server(start_method)
        if server is None:
            from allcores._worker import flush

            flush()  # else the copy prints what waits here as well
        self._pool = _procs.pool(
            count, server, _fork_worker, max_tasks_per_child or 0, lazy
        )
        # The fork server starts meanwhile.
        from allcores._shipping import Sender
        from allcores._worker import setup_of

        self._sender = Sender(self._store)
        payload = None
        if initializer is not None:
            payload, fds = self._sender.pack_setup(initializer, initargs)
            self._setup_fds = fds
            weakref.finalize(self, _close_all, fds)
            if len(fds) > _FDS_MOST:
                raise ValueError(
                    f"initargs hold {len(fds)} locks, queues and the like that need a "
                    f"file descriptor each, and at most {_FDS_MOST} can be given; make "
                    "locks by multiprocessing's get_context('forkserver'), without"
                )
        relays = not (_is_stream(sys.stdout, 1) and _is_stream(sys.stderr, 2))
        self._pool.start(setup_of(payload, relays), self._setup_fds)
        self._submit = self._pool.submit
        self._next = self._pool.next
        _living.add(self)

    def submit(
        self,
        mode,
        function,
        data,
        *,
        timeout=None,
        retries=0,
        on_done=None,
        tag=None,
        share=None,
    ):
        if self._refusal is not None:
            raise self._refusal()
        payload, buffers = self._sender.pack(mode, function, data)
        if share is not None and buffers:
            buffers = [self._share(buffer, share) for buffer in buffers]
        ticket = Ticket(self, on_done, tag)
        if share is not None and buffers:
            self._shared[ticket] = buffers
        limit_ns = 0 if timeout is None else _limit_ns(timeout)
        retries = min(retries, _RETRIES_MOST)
        self._outstanding += 1  # nothing between this and the call can be interrupted
        try:
            self._submit(payload, buffers, limit_ns, retries, ticket)
        except Exception as error:
            self._outstanding -= 1
            self._shared.pop(ticket, None)
            text = self._pool.refusal() if isinstance(error, RuntimeError) else None
            if text is None:
                raise
            self._refuse(text)
            raise self._refusal() from None
        return ticket

    def _share(self, buffer, share):
        """The buffer, or the copy of it that earlier tasks of the call were given."""
        if buffer.nbytes < SHARED_BYTES:
            return buffer
        name = (id(buffer.obj), buffer.nbytes)
        known = share.get(name)
        if known is None:
            if len(share) >= SHARED_MOST:
                del share[next(iter(share))]
            # The buffer is kept so that no other object gets its number.
            known = share[name] = (self._pool.keep(buffer), buffer)
        return known[0]

    def _store(self, blob):
        self._stored_bytes += max(len(blob), PAGE_BYTES)
        return self._pool.store(blob)

    @property
    def is_fit(self):
        """False if no task can run any more, or if so much is stored for the workers
        (functions, globals, as often as they changed) that new ones would be better."""
        return self._refusal is None and self._stored_bytes < STORED_MOST

    def poll(self, is_waiting=False):
        count = 0
        take, done = self._next, self._pool.done
        try:
            while (entry := take()) is not None:
                count += 1
                ticket = entry[1]
                if not ticket.done:
                    try:
                        self._take_in(*entry[1:])
                    except Exception as error:  # of ours: the task ends all the same
                        if ticket.done:
                            raise
                        self._end(ticket, False, error)
                done(entry)
        except BaseException:
            self._pool.unmark()  # what was begun here is taken in by the next call
            raise
        finally:
            if count and self._sleeping > is_waiting:
                self._pool.ring()
        return count

    def _take_in(
        self,
        ticket,
        end,
        pid,
        attempts,
        exit_status,
        run_ns,
        is_held,
        payload,
        buffers,
    ):
        ticket.pid = pid
        if self._shared:
            shared = self._shared.pop(ticket, None)
            if is_held and shared is not None:
                self._held.append(shared)
        if end == _DONE:
            if payload[0] == PRINTED:
                payload = show_printed(payload)
            ok, value, ticket.failed_index, ticket.seconds = self._sender.unpack_result(
                payload, buffers
            )
            self._end(ticket, ok, value)
            return
        ticket.seconds = run_ns / 1e9
        if end == _CANCELLED:
            ticket.was_cancelled = True
            self._end(ticket, False, None)
        elif end == _DIED:
            self._end(ticket, False, _death(pid, exit_status, attempts))
        elif end == _TIMEOUT:
            self._end(
                ticket,
                False,
                TaskTimeoutError(
                    f"the task ran for longer than it was allowed to, and its worker "
                    f"process (pid {pid}) was ended"
                ),
            )
        elif end == _REFUSED:
            self._refuse(bytes(payload).decode(errors="replace"))
            self._end(ticket, False, self._refusal())
        else:
            self._end(
                ticket,
                False,
                MemoryError("memory for the task's result could not be had"),
            )

    def _refuse(self, text):
        def make():
            error = InitializerError(
                "the worker processes cannot begin: " + text.strip().rpartition("\n")[2]
            )
            error.__cause__ = RemoteTraceback(text)
            return error

        if self._refusal is None:
            self._refusal = make

    def _sleep(self, seconds):
        self._sleeping += 1
        try:
            self._pool.wait(self._pool.bell(), seconds)
        finally:
            self._sleeping -= 1

    def wait_until(self, is_over, timeout=None):
        until = None if timeout is None else time.monotonic() + timeout
        bell, wait = self._pool.bell, self._pool.wait
        self._sleeping += 1  # who takes in what this thread waits for rings
        try:
            while True:
                heard = bell()
                taken = self.poll(True)
                if is_over():
                    return True
                if taken:
                    continue
                left = SLICE_SECONDS
                if until is not None:
                    left = min(left, until - time.monotonic())
                    if left <= 0:
                        return False
                wait(heard, left)
        finally:
            self._sleeping -= 1

    def is_running(self, ticket):
        return self._pool.where(ticket._key) == _RUNNING

    def cancel(self, ticket, kill=False):
        return self._pool.cancel(ticket._key, kill)

    def close(self):
        if self._refusal is None:
            self._refusal = _closed
        self._pool.close()

    def terminate(self):
        if os.getpid() != self._pid:
            return
        if self._refusal is None:
            self._refusal = _closed
        self._pool.terminate()
        self.poll()
        self._close_fds()

    def join(self, timeout=None):
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self.poll()
            left = SLICE_SECONDS
            if until is not None:
                left = min(left, max(0.0, until - time.monotonic()))
            if self._outstanding:
                self._sleep(left)
            elif self._pool.join(left):
                self._close_fds()
                return True
            if until is not None and time.monotonic() >= until:
                return False

    def pids(self):
        return self._pool.pids()

    def _close_fds(self):
        _close_all(self._setup_fds)


def _close_all(fds):
    while fds:
        os.close(fds.pop())


def _is_stream(stream, fd):
    """True if what is written to `fd` is where the stream's text goes."""
    try:
        return stream is None or stream.fileno() == fd
    except (AttributeError, OSError, ValueError):
        return False


def _tell_of_ledger():
    """Have the fork server, and its workers, share this process's budget."""
    if "ALLCORES_LEDGER" not in os.environ:
        try:
            os.environ["ALLCORES_LEDGER"] = _core.ledger_export()
        except OSError:
            pass  # there is no shared memory, so nothing to share


def _limit_ns(seconds):
    """A time limit in nanoseconds; 0 = none."""
    if not seconds >= 0:
        raise ValueError(
            f"timeout takes seconds of 0 or more, or None; not {seconds!r}"
        )
    return 0 if seconds > 9e9 else max(1, int(seconds * 1e9))


def _closed():
    return RuntimeError("the workers were closed: they take no more tasks")


def _death(pid, exit_status, attempts):
    if exit_status < 0:
        import signal

        try:
            how = f"was killed by {signal.Signals(-exit_status).name}"
        except ValueError:
            how = f"was killed by signal {-exit_status}"
    else:
        how = f"ended with exit code {exit_status}"
    times = "" if attempts < 2 else f", the last of {attempts} that began it"
    hint = (
        "; if nobody sent that signal, the system was short of memory"
        if exit_status == -9
        else ""
    )
    return WorkerDiedError(
        f"worker process {pid} {how} while it ran the task{times}{hint}",
        pid,
        exit_status,
        attempts,
    )


def _fork_worker(fds, number):
    from allcores import _worker

    _worker.main(fds, number, is_copy=True)


def _server(start_method):
    """The fork server's program: one for all pools of this interpreter."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return (
        sys.executable,
        *_interpreter_options(),
        "-c",
        _PROGRAM.format(folder=folder),
        start_method,
    )


def _interpreter_options():
    """The options that make another interpreter be as this one is."""
    flags = sys.flags
    letters = {
        "d": flags.debug,
        "B": flags.dont_write_bytecode,
        "s": flags.no_user_site and not flags.isolated,
        "S": flags.no_site,
        "E": flags.ignore_environment and not flags.isolated,
        "I": flags.isolated,
        "b": flags.bytes_warning,
        "O": flags.optimize,
        "v": flags.verbose,
    }
    options = ["-" + letter * int(count) for letter, count in letters.items() if count]
    options += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return options


@atexit.register
def _end_all():
    for workers in list(_living):
        workers.terminate()
