"""The command line: what it prints, what it returns, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import hybridmem_plugins
from hybridmem_plugins import Hit, Passage, cli
from hybridmem_plugins.errors import MemoryFormatError

runner = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"})

JOURNAL = "fake.json"


class FakeMemory:
    """Stands in for HybridMemory, to check what the command line passes on: it finds what shares a word.

    Its "graph" adds the passages whose title stands in a passage found.
    """

    calls: list[dict[str, Any]] = []  # noqa: RUF012 - shared on purpose: the command line makes the instance
    batches: list[int] = []  # noqa: RUF012

    def __init__(self, embedder: object = None, path: Path | None = None) -> None:
        self.path, self.passages = path, dict[str, Passage]()
        if path is not None and path.is_dir() and any(path.iterdir()):
            if not (path / JOURNAL).exists():
                msg = f"{path} is no memory"
                raise MemoryFormatError(msg)
            for record in json.loads((path / JOURNAL).read_text()):
                self.passages[record["id"]] = Passage(**record)

    def __enter__(self) -> FakeMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.passages)

    def close(self) -> None:
        if self.path:
            self.path.mkdir(parents=True, exist_ok=True)
            records = [
                {"id": p.id, "title": p.title, "text": p.text, "metadata": dict(p.metadata)}
                for p in self.passages.values()
            ]
            (self.path / JOURNAL).write_text(json.dumps(records))

    def add(self, passages: list[Passage]) -> list[str]:
        FakeMemory.batches.append(len(passages))
        self.passages.update({p.id or "": p for p in passages})
        return [p.id or "" for p in passages]

    def get(self, ids: list[str]) -> list[Passage]:
        return [self.passages[identifier] for identifier in ids if identifier in self.passages]

    def delete(self, ids: list[str]) -> list[str]:
        return [identifier for identifier in ids if self.passages.pop(identifier, None)]

    def search(
        self,
        question: str,
        k: int = 8,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the library's name
        route: str = "auto",
    ) -> list[Hit]:
        FakeMemory.calls.append({"question": question, "k": k, "filter": filter, "route": route})
        if not question.strip():
            msg = "the question is empty"
            raise ValueError(msg)
        words = {word.strip("?.,").lower() for word in question.split()}
        found = [
            Hit(p, 0.5, {"routes": {"semantic": {"rank": 1, "score": 0.5}}, "path": []})
            for p in self.passages.values()
            if words & {word.strip("?.,").lower() for word in f"{p.title} {p.text}".split()}
        ]
        if found and route == "auto":
            start = found[0].passage
            step = {"from": start.id, "from_title": start.title, "name": "x", "sentence": start.text}
            linked = [p for p in self.passages.values() if p.title and p is not start and p.title in start.text]
            found[1:1] = [
                Hit(
                    p,
                    0.4,
                    {"routes": {"graph": {"rank": 2, "score": 1}}, "path": [{**step, "to": p.id, "to_title": p.title}]},
                )
                for p in linked
            ]
            found[0].provenance["route"] = {"chosen": "both", "reason": "names found"}
        return found[:k]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeMemory]:
    monkeypatch.setattr(hybridmem_plugins, "HybridMemory", FakeMemory, raising=False)
    FakeMemory.calls, FakeMemory.batches = [], []
    return FakeMemory


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "dram.md").write_text("# DRAM\n\nConceived by Robert Dennard.", encoding="utf-8")
    (folder / "dennard.txt").write_text("He was born in Texas.", encoding="utf-8")
    (folder / "latin.md").write_bytes("café".encode("latin-1"))
    return folder


def test_index_reports_passages_rate_and_what_it_skipped(
    fake: type[FakeMemory], documents: Path, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    result = runner.invoke(cli.app, ["index", str(documents), "--memory", str(memory)])
    assert result.exit_code == 0, result.output
    assert "Indexed 2 passages in" in result.output
    assert "passages/s" in result.output
    assert f"{memory} now holds 2." in result.output
    assert f"{documents / 'latin.md'}: not UTF-8" in result.output
    assert (memory / JOURNAL).exists()


def test_index_adds_in_batches_of_a_thousand(fake: type[FakeMemory], tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"id": str(n), "text": f"Text {n}."}) for n in range(2500))
    (tmp_path / "a.jsonl").write_text(lines)
    result = runner.invoke(cli.app, ["index", str(tmp_path / "a.jsonl"), "--memory", str(tmp_path / "memory")])
    assert result.exit_code == 0, result.output
    assert fake.batches == [1000, 1000, 500]


def test_interrupted_index_tells_what_is_stored(
    fake: type[FakeMemory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = fake.add

    def interrupted(memory: FakeMemory, passages: list[Passage]) -> list[str]:
        if fake.batches:
            raise KeyboardInterrupt
        return add(memory, passages)

    monkeypatch.setattr(fake, "add", interrupted)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"Text {n}."}) for n in range(1500)))
    result = runner.invoke(cli.app, ["index", str(tmp_path / "a.jsonl"), "--memory", str(tmp_path / "memory")])
    assert result.exit_code == 130
    assert "Stopped: 1,000 of 1,500 passages are stored" in result.output


def test_index_of_a_shrunken_document_forgets_its_old_end(fake: type[FakeMemory], tmp_path: Path) -> None:
    arguments = ["index", str(tmp_path / "a.md"), str(tmp_path / "b.jsonl"), "--memory", str(tmp_path / "memory")]
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}', encoding="utf-8")
    for count in (100, 3):
        content = "".join(f"# Heading {n}\n\nText {n}.\n\n" for n in range(count))
        (tmp_path / "a.md").write_text(content, encoding="utf-8")
        assert f"now holds {count + 2}." in runner.invoke(cli.app, arguments).output


def test_index_forgets_no_record_whose_id_is_like_a_documents(fake: type[FakeMemory], tmp_path: Path) -> None:
    records = [{"id": "a.md#1", "text": "one"}, {"id": "a.md#2", "text": "two", "metadata": {"source": "a.md"}}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (tmp_path / "a.md").write_text("Text.", encoding="utf-8")
    for name in ("b.jsonl", "a.md"):
        result = runner.invoke(cli.app, ["index", str(tmp_path / name), "--memory", str(tmp_path / "memory")])
    assert "now holds 3." in result.output


def test_index_forgets_an_old_end_at_once_or_not(
    fake: type[FakeMemory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["index", str(tmp_path / "a.md"), "--memory", str(tmp_path / "memory")]
    (tmp_path / "a.md").write_text("".join(f"# {n}\n\nText {n}.\n\n" for n in range(100)), encoding="utf-8")
    runner.invoke(cli.app, arguments)
    (tmp_path / "a.md").write_text("Text.", encoding="utf-8")
    deleted: list[int] = []
    delete = fake.delete
    monkeypatch.setattr(fake, "delete", lambda self, ids: deleted.append(len(ids)) or delete(self, ids))
    assert "now holds 1." in runner.invoke(cli.app, arguments).output
    assert deleted == [99]


def test_index_of_an_emptied_file_forgets_it(fake: type[FakeMemory], documents: Path, tmp_path: Path) -> None:
    arguments = ["index", str(documents), "--memory", str(tmp_path / "memory")]
    assert "now holds 2." in runner.invoke(cli.app, arguments).output
    (documents / "dram.md").write_bytes(b"")
    assert "now holds 1." in runner.invoke(cli.app, arguments).output
    (documents / "dennard.txt").write_bytes(b"\n")
    result = runner.invoke(cli.app, arguments)  # nothing is left to store
    assert (result.exit_code, "now holds 0." in result.output) == (0, True), result.output
    result = runner.invoke(cli.app, arguments)
    assert (result.exit_code, "Error: no passage found" in result.output) == (1, True), result.output


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_index_of_names_that_read_the_same_keeps_all(fake: type[FakeMemory], tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xfe.md")).write_text("".join(f"# {n}\n\nText {n}.\n\n" for n in range(6)))
    (tmp_path / os.fsdecode(b"a\xff.md")).write_text("Other text.")
    for _ in range(2):
        result = runner.invoke(cli.app, ["index", str(tmp_path), "--memory", str(tmp_path / "memory")])
        assert "now holds 7." in result.output
    for path in tmp_path.glob("*.md"):  # one by one they are the same
        result = runner.invoke(cli.app, ["index", str(path), "--memory", str(tmp_path / "memory")])
        assert "now holds 7." in result.output


def test_index_leaves_out_the_memory_inside_the_folder(fake: type[FakeMemory], documents: Path) -> None:
    arguments = ["index", str(documents), "--memory", str(documents / "memory")]
    for _ in range(2):
        result = runner.invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
        assert "now holds 2." in result.output
        assert JOURNAL not in result.output


def test_index_shortens_a_long_list_of_skipped_files(fake: type[FakeMemory], documents: Path, tmp_path: Path) -> None:
    for n in range(30):
        (documents / f"{n}.bin").write_bytes(b"\0")
    arguments = ["index", str(documents), "--memory", str(tmp_path / "memory")]
    assert "... and 11 more" in runner.invoke(cli.app, arguments).output
    output = runner.invoke(cli.app, [*arguments, "--all-skipped"]).output
    assert output.count(".bin: unknown suffix") == 30


def test_index_of_nothing_readable_fails_and_makes_no_memory(fake: type[FakeMemory], tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0")
    result = runner.invoke(cli.app, ["index", str(tmp_path / "a.bin"), "--memory", str(tmp_path / "memory")])
    assert result.exit_code == 1
    assert "Error: no passage found" in result.output
    assert "a.bin: unknown suffix" in result.output
    assert not (tmp_path / "memory").exists()


@pytest.fixture
def memory(fake: type[FakeMemory], documents: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    assert runner.invoke(cli.app, ["index", str(documents), "--memory", str(folder)]).exit_code == 0
    return folder


def test_query_passes_on_its_options(memory: Path, fake: type[FakeMemory]) -> None:
    options = ["-k", "3", "--filter", '{"source": "dram.md"}', "--route", "semantic"]
    result = runner.invoke(cli.app, ["query", str(memory), "DRAM?", *options])
    assert result.exit_code == 0, result.output
    assert fake.calls == [{"question": "DRAM?", "k": 3, "filter": {"source": "dram.md"}, "route": "semantic"}]


def test_query_shows_rank_score_text_and_why(memory: Path) -> None:
    output = runner.invoke(cli.app, ["query", str(memory), "Who conceived DRAM?"]).output
    for part in ("DRAM", "0.500", "Conceived by Robert Dennard.", "dram.md", "vectors #1", "names found"):
        assert part in output


def test_query_shows_the_path_that_led_to_a_passage(fake: type[FakeMemory], tmp_path: Path) -> None:
    records = [
        {"id": "d", "title": "DRAM", "text": "Conceived by Robert Dennard."},
        {"id": "r", "title": "Robert Dennard", "text": "Born in Texas."},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert runner.invoke(cli.app, ["index", str(tmp_path / "a.jsonl"), "--memory", str(tmp_path / "m")]).exit_code == 0
    output = runner.invoke(cli.app, ["query", str(tmp_path / "m"), "DRAM?"]).output
    for part in ("graph #2", "DRAM → Robert Dennard (x)", "“Conceived by Robert Dennard.”"):
        assert part in output


def test_query_as_json_is_json_alone(memory: Path) -> None:
    result = runner.invoke(cli.app, ["query", str(memory), "Who conceived DRAM?", "--json"])
    answer = json.loads(result.stdout)
    assert answer["question"] == "Who conceived DRAM?"
    hit = answer["hits"][0]
    assert (hit["id"], hit["title"], hit["score"]) == ("docs/dram.md#0", "DRAM", 0.5)
    assert hit["provenance"]["routes"]["semantic"]["rank"] == 1
    assert hit["metadata"]["source"] == "docs/dram.md"


def test_query_without_a_match_says_so(memory: Path) -> None:
    result = runner.invoke(cli.app, ["query", str(memory), "zzz"])
    assert (result.exit_code, result.output) == (0, "No passage matches.\n")


def test_markup_and_control_characters_of_documents_are_harmless(fake: type[FakeMemory], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Odd [bold]x[/nothing] \x1b[31m text", "title": "[/]"}))
    assert runner.invoke(cli.app, ["index", str(tmp_path / "a.jsonl"), "--memory", str(tmp_path / "m")]).exit_code == 0
    result = runner.invoke(cli.app, ["query", str(tmp_path / "m"), "odd"])
    assert result.exit_code == 0, result.output
    assert "Odd [bold]x[/nothing] �[31m text" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["query", "{memory}", " "], 1, "Error: the question is empty"),
        (["query", "{documents}", "DRAM?"], 1, "is no memory"),
        (["query", "{empty}", "DRAM?"], 1, "is empty, so it is no memory"),
        (["query", "{missing}", "DRAM?"], 2, "does not exist"),
        (["query", "{memory}", "DRAM?", "--filter", "{{"], 2, "not JSON"),
        (["query", "{memory}", "DRAM?", "--filter", "[1]"], 2, "a JSON object is needed"),
        (["query", "{memory}", "DRAM?", "-k", "many"], 2, "Invalid value"),
        (["index", "{documents}", "--memory", "{documents}"], 1, "no passage found"),
        (["index", "{documents}/dram.md", "--memory", "{documents}"], 1, "is no memory"),
        (["index", "{missing}", "--memory", "{memory}"], 2, "does not exist"),
        (["index", "{documents}"], 2, "Missing option"),
        *(
            (arguments, 2, "postgresql://…@host/db is an address, and a folder")
            for arguments in (
                ["index", "{documents}", "--memory", "postgresql://u:pw@host/db"],
                ["import", "postgresql://u:pw@host/db", "{documents}/dram.md"],
                ["query", "postgresql://u:pw@host/db", "DRAM?"],
                ["check", "postgresql://u:pw@host/db"],
                ["serve", "postgresql://u:pw@host/db"],
            )
        ),
        (["check", "{documents}/dram.md"], 2, "is a file"),
        (["check", "{missing}"], 2, "does not exist"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_failures_are_one_clear_line(
    memory: Path, documents: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"memory": memory, "documents": documents, "empty": tmp_path / "empty", "missing": tmp_path / "missing"}
    result = runner.invoke(cli.app, [argument.format(**places) for argument in arguments])
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert "u:pw" not in result.output
    assert code == 2 or sum(line.startswith("Error: ") for line in result.output.splitlines()) == 1
    assert not any((tmp_path / "empty").iterdir())


def test_unexpected_errors_are_one_line_unless_a_traceback_is_wanted(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        msg = "lost"
        raise KeyError(msg)

    monkeypatch.setattr(FakeMemory, "search", fail)
    result = runner.invoke(cli.app, ["query", str(memory), "DRAM?"])
    assert result.exit_code == 1
    assert "Error: unexpected KeyError: 'lost' (HYBRIDMEM_TRACEBACK=1" in result.output
    result = runner.invoke(cli.app, ["query", str(memory), "DRAM?"], env={"HYBRIDMEM_TRACEBACK": "1"})
    assert isinstance(result.exception, KeyError)


def test_demo_asks_five_questions_both_ways(fake: type[FakeMemory]) -> None:
    result = runner.invoke(cli.app, ["demo", "-k", "5", "--no-answers"])
    assert result.exit_code == 0, result.output
    assert [call["route"] for call in fake.calls] == ["vector", "auto"] * 5
    assert {call["k"] for call in fake.calls} == {5}
    assert result.output.count("Vectors alone:") == result.output.count("Hybrid:") == 5
    assert "How does the energy efficiency of NVM compare to DRAM?" in result.output
    assert "All needed passages found: vectors alone" in result.output
    assert "✓" in result.output


def test_commands_of_other_rooms_appear_when_present(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some_room.py").write_text(
        'import typer\ndef polish(times: int = 1) -> None:\n    """Polish it."""\n    typer.echo("shiny " * times)\n'
        '    if times > 2:\n        raise ValueError("too shiny")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "ROOM_COMMANDS", {"polish": "some_room", "absent": "hybridmem_plugins.nowhere"})
    listing = runner.invoke(cli.app, ["--help"]).output
    assert "Polish it." in listing
    assert "absent" not in listing
    assert runner.invoke(cli.app, ["polish", "--times", "2"]).output == "shiny shiny \n"
    failed = runner.invoke(cli.app, ["polish", "--times", "3"])
    assert (failed.exit_code, failed.output.splitlines()[-1]) == (1, "Error: too shiny")
    assert runner.invoke(cli.app, ["absent"]).exit_code == 2


def test_version_and_help_need_no_heavy_import() -> None:
    code = (
        "import sys; from hybridmem_plugins.cli import app; from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, sys.argv[1:]); print(result.output)\n"
        "heavy = {'numpy', 'networkx', 'hnswlib', 'wordllama', 'torch'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy or result.exit_code else 0)"
    )
    for option in ("--version", "--help"):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ("hybridmem-plugins 0." if option == "--version" else "demo") in done.stdout


def test_entry_point_is_main() -> None:
    assert isinstance(cli.app, typer.Typer)
    done = subprocess.run([sys.executable, "-m", "hybridmem_plugins.cli", "query"], capture_output=True, check=False)
    assert done.returncode == 2
