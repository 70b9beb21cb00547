"""Explaining a search: what is in it, what is not, and what hostile passages can do to it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hybridmem_plugins import Explanation, HybridMemory, Passage
from hybridmem_plugins.cli import app
from hybridmem_plugins.retrieval.explain_layout import MAX_DRAWN, picture_of
from hybridmem_plugins.retrieval.model import ROUTES

QUESTION = "Who designed the machine that Ada Lovelace wrote for?"
PASSAGES = [
    Passage("She wrote the first program, for the Analytical Engine.", "Ada Lovelace", "ada"),
    Passage("It was designed in 1837 by Charles Babbage. It was never built.", "Analytical Engine", "engine"),
    Passage("He was an English mathematician.", "Charles Babbage", "babbage"),
    Passage("A loom weaves cloth from thread.", "Loom", "loom"),
    Passage("Tea is a drink made from leaves.", "Tea", "tea"),
]
HOSTILE = "<script>alert(1)</script> & \"quotes' </svg><img src=x onerror=alert(2)>"


@pytest.fixture
def memory() -> HybridMemory:
    memory = HybridMemory()
    memory.add(PASSAGES)
    return memory


class Page(HTMLParser):
    """Collects tags and attributes of a page, and fails where elements do not close in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_says_entities_route_seeds_hops_and_scores(memory: HybridMemory) -> None:
    why = memory.explain(QUESTION, k=3)
    assert [(entity.said, [p.id for p in entity.passages]) for entity in why.entities] == [("ada lovelace", ["ada"])]
    assert (why.asked_route, why.route) == ("auto", "both")
    assert "ada lovelace" in why.reason
    assert why.seeds[0].passage.id == "ada"
    assert (why.seeds[0].strength, why.seeds[0].entities) == (1.0, ("ada lovelace",))
    strengths = [seed.strength for seed in why.seeds]
    assert strengths == sorted(strengths, reverse=True)
    hop = next(hop for hop in why.hops if (hop.source.id, hop.target.id) == ("ada", "engine"))
    assert (hop.name, hop.kind) == ("analytical engine", "forward")
    assert hop.sentence == "She wrote the first program, for the Analytical Engine."


@pytest.mark.parametrize("route", ["auto", "semantic", "relational", "both", "vector"])
def test_hits_are_those_of_search(memory: HybridMemory, route: Any) -> None:
    why = memory.explain(QUESTION, k=3, route=route)
    assert list(why.hits) == memory.search(QUESTION, k=3, route=route)
    assert why.asked_route == route
    if route in ("semantic", "vector"):
        assert not why.seeds
        assert not why.hops
    for hit in why.hits:
        assert [hop.target.id for hop in why.hops_to(hit)] == [move["to"] for move in hit.provenance["path"]]


def test_hops_are_numbered_once_each_in_the_order_of_the_hits(memory: HybridMemory) -> None:
    why = memory.explain(QUESTION, k=5)
    assert [hop.number for hop in why.hops] == list(range(1, len(why.hops) + 1))
    assert len({(hop.source, hop.target, hop.name, hop.kind) for hop in why.hops}) == len(why.hops)
    assert {hop.number for hit in why.hits for hop in why.hops_to(hit)} == {hop.number for hop in why.hops}


def test_a_misspelt_name_and_an_alias_say_what_they_were_taken_for() -> None:
    with HybridMemory(aliases={"the Countess": "Ada Lovelace"}) as memory:
        memory.add(PASSAGES)
        alias = memory.explain("What did the Countess write?").entities[0]
        misspelt = memory.explain("What did Ada Lovelase write?").entities[0]
    assert (alias.said, alias.name) == ("the countess", "ada lovelace")
    assert (misspelt.said, misspelt.name) == ("ada lovelase", "ada lovelace")


def test_a_filter_keeps_what_it_excludes_out_of_every_form(tmp_path: Path) -> None:
    secret = "Zorblax"
    with HybridMemory() as memory:
        memory.add([Passage(p.text, p.title, p.id, {"tenant": "a"}) for p in PASSAGES])
        memory.add(
            [
                Passage(
                    f"{secret} owns the Analytical Engine of Ada Lovelace.", f"{secret} papers", "s1", {"tenant": "b"}
                ),
                Passage(f"Ada Lovelace wrote to {secret}.", "Ada Lovelace", "s2", {"tenant": "b"}),
            ]
        )
        open_to_all = memory.explain(QUESTION)
        mine = memory.explain(QUESTION, filter={"tenant": "a"})
    assert secret in open_to_all.to_text() + open_to_all.to_html()  # or the test shows nothing
    assert mine.filtered
    assert not open_to_all.filtered
    for form in (mine.to_text(), mine.to_html(), json.dumps(mine.to_dict())):
        assert secret not in form
        assert not re.search(r"\bs[12]\b", form.replace("<style>", ""))
    assert {p.id for entity in mine.entities for p in entity.passages} == {"ada"}


def test_an_empty_memory_and_a_filter_that_excludes_all_explain_nothing(tmp_path: Path) -> None:
    with HybridMemory() as memory:
        empty = memory.explain(QUESTION)
        before = [memory.explain(QUESTION, filter={"tenant": "nobody"}, route=route) for route in ROUTES]
        memory.add(PASSAGES)
        nothing = memory.explain(QUESTION, filter={"tenant": "nobody"})
        after = [memory.explain(QUESTION, filter={"tenant": "nobody"}, route=route) for route in ROUTES]
    assert before == after  # nothing tells that others have passages here
    for why in (empty, nothing):
        assert why.hits == ()
        assert why.seeds == ()
        assert why.entities == ()
        assert "none" in why.to_text()
        Page(why.to_html())
        json.dumps(why.to_dict())
        pytest.importorskip("matplotlib")
        why.to_png(tmp_path / "empty.png")
    assert empty.reason == "the memory is empty"


@pytest.mark.parametrize("bad", [{"question": " "}, {"question": "x", "k": 0}, {"question": "x", "route": "no"}])
def test_bad_input_is_refused_as_by_search(memory: HybridMemory, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        memory.explain(**bad)


def test_plain_json_there_and_back(memory: HybridMemory) -> None:
    parts = memory.explain(QUESTION, k=3).to_dict()
    assert json.loads(json.dumps(parts, allow_nan=False)) == parts
    assert set(parts) == {
        "question", "asked_route", "route", "reason", "filtered", "entities", "seeds", "hops", "hits",
    }  # fmt: skip
    assert parts["hops"][0].keys() == {"number", "source", "target", "name", "kind", "sentence"}
    assert parts["hits"][0]["id"] == "ada"


def test_text_shows_each_part(memory: HybridMemory) -> None:
    text = memory.explain(QUESTION, k=3).to_text()
    assert "Route: both (auto asked for): the question names 'ada lovelace'" in text
    assert "  1.00  Ada Lovelace [ada], named by “ada lovelace”" in text
    assert "Ada Lovelace [ada] → Analytical Engine [engine], by “analytical engine” (forward)" in text
    assert "graph #" in text


def hostile() -> Explanation:
    with HybridMemory() as memory:
        memory.add(
            [
                Passage(
                    f"{HOSTILE} was designed by Eve Mallory. \x1b[31m\x00\u202e",
                    HOSTILE,
                    f"{HOSTILE}1",
                    {"source": HOSTILE},
                ),
                Passage(f"She met Bob. {HOSTILE}", "Eve Mallory", "' onload='alert(3)"),
                Passage("$\\frac{1}{$ is no formula. $x_", "$\\bad{$ Bob", "bob"),
            ]
        )
        return memory.explain(f"Who designed {HOSTILE} that Eve Mallory met?")


def test_a_page_shows_hostile_text_as_text() -> None:
    html = hostile().to_html()
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object", "link", "a", "form"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]", html)


def test_a_page_loads_nothing(memory: HybridMemory) -> None:
    page = Page(memory.explain(QUESTION).to_html())
    urls = [
        value for _, attributes in page.tags for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
    ]  # fmt: skip
    assert urls == []
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "@import" not in memory.explain(QUESTION).to_html()


def test_text_cannot_move_the_cursor() -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", hostile().to_text())


def test_the_name_is_marked_in_its_sentence(memory: HybridMemory) -> None:
    assert "for the <mark>Analytical Engine</mark>." in memory.explain(QUESTION, k=3).to_html()


def test_the_same_picture_from_another_memory(memory: HybridMemory) -> None:
    with HybridMemory() as other:
        other.add(PASSAGES)
        assert other.explain(QUESTION).to_html() == memory.explain(QUESTION).to_html()


def test_boxes_do_not_overlap_and_stand_within_the_picture(memory: HybridMemory) -> None:
    memory.add([Passage(f"Ada Lovelace met Person {i} and the Analytical Engine.", f"Person {i}") for i in range(30)])
    picture = picture_of(memory.explain(QUESTION, k=20))
    assert picture.left_out == 20 - MAX_DRAWN
    assert sum(box.kind == "hit" for box in picture.boxes) == MAX_DRAWN
    for i, a in enumerate(picture.boxes):
        assert a.x >= 0
        assert a.x + a.width <= picture.width
        assert a.y - a.height / 2 >= 0
        assert a.y + a.height / 2 <= picture.height
        for b in picture.boxes[:i]:
            apart = a.x >= b.x + b.width or b.x >= a.x + a.width
            assert apart or abs(a.y - b.y) >= (a.height + b.height) / 2


def test_a_hop_leads_rightwards_from_what_the_question_found(memory: HybridMemory) -> None:
    picture = picture_of(memory.explain(QUESTION, k=2))
    at = {box.full: box.x for box in picture.boxes}
    assert at["Question"] < at["ada lovelace"] < at["Ada Lovelace"]
    assert all(arrow.number is not None for arrow in picture.arrows if arrow.points[0][0] > at["Ada Lovelace"])


def test_png_of_hostile_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    why = hostile()
    why.to_png(tmp_path / "a.png")
    why.to_png(tmp_path / "b.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert content == (tmp_path / "b.png").read_bytes()


def test_png_without_matplotlib_names_the_extra(
    memory: HybridMemory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"hybridmem-plugins\[plot\]"):
        memory.explain(QUESTION).to_png(tmp_path / "x.png")


async def test_async_twin_explains_the_same(memory: HybridMemory) -> None:
    one, other = await asyncio.gather(memory.aexplain(QUESTION, k=3), memory.aexplain(QUESTION, k=3, route="semantic"))
    assert one == memory.explain(QUESTION, k=3)
    assert other.route == "semantic"


def test_command_line_explains_and_writes_files(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    with HybridMemory(path=tmp_path / "memory") as memory:
        memory.add(PASSAGES)
    arguments = ["query", str(tmp_path / "memory"), QUESTION, "-k", "3"]
    shown = CliRunner().invoke(app, [*arguments, "--explain"])
    assert shown.exit_code == 0, shown.output
    assert "Ada Lovelace [ada] → Analytical Engine [engine]" in shown.stdout
    written = CliRunner().invoke(app, [*arguments, "--json", "--html", str(tmp_path / "why.html")])
    assert written.exit_code == 0, written.output
    assert json.loads(written.stdout)["hops"]
    Page((tmp_path / "why.html").read_text(encoding="utf-8"))
