from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, ParamSpec, SupportsIndex, TypeVar

from typing_extensions import Self

_P = ParamSpec("_P")
_R = TypeVar("_R")

__all__ = [
    "Info",
    "counters",
    "cpu_count",
    "get_num_threads",
    "info",
    "set_budget",
    "threads",
]

CORES_MAX: Final = 1024

class Info(NamedTuple):
    online: int
    affinity: int
    physical: int
    nodes: int
    smt: int
    packages: int
    quota: float | None
    granted: int
    user_cap: int | None
    cores: int
    limit: str
    l1d_bytes: int | None
    l2_bytes: int | None
    l3_bytes: int | None
    quota_path: str | None
    reason: str

def info() -> Info: ...
def cpu_count(only_physical_cores: bool = False) -> int: ...
def get_num_threads() -> int: ...
def set_budget(n: SupportsIndex | None) -> None: ...

class threads:
    def __init__(self, n: SupportsIndex, /) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __call__(self, function: Callable[_P, _R], /) -> Callable[_P, _R]: ...

def counters() -> dict[str, int]: ...
