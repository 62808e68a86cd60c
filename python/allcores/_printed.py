"""What tasks print, where the parent's `sys.stdout` is no plain file descriptor.

In a notebook, or under a test that captures output, text that a worker writes to its
standard output does not get to where the parent's text goes. There the worker keeps
what each task prints and sends it along with the task's result, and the parent writes
it when it takes the result in: a task's text stays together, and comes before whatever
the parent prints about the result.

Knows nothing of: tasks, results.
"""

import io
import marshal
import struct
import sys
from itertools import groupby
from operator import itemgetter

__all__ = ["PRINTED", "Printed", "show_printed"]

PRINTED = 2  # first byte of such a payload; a result's own is 0 or 1
_HEAD = struct.Struct("<BxxxI")


class Printed:
    """In the worker: takes the place of both streams."""

    def __init__(self):
        self.pieces = []
        sys.stdout = _Stream(self.pieces, "stdout")
        sys.stderr = _Stream(self.pieces, "stderr")

    def add_to(self, answer):
        """The task's (payload, buffers), with what it has printed before it."""
        count = len(self.pieces)  # threads of the task may go on printing
        if not count:
            return answer
        try:
            taken = self.pieces[:count]
            text = marshal.dumps(
                [
                    (name, "".join([text for _, text in pieces]))
                    for name, pieces in groupby(taken, itemgetter(0))
                ]
            )
            payload, buffers = answer
            payload = b"".join((_HEAD.pack(PRINTED, len(text)), text, payload))
        except Exception:  # no memory for it, or more than 4 GiB: the result alone
            return answer
        finally:
            del self.pieces[:count]
        return payload, buffers


class _Stream(io.TextIOBase):
    """A text stream that keeps what is written, in order with the other one's."""

    def __init__(self, pieces, name):
        self._pieces = pieces
        self._name = name

    encoding = "utf-8"
    errors = "strict"

    @property
    def name(self):
        return f"<{self._name}>"

    def writable(self):
        return True

    def fileno(self):
        return 1 if self._name == "stdout" else 2

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        if text:
            self._pieces.append((self._name, str(text)))
        return len(text)


def show_printed(payload):
    """In the parent: write a task's text; returns the result's own payload.

    Text that cannot be written is left out: the result counts for more.
    """
    _, size = _HEAD.unpack_from(payload)
    begin = _HEAD.size
    view = memoryview(payload)
    try:
        pieces = marshal.loads(view[begin : begin + size])
    except MemoryError:
        pieces = ()
    for name, text in pieces:
        try:
            _write(getattr(sys, name, None), text)
        except Exception:
            pass  # closed, nobody reads it any more, or no proper stream
    return view[begin + size :]


def _write(stream, text):
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
