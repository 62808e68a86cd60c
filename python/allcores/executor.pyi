import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_R = TypeVar("_R")

__all__ = ["Executor", "Future"]

class Future(concurrent.futures.Future[_R]):
    def stop(self) -> bool: ...

class Executor(concurrent.futures.Executor):
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        strict: bool = False,
    ) -> None: ...
    def submit(
        self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any
    ) -> Future[_R]: ...
    def map(
        self,
        fn: Callable[..., _R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterable[_R]: ...
    def with_options(
        self, *, timeout: float | None = None, retries: int = 0
    ) -> concurrent.futures.Executor: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
    def terminate_workers(self) -> None: ...
    def kill_workers(self) -> None: ...
