"""A memory moves to PostgreSQL and back, and answers as before."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from generated import Corpus
from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.cli import app
from hybridmem_plugins.engines.moving import compare, move, opened
from hybridmem_plugins.errors import EmbedderMismatchError
from hybridmem_plugins.samples import load_corpus, load_questions

QUESTIONS = [question.question for question in load_questions()]


def answers(place: Any, questions: list[str] = QUESTIONS) -> list[Any]:
    with HybridMemory(path=place) as memory:
        return [[(h.passage, round(h.score, 4), h.provenance["path"]) for h in memory.search(q)] for q in questions]


def test_there_and_back(tmp_path: Path, address: str) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    with HybridMemory(path=first) as memory:
        memory.add([Passage(p.text, p.title, p.id, {"tenant": "ä", "n": [1, None, 2.5]}) for p in load_corpus()])
    run = CliRunner().invoke
    for source, target in ((str(first), address), (address, str(last)), (str(first), address)):
        result = run(app, ["migrate", source, "--to", target])
        assert result.exit_code == 0, result.output
        assert "45 of 45 questions have the same answer in both" in result.output
    assert answers(first) == answers(address) == answers(last)
    with opened(first) as a, opened(last) as b:
        assert [r for batch in a.records() for r, _ in batch] == [r for batch in b.records() for r, _ in batch]


def test_an_interrupted_move_goes_on(tmp_path: Path, address: str) -> None:
    with HybridMemory(path=tmp_path / "m") as memory:
        memory.add(load_corpus())
    with opened(tmp_path / "m") as source, opened(address) as target:
        (batch,) = source.records()
        target.load([record for record, _ in batch[:20]])
        assert not compare(source, target).ok
        rows = target.rows_of([record.id for record, _ in batch[:20]])
        assert move(source, target) == 45
        assert target.rows_of([record.id for record, _ in batch[:20]]) == rows
        assert compare(source, target).ok
        target.add([Passage("One more.", id="more")], [[1.0] * 256])
        assert compare(source, target).extra == ["more"]


def killed_when(command: list[str], moved: Callable[[], int], enough: int) -> None:
    """Run `hybridmem`, and end it by SIGKILL when enough passages have been moved."""
    start = [sys.executable, "-c", "from hybridmem_plugins.cli import main; main()"]
    process = subprocess.Popen([*start, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and moved() < enough:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        process.wait()


def test_a_move_that_is_killed_goes_on(tmp_path: Path, address: str, query: Any) -> None:
    """There and back, by SIGKILL between the first batch and the last."""
    corpus = Corpus(5000)  # enough for hnswlib
    first, last = tmp_path / "first", tmp_path / "last"
    with HybridMemory(path=first) as memory:
        memory.add(list(corpus.passages()))
    schema = address.partition("schema=")[2]

    def in_postgres() -> int:
        if not query("SELECT to_regclass(%s) IS NOT NULL", f"{schema}.state")[0][0]:
            return 0
        found = query(f"SELECT passages FROM {schema}.state")
        return int(found[0][0]) if found else 0

    def in_folder() -> int:
        try:
            with closing(sqlite3.connect(f"file:{last / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
                return int(journal.execute("SELECT count(*) FROM passages").fetchone()[0])
        except sqlite3.Error:
            return 0

    for source, target, moved in ((str(first), address, in_postgres), (address, str(last), in_folder)):
        command = ["migrate", source, "--to", target]
        killed_when(command, moved, 1000)
        assert 0 < moved() < 5000
        with opened(source) as a, opened(target) as b:
            assert compare(a, b).missing
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "50 of 50 questions have the same answer in both" in result.output
        assert moved() == 5000
    assert answers(first, corpus.questions(20)) == answers(last, corpus.questions(20))


def test_another_embedders_memory_is_not_mixed_in(tmp_path: Path, address: str) -> None:
    class Other:
        name = "other"

        def embed_documents(self, texts: list[str]) -> Any:
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text: str) -> Any:
            return [1.0 + len(text) % 7] + [0.5] * 255

    with HybridMemory(path=tmp_path / "m") as memory, HybridMemory(Other(), address) as other:
        memory.add(load_corpus()[:3])
        other.add([Passage("text", id="1")])
    with opened(tmp_path / "m") as source, opened(address) as target, pytest.raises(EmbedderMismatchError):
        move(source, target)


def test_what_is_no_memory_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["migrate", str(tmp_path / "none"), "--to", str(tmp_path / "other")])
    assert result.exit_code == 1
    assert "holds no memory" in result.output
    assert not (tmp_path / "other").exists()
    result = CliRunner().invoke(app, ["migrate", str(tmp_path), "--to", str(tmp_path)])
    assert result.exit_code == 2


def test_an_address_that_became_a_path_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^postgresql://…@host/db is a Path; give an address as a string$"):
        HybridMemory(path=Path("postgresql://ann:secret@host/db"))
    assert list(tmp_path.iterdir()) == []
