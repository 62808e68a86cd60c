"""multiprocessing's locks, queues and shared values, handed to a worker as it starts.

They refuse to be pickled unless a process is being *spawned*, since some hold file
descriptors, which only a process that is being started could be given. `sending` says
to multiprocessing that one is, and collects the descriptors; a pickle then holds their
places in the list, and `Received` gives them back in the worker.

A lock made for the start method ``fork`` (the default on Linux before Python 3.14) has
no name by which another process could open it: its semaphore lies in shared memory
whose file is gone. `_share_semaphore` moves it, at the same address, into memory that
has a descriptor. That is right only while no other process has the old memory mapped,
which it makes sure of first.

Knows nothing of: tasks.
"""

import os
import sys
from contextlib import contextmanager

__all__ = ["Received", "sending"]


class _Spawning:
    """What multiprocessing takes for the process that is being started."""

    def __init__(self):
        self.fds = []

    def duplicate_for_child(self, fd):
        self.fds.append(os.dup(fd))
        return len(self.fds) - 1

    def DupFd(self, place):
        return _Descriptor(place)


class _Descriptor:
    """A descriptor that travels beside the pickle: its place in the list."""

    def __init__(self, place):
        self.place = place

    def detach(self):
        return Received.fds[self.place]


class Received:
    """In the worker: the descriptors that came."""

    fds = ()


@contextmanager
def sending():
    """Let multiprocessing's objects be pickled by this thread.

    Yields
    ------
    fds : list of int
        Filled as things are pickled; the caller's, to be closed.
    table : dict or None
        Reducers by type; None if multiprocessing was never imported.
    """
    if "multiprocessing.reduction" not in sys.modules:
        yield [], None
        return
    from multiprocessing import context, reduction

    spawning = _Spawning()
    table = dict(reduction.ForkingPickler._extra_reducers)
    if "multiprocessing.synchronize" in sys.modules:
        from multiprocessing import synchronize

        for kind in (
            synchronize.Lock,
            synchronize.RLock,
            synchronize.Semaphore,
            synchronize.BoundedSemaphore,
        ):
            table[kind] = _reduce_lock
    before = context.get_spawning_popen()
    context.set_spawning_popen(spawning)
    try:
        yield spawning.fds, table
    except BaseException:
        for fd in spawning.fds:
            os.close(fd)
        raise
    finally:
        context.set_spawning_popen(before)


# ---- Locks -------------------------------------------------------------------


def _reduce_lock(lock):
    from multiprocessing import context

    semaphore = lock._semlock
    parts = (type(lock), semaphore.kind, semaphore.maxvalue)
    if semaphore.name is not None:
        return _load_named_lock, (*parts, semaphore.name)
    fd = _share_semaphore(lock)
    popen = context.get_spawning_popen()
    return _load_lock, (*parts, popen.DupFd(popen.duplicate_for_child(fd)))


def _load_named_lock(kind_of_lock, kind, maxvalue, name):
    return _lock(kind_of_lock, 0, kind, maxvalue, name)


def _load_lock(kind_of_lock, kind, maxvalue, descriptor):
    import ctypes
    import mmap

    fd = descriptor.detach()
    memory = mmap.mmap(fd, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    lock = _lock(kind_of_lock, address, kind, maxvalue, None)
    lock._memory = memory
    _shared[address] = fd
    return lock


def _lock(kind_of_lock, address, kind, maxvalue, name):
    from _multiprocessing import SemLock

    lock = kind_of_lock.__new__(kind_of_lock)
    lock._semlock = SemLock._rebuild(address, kind, maxvalue, name)
    lock._is_fork_ctx = False
    lock._make_methods()
    return lock


_shared = {}  # address of a semaphore that was moved -> descriptor of its memory


def _share_semaphore(lock):
    """Descriptor of the memory that holds a lock's semaphore."""
    address = lock._semlock.handle
    fd = _shared.get(address)
    if fd is not None:
        return fd
    remedy = (
        f"Make it with multiprocessing.get_context('forkserver').{type(lock).__name__}"
        "() in place of multiprocessing's own."
    )
    if not sys.platform.startswith("linux"):
        raise RuntimeError(f"this lock was made for the start method 'fork'. {remedy}")
    inode = _inode_at(address)
    other = _who_else_maps(inode)
    if other is not None:
        raise RuntimeError(
            "this lock was made for the start method 'fork' and is shared with process "
            f"{other} already. {remedy}"
        )
    import ctypes
    import mmap
    import weakref

    # Called with the GIL held, so that no thread takes or gives the lock meanwhile.
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    size = mmap.PAGESIZE
    fd = os.memfd_create("allcores-lock", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        held = ctypes.string_at(address, 32)
        if int.from_bytes(held[4:8], sys.byteorder):
            raise RuntimeError(f"another thread is waiting for this lock. {remedy}")
        os.pwrite(fd, held, 0)
        fixed = 0x10  # MAP_FIXED, on all of Linux's architectures that Python knows
        flags = mmap.MAP_SHARED | fixed
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        if libc.mmap(address, size, prot, flags, fd, 0) != address:
            raise OSError(ctypes.get_errno(), "cannot move a lock's semaphore")
    except BaseException:
        os.close(fd)
        raise
    _shared[address] = fd
    weakref.finalize(lock, _forget, address)
    return fd


def _forget(address):
    os.close(_shared.pop(address))


def _inode_at(address):
    """Device and inode, as /proc writes them, of the file mapped at an address."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = line.split(" ", 1)[0].split("-")
            if int(low, 16) <= address < int(high, 16):
                return tuple(line.split()[3:5])
    return None


def _who_else_maps(inode):
    """Another process that has this file mapped, as far as we may look."""
    if inode is None:
        return None
    mark = " ".join(inode) + " "
    me = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == me:
            continue
        try:
            with open(f"/proc/{name}/maps") as maps:
                if any(mark in line for line in maps):
                    return int(name)
        except OSError:
            continue
    return None
