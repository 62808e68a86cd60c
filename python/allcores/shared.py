"""Arrays that several processes read and write: `shared_array`.

The memory is a file without a name (memfd) that each process maps. It is found by a
descriptor of the process that made it, through ``/proc``, and freed when the last
process has let go of it. A pickle of the array, or of a view of it, says where it lies;
a copy or the result of a computation is an array like any other.

Knows nothing of: pools, tasks.
"""

import mmap
import os
import threading
import weakref
from operator import index

__all__ = ["shared_array"]

_lock = threading.Lock()
_segments = weakref.WeakValueDictionary()  # (pid, fd, inode) of the maker -> _Segment
_array_type = None


class _Segment:
    """The memory: its mapping here, and how another process finds it.

    Once it is made, the descriptor is its own; until then, its maker's.
    """

    def __init__(self, fd, size, name=None):
        self.map = mmap.mmap(fd, size)
        self.name = name or (os.getpid(), fd, os.fstat(fd).st_ino)
        self.owner = os.getpid()
        _segments[self.name] = self
        self.fd = fd

    def __del__(self):
        try:
            os.close(self.fd)
        except (AttributeError, OSError):
            pass


def shared_array(shape, dtype=float):
    """Make an array of zeros that worker processes read and write in place.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : data-type
        Of plain numbers: what holds Python objects cannot be shared.

    Returns
    -------
    numpy.ndarray
        In C order. Sent to a worker, or back, it and its views are the same memory;
        nothing keeps two of them from writing the same element at once.

    Raises
    ------
    MemoryError
        There is not that much memory.
    TypeError
        `dtype` holds Python objects.

    Examples
    --------
    >>> import allcores as ac
    >>> a = ac.shared_array((2, 3))
    >>> a[0, 0]
    np.float64(0.0)
    """
    import numpy as np

    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise TypeError(
            f"shared_array takes a dtype of plain numbers; {dtype} holds Python "
            "objects, which lie in one process's own memory"
        )
    try:
        shape = (index(shape),)
    except TypeError:
        shape = tuple(map(index, shape))
    if any(length < 0 for length in shape):
        raise ValueError(f"shared_array takes lengths of 0 or more, not {shape}")
    size = dtype.itemsize
    for length in shape:
        size *= length
    segment = _make(max(size, 1))
    return _array(segment, shape, dtype, 0, None)


def _make(size):
    from allcores._procs import memory_room

    room = memory_room()
    if size > room:
        raise MemoryError(
            f"a shared array of {size:,} bytes was asked for, and {room:,} can be had; "
            "free some memory, or make it smaller"
        )
    fd = os.memfd_create("allcores-array", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)
        return _Segment(fd, size)
    except BaseException as error:
        os.close(fd)
        if not isinstance(error, OSError):
            raise
        raise MemoryError(
            f"memory for a shared array of {size:,} bytes was refused: {error}"
        ) from None


def _array(segment, shape, dtype, offset, strides):
    made = _type()(shape, dtype, segment.map, offset, strides)
    made._segment = segment
    return made


def _type():
    """A subclass of numpy.ndarray, made when the first shared array is."""
    global _array_type
    if _array_type is None:
        import numpy as np

        class SharedArray(np.ndarray):
            """An array, or a view of one, in memory that several processes map."""

            _segment = None

            def __array_finalize__(self, source):
                if source is not None:
                    self._segment = getattr(source, "_segment", None)

            def __array_wrap__(self, array, context=None, return_scalar=False):
                if return_scalar:
                    return array[()]
                return array.view(np.ndarray)

            def __reduce_ex__(self, protocol):
                where = _where(self)
                if where is None:
                    return np.asarray(self).__reduce_ex__(protocol)
                offset, name, size = where
                layout = (self.shape, self.dtype, offset, self.strides)
                return _attach, (name, size, layout, self.flags.writeable)

        SharedArray.__module__ = __name__
        SharedArray.__qualname__ = "SharedArray"
        _array_type = SharedArray
    return _array_type


def _where(array):
    """(offset, name, size) of an array in its segment; None if it lies elsewhere."""
    import numpy as np

    segment = array._segment
    if segment is None:
        return None
    base = np.frombuffer(segment.map, np.uint8).__array_interface__["data"][0]
    low, high = (
        np.lib.array_utils.byte_bounds(array)
        if hasattr(np.lib, "array_utils")
        else np.byte_bounds(array)
    )
    size = len(segment.map)
    if low < base or high > base + size:
        return None
    return array.__array_interface__["data"][0] - base, segment.name, size


def _attach(name, size, layout, is_writeable):
    """Make the array that a pickle names. For pickle."""
    with _lock:
        segment = _segments.get(name)
        if segment is None:
            fd = _open(name)
            try:
                segment = _Segment(fd, size, name)
            except BaseException:
                os.close(fd)
                raise
    shape, dtype, offset, strides = layout
    array = _array(segment, shape, dtype, offset, strides)
    if not is_writeable:
        array.flags.writeable = False
    return array


def _open(name):
    pid, fd, inode = name
    try:
        opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        opened = None
    if opened is not None and os.fstat(opened).st_ino == inode:
        return opened
    if opened is not None:
        os.close(opened)
    raise RuntimeError(
        f"a shared array of process {pid} is gone: the process has ended or let go of "
        "it before this one had it; keep it until all who are sent it have it"
    )
