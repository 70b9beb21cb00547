"""The relational tier in and out: networkx, langchain-community's `NetworkxEntityGraph`, and `GraphDocument`s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import networkx as nx
from langchain_core.documents import Document

from hybridmem_plugins.errors import require
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction, Extractor, Mention, TypedFact
from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.provenance import said_in

Triple = tuple[str, str, str]
"""Subject, relation, object."""


def as_networkx(source: Any) -> nx.MultiDiGraph:
    """Return the knowledge graph of a memory as a networkx graph of the caller's own.

    Args:
        source: A `HybridMemory`, or a retriever or vector store over one.

    Returns:
        Names and passages (`kind`), joined by `defines`, `mentions` and the relations of an extractor.

    Raises:
        TypeError: It has no memory.
    """
    memory = _memory(source)
    with memory.store.reading():
        return nx.MultiDiGraph(memory.graph)


def triples(source: Any, filter: Filter | None = None) -> list[Triple]:  # noqa: A002
    """Return what the passages of a memory state about each other's names, in their words.

    Args:
        source: A `HybridMemory`, or a retriever or vector store over one.
        filter: Metadata of the passages that are asked; None asks all.

    Returns:
        Each triple once, in the order of the passages' ids and then of the names, whatever was added first. Relations
        of an extractor come with normalised names.
    """
    memory = _memory(source)
    found: dict[Triple, None] = {}
    with memory.store.reading() as store:
        rows, allowed = store.matching(filter), store.allowed(filter)
        known = set(rows)
        # Not from `memory.graph`: a phrase that is a name only for being the title of an excluded passage is none here.
        mentioned = store.graph.mentions_of(rows, allowed)
        read = sorted(zip(rows, store.passages(rows), strict=True), key=lambda one: str(one[1].id))
        for row, passage in read:
            for said in said_in(passage, [(name, 1.0) for name in sorted(mentioned[row])]):
                fact = said.fact()
                found[fact.subject, fact.relation, fact.object] = None
        for subject, object_, relation, data in memory.graph.edges(keys=True, data=True):
            if not known.isdisjoint(data.get("passages", ())):
                found[subject, relation, object_] = None
    return list(found)


def to_networkx_entity_graph(source: Any, filter: Filter | None = None) -> Any:  # noqa: A002
    """Return the triples of a memory as langchain-community's `NetworkxEntityGraph`.

    That graph holds one relation for a pair of entities, so several are joined by a semicolon.

    Args:
        source: A `HybridMemory`, or a retriever or vector store over one.
        filter: Metadata of the passages that are asked; None asks all.

    Raises:
        ImportError: The extra `community` is not installed.
    """
    community = require("langchain_community.graphs.networkx_graph", "community")
    relations: dict[tuple[str, str], list[str]] = {}
    for subject, relation, object_ in triples(source, filter):
        relations.setdefault((subject, object_), []).append(relation)
    graph = community.NetworkxEntityGraph()
    for (subject, object_), said in relations.items():
        graph.add_triple(community.KnowledgeTriple(subject, "; ".join(said), object_))
    return graph


def documents_from_entity_graph(graph: Any) -> list[Document]:
    """Return an entity graph as documents, one an entity, each relation a line.

    Args:
        graph: A `NetworkxEntityGraph`, or any networkx graph whose edges have a `relation` or `label` (or a key, in a
            multigraph).

    Raises:
        TypeError: It is neither.

    >>> graph = nx.DiGraph()
    >>> graph.add_edge("Ada Lovelace", "Analytical Engine", relation="wrote a program for")
    >>> documents_from_entity_graph(graph)[0].page_content
    'Ada Lovelace wrote a program for Analytical Engine.'
    """
    lines: dict[str, dict[str, None]] = {}
    for subject, relation, object_ in _triples_of(graph):
        lines.setdefault(subject, {})[f"{subject} {relation} {object_}."] = None
    return [
        Document(id=f"entity:{subject}", page_content="\n".join(said), metadata={"title": subject})
        for subject, said in lines.items()
    ]


class GraphDocumentExtractor:
    """Adds the entities and relations of `GraphDocument`s to what the built-in extractor finds in their sources.

    They are recognised by their shape, so those of langchain-community, langchain-neo4j and langchain-experimental
    all fit. Relations without a name on either side or without a type are left out and counted.

    Args:
        graph_documents: Objects with `nodes`, `relationships` and `source`.
        base: What reads the text itself; None takes the built-in extractor.

    Attributes:
        skipped: Number of malformed nodes and relations.

    Example:
        ```python
        extractor = GraphDocumentExtractor(LLMGraphTransformer(llm).convert_to_graph_documents(documents))
        retriever = HybridRetriever.from_documents(documents, memory_options={"extractor": extractor})
        ```
    """

    def __init__(self, graph_documents: Iterable[Any] = (), base: Extractor | None = None) -> None:
        self.skipped = 0
        self._base: Extractor = BuiltinExtractor() if base is None else base
        self._names: dict[str, dict[str, None]] = {}
        self._facts: dict[str, dict[Triple, None]] = {}
        self.learn(graph_documents)

    def learn(self, graph_documents: Iterable[Any]) -> None:
        """Take in more graph documents, before their sources are added to the memory.

        Raises:
            TypeError: Something has no `nodes`, `relationships` and `source`.
        """
        for position, one in enumerate(graph_documents):
            text = getattr(getattr(one, "source", None), "page_content", None)
            if text is None or not hasattr(one, "nodes") or not hasattr(one, "relationships"):
                msg = f"graph document {position} is a {type(one).__name__} without nodes, relationships and source"
                raise TypeError(msg)
            for node in one.nodes:
                name = _name(node)
                if name:
                    self._names.setdefault(text, {})[name] = None
                else:
                    self.skipped += 1
            for relation in one.relationships:
                subject, object_ = _name(getattr(relation, "source", None)), _name(getattr(relation, "target", None))
                kind = getattr(relation, "type", None)
                if subject and object_ and isinstance(kind, str) and kind.strip():
                    self._facts.setdefault(text, {})[subject, kind.strip(), object_] = None
                else:
                    self.skipped += 1

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        extractions = self._base.extract(passages)
        return [self._extended(passage, found) for passage, found in zip(passages, extractions, strict=True)]

    def _extended(self, passage: Passage, found: Extraction) -> Extraction:
        names, facts = self._names.get(passage.text, {}), self._facts.get(passage.text, {})
        if not names and not facts:
            return found
        sentences = [f" {name_key(passage.text[start:end])} " for start, end in found.sentences]
        known = {*found.defines, *(mention.name for mention in found.mentions)}
        wanted = dict.fromkeys([*names, *(end for fact in facts for end in (fact[0], fact[2]))])
        mentions = [Mention(name, "entity", _saying(sentences, name)) for name in wanted if name not in known]
        typed = [TypedFact(s, relation, o, _saying(sentences, s, o)) for s, relation, o in facts]
        return Extraction(
            found.sentences, found.defines, (*found.mentions, *mentions), tuple(dict.fromkeys((*found.facts, *typed)))
        )


def _memory(source: Any) -> HybridMemory:
    memory = source if isinstance(source, HybridMemory) else getattr(source, "memory", None)
    if not isinstance(memory, HybridMemory):
        msg = f"expected a HybridMemory, or a retriever or vector store over one, not {type(source).__name__}"
        raise TypeError(msg)
    return memory


def _triples_of(graph: Any) -> list[Triple]:
    if callable(getattr(graph, "get_triples", None)):
        return [(str(subject), str(relation), str(object_)) for subject, object_, relation in graph.get_triples()]
    if not isinstance(graph, nx.Graph):
        msg = f"expected a NetworkxEntityGraph or a networkx graph, not {type(graph).__name__}"
        raise TypeError(msg)
    found = []
    for subject, object_, *key, data in graph.edges(data=True, **({"keys": True} if graph.is_multigraph() else {})):
        named = [data.get("relation"), data.get("label"), *(one for one in key if isinstance(one, str))]
        relation = next((str(one) for one in named if one is not None), "is related to")
        found.append((str(subject), relation, str(object_)))
    return found


def _name(node: Any) -> str:
    identity = getattr(node, "id", None)
    return name_key(str(identity)) if isinstance(identity, str | int) else ""


def _saying(sentences: Sequence[str], *names: str) -> int:
    """Return the first sentence that says all names, else the last of them, else the first sentence."""
    for wanted in (names, names[-1:]):
        for position, sentence in enumerate(sentences):
            if all(f" {name} " in sentence for name in wanted):
                return position
    return 0
