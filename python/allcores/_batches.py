"""One call of Parallel: tasks taken from the iterator, cut into batches, handed to
workers, their results put in order.

`Run.collect` is the call that gives a list: the caller's thread takes tasks, hands
them over and sleeps until something is done. `Run.stream` is the call that gives a
generator: a thread of its own does the same, so that work goes on while the reader
does something else. Tickets that are done come in through one deque, to which
`on_done` appends, from whatever thread.

How many: before the first result at most `amount` *tasks* are taken from the
iterator, later at most `amount` *batches* are out. So with batches of one task the
iterator is never further ahead than that, as in joblib. Where the caller did not say
how many, and batches do not grow, more of them are out while they are tiny: workers
that wait for the caller cost more than the calls.

Knows nothing of: backends, nesting, what is printed.
"""

import threading
import time
from collections import deque
from functools import lru_cache, partial
from itertools import chain, islice

from allcores._tasks import Failed
from allcores._workers import CALL, CALLS, STARMAP, WorkerDiedError

__all__ = ["Run", "Sizer", "check_calls"]

# A batch is to take that long in its worker: so long that handing it over costs
# nothing beside it (a hundredth of a percent on processes), so short that the last
# ones end nearly together. Threads take tasks one by one.
TARGET_SECONDS = 0.02
# No batch is cut to less than takes that long for the sake of an even end; and
# batches of a set size are out, times `amount`, that take that long together.
LEAST_SECONDS = 0.0002
# But at most so many times `amount`.
DEEPEST = 32
# Batches out at once when all tasks are taken at the beginning, per worker.
ALL_AHEAD = 8

_END = object()


class Sizer:
    """How many calls the next batch is to hold: more while batches are short.

    A batch holds at most twice what a batch has held that was short, and at most what
    each worker has done already on average: so a few fast calls in front never make
    one huge batch of the slow ones behind them.
    """

    __slots__ = ("count", "done", "seconds_each", "size", "target")

    def __init__(self, count, target=TARGET_SECONDS):
        self.count = count
        self.target = target
        self.size = 1
        self.done = 0
        self.seconds_each = 0.0

    def add(self, calls, seconds):
        """A batch of so many calls took its worker so long."""
        self.done += calls
        each = seconds / calls
        # Slower: believed at once. Faster: half.
        self.seconds_each = max(each, (self.seconds_each + each) / 2)
        room = min(
            max(self.size, 2 * calls),
            self.done // self.count,
            int(self.target / (self.seconds_each or 1e-9)),
        )
        self.size = max(1, room)

    def next(self, left=None):
        """Calls of the next batch, if `left` calls are known to be left."""
        size = self.size
        if left is not None and size > 1:
            even = left // (2 * self.count)
            if even < size:
                least = int(LEAST_SECONDS / (self.seconds_each or 1e-9))
                size = max(1, min(size, max(even, least)))
        return size


class _Batch:
    """Calls that are out together, and where their results go."""

    __slots__ = ("calls", "index", "left", "size", "values")

    def __init__(self, index, size, calls):
        self.index = index
        self.size = size
        self.calls = calls  # kept only where they may have to be begun again
        self.values = None  # where the calls went one by one: so far
        self.left = 0  # of them


class Run:
    """One call of Parallel on `workers`.

    Parameters
    ----------
    workers : Workers
    count : int
        How many there are.
    tasks : iterable of (function, args, kwargs)
    amount : int or None
        See the module's docstring; None takes all tasks at the beginning.
    size : int or "auto"
        Calls in a batch.
    deepens : bool
        Whether more than `amount` batches of a set size may be out while they are
        tiny.
    ordered : bool
        Whether the results of `stream` come in the order of the tasks.
    timeout : float, optional
        Seconds that the next result may take to come.
    wrap : callable, optional
        Gives what is called in place of a task's function, with the task's index
        before its arguments.
    retries : int
        Of tasks whose worker died.
    death_is_result, failure_is_result : bool
        Whether the exception is put in the result's place.
    max_unread : int, optional
        Tasks taken and not yet read from the generator.
    report : callable, optional
        Called with the run and a number of tasks after so many were done.
    """

    def __init__(
        self,
        workers,
        count,
        tasks,
        *,
        amount,
        size,
        deepens=False,
        ordered=True,
        timeout=None,
        wrap=None,
        retries=0,
        death_is_result=False,
        failure_is_result=False,
        max_unread=None,
        report=None,
    ):
        self.workers = workers
        self.count = count
        self.ordered = ordered
        self.timeout = timeout
        self.wrap = wrap
        self.retries = retries
        self.death_is_result = death_is_result or failure_is_result
        self.failure_is_result = failure_is_result
        self.max_unread = max_unread
        self.report = report
        self.kills = workers.kind == "processes"
        self.submit = workers.submit
        if self.kills:  # an array that several tasks are given is copied once
            self.submit = partial(workers.submit, share={})

        if amount is None:
            tasks = list(tasks)
        self.total = len(tasks) if hasattr(tasks, "__len__") else None
        # Of tasks that lie there already none needs to be taken late.
        self.first_amount = None if isinstance(tasks, list | tuple) else amount
        self.depth = ALL_AHEAD * count if amount is None else amount
        self.amount = self.depth
        self.iterator = iter(tasks)
        self.buffer = []  # taken, not yet handed over; the next one last
        self.fixed = None if size == "auto" else size
        self.sizer = None
        if self.fixed is None:
            if workers.kind == "threads":
                self.fixed = 1
            else:
                self.sizer = getattr(workers, "sizer", None) or Sizer(count)
        self.deepens = deepens and self.fixed is not None
        self.seconds_each = LEAST_SECONDS  # a batch, on average; to deepen
        self.is_plain = (
            self.fixed == 1 and wrap is None and report is None and max_unread is None
        )
        self.pace = None  # most tasks taken at once, where taking is slow

        self.finished = deque()  # tickets, by whatever thread took them in
        self.out = set()  # tickets handed over
        self.results = []  # of each batch; None where there are none yet
        self.head = 0  # the first batch without results
        self.head_since = None
        self.taken = 0  # tasks, from the iterator
        self.dispatched = 0  # tasks
        self.batches = 0
        self.completed = 0  # tasks
        self.read = 0  # tasks, from the generator
        self.exhausted = False
        self.aborted = False
        self.error = None
        # Of a generator:
        self.ready = None  # a queue of lists of results; at the end _END
        self.lock = threading.Lock()  # held to feed
        self.fed_late = False  # the reader made room while the lock was taken
        self.room_made = threading.Event()

    # ---- What is given back -------------------------------------------------

    def collect(self):
        """All results, as a list."""
        try:
            self._feed()
            wait_until, some = self.workers.wait_until, self.finished.__len__
            while self.out:
                if self.timeout is None:
                    wait_until(some)
                else:
                    self._wait_for_head(some)
                self._take_in()
        except BaseException:
            self.abort()
            raise
        return list(chain.from_iterable(self.results))

    def stream(self, at_end):
        """A generator of the results. The first `next` gives None and must be called:
        from then on `at_end` is called once, when it is over.
        """
        from queue import SimpleQueue

        self.ready = SimpleQueue()
        return self._read_out(at_end)

    def _read_out(self, at_end):
        try:
            self._feed()
            threading.Thread(
                target=self._drive, name="allcores-parallel", daemon=True
            ).start()
            yield None
            while True:
                values = self._next_ready()
                if values is _END:
                    break
                for value in values:
                    self.read += 1
                    if self.max_unread is not None:
                        self._make_room()
                    yield value
                    del value
        finally:
            # Also if the reader stops early, or lets go of the generator.
            self.abort()
            at_end()

    # ---- Handing over -------------------------------------------------------

    def _feed(self):
        """Hand over batches for as long as more may be out."""
        if self.is_plain:
            self._feed_plain()
            return
        while (
            len(self.out) < self.depth
            and not self.aborted
            and not (self.exhausted and not self.buffer)
            and (calls := self._next_calls())
        ):
            self._send(calls)

    def _feed_plain(self):
        """The same for calls one by one as they are, where each step counts. The tag
        is the place of the result alone."""
        room = self.depth - len(self.out)
        if not self.completed and self.first_amount is not None:
            room = min(room, self.first_amount - self.dispatched)
        if room <= 0 or self.exhausted:
            return
        results, add, submit = self.results, self.out.add, self.submit
        note, retries = self.finished.append, self.retries
        place = first = len(results)
        call = None
        try:
            for call in islice(self.iterator, room):
                if self.aborted:
                    return
                function, args, kwargs = call
                data = (args, kwargs)
                add(
                    submit(
                        CALL, function, data, retries=retries, on_done=note, tag=place
                    )
                )
                results.append(None)
                place += 1
        except (TypeError, ValueError):
            if call is not None:
                check_calls([call])
            raise
        finally:
            self.taken = self.dispatched = self.batches = place
        self.exhausted = place - first < room

    def _next_calls(self):
        """The calls of the next batch; none if there are none, or not now."""
        buffer = self.buffer
        if self.fixed is not None:
            size = self.fixed
        else:
            left = None
            if self.total is not None:
                left = self.total - self.dispatched
            elif self.exhausted:
                left = len(buffer)
            size = self.sizer.next(left)
        if self.max_unread is not None:
            size = min(size, self.max_unread - (self.dispatched - self.read))
        if not self.completed and self.first_amount is not None:
            size = min(
                size,
                max(1, self.first_amount // self.count),
                self.first_amount - self.dispatched,
            )
        if size <= 0:
            return None
        if not buffer and not self.exhausted:
            if self.fixed is not None or size == 1:
                calls = list(islice(self.iterator, size))
                self.taken += len(calls)
                self.exhausted = len(calls) < size
                return calls
            self._take_ahead(size)
            if self.exhausted and self.total is None:
                return self._next_calls()
        calls = buffer[-size:]
        del buffer[-size:]
        calls.reverse()
        return calls

    def _take_ahead(self, size):
        """Take a batch for each worker, so that the end is seen before it is there;
        fewer where the iterator takes longer than the tasks."""
        wanted = size * self.count
        if self.pace is not None:
            wanted = max(1, min(wanted, self.pace))
        begun = time.perf_counter()
        self.buffer.extend(islice(self.iterator, wanted))
        seconds = time.perf_counter() - begun
        took = len(self.buffer)
        self.buffer.reverse()
        self.taken += took
        self.exhausted = took < wanted
        if seconds > self.sizer.target:
            self.pace = max(1, int(took * self.sizer.target / seconds))
        elif self.pace is not None:
            self.pace *= 2

    def _send(self, calls):
        if self.aborted:  # while the iterator was asked
            return
        size = len(calls)
        first = self.dispatched
        if self.wrap is not None:
            calls = self._wrapped(calls, first)
        keeps = self.death_is_result and size > 1
        batch = _Batch(len(self.results), size, calls if keeps else None)
        self.results.append(None)
        self.dispatched += size
        self.batches += 1
        try:
            self._submit(calls, batch)
        except Exception as error:
            # The call cannot be sent, or is none. The rest of its batch may be fine.
            if not (self.failure_is_result and _is_about_task(error)):
                raise
            if size == 1:
                self._deliver(batch.index, 1, [error])
            else:
                self._one_by_one(batch)

    def _submit(self, calls, batch, place=None):
        """Hand over calls; `place` is where in its batch a single one belongs."""
        try:
            function, args, kwargs = calls[0]
            if len(calls) == 1:
                mode, data = CALL, (args, kwargs)
            else:
                mode = STARMAP
                data = [a for f, a, k in calls if f is function and not k]
                if len(data) != len(calls):
                    mode, function, data = CALLS, None, calls
        except (TypeError, ValueError):
            check_calls(calls)
            raise
        ticket = self.submit(
            mode,
            function,
            data,
            retries=self.retries,
            on_done=self.finished.append,
            tag=batch if place is None else (batch, place),
        )
        self.out.add(ticket)
        if self.aborted:
            ticket.cancel(self.kills)

    def _wrapped(self, calls, first):
        check_calls(calls)
        last, task, wrapped = None, None, []
        for index, (function, args, kwargs) in enumerate(calls, first):
            if function is not last:
                last, task = function, self.wrap(function)
            wrapped.append((task, (index, *args), kwargs))
        return wrapped

    def _one_by_one(self, batch):
        """Hand over the calls of a batch alone: one of them spoils it."""
        batch.values = [None] * batch.size
        batch.left = batch.size
        calls, batch.calls = batch.calls, None
        for place, call in enumerate(calls):
            try:
                self._submit([call], batch, place)
            except Exception as error:
                if not (self.failure_is_result and _is_about_task(error)):
                    raise
                self._put(batch, place, error)

    # ---- Taking in ----------------------------------------------------------

    def _take_in(self):
        """Put the results of the tickets that are done in their places, and hand over
        others for them."""
        finished, out, results = self.finished, self.out, self.results
        deepens, feeds_each = self.deepens, self.report is not None
        is_list = self.ready is None
        while finished:
            ticket = finished.popleft()
            out.discard(ticket)
            tag = ticket.tag
            if not ticket.ok:
                self._failed(ticket, tag)
            elif type(tag) is int:
                if is_list:
                    results[tag] = (ticket.value,)
                    self.completed += 1
                else:
                    self._deliver(tag, 1, (ticket.value,))
            elif type(tag) is tuple:
                self._put(*tag, ticket.value)
            else:
                size = tag.size
                if self.sizer is not None:
                    self.sizer.add(size, ticket.seconds)
                values = ticket.value if size > 1 else (ticket.value,)
                self._deliver(tag.index, size, values)
            if deepens:
                self._deepen(ticket.seconds)
            if feeds_each:
                self._feed()
        self._feed()

    def _deepen(self, seconds):
        each = self.seconds_each = 0.75 * self.seconds_each + 0.25 * seconds
        more = min(DEEPEST, int(LEAST_SECONDS / each)) if each > 0 else DEEPEST
        self.depth = self.amount * max(1, more)

    def _failed(self, ticket, tag):
        error = ticket.value
        if ticket.was_cancelled or error is None:
            error = RuntimeError(
                "the workers were ended while Parallel had tasks there"
            )
        is_result = self.failure_is_result or (
            self.death_is_result and isinstance(error, WorkerDiedError)
        )
        if not is_result or not isinstance(error, Exception):
            raise error
        if type(tag) is int:
            self._deliver(tag, 1, [error])
        elif type(tag) is tuple:
            self._put(*tag, error)
        elif tag.size > 1:
            self._one_by_one(tag)
        else:
            self._deliver(tag.index, 1, [error])

    def _put(self, batch, place, value):
        """The result of a call of a batch whose calls went alone."""
        batch.values[place] = value
        batch.left -= 1
        if batch.left == 0:
            self._deliver(batch.index, batch.size, batch.values)

    def _deliver(self, index, size, values):
        """Put the results of a batch where they are read."""
        if self.failure_is_result:
            values = [v.unwrap() if type(v) is Failed else v for v in values]
        self.completed += size
        results = self.results
        if self.report is not None:
            self.report(self, size)
        if self.ready is None:
            results[index] = values
        elif not self.ordered:
            self.ready.put(values)
        else:
            results[index] = values
            while self.head < len(results) and results[self.head] is not None:
                self.ready.put(results[self.head])
                results[self.head] = ()
                self.head += 1

    # ---- Waiting ------------------------------------------------------------

    def _wait_for_head(self, some):
        """Wait for something to be done, but no longer for the first batch without
        results than `timeout`."""
        results = self.results
        head = self.head
        while head < len(results) and results[head] is not None:
            head += 1
        now = time.monotonic()
        if head != self.head or self.head_since is None:
            self.head, self.head_since = head, now
        left = self.head_since + self.timeout - now
        if left <= 0 or not self.workers.wait_until(some, left):
            raise timed_out(self.timeout)

    def _next_ready(self):
        from queue import Empty

        try:
            values = self.ready.get(timeout=self.timeout)
        except Empty:
            raise timed_out(self.timeout) from None
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None
        return values

    def _make_room(self):
        """The reader has read: hand over more, if the driving thread is not at it."""
        self.fed_late = True
        if self.lock.acquire(blocking=False):
            try:
                self.fed_late = False
                self._feed()
            except BaseException as error:
                self.error = error
            finally:
                self.lock.release()
        self.room_made.set()

    def _drive(self):
        """In a thread of its own: take in and hand over until all is done."""
        finished = self.finished
        try:
            while not self.aborted:
                with self.lock:
                    self.fed_late = False
                    self._take_in()
                    self._feed()
                if self.fed_late:
                    continue
                if self.out:
                    self.workers.wait_until(self._has_news)
                elif finished:
                    continue
                elif self.exhausted and not self.buffer:
                    break
                else:
                    self.room_made.wait()
                    self.room_made.clear()
        except BaseException as error:
            self.error = error
            self.abort()
        finally:
            self.ready.put(_END)

    def _has_news(self):
        return self.finished or self.aborted or self.fed_late

    def abort(self):
        """Leave out what has not begun, stop what runs where that can be done."""
        self.aborted = True
        for ticket in list(self.out):
            if not ticket.done:
                ticket.cancel(self.kills)
        self.room_made.set()


@lru_cache
def _timeout_type():
    from multiprocessing import TimeoutError as OtherTimeoutError

    class ResultTimeoutError(OtherTimeoutError, TimeoutError):
        """The next result did not come in time. Python has two TimeoutErrors: what
        catches either of them catches this one."""

    return ResultTimeoutError


def timed_out(seconds):
    """The exception for a result that did not come."""
    return _timeout_type()(
        f"the next result did not come within timeout={seconds} seconds; the tasks "
        "that were out were cancelled"
    )


def _is_about_task(error):
    """Whether submit() refused a task rather than all tasks."""
    import pickle

    return isinstance(error, pickle.PicklingError | TypeError | AttributeError)


def check_calls(calls):
    """Raise a TypeError that says what a task is, if one of `calls` is none."""
    for call in calls:
        if not (
            isinstance(call, tuple | list)
            and len(call) == 3
            and callable(call[0])
            and isinstance(call[1], tuple | list)
            and isinstance(call[2], dict)
        ):
            text = repr(call)
            if len(text) > 60:
                text = text[:57] + "..."
            raise TypeError(
                f"Parallel takes tasks made by delayed(), not {text}: write "
                "Parallel(n_jobs=2)(delayed(f)(x) for x in xs)"
            )
