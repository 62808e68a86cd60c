from collections.abc import Callable, Sequence
from typing import final

from typing_extensions import Buffer

FORKSERVER_FD: int

@final
class Block: ...

@final
class Part(Buffer):
    def __len__(self) -> int: ...

@final
class Pool:
    def start(self, setup: Buffer, fds: list[int], /) -> None: ...
    def submit(
        self,
        payload: Buffer,
        buffers: Sequence[Buffer],
        limit_ns: int,
        retries: int,
        /,
    ) -> int: ...
    def store(self, data: Buffer, /) -> int: ...
    def keep(self, data: Buffer, /) -> memoryview: ...
    def next(
        self, /
    ) -> (
        tuple[
            int,
            int,
            int,
            int,
            int,
            int,
            bool,
            bytes | memoryview,
            tuple[memoryview, ...],
        ]
        | None
    ): ...
    def bell(self, /) -> int: ...
    def wait(self, bell: int, seconds: float | None, /) -> None: ...
    def where(self, key: int, /) -> int: ...
    def cancel(self, key: int, kills: bool, /) -> bool: ...
    def refusal(self, /) -> str | None: ...
    def ring(self, /) -> None: ...
    def close(self, /) -> None: ...
    def terminate(self, /) -> None: ...
    def join(self, seconds: float | None, /) -> bool: ...
    def pids(self, /) -> list[int]: ...

def forkserver_serve(
    fd: int,
    child: Callable[[list[int], int], object],
    idle: Callable[[], object],
    /,
) -> None: ...
def memory_room() -> int: ...
def pool(
    workers: int,
    server: tuple[str, ...] | None,
    child: Callable[[list[int], int], object],
    tasks_a_worker: int,
    lazy: bool,
    /,
) -> Pool: ...
def worker_fetch(link: object, key: int, /) -> bytes: ...
def worker_serve(
    control_fd: int,
    arena_fd: int,
    number: int,
    begin: Callable[[object, bytes], str | None],
    run: Callable[
        [bytes | memoryview, tuple[memoryview, ...]], tuple[Buffer, Sequence[Buffer]]
    ],
    sleep: Callable[[bool], object] | None,
    /,
) -> bool: ...
