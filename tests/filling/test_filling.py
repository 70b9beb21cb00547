"""A memory that many workers filled is the one that one process fills."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "benchmarks")]

from filling_helpers import Doomed, Foreign, Fragile  # noqa: E402

from generated import Corpus  # noqa: E402
from hybridmem_plugins import HybridMemory, Passage  # noqa: E402
from hybridmem_plugins.cli import app  # noqa: E402
from hybridmem_plugins.errors import EmbedderMismatchError  # noqa: E402
from hybridmem_plugins.filling import Work, fill  # noqa: E402

CORPUS = Corpus(400)
PASSAGES = list(CORPUS.passages())


@pytest.fixture(autouse=True)
def _workers_find_the_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))


@pytest.fixture(params=["processes", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        pytest.importorskip("ray")
    return str(request.param)


def content(memory: HybridMemory) -> Any:
    graph = memory.graph
    answers = [[(h.passage.id, h.score, h.provenance) for h in memory.search(q)] for q in CORPUS.questions(10)]
    edges = sorted((u, v, key, repr(data)) for u, v, key, data in graph.edges(keys=True, data=True))
    return json.loads(json.dumps([sorted(graph.nodes), edges, answers], default=str))


@pytest.fixture(scope="module")
def expected() -> Any:
    memory = HybridMemory()
    memory.add(PASSAGES)
    return content(memory)


def test_the_same_as_one_process(engine: str, tmp_path: Path, expected: Any) -> None:
    steps: list[int] = []
    with HybridMemory(path=tmp_path / "m") as memory:
        ids = fill(memory, PASSAGES, engine=engine, workers=2, batch_size=90, advance=steps.append)
        assert ids == [passage.id for passage in PASSAGES]
        assert content(memory) == expected
        assert sum(steps) == 400
        version = memory.store.version
        assert fill(memory, PASSAGES, engine=engine, workers=2) == ids
        assert memory.store.version == version  # nothing was stored again


def test_a_worker_that_is_killed_is_replaced(
    engine: str, tmp_path: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYING", str(tmp_path / "died"))
    if engine == "ray":
        import ray

        ray.shutdown()  # its workers were started without that variable
    memory = HybridMemory()
    fill(memory, PASSAGES, engine=engine, workers=2, batch_size=90, work=Work(Fragile))
    assert (tmp_path / "died").exists()
    assert content(memory) == expected


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="needs Linux's list of sockets")
def test_ray_listens_on_the_loopback_interface_only() -> None:
    pytest.importorskip("ray")
    fill(HybridMemory(), PASSAGES[:5], engine="ray", workers=1)
    listening = {}  # socket to address
    for name in ("tcp", "tcp6"):
        lines = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        listening |= {line[9]: line[1].rsplit(":", 1)[0] for line in lines if line[3] == "0A"}
    addresses = [listening[inode] for inode in sockets_of_ray() if inode in listening]
    assert addresses
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F"}, addresses


def sockets_of_ray() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name == str(os.getpid()) or b"ray" in (process / "cmdline").read_bytes():
                found += [os.readlink(file)[8:-1] for file in (process / "fd").iterdir()]
        except OSError:
            continue
    return found


def test_workers_that_all_die_are_given_up_and_what_is_stored_stays(tmp_path: Path, expected: Any) -> None:
    with HybridMemory(path=tmp_path / "m") as memory:
        memory.add(PASSAGES[:100])
        with pytest.raises(RuntimeError, match="fill again to go on"):
            fill(memory, PASSAGES, workers=1, work=Work(Doomed))
        assert len(memory) == 100
        fill(memory, PASSAGES, workers=1)
        assert content(memory) == expected


def test_another_embedding_is_refused(tmp_path: Path) -> None:
    memory = HybridMemory()
    with pytest.raises(EmbedderMismatchError, match="not the memory's"):
        fill(memory, PASSAGES[:5], workers=1, work=Work(Foreign))
    assert len(memory) == 0


def test_a_passage_that_comes_twice_is_stored_once_as_by_add() -> None:
    passages = [Passage("Said twice."), Passage("Said once."), Passage("Said twice.")]
    advanced: list[int] = []
    with HybridMemory() as memory, HybridMemory() as other:
        assert fill(memory, passages, workers=1, advance=advanced.append) == other.add(passages)
        assert len(memory) == 2
    assert sum(advanced) == 3


def test_bad_arguments_and_bad_passages_are_refused_before_a_worker_starts() -> None:
    memory = HybridMemory()
    for arguments in ({"engine": "magic"}, {"workers": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"engine|workers"):
            fill(memory, PASSAGES[:2], **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="text is empty"):
        fill(memory, [Passage(" ")])
    assert fill(memory, []) == []


def test_extractions_from_elsewhere_are_checked() -> None:
    memory = HybridMemory()
    with pytest.raises(ValueError, match="1 extractions for 2 passages"):
        memory.add(PASSAGES[:2], extractions=[None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a NoneType, not an Extraction"):
        memory.add(PASSAGES[:1], extractions=[None])  # type: ignore[list-item]
    assert len(memory) == 0


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    lines = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) for p in PASSAGES[:50]]
    (tmp_path / "passages.jsonl").write_text("\n".join(lines))
    arguments = ["index", str(tmp_path / "passages.jsonl"), "--memory", str(tmp_path / "m"), "--engine"]
    runner = CliRunner()
    assert runner.invoke(app, [*arguments, "magic"]).exit_code == 1
    done = runner.invoke(app, [*arguments, "processes", "--workers", "1"])
    assert done.exit_code == 0, done.output
    with HybridMemory(path=tmp_path / "m") as memory:
        assert len(memory) == 50
