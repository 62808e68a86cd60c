from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from typing_extensions import Self

_T = TypeVar("_T")
_R = TypeVar("_R")

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
    "ThreadPool",
]

class AsyncResult(Generic[_R]):
    def ready(self) -> bool: ...
    def successful(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> None: ...
    def get(self, timeout: float | None = None) -> _R: ...

class MapResult(AsyncResult[list[_R]]): ...

class IMapIterator(Generic[_R]):
    def __iter__(self) -> Self: ...
    def __next__(self, timeout: float | None = None) -> _R: ...
    def next(self, timeout: float | None = None) -> _R: ...

class IMapUnorderedIterator(IMapIterator[_R]): ...

class Pool:
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def apply(
        self,
        func: Callable[..., _R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
    ) -> _R: ...
    def apply_async(
        self,
        func: Callable[..., _R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[_R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[_R]: ...
    def map(
        self,
        func: Callable[[_T], _R],
        iterable: Iterable[_T],
        chunksize: int | None = None,
    ) -> list[_R]: ...
    def map_async(
        self,
        func: Callable[[_T], _R],
        iterable: Iterable[_T],
        chunksize: int | None = None,
        callback: Callable[[list[_R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_R]: ...
    def starmap(
        self,
        func: Callable[..., _R],
        iterable: Iterable[Sequence[Any]],
        chunksize: int | None = None,
    ) -> list[_R]: ...
    def starmap_async(
        self,
        func: Callable[..., _R],
        iterable: Iterable[Sequence[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_R]: ...
    def imap(
        self, func: Callable[[_T], _R], iterable: Iterable[_T], chunksize: int = 1
    ) -> IMapIterator[_R]: ...
    def imap_unordered(
        self, func: Callable[[_T], _R], iterable: Iterable[_T], chunksize: int = 1
    ) -> IMapUnorderedIterator[_R]: ...
    def close(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...

class ThreadPool(Pool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None: ...
