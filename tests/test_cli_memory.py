"""The command line with a real memory, across processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridmem_plugins.samples import load_corpus


def hybridmem(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hybridmem_plugins.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "140", "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `docs` and, made from it on the command line, `memory`."""
    place = tmp_path_factory.mktemp("place")
    (place / "docs").mkdir()
    for passage in load_corpus():
        text = f"# {passage.title}\n\n{passage.text}\n"
        (place / "docs" / f"{passage.id}.md").write_text(text, encoding="utf-8")
    (place / "docs" / "latin.md").write_bytes("café".encode("latin-1"))
    done = hybridmem("index", "docs", "--memory", "memory", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "Indexed 45 passages" in done.stdout
    assert "latin.md: not UTF-8" in done.stderr
    return place


def search(place: Path, question: str, *options: object) -> list[dict[str, object]]:
    done = hybridmem("query", "memory", question, "--json", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    hits: list[dict[str, object]] = json.loads(done.stdout)["hits"]
    return hits


def test_second_process_finds_both_passages_of_a_two_hop_question(place: Path) -> None:
    hits = search(place, "Where was the inventor of the one-transistor DRAM cell born?", "-k", 4)
    assert {"docs/dram.md#0", "docs/robert-dennard.md#0"} <= {hit["id"] for hit in hits}
    linked = next(hit for hit in hits if hit["title"] == "Robert Dennard")
    assert isinstance(linked["provenance"], dict)
    assert "graph" in linked["provenance"]["routes"]


def test_a_question_makes_no_memory_of_a_new_volume(tmp_path: Path) -> None:
    for name in ("lost+found", "caches"):
        (tmp_path / name).mkdir()
        done = hybridmem("query", tmp_path, "DRAM?", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is empty, so it is no memory" in done.stderr
    assert sorted(found.name for found in tmp_path.iterdir()) == ["caches", "lost+found"]


def test_filter_and_k_hold(place: Path) -> None:
    hits = search(place, "flash memory", "-k", 8, "--filter", '{"source": "docs/nor-flash.md"}')
    assert [hit["id"] for hit in hits] == ["docs/nor-flash.md#0"]
    assert len(search(place, "flash memory", "-k", 3)) == 3


def test_table_shows_why(place: Path) -> None:
    done = hybridmem("query", "memory", "Who invented NAND flash?", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "NAND flash" in done.stdout
    assert "vectors #" in done.stdout
    assert "docs/nand-flash.md" in done.stdout


def test_table_survives_a_terminal_without_unicode(place: Path) -> None:
    done = hybridmem("query", "memory", "Who invented NAND flash?", cwd=place, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    done = hybridmem("query", "memory", "Peter Grünberg", "--json", cwd=place, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["question"] == "Peter Grünberg"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "memory", "  "], "question"),
        (["query", "memory", "DRAM", "-k", "0"], "k"),
        (["query", "memory", "DRAM", "--route", "teleport"], "teleport"),
        (["query", "memory", "DRAM", "--filter", '{"year": {"$near": 3}}'], "$near"),
        (["query", "docs", "DRAM"], "docs"),
        (["index", "docs/dram.md", "--memory", "docs"], "docs"),
    ],
)
def test_errors_of_the_library_are_one_line(place: Path, arguments: list[str], message: str) -> None:
    done = hybridmem(*arguments, cwd=place)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert not (place / "docs" / "memory.sqlite").exists()


def test_indexing_again_replaces_and_shrinks(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# One\n\nFirst text.\n\n# Two\n\nSecond text.", encoding="utf-8")
    assert "now holds 2." in hybridmem("index", "a.md", "--memory", "memory", cwd=tmp_path).stdout
    document.write_text("# One\n\nChanged text.", encoding="utf-8")
    done = hybridmem("index", tmp_path / "a.md", "--memory", tmp_path / "memory", cwd=Path.home())
    assert "now holds 1." in done.stdout, done.stderr
    (hit,) = search(tmp_path, "text")
    assert hit["text"] == "Changed text."


def test_demo_shows_hybrid_ahead(tmp_path: Path) -> None:
    done = hybridmem("demo", "--no-answers", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hybrid 5 of 5" in done.stdout
    assert not any(tmp_path.iterdir())
