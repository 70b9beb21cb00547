"""Where the boxes and arrows of an explanation's picture stand; the page and the PNG draw the same ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.printing import printable
from hybridmem_plugins.retrieval.explain import Explanation, Hop

Kind = Literal["question", "entity", "hit", "way"]
Point = tuple[float, float]

# Hits that are drawn; more would be no little picture.
MAX_DRAWN = 12

# Lengths in pixels.
_WIDTHS: dict[Kind, float] = {"question": 92, "entity": 170, "hit": 208, "way": 208}
_HEIGHT, _ROW, _GAP, _MARGIN, _HEAD = 46.0, 64.0, 124.0, 16.0, 34.0
# Letters of a label, which is bold, and of a name beside an arrow.
_BOLD, _LIGHT = 7.9, 6.4


@dataclass(frozen=True, slots=True)
class Box:
    """The question, one of its names, a hit, or a passage on the way to one.

    Attributes:
        kind: Which of them.
        label: What to write into it, cut to fit.
        note: A second line: a hit's rank and score.
        full: The label uncut.
        x: Left edge.
        y: Middle.
        width: From left to right.
        height: From top to bottom.
        score: The hit's score, in [0, 1].
    """

    kind: Kind
    label: str
    note: str
    full: str
    x: float
    y: float
    width: float
    height: float
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Arrow:
    """A cubic Bézier curve between two boxes.

    Attributes:
        points: Start, two control points, end.
        number: The hop's number; None for what leads from the question to a passage without a hop.
        label: The name that joins the two, where neither title says it.
        detail: The sentence that says the name.
        aside: Whether both ends were found before the hop, so that it explains the rank rather than the way.
    """

    points: tuple[Point, Point, Point, Point]
    number: int | None = None
    label: str = ""
    detail: str = ""
    aside: bool = False

    @property
    def badge(self) -> Point:
        """A point on the curve, near its end, where arrows that leave one box have parted."""
        t = 0.6 if self.aside else 0.8
        shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(s * p[axis] for s, p in zip(shares, self.points, strict=True)) for axis in (0, 1))
        return x, y


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is drawn, from the question on the left to the last hop on the right.

    Attributes:
        boxes: From left to right, from top to bottom.
        arrows: Those without a hop first.
        heads: What each column holds, and the middle of its top.
        width: Of the whole.
        height: Of the whole.
        left_out: Hits that are not drawn.
    """

    boxes: list[Box]
    arrows: list[Arrow]
    heads: list[tuple[str, Point]]
    width: float
    height: float
    left_out: int = 0


@dataclass(slots=True)
class _Node:
    kind: Kind
    label: str
    note: str = ""
    score: float = 0.0
    rank: int = 1_000
    before: list[str] = field(default_factory=list)


def picture_of(explanation: Explanation) -> Picture:
    """Arrange an explanation in columns: the question, its names, what it found by itself, and each hop."""
    drawn = explanation.hits[:MAX_DRAWN]
    numbers = {hop.number for hit in drawn for hop in explanation.hops_to(hit)}
    hops = [hop for hop in explanation.hops if hop.number in numbers]
    nodes = _nodes(explanation, hops)
    depths = _depths(explanation, nodes, hops)
    _connect(explanation, hops, nodes, depths)
    columns = [["?"], *([names] if (names := [key for key in nodes if key.startswith("e:")]) else [])]
    heads = ["", *(["names it says"] if names else []), "found by the question", "one hop on", "two hops on"]
    for depth in range(max(depths.values(), default=-1) + 1):
        columns.append(_ordered([key for key, at in depths.items() if at == depth], nodes, columns))
    boxes = _placed(columns, nodes)
    arrows = [
        _arrow(boxes[source], boxes[key])
        for key, node in nodes.items()
        if node.kind == "entity" or depths.get(key) == 0
        for source in node.before
    ]
    for hop in hops:
        start, end = boxes[f"p:{hop.source.id}"], boxes[f"p:{hop.target.id}"]
        said = hop.name in {name_key(start.full), name_key(end.full)}
        arrows.append(_arrow(start, end, hop.number, "" if said else _fit(hop.name, _GAP - 20, _LIGHT), hop.sentence))
    return Picture(
        list(boxes.values()),
        arrows,
        [(head, (boxes[c[0]].x + boxes[c[0]].width / 2, _MARGIN)) for head, c in zip(heads, columns, strict=False)],
        max(box.x + box.width for box in boxes.values()) + _MARGIN,
        max(box.y + box.height / 2 for box in boxes.values()) + _MARGIN,
        len(explanation.hits) - len(drawn),
    )


def _nodes(explanation: Explanation, hops: Sequence[Hop]) -> dict[str, _Node]:
    nodes = {"?": _Node("question", "Question")}
    for entity in explanation.entities:
        nodes[f"e:{entity.name}"] = _Node("entity", entity.name, before=["?"])
    for rank, hit in enumerate(explanation.hits[:MAX_DRAWN], 1):
        label = hit.passage.title or hit.passage.text
        nodes[f"p:{hit.passage.id}"] = _Node("hit", label, f"#{rank} · {hit.score:.3f}", hit.score, rank)
    for hop in hops:
        for end in (hop.source, hop.target):
            nodes.setdefault(f"p:{end.id}", _Node("way", end.title or end.id, "on the way"))
    return nodes


def _connect(
    explanation: Explanation, hops: Sequence[Hop], nodes: Mapping[str, _Node], depths: Mapping[str, int]
) -> None:
    """Tell each passage what stands before it: the names that it is about, the hops to it, or else the question."""
    for entity in explanation.entities:
        for key in {f"p:{source.id}" for source in entity.passages}:
            if depths.get(key) == 0:
                nodes[key].before.append(f"e:{entity.name}")
    for hop in hops:
        source, target = f"p:{hop.source.id}", f"p:{hop.target.id}"
        if depths[target] > depths[source]:
            nodes[target].before.append(source)
    for key, depth in depths.items():
        if depth == 0 and not nodes[key].before:
            nodes[key].before.append("?")


def _depths(explanation: Explanation, nodes: Mapping[str, _Node], hops: Sequence[Hop]) -> dict[str, int]:
    """Return how many hops each passage is from what the question found by itself."""
    seeds = {f"p:{seed.passage.id}" for seed in explanation.seeds}
    led_to = {f"p:{hop.target.id}" for hop in hops}
    passages = [key for key in nodes if key.startswith("p:")]
    depths = {key: 0 for key in passages if key in seeds or key not in led_to}
    for depth in (1, 2):
        for hop in hops:
            if depths.get(f"p:{hop.source.id}") == depth - 1:
                depths.setdefault(f"p:{hop.target.id}", depth)
    return {key: depths.get(key, 1) for key in passages}


def _ordered(keys: list[str], nodes: Mapping[str, _Node], columns: Sequence[Sequence[str]]) -> list[str]:
    """Order a column so that boxes stand near what leads to them; the best hit first where that says nothing."""
    places = {key: index for column in columns for index, key in enumerate(column) if key != "?"}

    def place(key: str) -> tuple[float, int, str]:
        before = [places[source] for source in nodes[key].before if source in places]
        return (sum(before) / len(before) if before else len(places), nodes[key].rank, key)

    return sorted(keys, key=place)


def _placed(columns: Sequence[Sequence[str]], nodes: Mapping[str, _Node]) -> dict[str, Box]:
    """Centre each column, but stand the names beside the passages about them, which are the first of theirs."""
    tallest = max(len(column) for column in columns)
    boxes: dict[str, Box] = {}
    x = _MARGIN
    for column, following in zip(columns, [*columns[1:], ()], strict=True):
        width = max(_WIDTHS[nodes[key].kind] for key in column)
        height = max(len(column), len(following)) if nodes[column[0]].kind == "entity" else len(column)
        top = _HEAD + (tallest - height) * _ROW / 2
        for index, key in enumerate(column):
            node = nodes[key]
            label = _fit(node.label, width - 16)
            y = top + (index + 0.5) * _ROW
            tall = _HEIGHT if node.kind in ("hit", "way") else 32.0
            boxes[key] = Box(node.kind, label, node.note, printable(node.label), x, y, width, tall, node.score)
        x += width + _GAP
    return boxes


def _arrow(start: Box, end: Box, number: int | None = None, label: str = "", detail: str = "") -> Arrow:
    """Join two boxes: onward, back to a column on the left, or by a loop beside the column of both.

    What does not lead onward starts and ends off the middle, so that it is told from what does.
    """
    if end.x > start.x:
        a, b = (start.x + start.width, start.y), (end.x, end.y)
        bend = (b[0] - a[0]) / 2
        return Arrow((a, (a[0] + bend, a[1]), (b[0] - bend, b[1]), b), number, label, detail)
    down = 10 if end.y > start.y else -10
    if end.x < start.x:
        a, b = (start.x, start.y + 10), (end.x + end.width, end.y + 10)
        bend = (a[0] - b[0]) / 2
    else:
        a, b = (start.x, start.y + down), (end.x, end.y - down)
        bend = (34 if down > 0 else 58) + min(44.0, abs(a[1] - b[1]) / 5)
    far = b[0] + bend if end.x < start.x else b[0] - bend
    return Arrow((a, (a[0] - bend, a[1]), (far, b[1]), b), number, label, detail, aside=True)


def _fit(text: str, width: float, letter: float = _BOLD) -> str:
    """Cut a text to a width; East Asian letters are twice as wide as others."""
    flat = " ".join(printable(text).split())
    left = width / letter
    for index, wide in enumerate(flat):
        left -= 1.9 if unicodedata.east_asian_width(wide) in "WF" else 1
        if left < 0:
            return flat[: max(1, index - 1)].rstrip() + "…"
    return flat
