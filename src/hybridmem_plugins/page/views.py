"""How answers, explanations and broken contexts are drawn with NiceGUI.

Whatever comes from passages, models or users is shown as the text of an element. The two places that need markup, the
picture and the marked damage, take it from functions that escape, and the browser sanitises it once more.
"""

from __future__ import annotations

from nicegui import ui

from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.preview import COLOURS as LEVELS
from hybridmem_plugins.augmentation.preview import piece_html
from hybridmem_plugins.page.breaking import Broken
from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.retrieval.explain import ROUTE_NAMES, Explanation, score_text, source_of
from hybridmem_plugins.retrieval.explain_html import svg
from hybridmem_plugins.retrieval.explain_layout import picture_of
from hybridmem_plugins.retrieval.model import Hit
from hybridmem_plugins.system.answer import Answer

LONGEST = 600
"""Characters of a passage that the list shows."""

SCORES = (
    "Vectors: rank and cosine similarity. Words: rank and BM25 score. Graph: rank, and what the walk added to the "
    "score in log-odds."
)


def box(classes: str, tag: str = "div") -> ui.element:
    """Make an element with a class of the style sheet."""
    return ui.element(tag).classes(classes)


def text(content: str, classes: str = "", tag: str = "div") -> None:
    """Show text as text, whatever it holds."""
    label = ui.label(printable(content)).classes(classes)
    label.tag = tag


def draw_answer(answer: Answer) -> None:
    """Show an answer with its citations, or why there is none, and how long it took."""
    text(answer.text, "text declined" if answer.abstained else "text")
    if answer.cited:
        with box("chips"):
            for source in answer.cited:
                text(source.label, "chip")
    if answer.reason:
        text(answer.reason[:1].upper() + answer.reason[1:] + ".", "small")
    if answer.abstained and answer.reply and answer.reply.strip() != answer.text:
        text(f"The model had written: {shorten(answer.reply, 300)}", "small dim")
    if answer.model:
        told = answer.timings
        counted = f" · {answer.input_tokens} tokens read, {answer.output_tokens} written" if answer.input_tokens else ""
        text(f"{told['total']:.1f} s, retrieval {1000 * told['retrieval']:.0f} ms{counted}", "small dim")


def draw_walk(explanation: Explanation) -> None:
    """Show the route, the subgraph that was walked, and the sentence behind each hop."""
    asked = "" if explanation.route == explanation.asked_route else f" ({explanation.asked_route} asked for)"
    text(f"Route {explanation.route}{asked}: {explanation.reason}.")
    if not explanation.hits:
        text("Nothing was found.", "dim")
        return
    ui.html(svg(picture_of(explanation))).classes("walk")
    for hop in explanation.hops:
        with box("hop"):
            text(str(hop.number), "number")
            with box(""):
                named = f"{hop.source.title or hop.source.id} → {hop.target.title or hop.target.id}"
                text(f"{named}, by “{hop.name}” ({hop.kind})")
                if hop.sentence:
                    text(shorten(hop.sentence, LONGEST), "dim", "q")
                else:
                    text("said by a title", "dim small")
    if not explanation.hops:
        text("No hop: the question itself found everything.", "dim")


def draw_hits(explanation: Explanation, read: int) -> None:
    """List the passages with the rank and score of each route, and what led to them."""
    for rank, hit in enumerate(explanation.hits, 1):
        with box("hit"):
            text(str(rank), "dim")
            with box("body"):
                source = source_of(hit.passage)
                text(source.title or source.id, tag="b")
                text(shorten(hit.passage.text, LONGEST), tag="p")
                with box("chips"):
                    _draw_routes(hit)
                    for hop in explanation.hops_to(hit):
                        text(f"hop {hop.number}", "chip plain")
                    if rank > read:
                        text("not read by the models", "chip plain")
                    if where := hit.passage.metadata.get("source"):
                        text(str(where), "chip plain")
            with box("score"):
                text(f"{hit.score:.3f}")
                with box("bar"):
                    box("").style(f"width:{hit.score:.1%}")
    if explanation.hits:
        text(SCORES, "dim small")


def _draw_routes(hit: Hit) -> None:
    for name, label in ROUTE_NAMES.items():
        found = hit.provenance["routes"].get(name)
        if found:
            text(f"{label} #{found['rank']} ({score_text(name, found['score'])})", "chip")


def draw_broken(broken: Broken) -> None:
    """Show what the models read in place of what was retrieved, every edit marked by the level of its operator."""
    if not broken.passages:
        text("Nothing is left of the context.", "dim")
    present = {OPERATORS[name].level for name in broken.operators}
    if present:
        with box("legend"):
            for level in LEVELS:
                if level in present:
                    text(level, level, "mark")
    for passage, pieces, stray in zip(broken.passages, broken.pieces, broken.strays, strict=True):
        with box("broken"):
            text((passage.title or passage.id or "") + (" (a stray)" if stray else ""), tag="b")
            ui.html("".join(map(piece_html, pieces))).classes("damage")
