from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar

from typing_extensions import Self

from allcores.budget import cpu_count as cpu_count

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Task: TypeAlias = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]

__all__ = [
    "Parallel",
    "cpu_count",
    "delayed",
    "effective_n_jobs",
    "parallel_backend",
    "parallel_config",
    "register_joblib",
    "register_parallel_backend",
]

class delayed(Generic[_P, _R]):
    __wrapped__: Callable[_P, _R]
    def __init__(self, function: Callable[_P, _R]) -> None: ...
    def __call__(
        self, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> tuple[Callable[_P, _R], tuple[Any, ...], dict[str, Any]]: ...
    def __get__(self, owner: Any, kind: type | None = None) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...

def effective_n_jobs(n_jobs: Any = -1) -> int: ...
def register_joblib(make_default: bool = False) -> None: ...
def register_parallel_backend(
    name: str, factory: Callable[..., Any], make_default: bool = False
) -> None: ...

class parallel_config:
    old_parallel_config: dict[str, Any]
    parallel_config: dict[str, Any]
    def __init__(
        self,
        backend: Any = ...,
        *,
        n_jobs: Any = ...,
        verbose: int = ...,
        temp_folder: str | None = ...,
        max_nbytes: int | str | None = ...,
        mmap_mode: Literal["r", "r+", "w+", "c"] | None = ...,
        prefer: Literal["processes", "threads"] | None = ...,
        require: Literal["sharedmem"] | None = ...,
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: object) -> None: ...
    def unregister(self) -> None: ...

class parallel_backend(parallel_config):
    def __init__(
        self,
        backend: Any,
        n_jobs: Any = -1,
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None: ...

class Parallel:
    n_jobs: int
    verbose: int
    timeout: float | None
    pre_dispatch: int | str
    batch_size: int | Literal["auto"]
    return_as: str
    return_generator: bool
    return_ordered: bool
    n_tasks: int | None
    n_dispatched_tasks: int
    n_dispatched_batches: int
    n_completed_tasks: int
    def __init__(
        self,
        n_jobs: Any = ...,
        backend: Any = None,
        return_as: Literal["list", "generator", "generator_unordered"] = "list",
        verbose: int = ...,
        timeout: float | None = None,
        pre_dispatch: int | str = "2 * n_jobs",
        batch_size: int | Literal["auto"] = "auto",
        temp_folder: str | None = ...,
        max_nbytes: int | str | None = ...,
        mmap_mode: Literal["r", "r+", "w+", "c"] | None = ...,
        prefer: Literal["processes", "threads"] | None = ...,
        require: Literal["sharedmem"] | None = ...,
        *,
        progress: bool | Mapping[str, Any] = False,
        retries: int = 0,
        on_death: Literal["raise", "retry", "return"] = "raise",
        return_exceptions: bool = False,
        max_buffered: int | None = None,
        seed: int | None = None,
        **backend_kwargs: Any,
    ) -> None: ...
    def __call__(self, iterable: Iterable[_Task]) -> list[Any] | Generator[Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def print_progress(self) -> None: ...
