"""Reading files and folders into passages."""

from __future__ import annotations

import doctest
import json
import os
import sys
import time
from pathlib import Path

import pytest

from hybridmem_plugins.extraction import chunks, files, read_html, read_markdown
from hybridmem_plugins.extraction.chunks import Block, count_words, pack
from hybridmem_plugins.extraction.files import SUFFIXES, read_passages
from hybridmem_plugins.extraction.read_html import html_parts
from hybridmem_plugins.extraction.read_markdown import markdown_parts
from hybridmem_plugins.passage import Passage


class Skipped(list[tuple[str, str]]):
    """Collects what is reported, by file name."""

    def __call__(self, path: Path, reason: str) -> None:
        self.append((path.name, reason))


@pytest.fixture
def skipped() -> Skipped:
    return Skipped()


def read_one(folder: Path, name: str, content: str, **options: int) -> list[Passage]:
    (folder / name).write_text(content, encoding="utf-8")
    return list(read_passages(folder / name, **options))


def test_markdown_sections_keep_heading_document_path_and_links(tmp_path: Path) -> None:
    content = """Before any heading.

# Guide to *flash*

By [Fujio Masuoka](people.md) and [[Toshiba]].

## Install `it` {#install}

Run pip.

### Linux

On Linux.

## Use

- # no heading in a list

> # none in a quotation
"""
    passages = read_one(tmp_path, "guide.md", content)
    assert [(p.id, p.title, p.metadata.get("section")) for p in passages] == [
        ("guide.md#0", "Guide to flash", None),
        ("guide.md#1", "Guide to flash", "Guide to flash"),
        ("guide.md#2", "Install it", "Guide to flash > Install it"),
        ("guide.md#3", "Linux", "Guide to flash > Install it > Linux"),
        ("guide.md#4", "Use", "Guide to flash > Use"),
    ]
    assert {p.metadata["document"] for p in passages} == {"Guide to flash"}
    assert {p.metadata["source"] for p in passages} == {"guide.md"}
    assert passages[1].text == "By [Fujio Masuoka](people.md) and [[Toshiba]]."


@pytest.mark.parametrize(
    "front",
    ['---\ntitle: "Front"\ntags:\n  - a\n---\n', "---\nTitle: Front\n...\n", '+++\ndate = 1\ntitle = "Front"\n+++\n'],
)
def test_markdown_front_matter_names_the_document(tmp_path: Path, front: str) -> None:
    passages = read_one(tmp_path, "a.md", front + "Intro.\n\n# One\n\nText.")
    assert [(p.title, p.text, p.metadata["document"]) for p in passages] == [
        ("Front", "Intro.", "Front"),
        ("One", "Text.", "Front"),
    ]


def test_markdown_rule_at_the_top_is_no_front_matter(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.md", "---\n\nJust words.\n\n---\n\nMore.")[0].text == "Just words.\n\nMore."


def test_markdown_reference_links_carry_their_target(tmp_path: Path) -> None:
    content = "# A\n\nSee [the notes][1], [Intel] and [none][2].\n\n# B\n\n[1]: notes.md\n[intel]: http://i.com 'x'\n"
    (passage,) = read_one(tmp_path, "a.md", content)
    assert passage.text == "See [the notes](notes.md), [Intel](http://i.com) and [none][2]."


def test_markdown_html_headings_count_and_comments_vanish(tmp_path: Path) -> None:
    content = '<h1 align="center">Project</h1>\n\n<!-- hidden -->\n\nBody.\n\n<div>\nIn <b>a</b> div\n</div>\n'
    (passage,) = read_one(tmp_path, "a.md", content)
    assert (passage.title, passage.text) == ("Project", "Body.\n\nIn a div")


def test_code_and_tables_stay_whole_up_to_four_times_the_limit(tmp_path: Path) -> None:
    code = "```\n" + "\n\n".join(f"step {n}. Done." for n in range(10)) + "\n```"
    table = "| a | b |\n|---|---|\n" + "\n".join(f"| x{n} | y{n} |" for n in range(5))
    content = f"# H\n\nSome words before.\n\n{code}\n\n{table}\n\nSome words after."
    passages = read_one(tmp_path, "a.md", content, max_words=10)
    assert [p.text for p in passages] == ["Some words before.", code, table, "Some words after."]
    assert {p.title for p in passages} == {"H"}
    longer = read_one(tmp_path, "b.md", "```\n" + "word word\n" * 40 + "```", max_words=10)
    assert len(longer) > 4
    assert all(count_words(p.text) <= 10 for p in longer)


def test_code_inside_a_long_list_stays_whole(tmp_path: Path) -> None:
    content = "- one two three four five six\n\n  ```\n  a. b\n\n  c. d\n  ```\n\n- seven eight nine ten eleven\n"
    texts = [p.text for p in read_one(tmp_path, "a.md", content, max_words=8)]
    assert texts == ["- one two three four five six", "```\na. b\n\nc. d\n```", "- seven eight nine ten eleven"]


def test_long_sections_split_at_sentences_and_lose_no_word(tmp_path: Path) -> None:
    sentences = [f"Sentence {n} has exactly seven words here." for n in range(60)]
    content = "# Long\n\n" + " ".join(sentences[:40]) + "\n\n" + " ".join(sentences[40:])
    passages = read_one(tmp_path, "a.md", content, max_words=50)
    assert all(count_words(p.text) <= 50 and p.text.endswith("here.") for p in passages)
    assert " ".join(" ".join(p.text.split()) for p in passages) == " ".join(sentences)
    assert {p.title for p in passages} == {"Long"}
    assert [p.id for p in passages] == [f"a.md#{n}" for n in range(len(passages))]
    assert min(count_words(p.text) for p in passages) >= 20, "no stump at the end"


@pytest.mark.parametrize("text", ["字" * 3000, "x" * 30_000, "word " * 3000, "一句话。" * 900, "a\n" * 2000])
def test_text_without_sentences_is_split_all_the_same(text: str) -> None:
    pieces = pack([Block(text)], 100)
    assert all(count_words(piece) <= 100 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert len(pieces) > 5


def test_plain_text_packs_paragraphs_under_the_name_of_the_file(tmp_path: Path) -> None:
    passages = read_one(tmp_path, "core_memory-notes.txt", "One two.\r\n\r\n\r\nThree\nfour.\n \nFive.", max_words=4)
    assert [p.text for p in passages] == ["One two.\n\nThree\nfour.", "Five."]
    assert {p.title for p in passages} == {"core memory notes"}


def test_html_keeps_title_headings_links_code_and_tables(tmp_path: Path) -> None:
    content = """<!doctype html><html><head><title>Memory &amp; more</title><style>p{}</style>
<script>if (a < b) { alert("no") }</script></head><body><nav><ul><li><a href="/">Home</a></ul></nav>
<p>Before.<h2>Flash <a href="#f">#</a></h2><p>By <a href="Fujio_Masuoka_(engineer)">Fujio
 <b>Masuoka</b></a>, at<br>Toshiba<a href="#1">[1]</a>. <![CDATA[x]]>
<ul><li>one<li> <li><p>two</p></ul>
<table><tr><th>a<th>b</tr><tr><td><p>1</p><td><a href="y z">2</a></table>
<pre><code>def f():
    return 1
</code></pre><svg><text>drawn</text></svg><a href="card.html"><div><p>Card</p></div></a></body></html>"""
    before, flash = read_one(tmp_path, "a.html", content)
    assert (before.title, before.text) == ("Memory & more", "Before.")
    assert (flash.title, flash.metadata["document"]) == ("Flash #", "Memory & more")
    assert flash.text.split("\n\n") == [
        "By [Fujio Masuoka](Fujio_Masuoka_%28engineer%29), at\nToshiba[1].",
        "- one",
        "- two",
        "a | b\n1 | [2](y%20z)",
        "```\ndef f():\n    return 1\n```",
        "[Card](card.html)",
    ]


@pytest.mark.parametrize(
    "broken", ["<nav><p>a<main>text", "<p>text<a href=x>", "<![x[y]]>text", "text</p></table></h1>"]
)
def test_broken_html_still_gives_its_text(broken: str) -> None:
    _, parts = html_parts(broken)
    assert [part.text for part in parts] == ["text"]


@pytest.mark.parametrize("cell", ["<td>a", "<td>", "<td><p>"])
def test_long_html_row_takes_linear_time(cell: str) -> None:
    started = time.process_time()
    parts = html_parts("<table><tr>" + cell * 50_000 + "<td>b<td>c</table>")[1]
    assert time.process_time() - started < 5
    assert parts[0].text.endswith("b | c")


@pytest.mark.parametrize("opened", ["<?x", "</", "<x "])
def test_html_of_much_markup_without_an_end_takes_linear_time(opened: str) -> None:
    started = time.process_time()
    assert html_parts("<p>Seen.</p>" + opened * 100_000)[1][0].text == "Seen."
    assert time.process_time() - started < 3


@pytest.mark.parametrize("head", ["# Title " + "{#a" * 100_000, "---\ntitle: a" + " " * 30_000 + "b\n---\nx"])
def test_odd_titles_of_markdown_take_linear_time(head: str) -> None:
    started = time.process_time()
    markdown_parts(f"{head}\n\nText.", 180)
    assert time.process_time() - started < 3


def test_html_of_many_comments_without_an_end_takes_linear_time() -> None:
    started = time.process_time()
    _, parts = html_parts("<p>Seen<!-- not seen --> too.</p>" + "<!--" * 20_000 + "x<p>Read on.")
    assert time.process_time() - started < 3
    assert parts[0].text.startswith("Seen too.")  # what becomes of the rest differs between versions of Python


def test_large_html_table_takes_linear_time() -> None:
    rows = "<tr><td>1</td><td>2</td></tr>" * 50_000
    (part,) = html_parts(f"<table>{rows}</table>")[1]
    assert part.text.count("\n") == 49_999


def test_json_lines_of_beir_and_of_others(tmp_path: Path, skipped: Skipped) -> None:
    records = [
        {"_id": "d1", "title": "DRAM", "text": "A charge.", "metadata": {"url": "u"}},
        {"id": 7, "text": "Number as id.", "language": "en", "metadata": None},
        {"text": "No id.", "title": ""},
        {"id": "x", "_id": "y", "text": "Both.", "metadata": "odd", "source": "elsewhere"},
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(record) for record in records), encoding="utf-8")
    passages = list(read_passages([path], on_skip=skipped))
    assert [(p.id, p.title, p.text) for p in passages] == [
        ("d1", "DRAM", "A charge."),
        ("7", None, "Number as id."),
        ("corpus.jsonl#4", None, "No id."),
        ("x", None, "Both."),
    ]
    assert [dict(p.metadata) for p in passages] == [
        {"source": "corpus.jsonl", "url": "u"},
        {"source": "corpus.jsonl", "language": "en"},
        {"source": "corpus.jsonl"},
        {"source": "elsewhere", "_id": "y", "metadata": "odd"},
    ]
    assert skipped == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON"),
        (b'["text"]', "a JSON object is needed, not list"),
        (b'{"title": "no text"}', "no 'text'"),
        (b'{"text": "  "}', "'text' is empty"),
        (b'{"text": 3}', "'text' is not a string"),
        (b'{"text": "a", "title": ["b"]}', "'title' is not a string"),
        (b'{"text": "a", "id": [1]}', "'id' is neither"),
        (b'{"text": "a", "score": NaN}', "NaN is no JSON number"),
        (b'{"text": "a", "score": -1e999}', "Out of range float"),
        (b'{"text": "a", "deep": ' + b"[" * 33 + b"]" * 33 + b"}", "nested deeper than 32 levels"),
        (b'{"text": "half \\ud83d"}', "surrogate"),
        (b'{"text": "caf\xe9"}', "not UTF-8"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": "again", "id": "first"}', "already used"),
    ],
)
def test_bad_json_line_is_named_and_the_rest_kept(tmp_path: Path, skipped: Skipped, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one", "id": "first"}\n' + line + b'\n{"text": "three"}\n')
    assert [p.text for p in read_passages(path, on_skip=skipped)] == ["one", "three"]
    ((name, told),) = skipped
    assert name == "a.jsonl"
    assert reason in told
    assert "line 2" in told or "already used" in told


def test_folder_is_walked_in_order_and_every_unread_file_is_named(tmp_path: Path, skipped: Skipped) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.md", "sub/a.TXT", "a.html", ".hidden.md", ".git/c.md"):
        (tmp_path / name).write_text("words", encoding="utf-8")
    for name, data in {
        "latin.md": "café".encode("latin-1"),
        "utf16.txt": "text".encode("utf-16"),
        "blank.md": b" \n",
        "blank.jsonl": b"",
        "zero.txt": b"a\0b",
        "zero.jsonl": b"a\0b",
        "image.png": b"\x89PNG",
        "Makefile": b"all:",
        "bare.md": b"# Only\n\n## Headings\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "dangling.md").symlink_to(tmp_path / "nothing.md")
    passages = list(read_passages([tmp_path], on_skip=skipped))
    assert [p.id for p in passages] == ["a.html#0", "b.md#0", "sub/a.TXT#0"]
    assert dict(skipped) == {
        "Makefile": "no suffix that tells its format",
        "bare.md": "no text in it",
        "blank.jsonl": "empty",
        "blank.md": "empty",
        "dangling.md": "unreadable: No such file or directory",
        "image.png": "unknown suffix '.png'",
        "latin.md": "not UTF-8 (byte 3)",
        "pipe.md": "neither a file nor a folder",
        "utf16.txt": "not UTF-8 (byte 0)",
        "zero.jsonl": "binary",
        "zero.txt": "binary",
    }
    assert len(skipped) == 11, "each is named once"


def test_links_to_folders_are_followed_once(tmp_path: Path, skipped: Skipped) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("words", encoding="utf-8")
    (tmp_path / "docs" / "up").symlink_to(tmp_path)
    (tmp_path / "docs" / "self.md").symlink_to("self.md")
    (tmp_path / "other.md").symlink_to(tmp_path / "docs" / "a.md")
    assert [p.id for p in read_passages(tmp_path, on_skip=skipped)] == ["docs/a.md#0"]
    assert {name: reason.split()[0] for name, reason in skipped} == {
        "up": "a",
        "self.md": "unreadable:",
        "other.md": "the",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission_is_named(tmp_path: Path, skipped: Skipped) -> None:
    (tmp_path / "a.md").write_text("words", encoding="utf-8")
    (tmp_path / "a.md").chmod(0)
    assert list(read_passages(tmp_path, on_skip=skipped)) == []
    assert skipped == [("a.md", "unreadable: Permission denied")]


def test_same_name_in_two_folders_gets_two_sources(tmp_path: Path, skipped: Skipped) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(name, encoding="utf-8")
    passages = list(read_passages([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.md"], on_skip=skipped))
    assert [p.id for p in passages] == ["a.md#0", "two/a.md#0"]
    assert len(skipped) == 1
    assert "the same file as" in skipped[0][1]


def test_base_gives_a_file_one_source_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("words", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "docs")
    for path in (tmp_path, tmp_path / "docs", tmp_path / "docs" / "a.md", Path(), Path("a.md"), Path("../docs")):
        assert [p.id for p in read_passages(path, base=tmp_path)] == ["docs/a.md#0"]
    (passage,) = read_passages("a.md", base=tmp_path / "elsewhere")
    assert passage.metadata["source"] == (tmp_path / "docs" / "a.md").as_posix()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_utf8_get_a_source_each(tmp_path: Path, skipped: Skipped) -> None:
    for name in (b"a\xfe.md", b"a\xff.md"):
        (tmp_path / os.fsdecode(name)).write_text(f"Text of {name!r}.", encoding="utf-8")
    together = [passage.id for passage in read_passages(tmp_path, on_skip=skipped, base=tmp_path)]
    alone = [passage.id for path in sorted(tmp_path.iterdir()) for passage in read_passages(path, base=tmp_path)]
    assert together == alone, "in whatever run"
    assert len(set(together)) == 2
    assert all(str(identity).startswith("a\N{REPLACEMENT CHARACTER}.md~") for identity in together)
    assert skipped == []


def test_lengths_of_documents_are_reported(tmp_path: Path, skipped: Skipped) -> None:
    for name, content in {
        "a.md": "# A\n\na\n\n# B\n\nb",
        "b.md": "# B",
        "c.jsonl": '{"text": "c"}',
        "d.md": "\0",
        "e.txt": " \n",
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "f.txt").write_bytes(b"caf\xe9")
    lengths: dict[str, int] = {}
    found = list(read_passages(tmp_path, on_skip=skipped, on_document=lengths.__setitem__))
    assert lengths == {"a.md": 2, "b.md": 0, "e.txt": 0}, "what cannot be read may still have its text"
    assert len(found) == 3


def test_excluded_folder_is_not_entered(tmp_path: Path, skipped: Skipped) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "journal.sqlite").write_bytes(b"\0")
    (tmp_path / "a.md").write_text("words", encoding="utf-8")
    assert len(list(read_passages(tmp_path, on_skip=skipped, exclude=[tmp_path / "memory"]))) == 1
    assert skipped == []


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n" + "Some words. " * 300, encoding="utf-8")
    assert list(read_passages(tmp_path)) == list(read_passages(str(tmp_path)))


def test_wrong_calls_fail_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*missing"):
        read_passages([tmp_path / "missing"])
    with pytest.raises(ValueError, match="max_words must be at least 1"):
        read_passages([tmp_path], max_words=0)


def test_without_a_listener_skipping_warns(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("words", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"skipped .*a\.xyz: unknown suffix"):
        assert list(read_passages(tmp_path)) == []


def test_suffixes_are_public_and_lower_case() -> None:
    assert {".md", ".txt", ".html", ".jsonl"} <= set(SUFFIXES)
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)


@pytest.mark.parametrize("module", [chunks, files, read_html, read_markdown])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
