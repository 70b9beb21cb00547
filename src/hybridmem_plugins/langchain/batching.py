"""Decoding together the inputs of one `batch` that LangChain asks for one by one, through its cache and callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hybridmem_plugins.generation import Generation, LocalModel


class Batch:
    """The inputs of one `batch`. The first one that no cache answers has all that follow decoded with it.

    Args:
        local: What decodes.
        apart: Whether inputs that cannot be decoded together are answered one by one.
    """

    def __init__(self, local: LocalModel, *, apart: bool) -> None:
        self.chats: list[list[dict[str, Any]]] = []
        self.settings: dict[str, Any] = {}
        self.at = 0
        self._local, self._apart = local, apart
        self._first: int | None = None
        self._ready: Sequence[Generation] = ()

    def asks(self, local: LocalModel, chat: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> bool:
        """Tell whether a call is the one that the batch is at, and no other, such as one that a callback makes."""
        known = self.at < len(self.chats) and local is self._local
        return known and chat == self.chats[self.at] and settings == self.settings

    @contextmanager
    def decoding(self) -> Iterator[list[list[dict[str, Any]]]]:
        """Give the chats that are to be decoded now, none once they are."""
        try:
            yield self.chats[self.at :] if self._first is None else []
        except Exception:
            if not self._apart:
                raise
            self.chats = []

    def take(self, generations: Sequence[Generation]) -> None:
        """Keep what was decoded."""
        if self._first is None:
            self._first, self._ready = self.at, generations

    def answer(self) -> Generation | None:
        """Return the answer to the chat that the batch is at; None where it has to be decoded alone."""
        return self._ready[self.at - self._first] if self._first is not None else None
