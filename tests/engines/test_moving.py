"""A memory moves to PostgreSQL and back, and answers as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.cli import app
from hybridmem_plugins.engines.moving import compare, move, opened
from hybridmem_plugins.errors import EmbedderMismatchError
from hybridmem_plugins.samples import load_corpus, load_questions

QUESTIONS = [question.question for question in load_questions()]


def answers(place: Any) -> list[Any]:
    with HybridMemory(path=place) as memory:
        return [[(h.passage, round(h.score, 4), h.provenance["path"]) for h in memory.search(q)] for q in QUESTIONS]


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
