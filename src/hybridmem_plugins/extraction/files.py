"""Files and folders to passages; whatever cannot be read is named with the reason."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridmem_plugins.extraction.chunks import Block, Heading, pack, sections
from hybridmem_plugins.extraction.read_html import html_parts
from hybridmem_plugins.extraction.read_jsonl import jsonl_passages
from hybridmem_plugins.extraction.read_markdown import markdown_parts
from hybridmem_plugins.passage import Passage

__all__ = ["SUFFIXES", "read_passages"]

OnSkip = Callable[[Path, str], None]
AnyPath = str | os.PathLike[str]

_MARKDOWN = {".md", ".markdown", ".mdown", ".mkd"}
_TEXT = {".txt", ".text"}
_HTML = {".html", ".htm", ".xhtml"}
_JSON_LINES = {".jsonl", ".ndjson"}

SUFFIXES = tuple(sorted(_MARKDOWN | _TEXT | _HTML | _JSON_LINES))
"""Suffixes of the files that `read_passages` reads, in lower case; upper case is read as well."""


def read_passages(
    paths: AnyPath | Iterable[AnyPath],
    *,
    max_words: int = 180,
    on_skip: OnSkip | None = None,
    on_document: Callable[[str, int], object] | None = None,
    exclude: Iterable[AnyPath] = (),
    base: AnyPath | None = None,
) -> Iterator[Passage]:
    r"""Read Markdown, plain text, HTML and JSON lines as passages.

    Markdown and HTML are split at headings, long sections at paragraphs and sentences; code and tables stay whole up
    to four times `max_words`. The heading becomes the title. A record of a JSON lines file is one passage, as it is.

    Folders are walked in sorted order, links followed once, and hidden entries passed over. The metadata of a passage
    holds `source` (the path relative to the given folder or, for a given file, its name), and where known `document`
    (the title of the whole file) and `section` (the headings above, joined by " > "). Its id is `<source>#<number>`,
    or the record's own id.

    Args:
        paths: Files and folders, or one of them.
        max_words: Longest passage, in words.
        on_skip: Receives the path and the reason for each file, line or folder that yields no passage. Without it,
            each is a warning.
        on_document: Receives the `source` of each document that was split and the number of its passages, so that
            a caller can forget what a longer version of it left behind: 0 for an empty file. Not called for JSON
            lines, nor for files that cannot be read as text.
        exclude: Files and folders to leave out without a report, such as the folder of the memory itself.
        base: Folder that `source` is relative to, in place of those in `paths`; files outside of it have their whole
            path. With it, a file has the same source, and its passages the same ids, however it is named in `paths`.

    Returns:
        An iterator that reads one file at a time.

    Raises:
        FileNotFoundError: One of the paths does not exist; raised at the call.
        ValueError: `max_words` is less than 1; raised at the call.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "flash.md").write_text("# NAND flash\n\nInvented at Toshiba.")
    ...     [(passage.id, passage.title, passage.text) for passage in read_passages(folder)]
    [('flash.md#0', 'NAND flash', 'Invented at Toshiba.')]
    """
    if max_words < 1:
        msg = f"max_words must be at least 1, not {max_words}"
        raise ValueError(msg)
    roots = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    for root in roots:
        if not os.path.lexists(root):
            msg = f"no such file or folder: {root}"
            raise FileNotFoundError(msg)
    options = _Options(
        max_words=max_words,
        skip=_warn if on_skip is None else on_skip,
        report=on_document or (lambda source, count: None),
        excluded=frozenset(Path(path).resolve() for path in exclude),
        base=None if base is None else Path(os.path.abspath(base)),
    )
    return _without_repeats(_read_all(roots, options), options.skip)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of `read_passages`, made ready."""

    max_words: int
    skip: OnSkip
    report: Callable[[str, int], object]
    excluded: frozenset[Path]
    base: Path | None


def _warn(path: Path, reason: str) -> None:
    warnings.warn(f"skipped {path}: {reason}", stacklevel=3)


def _read_all(roots: list[Path], options: _Options) -> Iterator[tuple[Path, Passage]]:
    skip = options.skip
    seen: dict[Path, Path] = {}
    sources: set[str] = set()
    for root in roots:
        for path in _walk(root, skip, options.excluded):
            real = path.resolve()
            if real in seen:
                skip(path, f"the same file as {seen[real]}")
                continue
            seen[real] = path
            source = _source(path, root, options.base, sources)
            sources.add(source)
            try:
                for passage in _read_file(path, source, options):
                    yield path, passage
            except OSError as error:
                skip(path, f"unreadable: {error.strerror or error}")
            except (AssertionError, RecursionError) as error:  # what the parsers raise at markup beyond repair
                skip(path, f"malformed: {error}")


def _without_repeats(found: Iterator[tuple[Path, Passage]], skip: OnSkip) -> Iterator[Passage]:
    """Drop later passages of an id that was used before: a memory would take one as the replacement of the other."""
    owners: dict[str | None, Path] = {}
    for path, passage in found:
        if passage.id in owners:
            skip(path, f"id {passage.id!r} is already used in {owners[passage.id]}")
        else:
            owners[passage.id] = path
            yield passage


def _walk(root: Path, skip: OnSkip, excluded: frozenset[Path]) -> Iterator[Path]:
    """Yield regular files below a folder in sorted order, entering each real folder once."""
    entered: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        try:
            if path.resolve() in excluded:
                continue
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                yield path
            elif not stat.S_ISDIR(status.st_mode):
                skip(path, "neither a file nor a folder")
            elif (status.st_dev, status.st_ino) in entered:
                skip(path, "a link to a folder that was read already")
            else:
                entered.add((status.st_dev, status.st_ino))
                names = sorted(name for name in os.listdir(path) if not name.startswith("."))
                waiting.extend(path / name for name in reversed(names))
        except (OSError, RuntimeError) as error:  # RuntimeError: resolve() in a loop of links, up to Python 3.12
            skip(path, f"unreadable: {getattr(error, 'strerror', None) or error}")


def _source(path: Path, root: Path, base: Path | None, taken: set[str]) -> str:
    """Name a file as seen from the base, or from its root and more fully if another root has given the same name."""
    whole = Path(os.path.abspath(path))
    if base is not None:
        names = [(whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()]
    else:
        near = path.relative_to(root).as_posix() if path != root else path.name
        names = [near, f"{root.name}/{near}", whole.as_posix()]
    readable = [_readable(name) for name in names]
    return next((name for name in readable if name not in taken), readable[-1])


def _readable(name: str) -> str:
    """Return a path as a text; a mark tells apart those that read the same, in this run or another."""
    data = os.fsencode(name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"{data.decode('utf-8', 'replace')}~{hashlib.sha256(data).hexdigest()[:8]}"


def _read_file(path: Path, source: str, options: _Options) -> Iterator[Passage]:
    suffix = path.suffix.lower()
    if suffix in _JSON_LINES:
        yield from jsonl_passages(path, source, options.skip)
    elif suffix in SUFFIXES:
        text = _read_text(path, source, options)
        if text is not None:
            yield from _split(text, path, source, options)
    else:
        options.skip(path, f"unknown suffix {suffix!r}" if suffix else "no suffix that tells its format")


def _split(text: str, path: Path, source: str, options: _Options) -> Iterator[Passage]:
    suffix = path.suffix.lower()
    title: str | None = None
    parts: list[Heading | Block]
    if suffix in _MARKDOWN:
        title, parts = markdown_parts(text, options.max_words)
    elif suffix in _HTML:
        title, parts = html_parts(text)
    else:
        parts = [Block(paragraph.strip("\n")) for paragraph in _paragraphs(text)]
    count = 0
    for passage in _passages(parts, title or _name(path), source, options.max_words):
        count += 1
        yield passage
    options.report(source, count)
    if not count:
        options.skip(path, "no text in it")


def _read_text(path: Path, source: str, options: _Options) -> str | None:
    data = path.read_bytes()
    if not data.strip():
        options.skip(path, "empty")
        options.report(source, 0)  # it may have been longer when it was read before
    elif b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        options.skip(path, "binary")
    else:
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            options.skip(path, f"not UTF-8 (byte {error.start})")
    return None


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield "\n".join(lines)
            lines = []


def _name(path: Path) -> str:
    name = os.fsencode(path.stem).decode("utf-8", "replace")
    return " ".join(name.replace("_", " ").replace("-", " ").split()) or path.name


def _passages(parts: Iterable[Heading | Block], document: str, source: str, max_words: int) -> Iterator[Passage]:
    number = 0
    for section in sections(parts):
        metadata: dict[str, Any] = {"source": source, "document": document}
        if section.path:
            metadata["section"] = " > ".join(section.path)
        title = section.path[-1] if section.path else document
        for text in pack(section.blocks, max_words):
            yield Passage(text=text, title=title, id=f"{source}#{number}", metadata=dict(metadata))
            number += 1
