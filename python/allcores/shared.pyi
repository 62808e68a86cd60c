from collections.abc import Sequence
from typing import Any, SupportsIndex

__all__ = ["shared_array"]

def shared_array(
    shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = ...
) -> Any: ...
