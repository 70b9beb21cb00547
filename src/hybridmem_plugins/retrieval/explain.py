"""Why a search found what it found: as text, as plain JSON, as a page and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hybridmem_plugins.passage import Passage
from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.retrieval.engine import Result
from hybridmem_plugins.retrieval.features import MAX_PER_NAME
from hybridmem_plugins.retrieval.model import Hit
from hybridmem_plugins.retrieval.walk import SEEDS

# What each route is called where people read.
ROUTE_NAMES = {"semantic": "vectors", "lexical": "words", "graph": "graph"}
_SENTENCE = 240


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that is pointed at.

    Attributes:
        id: Its id.
        title: Its title, if it has one.
    """

    id: str
    title: str | None

    def __str__(self) -> str:
        return f"{shorten(self.title, 80)} [{printable(self.id)}]" if self.title else f"[{printable(self.id)}]"


@dataclass(frozen=True, slots=True)
class Entity:
    """A name of the graph that the question says.

    Attributes:
        said: The words of the question, normalised.
        name: The name of the graph that they were taken for; it differs where they are an alias or misspelt.
        meanings: Number of different titles that it stands for.
        passages: Passages that are about it, at most ten.
    """

    said: str
    name: str
    meanings: int
    passages: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Seed:
    """A passage that the walk started from.

    Attributes:
        passage: Which.
        strength: How much the walk trusted it, in (0, 1], the strongest being 1.
        entities: Names by which the question says it; empty where vectors or words found it.
    """

    passage: Source
    strength: float
    entities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hop:
    """A step of the walk that led to a hit.

    Attributes:
        number: Its number in this explanation, from 1.
        source: Where it came from.
        target: Where it led.
        name: The name that joins the two, normalised.
        kind: `forward` where the source mentions what the target is about, `backward` where the target mentions what
            the source is about, `shared` where both mention the same rare name.
        sentence: The sentence that says the name; empty where only a title or heading does.
    """

    number: int
    source: Source
    target: Source
    name: str
    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a search found what it found.

    Attributes:
        question: As asked.
        asked_route: The route asked for.
        route: The route taken.
        reason: Why that one.
        filtered: Whether a filter was in force; nothing that it excludes is in here.
        entities: Names of the graph that the question says, in its order.
        seeds: Where the walk started, strongest first; empty where the route does not walk.
        hops: Steps on the way to the hits.
        hits: Exactly what `search` returns: passages, fused scores, and the rank and score of each route.
    """

    question: str
    asked_route: str
    route: str
    reason: str
    filtered: bool
    entities: tuple[Entity, ...]
    seeds: tuple[Seed, ...]
    hops: tuple[Hop, ...]
    hits: tuple[Hit, ...]

    def hops_to(self, hit: Hit) -> list[Hop]:
        """Return the steps that led to a hit, in order; none where the question itself found it."""
        found = {(hop.source.id, hop.target.id, hop.name, hop.kind): hop for hop in self.hops}
        return [found[_key(move)] for move in hit.provenance.get("path", ())]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        parts = asdict(replace(self, hits=()))
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in parts.items()}
        for entity in lists["entities"]:
            entity["passages"] = list(entity["passages"])
        for seed in lists["seeds"]:
            seed["entities"] = list(seed["entities"])
        return lists | {"hits": [hit.to_dict() for hit in self.hits]}

    def to_text(self) -> str:
        """Return a report to read on a terminal."""
        asked = "" if self.asked_route == self.route else f" ({self.asked_route} asked for)"
        lines = [
            f"Question: {shorten(self.question, 1000)}",
            f"Route: {self.route}{asked}: {printable(self.reason)}" + ("; a filter holds" if self.filtered else ""),
            "",
            "Entities of the question:",
            *(_entity_line(entity) for entity in self.entities),
            *([] if self.entities else ["  none"]),
            "",
            "Seeds of the walk:",
            *(_seed_line(seed) for seed in self.seeds),
            *([] if self.seeds else ["  none: this route does not walk the graph" if self.hits else "  none"]),
        ]
        if self.hops:
            lines += ["", "Hops:"]
        for hop in self.hops:
            lines.append(f"  {hop.number}. {hop.source} → {hop.target}, by “{printable(hop.name)}” ({hop.kind})")
            if hop.sentence:
                lines.append(f"     “{shorten(hop.sentence, _SENTENCE)}”")
        lines += ["", "Hits:", *(self._hit_line(rank, hit) for rank, hit in enumerate(self.hits, 1))]
        return "\n".join(lines if self.hits else [*lines, "  none"]) + "\n"

    def to_html(self) -> str:
        """Return one page with a picture of the subgraph and the table of hits; it needs neither network nor script."""
        from hybridmem_plugins.retrieval.explain_html import page

        return page(self)

    def to_png(self, path: str | Path, *, dpi: int = 150) -> None:
        """Draw the subgraph and its hops into a PNG file.

        Letters that no installed font has become boxes, and matplotlib warns of them.

        Args:
            path: The file, replaced if it exists.
            dpi: Dots per inch.

        Raises:
            ImportError: matplotlib is not installed; the message names the extra.
        """
        from hybridmem_plugins.retrieval.explain_png import draw

        draw(self, Path(path), dpi)

    def _hit_line(self, rank: int, hit: Hit) -> str:
        routes = [
            f"{ROUTE_NAMES[name]} #{route['rank']} ({score_text(name, route['score'])})"
            for name, route in hit.provenance["routes"].items()
        ]
        numbers = [str(hop.number) for hop in self.hops_to(hit)]
        ways = routes + ([f"hop {' → '.join(numbers)}"] if numbers else [])
        return f"  {rank}. {hit.score:.3f}  {source_of(hit.passage)}  {' · '.join(ways)}"


def score_text(route: str, score: float) -> str:
    """Write the score of a route: similarity and BM25 as they are, what the graph added with its sign.

    >>> score_text("graph", 1.234)
    '+1.23'
    """
    return f"{score:+.2f}" if route == "graph" else f"{score:.2f}"


def source_of(passage: Passage) -> Source:
    """Return what points at a passage."""
    return Source(str(passage.id), passage.title)


def explain(
    result: Result,
    hits: Sequence[Hit],
    read: Callable[[Sequence[int]], Sequence[Passage]],
    *,
    asked_route: str,
    filtered: bool,
) -> Explanation:
    """Put together what a search knows.

    Args:
        result: The search.
        hits: Its hits, with their provenance.
        read: Returns the passages of rows.
        asked_route: The route asked for.
        filtered: Whether a filter was in force.
    """
    titles = result.question.titles
    walked = result.choice.route in ("both", "relational")
    ranked = sorted(result.strength.items(), key=lambda item: (-item[1], item[0]))
    seeds = dict(ranked[:SEEDS]) if walked else {}
    definers = [row for link in titles for row in link.info.definers[:MAX_PER_NAME]]
    rows = list(dict.fromkeys([*seeds, *definers]))
    sources = {row: source_of(passage) for row, passage in zip(rows, read(rows), strict=True)}
    tokens = result.question.tokens
    return Explanation(
        question=result.question.text,
        asked_route=asked_route,
        route=result.choice.route,
        reason=result.choice.reason,
        filtered=filtered,
        entities=tuple(
            Entity(
                " ".join(tokens[link.start : link.end]),
                link.name,
                link.info.meanings,
                tuple(sources[row] for row in link.info.definers[:MAX_PER_NAME]),
            )
            for link in sorted(titles, key=lambda link: link.start)
        ),
        seeds=tuple(
            Seed(sources[row], strength, tuple(link.name for link in titles if row in link.info.definers))
            for row, strength in seeds.items()
        ),
        hops=_hops(hits),
        hits=tuple(hits),
    )


def _hops(hits: Sequence[Hit]) -> tuple[Hop, ...]:
    """Number the moves of all paths, each once."""
    moves = {_key(move): move for hit in reversed(hits) for move in reversed(hit.provenance["path"])}
    return tuple(
        Hop(
            number,
            Source(move["from"], move["from_title"]),
            Source(move["to"], move["to_title"]),
            move["name"],
            move["kind"],
            move["sentence"],
        )
        for number, move in enumerate(reversed(moves.values()), 1)
    )


def _key(move: dict[str, Any]) -> tuple[str, str, str, str]:
    return move["from"], move["to"], move["name"], move["kind"]


def _entity_line(entity: Entity) -> str:
    taken = "" if entity.said == entity.name else f", taken for “{printable(entity.name)}”"
    more = f" ({entity.meanings} meanings)" if entity.meanings > 1 else ""
    return f"  “{printable(entity.said)}”{taken}{more}: {'; '.join(map(str, entity.passages))}"


def _seed_line(seed: Seed) -> str:
    named = ", ".join(f"“{printable(name)}”" for name in seed.entities)
    return f"  {seed.strength:.2f}  {seed.passage}" + (f", named by {named}" if named else "")
