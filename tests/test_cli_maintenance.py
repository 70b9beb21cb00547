"""Looking after a memory from the command line."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.cli import app

runner = CliRunner()
PASSAGES = [
    Passage("Ada wrote notes.", "Ada", "a", {"tenant": "x", "deep": {"n": [1, None]}}),
    Passage("Bob knew Ada; the password is hunter2.", None, "b", {"tenant": "y"}),
    Passage("東京 is far\nfrom \x0b here.", "", "c/../d", {}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with HybridMemory(path=tmp_path / "m") as memory:
        memory.add(PASSAGES)
    return tmp_path / "m"


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_check_says_that_all_is_well_and_what_is_wrong(folder: Path) -> None:
    assert "whole: 3 passages" in run("check", folder)
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        connection.execute("UPDATE passages SET text = 'changed' WHERE id = 'a'")
    connection.close()
    output = run("check", folder, code=1)
    assert "checksum" in output
    assert "hybridmem export" in output


def test_export_and_import_give_the_same_memory(folder: Path, tmp_path: Path) -> None:
    assert "3 passages" in run("export", folder, tmp_path / "all.jsonl")
    for _ in range(2):  # again changes nothing
        assert "holds 3" in run("import", tmp_path / "copy", tmp_path / "all.jsonl")
    with HybridMemory(path=tmp_path / "copy") as copy, HybridMemory(path=folder) as original:
        assert copy.get(["a", "b", "c/../d"]) == PASSAGES
        assert copy.search("Who is Ada?") == original.search("Who is Ada?")


def test_passages_go_through_a_pipe(folder: Path, tmp_path: Path) -> None:
    lines = runner.invoke(app, ["export", str(folder), "-"]).stdout
    result = runner.invoke(app, ["import", str(tmp_path / "copy"), "-"], input=lines)
    assert "3 passages read from standard input" in result.output
    with HybridMemory(path=tmp_path / "copy") as copy:
        assert copy.get(["a", "b", "c/../d"]) == PASSAGES
    result = runner.invoke(app, ["import", str(tmp_path / "copy"), "-"], input="{}")
    assert "standard input, line 1: no passage" in result.output


def test_export_to_standard_output(folder: Path) -> None:
    lines = [json.loads(line) for line in run("export", folder, "--vectors").split("\n") if line]
    assert [line["id"] for line in lines] == ["a", "b", "c/../d"]
    assert len(lines[0]["vector"]) == 256


def test_export_to_a_terminal_without_unicode_loses_no_letter(folder: Path) -> None:
    command = [sys.executable, "-m", "hybridmem_plugins.cli", "export", str(folder)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1])["text"] == PASSAGES[-1].text, done.stderr


def test_export_writes_through_links_and_into_pipes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real.jsonl")
    for _ in range(2):  # made, then replaced
        assert "3 passages" in run("export", folder, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert len((tmp_path / "real.jsonl").read_text("utf-8").split("\n")) == 4
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # what is written fits the pipe
    run("export", folder, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert os.read(reader, 1 << 16) == (tmp_path / "real.jsonl").read_bytes()
    os.close(reader)
    assert f"{tmp_path} is a folder" in run("export", folder, tmp_path, code=1)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_export_to_an_open_file_by_its_number(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "gone.jsonl").open("w+", encoding="utf-8") as file:
        (tmp_path / "gone.jsonl").unlink()  # only the number still leads to it
        run("export", folder, f"/dev/fd/{file.fileno()}")
        assert len(file.read().split("\n")) == 4
    assert not list(tmp_path.glob("gone*"))


def test_export_of_a_damaged_memory_writes_the_rest(folder: Path, tmp_path: Path) -> None:
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        connection.execute("UPDATE passages SET extraction = 'broken' WHERE id = 'a'")
    connection.close()
    assert "could be read" in run("export", folder, tmp_path / "rest.jsonl", code=1)
    ids = {json.loads(line)["id"] for line in (tmp_path / "rest.jsonl").read_text("utf-8").split("\n") if line}
    assert {"b", "c/../d"} <= ids


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", '{"title": "no text"}', '{"text": 5}', '{"text": " "}', '{"text": "x", "metadata": {"n": NaN}}'),
        *('{"text": "half \\ud83d"}', "caf\udce9", '{"text": ' + "[" * 100_000),
    ],
)
def test_an_import_stops_at_a_bad_line_and_names_it(tmp_path: Path, line: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(f'{{"text": "fine"}}\n{line}\n'.encode("utf-8", "surrogateescape"))
    assert "Error: " + f"{file}, line 2: " in run("import", tmp_path / "m", file, code=1)


def test_an_import_passes_over_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "fine"}\r\n', "utf-8-sig", newline="")
    assert "holds 1" in run("import", tmp_path / "m", tmp_path / "in.jsonl")


def test_an_id_that_reads_like_a_line_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "line 2", "text": "first"}\n{"text": "second"}\n')
    assert "2 passages read" in run("import", tmp_path / "m", tmp_path / "in.jsonl")
    texts = {json.loads(line)["text"] for line in run("export", tmp_path / "m").splitlines()}
    assert texts == {"first", "second"}


def test_delete_by_id_and_filter_and_compact(folder: Path) -> None:
    assert "--id" in run("delete", folder, code=2)
    output = run("delete", folder, "--id", "a", "--id", "nobody")
    assert "1 passages forgotten, 2 left" in output
    assert "nobody" in output
    assert "1 passages forgotten, 1 left" in run("delete", folder, "--filter", '{"tenant": "y"}')
    assert "JSON" in run("delete", folder, "--filter", "{", code=2)
    for empty in ("{}", '{"$and": []}'):
        assert "empty filter" in run("delete", folder, "--filter", empty, code=1)
    assert "compact" in run("compact", folder)
    assert not [file for file in folder.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]


def test_delete_with_a_bad_filter_forgets_nothing(folder: Path) -> None:
    assert "$bad" in run("delete", folder, "--id", "a", "--filter", '{"x": {"$bad": 1}}', code=1)
    assert "3 passages" in run("check", folder)


def test_delete_by_id_and_filter_at_once(folder: Path) -> None:
    arguments = ["--id", "a", "--id", "b", "--filter", '{"tenant": "x"}']
    assert "2 passages forgotten, 1 left" in run("delete", folder, *arguments)


@pytest.mark.parametrize("command", ["check", "export", "compact"])
def test_a_folder_that_is_no_memory_stays_as_it_is(tmp_path: Path, command: str) -> None:
    assert "no memory" in run(command, tmp_path, code=1)
    assert not list(tmp_path.iterdir())
