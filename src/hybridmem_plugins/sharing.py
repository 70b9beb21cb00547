"""What is there once, however often the objects that hold it are copied: an open store, loaded weights."""

from __future__ import annotations

from typing import Any, Self


class Shared:
    """Is its own copy, deep or not, so that a retriever or a chain that holds it can be copied; cannot be pickled."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        msg = f"a {type(self).__name__} cannot be pickled: another process has to open or load its own"
        raise TypeError(msg)
