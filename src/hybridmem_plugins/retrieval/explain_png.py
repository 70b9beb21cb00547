"""An explanation's subgraph as a PNG file."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.retrieval.explain import Explanation, Hop
from hybridmem_plugins.retrieval.explain_layout import Arrow, Box, Picture, picture_of

_INK, _DIM, _LINE, _HOP = "#1c2024", "#687076", "#cfd4d9", "#0b7285"
_FILLS = {"question": _INK, "entity": "#fff3d6", "hit": "#e6f6f4", "way": "#f1f3f5"}
_EDGES = {"question": _INK, "entity": "#dba63a", "hit": "#56b3a4", "way": _DIM}
_LINE_HEIGHT, _SPACE, _PAD, _LEAST_WIDTH = 19.0, 7.0, 18.0, 820.0
# Pixels of the layout to an inch, and points to such a pixel.
_SCALE, _POINT = 96.0, 0.75
# Looked for, in this order, when the default font lacks the letters.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "PingFang SC",
)


def draw(explanation: Explanation, path: Path, dpi: int) -> None:
    """Draw boxes, arrows and the list of hops; the arrangement is that of the page."""
    require("matplotlib", "plot")
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = picture_of(explanation)
    width = max(picture.width, _LEAST_WIDTH)
    letters = int((width - 2 * _PAD) / 6.6)
    title = textwrap.wrap(shorten(explanation.question, 400), int(letters * 0.62))
    below = _legend(explanation, picture, letters)
    above = _PAD + (len(title) * 1.5 + 1.6) * _LINE_HEIGHT
    height = above + picture.height + len(below) * _LINE_HEIGHT + sum(bool(n) for n, _ in below) * _SPACE + 2.5 * _PAD
    # Not pyplot: its global state is neither for threads nor for a library.
    figure = Figure(figsize=(width / _SCALE, height / _SCALE), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    present = {font.name for font in font_manager.fontManager.ttflist}
    write = _Writer(axes, [font for font in _FONTS if font in present])
    for index, line in enumerate(title):
        write(_PAD, _PAD + (index * 1.5 + 0.8) * _LINE_HEIGHT, line, 18, weight="bold")
    route = f"Route {explanation.route}: {shorten(explanation.reason, letters - 20)}"
    write(_PAD, above - 0.9 * _LINE_HEIGHT, route, 12, color=_DIM)
    _draw_graph(axes, write, picture, (width - picture.width) / 2, above)
    y = above + picture.height + _PAD
    for number, line in below:
        y += _LINE_HEIGHT + (_SPACE if number else 0)
        write(_PAD, y, number, 12, color=_HOP, weight="bold")
        write(_PAD + 24, y, line, 12, color=_INK if number else _DIM)
    figure.savefig(path, dpi=dpi, format="png", metadata={"Software": None})


class _Writer:
    """Writes text as it is: no markup, in the fonts there are."""

    def __init__(self, axes: Any, fonts: list[str]) -> None:
        self._axes, self._fonts = axes, fonts

    def __call__(self, x: float, y: float, text: str, size: float, **options: Any) -> None:
        style = {"va": "center_baseline", "color": _INK, "family": self._fonts, **options}
        self._axes.text(x, y, text, size=size * _POINT, parse_math=False, **style)


def _draw_graph(axes: Any, write: _Writer, picture: Picture, left: float, top: float) -> None:
    for head, (x, y) in picture.heads:
        write(left + x, top + y, head, 10.5, color=_DIM, ha="center")
    for arrow in sorted(picture.arrows, key=lambda arrow: arrow.number is not None):
        _draw_arrow(axes, write, arrow, left, top)
    for box in picture.boxes:
        _draw_box(axes, write, box, left, top)


def _draw_arrow(axes: Any, write: _Writer, arrow: Arrow, left: float, top: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    hop = arrow.number is not None
    curve = Curve(
        [(left + x, top + y) for x, y in arrow.points], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    )
    style: dict[str, Any] = {
        "color": _HOP if hop else _LINE,
        "linewidth": 1.2,
        "linestyle": (0, (2, 3)) if arrow.aside else "-",
    }
    axes.add_patch(
        FancyArrowPatch(path=curve, arrowstyle="-|>" if hop else "-", mutation_scale=9, shrinkA=0, shrinkB=0, **style)
    )
    if arrow.number is not None:
        x, y = left + arrow.badge[0], top + arrow.badge[1]
        badge = {"boxstyle": "circle,pad=0.25", "facecolor": _HOP, "edgecolor": "none"}
        write(x, y, str(arrow.number), 10, color="white", weight="bold", ha="center", bbox=badge, zorder=6)
        halo = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        if arrow.label:
            write(x + 9, y - 17, arrow.label, 10.5, color=_HOP, ha="right", bbox=halo, zorder=5)


def _draw_box(axes: Any, write: _Writer, box: Box, left: float, top: float) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    x, y = left + box.x, top + box.y
    rounding = box.height / 2 if box.kind in ("question", "entity") else 9
    frame: dict[str, Any] = {
        "facecolor": _FILLS[box.kind],
        "edgecolor": _EDGES[box.kind],
        "linewidth": 0.9,
        "zorder": 3,
    }
    corner = (x, y - box.height / 2)
    shape = f"round,pad=0,rounding_size={rounding}"
    dashes = "--" if box.kind == "way" else "-"
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=shape, linestyle=dashes, **frame))
    middle = x + box.width / 2
    ink = "white" if box.kind == "question" else _INK
    write(middle, y - 8 if box.note else y, box.label, 12, color=ink, weight="bold", ha="center", zorder=4)
    if box.note:
        write(middle, y + 8, box.note, 10.5, color=_DIM, ha="center", zorder=4)
    if box.kind == "hit":
        length = max(2.5, (box.width - 24) * box.score)
        axes.add_patch(Rectangle((x + 12, y + box.height / 2 - 6), length, 2.5, facecolor="#12a594", zorder=4))


def _legend(explanation: Explanation, picture: Picture, letters: int) -> list[tuple[str, str]]:
    """Return the lines below the picture: the number of a hop, if one starts there, and the text."""
    drawn = {arrow.number for arrow in picture.arrows}
    lines: list[tuple[str, str]] = []
    for hop in explanation.hops:
        if hop.number in drawn:
            lines += [(str(hop.number), shorten(_way(hop), letters))]
            lines += [("", line) for line in textwrap.wrap(shorten(hop.sentence, 2 * letters), letters)]
    if picture.left_out:
        lines.append(("", f"{picture.left_out} more hits are not drawn."))
    return lines


def _way(hop: Hop) -> str:
    start, end = (printable(source.title or source.id) for source in (hop.source, hop.target))
    return f"{start} → {end}, by “{printable(hop.name)}” ({hop.kind})"
