"""The relational tier in a graph database, beside a memory's journal, which stays the truth.

The database holds passages, names and facts, and who mentions what; it is asked in batches. Which names are titles, and
of what, is kept in memory too: new texts are searched for titles, and misspelt names compared with them. What the
database returns is held against the journal's rows, so that a change that is under way, or failed, is never seen.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.engines.address import asked
from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.extraction.model import Extraction, TypedFact
from hybridmem_plugins.memory.cachefile import load_cache, save_cache
from hybridmem_plugins.memory.caches import Batch
from hybridmem_plugins.memory.graph import NODE_PREFIX
from hybridmem_plugins.memory.rows import Mask
from hybridmem_plugins.memory.steps import (
    ALL_KINDS,
    MAX_DEFINERS,
    MAX_MENTIONS_BACKWARD,
    MAX_MENTIONS_SHARED,
    Columns,
    Link,
    NameInfo,
    StepKind,
    Steps,
    maximal,
)
from hybridmem_plugins.memory.titles import Titles, forms
from hybridmem_plugins.passage import Passage

T = TypeVar("T")

# A name that more passages mention leads nowhere, so that no more need be read; a few more, since some may be gone.
_SEEN = MAX_MENTIONS_BACKWARD + 1
_READ = _SEEN + 13
# Passages that a filter allows up to which they go along with a question to the database.
_FEW = 1000
_TITLE = "title"
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class PassageNode:
    """A passage as a graph database is given it.

    Attributes:
        row: Its row, which also tells it from others.
        id: The user's id.
        title: Its title.
        defines: Names that it defines, the fullest first.
        mentions: Names that it mentions, in order of appearance, each with what made it stand out; a name that stood
            out only because it is a title has the kind `title`.
        facts: What it states.
    """

    row: int
    id: str
    title: str | None
    defines: Sequence[str]
    mentions: Sequence[tuple[str, str]]
    facts: Sequence[TypedFact]


@dataclass(frozen=True, slots=True)
class Mentioned:
    """One passage that mentions a name.

    Attributes:
        name: The name.
        row: The passage's row.
        kind: What made the name stand out; `title` where nothing but that it is one. Of who mentions a name, more need
            not be said.
    """

    name: str
    row: int
    kind: str


class GraphEngine(Protocol):
    """A graph database, reached through a framework's store, in which several memories may lie.

    Everything is asked about one memory, named by its id. Anything may be raised; it becomes an `EngineError`.
    """

    name: str
    """Tells this database, and the graph in it, from others."""

    def prepare(self) -> None:
        """Make what has to be there before anything is stored, such as indexes; may be called again."""
        ...

    def clear(self, memory: str) -> None:
        """Forget a memory."""
        ...

    def count(self, memory: str) -> int:
        """Return the number of passages."""
        ...

    def store(self, memory: str, passages: Sequence[PassageNode]) -> None:
        """Store passages that are not there, with their names and facts."""
        ...

    def link(self, memory: str, pairs: Sequence[tuple[int, str]]) -> None:
        """Let passages mention names as titles, where they do not mention or define them already."""
        ...

    def forget(self, memory: str, rows: Sequence[int]) -> list[str]:
        """Delete passages with their facts, unknown rows being ignored; return the names that they had."""
        ...

    def prune(self, memory: str, names: Sequence[str], untitled: Sequence[str]) -> None:
        """Delete those of some names that no passage has.

        Args:
            memory: Id of the memory.
            names: Names that may have become superfluous.
            untitled: Those of them that are no titles: who mentions them only as such mentions them no longer.
        """
        ...

    def mentioning(
        self, memory: str, names: Sequence[str], limit: int | None, only: Sequence[int] | None
    ) -> list[Mentioned]:
        """Return who mentions some names.

        Args:
            memory: Id of the memory.
            names: The names.
            limit: How many passages are enough for each; None wants all.
            only: The passages that count; None counts all. A database that cannot be asked so may ignore it.
        """
        ...

    def around(
        self, memory: str, rows: Sequence[int], names: Sequence[str], limit: int | None, only: Sequence[int] | None
    ) -> tuple[list[Mentioned], list[Mentioned]]:
        """Return what passages mention, in order of appearance, and who mentions these names and some others."""
        ...

    def said_by(self, memory: str, rows: Sequence[int]) -> list[Mentioned]:
        """Return what passages mention, in order of appearance."""
        ...

    def facts(self, memory: str, names: Sequence[str] | None) -> list[tuple[str, str, str, int]]:
        """Return the facts about names as `(subject, relation, object, row)`; None wants all."""
        ...


class ExternalGraph:
    """Stands in for `KnowledgeGraph` in a memory whose graph is in a database.

    Args:
        engine: The database.
    """

    def __init__(self, engine: GraphEngine) -> None:
        self._engine = engine
        self._memory = ""
        self._titles = Titles()
        self._defines: dict[int, tuple[str, ...]] = {}
        self._title_of: dict[int, str | None] = {}
        self._id_of: dict[int, str] = {}
        self.find_phrases: Callable[[Sequence[Sequence[str]]], Sequence[Iterable[int]]] | None = None

    # What the store tells the database before and after its own transaction; see `Follower`.

    @property
    def name(self) -> str:
        """The database, and the graph in it."""
        return self._engine.name

    def bind(self, memory: str) -> None:
        """Hear which memory this is.

        Raises:
            EngineError: The database cannot be reached.
        """
        self._memory = memory
        self._ask(self._engine.prepare)

    def restart(self) -> None:
        """Forget all that the database has of this memory."""
        self._ask(lambda: self._engine.clear(self._memory))

    def whole(self) -> bool:
        """Say whether the database has as many passages as the memory."""
        return self._ask(lambda: self._engine.count(self._memory)) == len(self)

    def send(
        self,
        rows: Sequence[int],
        batch: Batch,
        vectors: Any = None,
        removed: Collection[int] = (),
        *,
        everything: bool = False,
    ) -> None:
        """Store new passages in the database; see `Follower`.

        Raises:
            EngineError: It failed; adding again is safe.
        """
        own, new = {*rows, *removed}, Titles()
        for row, extraction in zip(rows, batch.extractions, strict=True):
            for name in dict.fromkeys(extraction.defines):
                new.add(name, row)
        defined = dict.fromkeys(name for extraction in batch.extractions for name in extraction.defines)
        fresh = [] if everything else [name for name in defined if own.issuperset(self._titles.rows(name))]
        nodes = [
            _node(row, passage, extraction, [*self._titles.said_in(tokens), *new.said_in(tokens)])
            for row, passage, extraction, tokens in zip(
                rows, batch.passages, batch.extractions, batch.tokens, strict=True
            )
        ]
        earlier = self._said_earlier(fresh, own)
        self.forget(rows)  # left behind by a change that failed
        self._ask(lambda: self._engine.store(self._memory, nodes))
        if earlier:
            self._ask(lambda: self._engine.link(self._memory, earlier))

    def forget(self, rows: Sequence[int]) -> None:
        """Delete passages from the database, and names that none of the others has."""
        if not rows:
            return
        names = self._ask(lambda: self._engine.forget(self._memory, rows))
        if names:
            untitled = [name for name in names if name not in self._titles]
            self._ask(lambda: self._engine.prune(self._memory, names, untitled))

    # What `Caches` asks of a `KnowledgeGraph`; the database has been told already.

    def add(
        self,
        rows: Sequence[int],
        passages: Sequence[Passage],
        extractions: Sequence[Extraction],
        tokens: Sequence[list[str]],
    ) -> None:
        """Take in the titles of new passages."""
        for row, passage, extraction in zip(rows, passages, extractions, strict=True):
            self._take(row, str(passage.id), passage.title, tuple(dict.fromkeys(extraction.defines)))

    def remove(self, rows: Sequence[int]) -> None:
        """Forget the titles of passages."""
        for row in rows:
            for name in self._defines.pop(row):
                self._titles.remove(name, row)
            del self._title_of[row], self._id_of[row]

    def bulk(self) -> AbstractContextManager[None]:
        """Do nothing: there is no faster way."""
        return nullcontext()

    def clear(self) -> None:
        """Forget all titles."""
        self._titles, self._defines, self._title_of, self._id_of = Titles(), {}, {}, {}

    def rows(self) -> NDArray[np.int64]:
        """Return the rows of all passages."""
        return np.fromiter(self._defines, dtype=np.int64, count=len(self._defines))

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._defines)

    def save(self, folder: Path, stamp: dict[str, Any] | None = None) -> None:
        """Write the titles; see `KnowledgeGraph.save`."""
        lines = [(row, self._id_of[row], self._title_of[row], names) for row, names in self._defines.items()]
        text = json.dumps(lines, ensure_ascii=False).encode()
        save_cache(folder, "titles", {"stamp": stamp}, {"lines": np.frombuffer(text, dtype=np.uint8)})

    def load(self, folder: Path) -> Any:
        """Replace the titles by what `save` wrote; return the stamp.

        Raises:
            MemoryFormatError: Something is missing or damaged.
        """
        header, arrays, _ = load_cache(folder, "titles")
        self.clear()
        try:
            for row, identity, title, names in json.loads(arrays["lines"].tobytes()):
                self._take(row, identity, title, tuple(names))
            return header["stamp"]
        except (KeyError, TypeError, ValueError) as error:
            self.clear()
            msg = f"the cache of titles in {folder} is damaged: {error}"
            raise MemoryFormatError(msg) from error

    @property
    def view(self) -> Any:
        """The graph as a `networkx.MultiDiGraph`, read from the database as a whole: for graphs that fit."""
        graph = nx.MultiDiGraph()
        nodes = {row: f"{NODE_PREFIX}{identity}" for row, identity in self._id_of.items()}
        for row, node in nodes.items():
            graph.add_node(node, kind="passage", id=self._id_of[row], title=self._title_of[row], row=row)
            for name in self._defines[row]:
                graph.add_node(name, kind="name")
                graph.add_edge(node, name, "defines")
        rows = list(nodes)
        for start in range(0, len(rows), _BATCH):
            for mentioned in self._said_by(rows[start : start + _BATCH]):
                graph.add_node(mentioned.name, kind="name")
                graph.add_edge(nodes[mentioned.row], mentioned.name, "mentions", kind=mentioned.kind)
        for subject, relation, object_, row in self._ask(lambda: self._engine.facts(self._memory, None)):
            if row in nodes:
                if not graph.has_edge(subject, object_, relation):
                    graph.add_edge(subject, object_, relation, passages=set())
                graph.edges[subject, object_, relation]["passages"].add(row)
        return nx.freeze(graph)

    # What retrieval asks; see `RelationalTier`.

    def names(self, names: Collection[str], allowed: Mask | None = None) -> dict[str, NameInfo]:
        """Return what is known of each of these names, in one round trip."""
        mentioning = self._mentioning(list(names), allowed)
        infos = {name: self._info(name, mentioning[name], allowed) for name in names}
        return {name: info for name, info in infos.items() if info.meanings or info.mentions}

    def similar_names(self, names: Sequence[str], allowed: Mask | None = None) -> dict[str, str]:
        """Return, for misspelt names, the defined ones that are closest; nothing is asked for that."""
        found = {name: self.similar(name, allowed) for name in names}
        return {name: close for name, close in found.items() if close is not None}

    def similar(self, name: str, allowed: Mask | None = None) -> str | None:
        """Return the defined name that a misspelt one most likely stands for, None where none is close."""
        return next((match for match in self._titles.similar(name) if self._info(match, [], allowed).definers), None)

    def mentions_of(self, rows: Sequence[int], allowed: Mask | None = None) -> dict[int, list[str]]:
        """Return the names that passages mention, in order of appearance."""
        found: dict[int, list[str]] = {row: [] for row in rows}
        for mentioned in self._said_by(rows, allowed):
            found[mentioned.row].append(mentioned.name)
        return found

    def relations(self, names: Sequence[str], allowed: Mask | None = None) -> list[tuple[str, str, str, int]]:
        """Return the typed facts about names; see `KnowledgeGraph.relations`."""
        if not names:
            return []
        found: dict[tuple[str, str, str], int] = {}
        for *fact, row in sorted(self._ask(lambda: self._engine.facts(self._memory, names)), key=lambda f: f[3]):
            if self._is_there(row, allowed):
                found.setdefault((fact[0], fact[1], fact[2]), row)
        return [(*fact, row) for fact, row in found.items()]

    def neighbourhood(
        self, rows: Sequence[int], kinds: Collection[StepKind] = ALL_KINDS, allowed: Mask | None = None
    ) -> Steps:
        """Return the steps that lead from these passages to others, hubs left out."""
        sources = [row for row in dict.fromkeys(rows) if row in self._defines]
        if not sources:
            return Columns().steps()
        defined = [name for row in sources for name in self._defines[row]] if "backward" in kinds else []
        said, mentioning = self._around(sources, list(dict.fromkeys(defined)), allowed)
        walk = Columns()
        for row in sources:
            for kind, name in self._ways(row, said[row], kinds, allowed):
                info = self._info(name, mentioning[name], allowed)
                targets: Sequence[int] = info.definers if kind == "forward" else mentioning[name]
                limit = {"backward": MAX_MENTIONS_BACKWARD, "shared": MAX_MENTIONS_SHARED}.get(kind, _SEEN)
                if info.mentions <= limit:
                    walk.add(row, targets, Link(kind, name, info.meanings, info.mentions))
        return walk.steps()

    def _ways(
        self, row: int, said: Sequence[str], kinds: Collection[StepKind], allowed: Mask | None
    ) -> Iterable[tuple[StepKind, str]]:
        mentioned = sorted(said)
        if "forward" in kinds:
            titles = [name for name in mentioned if self._is_title(name, allowed)]
            yield from (("forward", name) for name in maximal(titles))
        if "shared" in kinds:
            yield from (("shared", name) for name in mentioned)
        if "backward" in kinds:
            yield from (("backward", name) for name in self._defines[row])

    def _info(self, name: str, mentioning: Sequence[int], allowed: Mask | None) -> NameInfo:
        definers = [row for row in self._titles.rows(name) if allowed is None or allowed[row]]
        mentions = min(len(mentioning), _SEEN)
        if len(definers) > MAX_DEFINERS:
            return NameInfo((), len(definers), mentions)
        return NameInfo(tuple(definers), len({self._title_of[row] for row in definers}), mentions)

    # What the database is asked, and what counts of its answers.

    def _mentioning(self, names: Sequence[str], allowed: Mask | None) -> Mapping[str, list[int]]:
        """Return the rows that mention each name, ascending; enough of them to know whether it is a hub."""
        if not names:
            return defaultdict(list)
        limit, only = self._bounds(allowed)
        found = self._ask(lambda: self._engine.mentioning(self._memory, names, limit, only))
        return self._enough(found, allowed)

    def _around(
        self, rows: Sequence[int], names: Sequence[str], allowed: Mask | None
    ) -> tuple[Mapping[int, list[str]], Mapping[str, list[int]]]:
        limit, only = self._bounds(allowed)
        said, found = self._ask(lambda: self._engine.around(self._memory, rows, names, limit, only))
        by_row: defaultdict[int, list[str]] = defaultdict(list)
        for mentioned in said:
            if self._counts(mentioned, allowed):
                by_row[mentioned.row].append(mentioned.name)
        return by_row, self._enough(found, allowed)

    def _said_by(self, rows: Sequence[int], allowed: Mask | None = None) -> list[Mentioned]:
        found = self._ask(lambda: self._engine.said_by(self._memory, rows)) if rows else []
        return [mentioned for mentioned in found if self._counts(mentioned, allowed)]

    def _bounds(self, allowed: Mask | None) -> tuple[int | None, list[int] | None]:
        """Return how many passages are asked for a name, and which ones."""
        if allowed is None:
            return _READ, None
        if np.count_nonzero(allowed) > _FEW:
            return None, None
        return None, np.flatnonzero(allowed).tolist() or [0]

    def _enough(self, found: Sequence[Mentioned], allowed: Mask | None) -> Mapping[str, list[int]]:
        rows: defaultdict[str, list[int]] = defaultdict(list)
        read: defaultdict[str, int] = defaultdict(int)
        for mentioned in found:
            read[mentioned.name] += 1
            if self._counts(mentioned, allowed):
                rows[mentioned.name].append(mentioned.row)
        if allowed is None:  # so much of what was read is gone that it says too little
            short = [name for name, count in read.items() if count >= _READ and len(rows[name]) < _SEEN]
            if short:
                for name in short:
                    rows[name] = []
                for mentioned in self._ask(lambda: self._engine.mentioning(self._memory, short, None, None)):
                    if self._counts(mentioned, None):
                        rows[mentioned.name].append(mentioned.row)
        for one in rows.values():
            one.sort()
        return rows

    def _counts(self, mentioned: Mentioned, allowed: Mask | None) -> bool:
        named = mentioned.kind != _TITLE or self._is_title(mentioned.name, allowed)
        return named and self._is_there(mentioned.row, allowed)

    def _is_title(self, name: str, allowed: Mask | None) -> bool:
        """Tell whether a passage that is allowed defines a name."""
        rows = self._titles.rows(name)
        return bool(rows) if allowed is None else any(self._is_there(row, allowed) for row in rows)

    def _is_there(self, row: int, allowed: Mask | None) -> bool:
        return row in self._defines and (allowed is None or (row < len(allowed) and bool(allowed[row])))

    def _said_earlier(self, fresh: Sequence[str], own: Collection[int]) -> list[tuple[int, str]]:
        """Return who said names before any passage defined them."""
        said = [(name, form) for name in fresh for form in forms(name)]
        if self.find_phrases is None or not said or not self._defines:
            return []
        found = self.find_phrases([form for _, form in said])
        pairs = [(row, name) for (name, _), rows in zip(said, found, strict=True) for row in rows]
        return [pair for pair in dict.fromkeys(pairs) if pair[0] in self._defines and pair[0] not in own]

    def _take(self, row: int, identity: str, title: str | None, names: tuple[str, ...]) -> None:
        self._defines[row], self._title_of[row], self._id_of[row] = names, title, identity
        for name in names:
            self._titles.add(name, row)

    def _ask(self, call: Callable[[], T]) -> T:
        return asked(f"the graph database {self._engine.name}", call)


def _node(row: int, passage: Passage, extraction: Extraction, titles: Sequence[str]) -> PassageNode:
    defines = tuple(dict.fromkeys(extraction.defines))
    ends = [end for fact in extraction.facts for end in (fact.subject, fact.object)]
    said = [(mention.name, str(mention.kind)) for mention in extraction.mentions]
    said += [(end, "entity") for end in ends] + [(name, _TITLE) for name in titles]
    kinds: dict[str, str] = {}
    for name, kind in said:
        if name not in defines:
            kinds.setdefault(name, kind)
    return PassageNode(row, str(passage.id), passage.title, defines, list(kinds.items()), extraction.facts)
