from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from memory_helpers import OpenStore
from test_store import assert_whole, contents

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory import schema
from hybridmem_plugins.memory.caches import Caches
from hybridmem_plugins.memory.inspection import salvage
from hybridmem_plugins.memory.snapshot import Errors, Snapshot
from hybridmem_plugins.passage import Passage

HERE = Path(__file__).parent


def filled(open_store: OpenStore, folder: Path, count: int = 60) -> dict[str, Passage]:
    store = open_store(folder)
    store.add(
        [Passage(f"Passage {i} of Many words", title=f"T{i}", id=f"p{i}", metadata={"n": i}) for i in range(count)]
    )
    found = contents(store)
    store.close()
    return found


# --- kill -9 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_nothing_acknowledged_is_lost_when_killed(tmp_path: Path, seed: int) -> None:
    """A child writes and says what was acknowledged; it is killed at a random instant."""
    sys.path.insert(0, str(HERE))
    from killing import run_and_kill, verify

    folder = tmp_path / "m"
    run_and_kill(folder, seed, delay=random.Random(seed).uniform(0.0, 0.25))
    verify(folder)


# --- caches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["gone", "cut", "garbage", "other memory", "future"])
def test_bad_caches_are_made_anew_and_it_is_said(
    open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    folder = tmp_path / "m"
    expected = filled(open_store, folder)
    caches = folder / "caches"
    if harm == "gone":
        shutil.rmtree(caches)
    elif harm == "other memory":
        filled(open_store, tmp_path / "n")
        shutil.rmtree(caches)
        shutil.copytree(tmp_path / "n" / "caches", caches)
    elif harm == "future":  # the journal was restored from a backup
        shutil.copy(folder / "journal.sqlite", tmp_path / "backup")
        with open_store(folder) as store:
            store.add([Passage(f"later {i}", id=f"later{i}") for i in range(10)])
        shutil.copy(tmp_path / "backup", folder / "journal.sqlite")
    else:
        for file in caches.iterdir():
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2] if harm == "cut" else b"\x00garbage" * 50)
    with caplog.at_level(logging.WARNING):
        store = open_store(folder)
    assert caplog.text.count("rebuilt from the journal") == 4
    assert contents(store) == expected
    assert_whole(store)
    store.close()
    caplog.clear()
    assert_whole(open_store(folder))
    assert "rebuilt" not in caplog.text


def test_old_caches_are_caught_up_without_a_word(
    open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "m"
    filled(open_store, folder)
    shutil.copytree(folder / "caches", tmp_path / "old")
    with open_store(folder) as store:
        store.delete(["p3", "p4"])
        store.add([Passage("changed", id="p5"), Passage("new", id="new")])
        expected = contents(store)
    shutil.rmtree(folder / "caches")
    shutil.copytree(tmp_path / "old", folder / "caches")
    store = open_store(folder)
    assert contents(store) == expected
    assert_whole(store)
    assert "rebuilt" not in caplog.text


# --- the journal ---------------------------------------------------------------------------------------------------


def test_caches_of_a_state_that_was_taken_back_are_never_used(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    filled(open_store, folder, 5)
    backup = (folder / "journal.sqlite").read_bytes()
    store = open_store(folder)
    store.add([Passage("Text that is taken back", id="a")])
    store.close()
    (folder / "journal.sqlite").write_bytes(backup)
    store = open_store(folder)
    store.add([Passage("Other words altogether", id="b")])
    shutil.copytree(folder, tmp_path / "killed")  # as if the process had ended here, its caches unsaved
    again = open_store(tmp_path / "killed")
    assert_whole(again)
    with again.reading():
        assert len(again.lexical.rows_with_phrase(["altogether"])) == 1


def test_caches_that_are_saved_while_a_memory_is_opened_are_kept(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    filled(open_store, folder, 5)
    load = Caches.open

    def late(caches: Caches, snapshot: Snapshot, files: Path) -> None:
        monkeypatch.undo()
        snapshot.version()  # what it reads is fixed from here on
        store = open_store(folder)
        store.add([Passage(f"More {i}", id=f"q{i}") for i in range(5)])
        store.close()
        load(caches, snapshot, files)

    monkeypatch.setattr(Caches, "open", late)
    assert_whole(open_store(folder))
    assert {file.stem for file in (folder / "caches").glob("*.json")} >= {"lexical", "metadata", "vectors"}


def test_a_damaged_journal_is_named_and_the_rest_can_be_read(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    expected = filled(open_store, folder, 400)
    file = folder / "journal.sqlite"
    whole = file.read_bytes()
    outcomes = set()
    for position in range(0, len(whole), len(whole) // 40):
        file.write_bytes(whole[:position] + b"\xa5" * 700 + whole[position + 700 :])
        try:
            with open_store(folder) as store:
                report = store.check()
                outcome = "ok" if report.ok else "found by check"
                if report.ok:
                    assert contents(store) == expected
        except MemoryFormatError as error:
            outcome = "refused" if "journal.sqlite" in str(error) else "refused without a name"
        outcomes.add(outcome)
        try:
            for line in salvage(folder):
                if line["id"] in expected and line["text"] == expected[line["id"]].text:
                    outcomes.add("salvaged")
        except MemoryFormatError:
            pass
    assert {"refused", "salvaged"} <= outcomes <= {"ok", "found by check", "refused", "salvaged"}
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(MemoryFormatError, match=r"journal\.sqlite is damaged"):
        open_store(folder)


def test_a_changed_byte_in_a_text_is_noticed(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    filled(open_store, folder)
    file = folder / "journal.sqlite"
    content = file.read_bytes()
    assert content.count(b"Passage 33 of Many") == 1
    file.write_bytes(content.replace(b"Passage 33 of Many", b"Passage 34 of Many"))
    with pytest.raises(MemoryFormatError, match=r"'p33'.*checksum"):
        open_store(folder)


def test_folders_that_are_no_memory(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("mine")
    with pytest.raises(MemoryFormatError, match="holds no memory"):
        open_store(tmp_path / "notes")
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["note.txt"]
    with pytest.raises(MemoryFormatError, match="is a file"):
        open_store(tmp_path / "notes" / "note.txt")
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other" / "journal.sqlite") as connection:
        connection.execute("CREATE TABLE meta (key, value)")
    with pytest.raises(MemoryFormatError, match="no memory of hybridmem"):
        open_store(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    open_store(tmp_path / "empty").add([Passage("x")])


def test_versions(open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    expected = filled(open_store, folder)

    def upgrade(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE passages ADD COLUMN note TEXT")
        connection.execute("ALTER TABLE passages DROP COLUMN note")

    monkeypatch.setattr(schema, "FORMAT_VERSION", schema.FORMAT_VERSION + 1)
    with pytest.raises(MemoryFormatError, match="cannot be upgraded"):
        open_store(folder)
    monkeypatch.setitem(schema.UPGRADES, schema.FORMAT_VERSION - 1, upgrade)
    with open_store(folder) as store:
        assert contents(store) == expected
        assert_whole(store)
    monkeypatch.undo()
    with pytest.raises(MemoryFormatError, match="pip install -U"):
        open_store(folder)


def test_a_failed_upgrade_changes_nothing(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    expected = filled(open_store, folder)

    def upgrade(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM passages")
        msg = "interrupted"
        raise KeyboardInterrupt(msg)

    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", schema.FORMAT_VERSION + 1)
        patch.setitem(schema.UPGRADES, schema.FORMAT_VERSION - 1, upgrade)
        with pytest.raises(KeyboardInterrupt):
            open_store(folder)
    assert contents(open_store(folder)) == expected


def test_a_full_disk_stores_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "m")
    store.add([Passage("kept", id="kept")])
    pages = store._journal._writer.execute("PRAGMA page_count").fetchone()[0]
    store._journal._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match="full"):
        store.add([Passage(f"{i}" * 4000, id=f"p{i}") for i in range(50)])
    assert set(contents(store)) == {"kept"}
    store._journal._writer.execute("PRAGMA max_page_count = 1000000")
    store.add([Passage("later", id="later")])
    assert_whole(store)


def test_caches_that_cannot_be_written_lose_nothing(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    store = open_store(tmp_path / "m")
    store.add([Passage("kept", id="kept")])
    with monkeypatch.context() as patch:
        patch.setattr("hybridmem_plugins.memory.cachefile.np.savez", full)
        store.close()
    assert "nothing is lost" in caplog.text
    assert [file.name for file in (tmp_path / "m" / "caches").iterdir()] == []
    assert set(contents(open_store(tmp_path / "m"))) == {"kept"}


READ_ONLY = """
import os, sys
sys.path[:0] = {paths!r}
from memory_helpers import *
# Once as we are, since another user cannot read the standard library everywhere.
MemoryStore({warm!r}, embedder=FakeEmbedder(), graph=FakeGraph(), read_only=True).close()
if os.getuid() == 0:
    os.setuid(65534)
store = MemoryStore({folder!r}, embedder=FakeEmbedder(), graph=FakeGraph())
assert len(store) == 60 and store.read_only
assert store.check().ok
for call in (lambda: store.add([Passage("x")]), lambda: store.delete(["p1"]), store.compact):
    try:
        call()
    except PermissionError as error:
        assert "can only be read" in str(error), error
    else:
        raise AssertionError("written")
print("read", flush=True)
sys.stdin.readline()  # Meanwhile somebody writes who may.
with store.reading():
    assert sorted(passage.id for passage in store.passages(store.matching(None))) == ["p1", "p2"]
    assert store.check().ok
store.close()
"""


def test_a_read_only_folder_can_be_searched(open_store: OpenStore) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as parent:  # pytest's own folders are closed to other users
        os.chmod(parent, 0o755)
        folder = Path(parent) / "m"
        filled(open_store, folder)
        filled(open_store, Path(parent) / "warm")
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))
        paths = [str(HERE), *[path for path in sys.path if path]]
        code = READ_ONLY.format(paths=paths, folder=str(folder), warm=str(Path(parent) / "warm"))
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "read\n", child.communicate()
            assert sorted((str(path), path.stat().st_size) for path in folder.rglob("*")) == before
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o755)
            store = open_store(folder)
            store.delete([f"p{i}" for i in range(60) if i not in (1, 2)])
            store.add([Passage("Other words", title="T1", id="p1")])
            store.compact()
            store.close()
            _, errors = child.communicate("go on\n", timeout=60)
            assert child.returncode == 0, errors


def test_a_new_volume_becomes_a_memory(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    open_store(tmp_path).add([Passage("x", id="x")])
    assert sorted(contents(open_store(tmp_path))) == ["x"]


def test_opening_read_only_by_choice(open_store: OpenStore, tmp_path: Path) -> None:
    filled(open_store, tmp_path / "m")
    store = open_store(tmp_path / "m", read_only=True)
    with pytest.raises(PermissionError, match="only be read"):
        store.add([Passage("x")])
    with pytest.raises(MemoryFormatError, match="holds no memory"):
        open_store(tmp_path / "n", read_only=True)
    assert not (tmp_path / "n").exists()


def test_the_folder_stays_the_same_when_the_process_goes_elsewhere(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "there")
    filled(open_store, Path("m"), 5)
    monkeypatch.chdir(tmp_path / "here")
    store = open_store(Path("m"))
    store.add([Passage("One passage", id="here")])
    monkeypatch.chdir(tmp_path / "there")
    with store.reading():  # takes up the connection there is
        found: list[set[str]] = []
        thread = threading.Thread(target=lambda: found.append(set(contents(store))))
        thread.start()
        thread.join()
    assert found == [{"here"}]
    store.close()
    assert (tmp_path / "here" / "m" / "caches" / "lexical.json").exists()


@pytest.mark.parametrize("again", [False, True])
def test_a_memory_that_is_removed_while_open_takes_no_more(open_store: OpenStore, tmp_path: Path, again: bool) -> None:
    store = open_store(tmp_path / "m")
    store.add([Passage("One", id="1")])
    (tmp_path / "m").rename(tmp_path / "gone")
    if again:
        filled(open_store, tmp_path / "m", 3)
    for call in (lambda: store.add([Passage("Two", id="2")]), lambda: store.delete(["1"]), lambda: contents(store)):
        with pytest.raises(FileNotFoundError, match="removed or replaced while it was open"):
            call()
    store.close()
    if again:
        assert set(contents(open_store(tmp_path / "m"))) == {"p0", "p1", "p2"}


@pytest.mark.parametrize("error", [MemoryFormatError("damaged"), sqlite3.OperationalError("disk I/O error")])
def test_a_disk_that_fails_while_closing_leaves_nothing_open(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = open_store(tmp_path / "m")
    store.add([Passage("One", id="1")])

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(store._journal, "transaction", failing)
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.rows_of(["1"])
    monkeypatch.undo()
    assert set(contents(open_store(tmp_path / "m"))) == {"1"}


def test_sqlites_words_for_a_failing_disk_become_an_os_error(tmp_path: Path) -> None:
    error = Errors(tmp_path).translate(sqlite3.OperationalError("disk I/O error"))
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO


def test_a_full_disk_is_named_where_sqlite_calls_it_a_failing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    error = Errors(tmp_path / "journal.sqlite").translate(sqlite3.OperationalError("disk I/O error"))
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert "the disk is full" in str(error)
