"""The relational tier: a networkx graph of passages and the names that they define and mention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.extraction.model import Extraction, MentionKind
from hybridmem_plugins.memory.cachefile import load_cache, save_cache
from hybridmem_plugins.memory.graph_file import Edges
from hybridmem_plugins.memory.reach import DEFINES, SAID_TITLE, GraphParts, Reach
from hybridmem_plugins.memory.relations import Relations
from hybridmem_plugins.memory.rows import Mask
from hybridmem_plugins.memory.steps import ALL_KINDS, NameInfo, StepKind, Steps
from hybridmem_plugins.memory.titles import Titles, forms
from hybridmem_plugins.passage import Passage

NODE_PREFIX = "passage:"  # of passages; no normalised name has a colon
# Edges from passages to names and the nodes of names share their dicts: a million edges with two dicts each would be
# most of a memory's size. They are never changed, only replaced.
_NAME: dict[str, Any] = {"kind": "name"}
_MENTIONS: dict[str, dict[str, dict[str, Any]]] = {
    **{kind: {"mentions": {"kind": kind}} for kind in get_args(MentionKind)},
    "title": SAID_TITLE,
}


class KnowledgeGraph:
    """Passages and names in a `networkx.MultiDiGraph`, kept in step with the journal row by row.

    Nodes are names (normalised text, for example `lothair ii`) and passages (`passage:` and the id). A passage
    `defines` the names of its title and `mentions` others; a relation that an optional extractor found is an edge
    between two names whose key is the relation and whose `passages` are the passages that state it. The same passages
    give the same graph in whatever order they come.

    Args:
        find_phrases: Returns for each run of tokens the rows whose text holds it; it lets new titles find the passages
            that mentioned them before they were titles, and may be set later. Without it, these stay unlinked.

    >>> from hybridmem_plugins.extraction.builtin import BuiltinExtractor
    >>> from hybridmem_plugins.extraction.tokens import words
    >>> passages = [Passage(id="a", title="Ada", text="Ada knew Bob."), Passage(id="b", title="Bob", text="A man.")]
    >>> graph = KnowledgeGraph()
    >>> graph.add([1, 2], passages, BuiltinExtractor().extract(passages), [words(p.text) for p in passages])
    >>> steps = graph.neighbourhood([1])
    >>> steps.target.tolist(), steps.links[0].name
    ([2], 'bob')
    """

    def __init__(
        self, find_phrases: Callable[[Sequence[Sequence[str]]], Sequence[Iterable[int]]] | None = None
    ) -> None:
        self._graph: Any = nx.MultiDiGraph()
        self._nodes: dict[int, str] = {}
        self._rows: dict[str, int] = {}  # of the passages' nodes
        self._titles = Titles()
        self._relations = Relations(self._graph, self._connect)
        self._parts = GraphParts(
            self._graph._succ, self._graph._pred, self._graph._node,
            self._nodes, self._rows, self._titles, self._relations,
        )  # fmt: skip
        self._hubs = self._parts.hubs
        self._waiting: list[tuple[int, Extraction, list[str]]] | None = None
        self.find_phrases = find_phrases

    def add(
        self,
        rows: Sequence[int],
        passages: Sequence[Passage],
        extractions: Sequence[Extraction],
        tokens: Sequence[list[str]],
    ) -> None:
        """Add passages that are stored under these rows.

        Args:
            rows: Positive numbers, each new to the graph.
            passages: The passages, with their ids.
            extractions: What was read in them.
            tokens: The normalised tokens of each passage's title and text.
        """
        graph = self._graph
        known = len(self._nodes)
        fresh: dict[str, None] = {}
        for row, passage, extraction in zip(rows, passages, extractions, strict=True):
            node = f"{NODE_PREFIX}{passage.id}"
            if node in self._rows:
                self.remove([self._rows[node]])
            self._nodes[row] = node
            self._rows[node] = row
            graph._node[node] = {"kind": "passage", "id": passage.id, "title": passage.title, "row": row}
            graph._succ[node], graph._pred[node] = {}, {}
            for name in extraction.defines:
                if name not in self._titles:
                    fresh[name] = None
                self._connect(node, name, DEFINES)
                self._titles.add(name, row)
        if self._waiting is not None:
            self._waiting.extend(zip(rows, extractions, tokens, strict=True))
            return
        batch = set(rows)
        if known:
            self._link_earlier(fresh, batch)
        for row, extraction, words in zip(rows, extractions, tokens, strict=True):
            self._mention(row, extraction, words)

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Fill an empty graph faster: titles first, then, with all of them known, who mentions them."""
        if self._nodes:
            msg = "a bulk load needs an empty graph"
            raise ValueError(msg)
        self._waiting = []
        try:
            yield
            for row, extraction, words in self._waiting:
                self._mention(row, extraction, words)
        finally:
            self._waiting = None

    def remove(self, rows: Sequence[int]) -> None:
        """Remove passages, and every name and relation that none of the others supports."""
        graph = self._graph
        for row in rows:
            node = self._nodes.pop(row)
            names = graph._succ.pop(node)
            del graph._pred[node], graph._node[node], self._rows[node]
            touched = dict.fromkeys(names)
            for name, edges in names.items():
                del graph._pred[name][node]
                self._hubs.pop(name, None)
                if edges is DEFINES:
                    self._undefine(row, name)
            touched.update(dict.fromkeys(self._relations.remove(row)))
            for name in touched:
                self._drop_orphan(name)

    def clear(self) -> None:
        """Forget everything."""
        self.__init__(self.find_phrases)  # type: ignore[misc]

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._nodes)

    def rows(self) -> NDArray[np.int64]:
        """Return the rows of all passages."""
        return np.fromiter(self._nodes, dtype=np.int64, count=len(self._nodes))

    def save(self, folder: Path, stamp: dict[str, Any] | None = None) -> None:
        """Write the graph into a folder so that a crash at any instant leaves the old or the new one.

        Args:
            folder: Existing folder.
            stamp: Anything JSON that `load` shall return, such as the journal's version.
        """
        save_cache(folder, "graph", {"stamp": stamp}, self._edges().to_arrays())

    def load(self, folder: Path) -> Any:
        """Replace the content by what `save` wrote.

        Returns:
            The stamp given to `save`.

        Raises:
            MemoryFormatError: Something is missing or damaged.
        """
        header, arrays, _ = load_cache(folder, "graph")
        try:
            self._take(Edges.from_arrays(arrays))
            return header["stamp"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.clear()
            msg = f"the graph cache in {folder} is damaged: {error}"
            raise MemoryFormatError(msg) from error

    def _edges(self) -> Edges:
        succ, nodes = self._graph._succ, self._graph._node
        kinds = ["", *_MENTIONS]
        code = {id(edges): number for number, edges in enumerate([DEFINES, *_MENTIONS.values()])}
        number: defaultdict[str, int] = defaultdict()
        number.default_factory = number.__len__
        name: list[int] = []
        kind: list[int] = []
        for node in self._nodes.values():
            name.extend(map(number.__getitem__, succ[node]))
            kind.extend([code[id(edges)] for edges in succ[node].values()])
        return Edges(
            self.rows(), [nodes[node]["id"] for node in self._nodes.values()],
            [nodes[node]["title"] for node in self._nodes.values()], list(number), kinds,
            np.array([len(succ[node]) for node in self._nodes.values()], dtype=np.int32),
            np.array(name, dtype=np.int32), np.array(kind, dtype=np.uint8), self._relations.by_row,
        )  # fmt: skip

    def _take(self, edges: Edges) -> None:
        """Fill the graph, as adding the passages one by one would."""
        self.clear()
        graph = self._graph
        shared = [DEFINES, *(_mentions(kind) for kind in edges.kinds[1:])]
        nodes = [f"{NODE_PREFIX}{identity}" for identity in edges.ids]
        rows = edges.rows.tolist()
        graph._node.update(dict.fromkeys(edges.names, _NAME))
        graph._succ.update((name, {}) for name in edges.names)
        graph._pred.update(zip(edges.names, edges.by_name(nodes, shared), strict=True))
        for row, node, identity, title in zip(rows, nodes, edges.ids, edges.titles, strict=True):
            graph._node[node] = {"kind": "passage", "id": identity, "title": title, "row": row}
        graph._succ.update(zip(nodes, edges.by_passage(shared), strict=True))
        graph._pred.update((node, {}) for node in nodes)
        self._nodes.update(zip(rows, nodes, strict=True))
        self._rows.update(zip(nodes, rows, strict=True))
        self._titles.fill(edges.definers())
        for row, facts in edges.facts.items():
            self._relations.add(row, facts)

    @property
    def view(self) -> Any:
        """A read-only `networkx.MultiDiGraph` that follows every later change."""
        return self._graph.copy(as_view=True)

    def names(self, names: Collection[str], allowed: Mask | None = None) -> dict[str, NameInfo]:
        """Return what is known of each of these names; names that no allowed passage has are left out.

        Args:
            names: Normalised names.
            allowed: Mask over rows; None allows all. Passages that it excludes are not even counted.
        """
        reach = Reach(self._parts, allowed)
        infos = {name: reach.info(name) for name in names if name in self._parts.pred}
        return {name: info for name, info in infos.items() if info.meanings or info.mentions}

    def similar(self, name: str, allowed: Mask | None = None) -> str | None:
        """Return the defined name that a misspelt one most likely stands for, None where none is close.

        >>> graph = KnowledgeGraph()
        >>> king = Passage(id="a", title="Lothair II", text="A king.")
        >>> graph.add([1], [king], [Extraction(defines=("lothair ii",))], [[]])
        >>> graph.similar("lothar ii")
        'lothair ii'
        """
        reach = Reach(self._parts, allowed)
        return next((match for match in self._titles.similar(name) if reach.info(match).definers), None)

    def similar_names(self, names: Sequence[str], allowed: Mask | None = None) -> dict[str, str]:
        """Return `similar` for many misspelt names; those that are close to none are left out."""
        found = {name: self.similar(name, allowed) for name in names}
        return {name: close for name, close in found.items() if close is not None}

    def mentions_of(self, rows: Sequence[int], allowed: Mask | None = None) -> dict[int, list[str]]:
        """Return the names that passages mention, in order of appearance."""
        reach, succ = Reach(self._parts, allowed), self._graph._succ
        return {row: reach.mentioned(succ[self._nodes[row]]) for row in rows}

    def mentions(self, row: int) -> list[str]:
        """Return the names that a passage mentions, in order of appearance."""
        return self.mentions_of([row])[row]

    def defined(self, row: int) -> list[str]:
        """Return the names that a passage defines, the fullest first."""
        return [name for name, edges in self._graph._succ[self._nodes[row]].items() if edges is DEFINES]

    def relations(self, names: Sequence[str], allowed: Mask | None = None) -> list[tuple[str, str, str, int]]:
        """Return the typed facts about names as `(subject, relation, object, row of a passage that states it)`."""
        return self._relations.about(names, allowed)

    def neighbourhood(
        self,
        rows: Sequence[int],
        kinds: Collection[StepKind] = ALL_KINDS,
        allowed: Mask | None = None,
    ) -> Steps:
        """Return the steps that lead from these passages to others, hubs left out.

        Args:
            rows: Rows to start from; unknown ones are skipped.
            kinds: Which steps to take.
            allowed: Mask over rows; None allows all. Passages that it excludes are neither reached nor counted.
        """
        return Reach(self._parts, allowed).steps(rows, kinds)

    def _undefine(self, row: int, name: str) -> None:
        if self._titles.remove(name, row):
            # What was found only because this was a title is a name no longer.
            self._hubs.pop(name, None)
            pred = self._graph._pred[name]
            for node in [node for node, edges in pred.items() if edges is _MENTIONS["title"]]:
                del pred[node], self._graph._succ[node][name]

    def _mention(self, row: int, extraction: Extraction, words: list[str]) -> None:
        node = self._nodes[row]
        self._connect_new(node, [(name, _mentions(kind)) for name, kind, _ in extraction.mentions])
        if extraction.facts:
            names = [name for fact in extraction.facts for name in (fact.subject, fact.object)]
            self._connect_new(node, [(name, _MENTIONS["entity"]) for name in names])
            self._relations.add(row, extraction.facts)
        title = _MENTIONS["title"]
        self._connect_new(node, [(name, title) for name in self._titles.said_in(words)])

    def _link_earlier(self, names: Iterable[str], batch: set[int]) -> None:
        """Link the passages that said names before any passage defined them."""
        if self.find_phrases is None:
            return
        said = [(name, form) for name in names for form in forms(name)]
        found = self.find_phrases([form for _, form in said])
        for (name, _), rows in zip(said, found, strict=True):
            for row in rows:
                if row in self._nodes and row not in batch and name not in self._graph._succ[self._nodes[row]]:
                    self._connect(self._nodes[row], name, _MENTIONS["title"])

    def _connect(self, source: str, name: str, edges: dict[str, dict[str, Any]]) -> None:
        """Add an edge, and the name where it is new; ten times as fast as `add_edge`, and without dicts of its own."""
        graph = self._graph
        if name not in graph._node:
            graph._node[name] = _NAME
            graph._succ[name], graph._pred[name] = {}, {}
        self._hubs.pop(name, None)
        graph._succ[source][name] = graph._pred[name][source] = edges

    def _connect_new(self, source: str, named: Iterable[tuple[str, dict[str, dict[str, Any]]]]) -> None:
        """Do as `_connect` with each of the names that the source is not connected with."""
        graph, hubs = self._graph, self._hubs
        nodes, succ, pred = graph._node, graph._succ, graph._pred
        own = succ[source]
        for name, edges in named:
            if name in own:
                continue
            if name in nodes:
                pred[name][source] = edges
                if name in hubs:
                    del hubs[name]
            else:
                nodes[name] = _NAME
                succ[name], pred[name] = {}, {source: edges}
            own[name] = edges

    def _drop_orphan(self, name: str) -> None:
        if name in self._graph._node and not self._graph._pred[name] and not self._graph._succ[name]:
            del self._graph._node[name], self._graph._succ[name], self._graph._pred[name]


def _mentions(kind: str) -> dict[str, dict[str, Any]]:
    """Return the shared edge for a kind of mention, also one that another extractor invented."""
    return _MENTIONS.get(kind) or _MENTIONS.setdefault(kind, {"mentions": {"kind": kind}})
