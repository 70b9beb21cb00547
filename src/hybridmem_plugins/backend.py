"""What `HybridMemory` asks of the store beneath it: a folder's `MemoryStore`, or an engine's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import ArrayLike

from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.rows import Rows
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.tiers import LexicalTier, SemanticTier


class View(Protocol):
    """One committed state of a memory, as one question reads it."""

    @property
    def version(self) -> int:
        """Number of changes so far."""
        ...

    @property
    def vectors(self) -> SemanticTier | None:
        """The semantic tier; None until the first passage was stored."""
        ...

    @property
    def lexical(self) -> LexicalTier:
        """The lexical tier."""
        ...

    @property
    def graph(self) -> Any:
        """The relational tier, under the filter that `allowed` was asked for last where it cannot be given one."""
        ...

    def __len__(self) -> int:
        """Return the number of passages."""
        ...

    def allowed(self, query: Filter | None, /) -> Any:
        """Return a filter in the form that the tiers take."""
        ...

    def permitted(self, rows: Sequence[int], allowed: Any, /) -> list[int]:
        """Return the rows that a filter allows, in order."""
        ...

    def matching(self, query: Filter | None, /) -> list[int]:
        """Return the rows that a filter allows, ascending."""
        ...

    def expect(self, vector: ArrayLike, terms: Sequence[str], k: int, rows: Sequence[int], allowed: Any, /) -> None:
        """Hear what a question is about to ask for, so that it can be read in one round trip."""
        ...

    def passages(self, rows: Sequence[int] | Rows, /) -> list[Passage]:
        """Return stored passages, in the order of the rows."""
        ...

    def texts(self, rows: Sequence[int] | Rows, /) -> list[str]:
        """Return the texts of rows, in their order."""
        ...

    def ids(self, rows: Sequence[int] | Rows, /) -> list[str]:
        """Return the id of each row."""
        ...

    def rows_of(self, ids: Sequence[str], /) -> list[int | None]:
        """Return the row of each id, None for unknown ids."""
        ...


class Backend(Protocol):
    """A store of passages with their vectors, words and graph."""

    @property
    def path(self) -> Path | None:
        """Folder of the memory; None where there is none."""
        ...

    @property
    def vectors(self) -> Any:
        """The semantic tier; None until the first passage was stored."""
        ...

    def __len__(self) -> int:
        """Return the number of passages."""
        ...

    def steady(self) -> AbstractContextManager[object]:
        """Let everything that is read inside belong to one question."""
        ...

    def reading(self) -> AbstractContextManager[View]:
        """Read one committed state; may be nested."""
        ...

    def networkx(self) -> Any:
        """Return the knowledge graph as a read-only `networkx.MultiDiGraph`."""
        ...

    def rows_of(self, ids: Sequence[str], /) -> list[int | None]:
        """Return the row of each id, None for unknown ids."""
        ...

    def add(
        self,
        passages: Sequence[Passage],
        vectors: ArrayLike | None = None,
        extractions: Sequence[Extraction] | None = None,
    ) -> list[str]:
        """Store passages in one step; return their ids."""
        ...

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Forget passages by id; return the ids that were stored."""
        ...

    def delete_where(self, query: Filter, /) -> list[str]:
        """Forget the passages that a filter allows; return their ids, sorted."""
        ...

    def compact(self) -> bool:
        """Remove every trace of deleted passages."""
        ...

    def close(self) -> None:
        """Let go of files or connections."""
        ...
