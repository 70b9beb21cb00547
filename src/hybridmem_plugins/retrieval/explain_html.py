"""An explanation as one page that needs neither network nor script."""

from __future__ import annotations

from html import escape
from string import Template

from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.retrieval.explain import ROUTE_NAMES, Explanation, Hop, Source, score_text, source_of
from hybridmem_plugins.retrieval.explain_layout import Arrow, Box, Picture, picture_of
from hybridmem_plugins.retrieval.model import Hit

_SNIPPET = 320
_BADGE = 9
_PUNCTUATION = " .,;:!?()[]{}\"'“”‘’«»*_"


def page(explanation: Explanation) -> str:
    """Return the page; whatever passages hold, it is shown as text."""
    route = f"<b>{_text(explanation.route)}</b>"
    if explanation.asked_route != explanation.route:
        route += f" <span class=dim>({_text(explanation.asked_route)} asked for)</span>"
    picture = picture_of(explanation)
    left_out = f"<p class=dim>The other {picture.left_out} hits are in the table only.</p>" if picture.left_out else ""
    return _PAGE.substitute(
        question=_text(explanation.question),
        route=f"{route}: {_text(explanation.reason)}" + ("; a filter holds" if explanation.filtered else ""),
        picture=svg(picture) + left_out if explanation.hits else "<p class=dim>Nothing was found.</p>",
        entities=_entities(explanation),
        seeds=_seeds(explanation),
        hops="".join(_hop(hop) for hop in explanation.hops)
        or "<li class='none dim'>None: the question found all.</li>",
        hits="".join(_hit(rank, hit, explanation) for rank, hit in enumerate(explanation.hits, 1)),
        style=COLOURS + PICTURE_STYLE + _PAGE_STYLE,
    )


def svg(picture: Picture) -> str:
    """Draw the picture as inline SVG."""
    size = f"{picture.width:.0f} {picture.height:.0f}"
    heads = "".join(
        f"<text class=head x={x:.0f} y={y:.0f} text-anchor=middle>{_text(head)}</text>"
        for head, (x, y) in picture.heads
        if head
    )
    arrows = sorted(picture.arrows, key=lambda arrow: arrow.number is not None)
    return (
        f"<svg viewBox='0 0 {size}' style='max-width:{picture.width:.0f}px' role=img aria-label='The subgraph'>"
        f"<defs>{_TIP}</defs>{heads}{''.join(map(_curve, arrows))}{''.join(map(_box, picture.boxes))}"
        f"{''.join(map(_badge, arrows))}</svg>"
    )


def _curve(arrow: Arrow) -> str:
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = arrow.points
    kind = "way" if arrow.number is None else "hop aside" if arrow.aside else "hop"
    path = f"M{ax:.1f} {ay:.1f}C{bx:.1f} {by:.1f} {cx:.1f} {cy:.1f} {dx:.1f} {dy:.1f}"
    tip = "" if arrow.number is None else " marker-end='url(#tip)'"
    return f"<path class='{kind}' d='{path}'{tip}/>"


def _badge(arrow: Arrow) -> str:
    if arrow.number is None:
        return ""
    x, y = arrow.badge
    name = f"<text class=name x={x + _BADGE:.1f} y={y - 13:.1f} text-anchor=end>{_text(arrow.label)}</text>"
    return (
        f"<g class=badge><title>{_text(arrow.detail or arrow.label)}</title>"
        f"<circle cx={x:.1f} cy={y:.1f} r={_BADGE} />"
        f"<text x={x:.1f} y={y + 3.5:.1f} text-anchor=middle>{arrow.number}</text>{name if arrow.label else ''}</g>"
    )


def _box(box: Box) -> str:
    top, middle = box.y - box.height / 2, box.x + box.width / 2
    round_ = box.height / 2 if box.kind in ("question", "entity") else 9
    parts = [
        f"<rect x={box.x:.1f} y={top:.1f} width={box.width:.1f} height={box.height:.1f} rx={round_:.1f} />",
        f"<text x={middle:.1f} y={box.y - 3 if box.note else box.y + 4.5:.1f} text-anchor=middle>"
        f"{_text(box.label)}</text>",
    ]
    if box.note:
        parts.append(f"<text class=note x={middle:.1f} y={box.y + 13:.1f} text-anchor=middle>{_text(box.note)}</text>")
    if box.kind == "hit":
        full = box.width - 24
        bar = f"x={box.x + 12:.1f} y={top + box.height - 6:.1f} height=2.5 rx=1.2"
        parts.append(f"<rect class=bar {bar} width={max(2.5, full * box.score):.1f} />")
    return f"<g class='box {box.kind}'><title>{_text(box.full)}</title>{''.join(parts)}</g>"


def _entities(explanation: Explanation) -> str:
    items = []
    for entity in explanation.entities:
        taken = "" if entity.said == entity.name else f", taken for <b>{_text(entity.name)}</b>"
        more = f" <span class=dim>({entity.meanings} meanings)</span>" if entity.meanings > 1 else ""
        about = ", ".join(_source(source) for source in entity.passages)
        items.append(f"<li><b>{_text(entity.said)}</b>{taken}{more}: {about}</li>")
    return "".join(items) or "<li class='none dim'>The question says no name that a passage is about.</li>"


def _seeds(explanation: Explanation) -> str:
    items = [
        f"<li><span class=strength>{seed.strength:.2f}</span> {_source(seed.passage)}"
        + (" <span class=dim>named by the question</span>" if seed.entities else "")
        + "</li>"
        for seed in explanation.seeds
    ]
    return "".join(items) or "<li class='none dim'>None: the graph was not walked.</li>"


def _hop(hop: Hop) -> str:
    sentence = f"<q>{_marked(hop.sentence, hop.name)}</q>" if hop.sentence else "<span class=dim>said by a title</span>"
    return (
        f"<li><span class=number>{hop.number}</span><div>{_source(hop.source)} → {_source(hop.target)} "
        f"<span class=dim>by</span> {_text(hop.name)} <span class=kind>{_text(hop.kind)}</span>"
        f"<br>{sentence}</div></li>"
    )


def _hit(rank: int, hit: Hit, explanation: Explanation) -> str:
    routes = hit.provenance["routes"]
    cells = "".join(
        f"<td class=route>#{routes[name]['rank']} <span class=dim>{score_text(name, routes[name]['score'])}</span></td>"
        if name in routes
        else "<td class='route dim'>–</td>"
        for name in ROUTE_NAMES
    )
    numbers = "".join(f"<span class=number>{hop.number}</span>" for hop in explanation.hops_to(hit))
    where = hit.passage.metadata.get("source")
    source = f"<div class=dim>{_text(str(where))}</div>" if where else ""
    return (
        f"<tr><td class=rank>{rank}</td><td class=passage>{_source(source_of(hit.passage))}"
        f"<p>{_text(hit.passage.text, _SNIPPET)}</p>{source}</td>"
        f"<td class=score>{hit.score:.3f}<div class=bar><i style='width:{hit.score:.1%}'></i></div></td>"
        f"{cells}<td class=hops>{numbers or '<span class=dim>–</span>'}</td></tr>"
    )


def _source(source: Source) -> str:
    identifier = f"<code>{_text(source.id, 60)}</code>"
    return f"<bdi><b>{_text(source.title, 100)}</b></bdi> {identifier}" if source.title else identifier


def _marked(sentence: str, name: str) -> str:
    """Mark the name in its sentence, however it is spelt there."""
    flat = shorten(sentence, 600)
    tokens = flat.split(" ")
    count = name.count(" ") + 1
    for size in (count, count + 1, count + 2):
        for start in range(len(tokens) - size + 1):
            if name_key(" ".join(tokens[start : start + size])) == name:
                begin = len(" ".join([*tokens[:start], ""]))
                said = " ".join(tokens[start : start + size])
                begin += len(said) - len(said.lstrip(_PUNCTUATION))
                said = said.strip(_PUNCTUATION)
                return f"{escape(flat[:begin])}<mark>{escape(said)}</mark>{escape(flat[begin + len(said) :])}"
    return escape(flat)


def _text(text: str, length: int | None = None) -> str:
    return escape(printable(text) if length is None else shorten(text, length))


_TIP = (
    "<marker id=tip viewBox='0 0 8 8' refX=7 refY=4 markerWidth=7 markerHeight=7 orient=auto>"
    "<path d='M0 .8 7.4 4 0 7.2z'/></marker>"
)

COLOURS = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1c2024;--dim:#687076;--line:#dcdfe3;--hop:#0b7285;
--hit:#e6f6f4;--hit-line:#56b3a4;--way:#f1f3f5;--entity:#fff3d6;--entity-line:#dba63a;--bar:#12a594;--mark:#fdeeb5}
@media(prefers-color-scheme:dark){:root{--page:#111315;--card:#1a1d1f;--ink:#eceef0;--dim:#9ba1a6;--line:#32373b;
--hop:#5fd0de;--hit:#12302d;--hit-line:#2f7f74;--way:#24282b;--entity:#382a0b;--entity-line:#9a7425;--bar:#2dd4bf;
--mark:#5b4a10}}
"""
"""Custom properties of a page that shows the picture, for light and dark."""

PICTURE_STYLE = """
svg{display:block;width:100%;min-width:640px;height:auto;margin:0 auto}
svg text{fill:var(--ink);font-size:12.5px;font-weight:600}
svg .head{fill:var(--dim);font-size:11px;font-weight:400}svg .note{fill:var(--dim);font-size:11px;font-weight:400}
.box rect{fill:var(--way);stroke:var(--line)}.hit rect{fill:var(--hit);stroke:var(--hit-line)}
.entity rect{fill:var(--entity);stroke:var(--entity-line)}.question rect{fill:var(--ink);stroke:none}
.question text{fill:var(--card)}.box .bar{fill:var(--bar);stroke:none}.way rect{stroke-dasharray:4 3;stroke:var(--dim)}
path.way{fill:none;stroke:var(--line);stroke-width:1.6}path.hop{fill:none;stroke:var(--hop);stroke-width:1.7}
path.aside{stroke-dasharray:3 4;stroke-width:1.3;opacity:.75}marker path{fill:var(--hop)}
.badge circle{fill:var(--hop)}.badge text{fill:var(--card);font-size:10.5px}
.badge .name{fill:var(--hop);font-weight:400;font-size:11px;paint-order:stroke;stroke:var(--card);stroke-width:4px}
"""
"""How the parts of the picture look; uses `COLOURS`."""

_PAGE_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 56px}
h1{font-size:25px;line-height:1.25;margin:0 0 6px;text-wrap:balance;overflow-wrap:anywhere}
h2{font-size:12px;letter-spacing:.07em;text-transform:uppercase;color:var(--dim);margin:0 0 10px;font-weight:600}
.lead{margin:0 0 22px;overflow-wrap:anywhere}.dim{color:var(--dim)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:0 0 16px;
min-width:0;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:16px}
@media(max-width:760px){.pair{grid-template-columns:1fr;gap:0}}
.scroll{overflow-x:auto}
ul{list-style:none;margin:0;padding:0}li{margin:0 0 6px}.hops li{display:flex;gap:10px;margin:0 0 12px}
.number{flex:none;display:inline-block;min-width:20px;height:20px;border-radius:10px;background:var(--hop);
color:var(--card);font:600 11px/20px system-ui,sans-serif;text-align:center;padding:0 5px;margin:2px 2px 0 0}
.kind,code{font-size:12px;color:var(--dim);background:var(--way);border-radius:4px;padding:1px 5px}
code{font-family:ui-monospace,Menlo,Consolas,monospace}.strength{font-variant-numeric:tabular-nums;color:var(--dim)}
q{color:var(--dim)}mark{background:var(--mark);color:var(--ink);border-radius:3px;padding:0 2px}
table{border-collapse:collapse;width:100%;min-width:720px;font-variant-numeric:tabular-nums}
th{font-size:12px;text-align:left;color:var(--dim);font-weight:600;padding:0 12px 8px 0;white-space:nowrap}
td{vertical-align:top;padding:12px 12px 12px 0;border-top:1px solid var(--line)}
.passage{width:52%;overflow-wrap:anywhere}.passage p{margin:4px 0 0}.passage .dim{font-size:12px}
.route{white-space:nowrap}.rank{color:var(--dim)}.score .bar{width:64px;height:4px;border-radius:2px;
background:var(--line);margin-top:5px}.score i{display:block;height:4px;border-radius:2px;background:var(--bar)}
footer{font-size:13px;color:var(--dim);max-width:80ch}
"""

_PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>Why: $question</title>
<style>$style</style></head><body><main>
<h1><bdi>$question</bdi></h1><p class="lead">Route $route</p>
<section><h2>How it was found</h2><div class="scroll">$picture</div></section>
<section><h2>Hops and the sentences that justify them</h2><ul class="hops">$hops</ul></section>
<div class="pair"><section><h2>Names the question says</h2><ul>$entities</ul></section>
<section><h2>Seeds of the walk and their strength</h2><ul>$seeds</ul></section></div>
<section><h2>Hits</h2><div class="scroll"><table><thead><tr><th>#</th><th>Passage</th><th>Fused score</th>
<th>Vectors</th><th>Words</th><th>Graph</th><th>Hops</th></tr></thead><tbody>$hits</tbody></table></div></section>
<footer>Vectors: rank and cosine similarity. Words: rank and BM25 score. Graph: rank, and what the walk added to the
score in log-odds. A dashed hop joins two passages that the question found by itself: it raised the second one's score.
forward: the first passage mentions what the second is about. backward: the other way round. shared: both mention the
same rare name.</footer>
</main></body></html>
"""
)
