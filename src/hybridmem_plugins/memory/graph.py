"""The relational tier: a networkx graph of passages and the names that they define and mention."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx

from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.extraction.tokens import STOPWORDS
from hybridmem_plugins.passage import Passage

StepKind = Literal["forward", "backward", "shared"]

# Names said in more passages than this connect too much to say anything ("film", "1990").
MAX_MENTIONS_BACKWARD = 50
MAX_MENTIONS_SHARED = 20
MAX_DEFINERS = 25


@dataclass(frozen=True, slots=True)
class NameInfo:
    """What the graph knows of a name.

    Attributes:
        definers: Rows of the passages whose title or heading the name is, ascending.
        mentions: Number of other passages that mention it.
    """

    definers: tuple[int, ...]
    mentions: int


@dataclass(frozen=True, slots=True)
class Step:
    """One move from a passage to another over a name.

    Attributes:
        source: Row the step starts from.
        target: Row it leads to.
        kind: `forward` from a mention to a passage that defines the name, `backward` from a definition to a mention,
            `shared` between two passages that mention the same rare name.
        name: The name that joins them.
        definers: Number of passages that define the name.
        mentions: Number of passages that mention it.
    """

    source: int
    target: int
    kind: StepKind
    name: str
    definers: int
    mentions: int


class KnowledgeGraph:
    """Passages and names in a `networkx.MultiDiGraph`, kept in step with the journal row by row.

    Nodes are names (normalised text, for example `lothair ii`) and passages (`passage:` and the id). A passage
    `defines` the names of its title and `mentions` others; a relation that an optional extractor found is an edge
    between two names whose key is the relation and whose `passages` are the passages that state it. The same passages
    give the same graph in whatever order they come.

    Args:
        find_phrase: Returns the rows whose text holds a run of tokens; it lets a new title find the passages that
            mentioned it before it was a title. None searches the graph's own copy of the tokens.

    >>> from hybridmem_plugins.extraction.builtin import BuiltinExtractor
    >>> from hybridmem_plugins.extraction.tokens import words
    >>> passages = [Passage(id="a", title="Ada", text="Ada knew Bob."), Passage(id="b", title="Bob", text="A man.")]
    >>> graph = KnowledgeGraph()
    >>> graph.add([1, 2], passages, BuiltinExtractor().extract(passages), [words(p.text) for p in passages])
    >>> [(step.target, step.name) for step in graph.neighbourhood([1])]
    [(2, 'bob')]
    """

    def __init__(self, find_phrase: Callable[[Sequence[str]], Iterable[int]] | None = None) -> None:
        self._graph: Any = nx.MultiDiGraph()
        self._nodes: dict[int, str] = {}
        self._definers: dict[str, list[int]] = {}
        self._lengths: dict[str, dict[int, int]] = {}
        self._tokens: dict[int, list[str]] = {}
        self.find_phrase = find_phrase

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
        known = set(self._nodes)
        fresh: dict[str, None] = {}
        for row, passage, extraction in zip(rows, passages, extractions, strict=True):
            node = f"passage:{passage.id}"
            self._nodes[row] = node
            self._graph.add_node(node, kind="passage", id=passage.id, title=passage.title, row=row)
            for name in extraction.defines:
                if name not in self._definers:
                    fresh[name] = None
                self._define(row, node, name)
        for row, extraction, words in zip(rows, extractions, tokens, strict=True):
            self._mention(row, extraction, words)
            if self.find_phrase is None:
                self._tokens[row] = words
        for name in fresh:
            self._link_earlier(name, known)

    def remove(self, rows: Sequence[int]) -> None:
        """Remove passages, and every name and relation that none of the others supports."""
        for row in rows:
            node = self._nodes.pop(row)
            self._tokens.pop(row, None)
            data = self._graph.nodes[node]
            if data["row"] != row:  # The id came back under a newer row before the old one went.
                continue
            names = list(self._graph._succ[node].items())
            self._graph.remove_node(node)
            for name, edges in names:
                if "defines" in edges:
                    self._undefine(row, name)
                for relation in edges.get("mentions", {}).get("relations", ()):
                    self._withdraw(row, *relation)
            for name, edges in names:
                related = {end for a, _, b in edges.get("mentions", {}).get("relations", ()) for end in (a, b)}
                for end in {name, *related}:
                    self._drop_orphan(end)

    def clear(self) -> None:
        """Forget everything."""
        self.__init__(self.find_phrase)  # type: ignore[misc]

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._nodes)

    @property
    def view(self) -> Any:
        """A read-only `networkx.MultiDiGraph` that follows every later change."""
        return self._graph.copy(as_view=True)

    def names(self, names: Collection[str]) -> dict[str, NameInfo]:
        """Return what is known of each of these names; names that no passage has are left out."""
        found = {}
        for name in names:
            if name in self._graph._pred:
                definers = self._definers.get(name, [])
                found[name] = NameInfo(tuple(definers), self._mention_count(name))
        return found

    def mentioning(self, name: str, limit: int = MAX_MENTIONS_BACKWARD) -> list[int]:
        """Return the rows that mention a name, ascending; none when there are more than `limit`."""
        if self._mention_count(name) > limit:
            return []
        nodes, pred = self._graph._node, self._graph._pred.get(name, {})
        return sorted(nodes[node]["row"] for node, edges in pred.items() if "mentions" in edges)

    def mentions(self, row: int) -> list[str]:
        """Return the names that a passage mentions, in order of appearance."""
        return [name for name, edges in self._graph._succ[self._nodes[row]].items() if "mentions" in edges]

    def defined(self, row: int) -> list[str]:
        """Return the names that a passage defines, the fullest first."""
        return [name for name, edges in self._graph._succ[self._nodes[row]].items() if "defines" in edges]

    def neighbourhood(self, rows: Sequence[int], kinds: Collection[StepKind] = ("forward", "backward", "shared")) -> list[Step]:
        """Return the steps that lead from these passages to others, hubs left out.

        Args:
            rows: Rows to start from; unknown ones are skipped.
            kinds: Which steps to take.
        """
        steps: list[Step] = []
        for row in rows:
            node = self._nodes.get(row)
            if node is None:
                continue
            names = self._graph._succ[node]
            mentioned = [name for name, edges in names.items() if "mentions" in edges]
            for name in _maximal(mentioned):
                if "forward" in kinds and name in self._definers:
                    self._step(steps, row, "forward", name, self._definers[name][: MAX_DEFINERS + 1])
                if "shared" in kinds and self._mention_count(name) <= MAX_MENTIONS_SHARED:
                    self._step(steps, row, "shared", name, self.mentioning(name, MAX_MENTIONS_SHARED))
            if "backward" in kinds:
                for name, edges in names.items():
                    if "defines" in edges:
                        self._step(steps, row, "backward", name, self.mentioning(name))
        return steps

    def _step(self, steps: list[Step], row: int, kind: StepKind, name: str, targets: list[int]) -> None:
        definers = len(self._definers.get(name, ()))
        if definers > MAX_DEFINERS:
            return
        mentions = self._mention_count(name)
        steps.extend(Step(row, target, kind, name, definers, mentions) for target in targets if target != row)

    def _mention_count(self, name: str) -> int:
        pred = self._graph._pred.get(name)
        return len(pred) - len(self._definers.get(name, ())) if pred else 0

    def _define(self, row: int, node: str, name: str) -> None:
        self._add_name(name)
        self._graph.add_edge(node, name, "defines")
        self._definers.setdefault(name, []).append(row)
        first, *rest = name.split(" ")
        lengths = self._lengths.setdefault(first, {})
        lengths[len(rest) + 1] = lengths.get(len(rest) + 1, 0) + 1

    def _undefine(self, row: int, name: str) -> None:
        definers = self._definers[name]
        definers.remove(row)
        first, *rest = name.split(" ")
        lengths = self._lengths[first]
        lengths[len(rest) + 1] -= 1
        if not lengths[len(rest) + 1]:
            del lengths[len(rest) + 1]
            if not lengths:
                del self._lengths[first]
        if not definers:
            del self._definers[name]
            # What was found only because this was a title is a name no longer.
            found = [n for n, edges in self._graph._pred[name].items() if edges.get("mentions", {}).get("kind") == "title"]
            self._graph.remove_edges_from([(n, name, "mentions") for n in found])

    def _mention(self, row: int, extraction: Extraction, words: list[str]) -> None:
        node = self._nodes[row]
        own = self._graph._succ[node]
        for mention in extraction.mentions:
            if mention.name not in own:
                self._add_name(mention.name)
                self._graph.add_edge(node, mention.name, "mentions", kind=mention.kind)
        for name in self.defined_in(words):
            if name not in own:
                self._graph.add_edge(node, name, "mentions", kind="title")
        for fact in extraction.facts:
            self._relate(row, node, fact.subject, fact.relation, fact.object)

    def _link_earlier(self, name: str, known: set[int]) -> None:
        """Link the passages that said a name before any passage defined it."""
        words = name.split(" ")
        if len(words) == 1 and _trivial(name):
            return
        rows = self.find_phrase(words) if self.find_phrase else [r for r, t in self._tokens.items() if _holds(t, words)]
        for row in rows:
            if row in known and name not in self._graph._succ[self._nodes[row]]:
                self._graph.add_edge(self._nodes[row], name, "mentions", kind="title")

    def defined_in(self, words: Sequence[str]) -> list[str]:
        """Return the defined names that occur in a run of tokens, overlapping ones too, in order."""
        found: dict[str, None] = {}
        lengths = self._lengths
        for start, word in enumerate(words):
            if word in lengths:
                for length in lengths[word]:
                    name = " ".join(words[start : start + length])
                    if name in self._definers and not (length == 1 and _trivial(name)):
                        found[name] = None
        return list(found)

    def _relate(self, row: int, node: str, subject: str, relation: str, object_: str) -> None:
        self._add_name(subject)
        self._add_name(object_)
        if not self._graph.has_edge(subject, object_, relation):
            self._graph.add_edge(subject, object_, relation, passages=set())
        self._graph.edges[subject, object_, relation]["passages"].add(row)
        if not self._graph.has_edge(node, subject):
            self._graph.add_edge(node, subject, "mentions", kind="entity")
        edges = self._graph._succ[node][subject]
        edges.setdefault("mentions", {"kind": "entity"}).setdefault("relations", []).append((subject, relation, object_))

    def _withdraw(self, row: int, subject: str, relation: str, object_: str) -> None:
        if self._graph.has_edge(subject, object_, relation):
            passages = self._graph.edges[subject, object_, relation]["passages"]
            passages.discard(row)
            if not passages:
                self._graph.remove_edge(subject, object_, relation)

    def _add_name(self, name: str) -> None:
        if name not in self._graph._node:
            self._graph.add_node(name, kind="name")

    def _drop_orphan(self, name: str) -> None:
        if name in self._graph._node and not self._graph._pred[name] and not self._graph._succ[name]:
            self._graph.remove_node(name)


def _trivial(word: str) -> bool:
    """Say whether a single word is no name by itself; one ideograph is not one either."""
    return word in STOPWORDS or len(word) < 2


def _holds(tokens: list[str], words: list[str]) -> bool:
    return any(tokens[i : i + len(words)] == words for i in range(len(tokens) - len(words) + 1))


def _maximal(names: list[str]) -> list[str]:
    """Drop the names that are only part of a longer one, as `york` of `new york`."""
    return [name for name in names if not any(len(o) > len(name) and f" {name} " in f" {o} " for o in names)]
