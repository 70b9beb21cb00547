"""Questions with answers and gold passages, and chunks, read from whatever form the user has them in."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO

from hybridmem_plugins.augmentation.answers import whole_words
from hybridmem_plugins.passage import Passage


@dataclass(frozen=True, slots=True)
class Example:
    """One question with what answers it.

    Attributes:
        id: Names the row in the data set and in errors.
        question: What is asked.
        answers: Forms of the answer that occur in the gold passages, best first.
        spans: For each of the answers, the spans that must all be found: itself, or the parts of a joined answer.
        gold: The passages that answer it.
        completion: A longer target written by somebody else, or None.
        document: What document the gold is of, where its passages do not say; shown to nobody, as only the gold would
            have it.
        aliases: Further forms of the answer, which the gold passages do not say but a wrong passage could.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    spans: tuple[tuple[str, ...], ...]
    gold: tuple[Passage, ...]
    completion: str | None = None
    document: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def giveaways(self) -> list[str]:
        """All spans and aliases: a passage that holds one of them is not wrong."""
        return [*(span for spans in self.spans for span in spans), *self.aliases]


def as_passage(item: Any, fallback_id: str | None = None, title_key: str = "title") -> Passage:
    """Turn a text, dict, `Passage`, LangChain `Document` or LlamaIndex node into a `Passage` with an id.

    Args:
        item: The thing; frameworks are told by their attributes and never imported.
        fallback_id: Id for an item without one; None derives it from title and text.
        title_key: Metadata key that holds the title.

    Raises:
        TypeError: The item is none of these, or has no text, or metadata that is no dict.

    >>> as_passage({"_id": "d1", "title": "Ada", "text": "She wrote."}).id
    'd1'
    """
    text: Any
    given: Any
    if isinstance(item, Passage):
        text, title, given, metadata = item.text, item.title, item.id, item.metadata
    elif isinstance(item, str):
        text, title, given, metadata = item, None, None, {}
    elif isinstance(item, Mapping):
        text, metadata = first_of(item, "text", "page_content"), item.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            msg = f"{fallback_id or 'a chunk'}: its 'metadata' is no dict, but {type(metadata).__name__}."
            raise TypeError(msg)
        title, given = item.get("title") or metadata.get(title_key), first_of(item, "id", "_id")
    else:
        item = getattr(item, "passage", None) or getattr(item, "node", item)
        if isinstance(item, Passage):
            return as_passage(item, fallback_id, title_key)
        metadata = getattr(item, "metadata", None) or {}
        text = item.page_content if hasattr(item, "page_content") else getattr(item, "text", None)
        if text is None and callable(getattr(item, "get_content", None)):  # LlamaIndex's plain `Node` has no `text`
            text = item.get_content()
        ids = (getattr(item, name, None) for name in ("node_id", "id"))
        title, given = metadata.get(title_key), next((one for one in ids if one is not None), None)
    if not isinstance(text, str) or not text.strip():
        msg = (
            f"{fallback_id or 'a chunk'}: expected a non-empty text, a Passage, a dict with 'text', a LangChain "
            f"Document or a LlamaIndex node, got {type(item).__name__} without text."
        )
        raise TypeError(msg)
    title = str(title) if title else None
    # 0 is an id.
    known = "" if given is None else str(given)
    return Passage(text, title, known or fallback_id or content_id(title, text), metadata)


def plain_json(value: Any) -> Any:
    """Return a value as plain JSON: numbers of any library as such, None where they are not finite, others as text.

    >>> plain_json({"where": Path("a/b"), "pages": (3, float("nan"))})
    {'where': 'a/b', 'pages': [3, None]}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_json(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain_json(one) for one in value), key=str)
    if isinstance(value, list | tuple):
        return [plain_json(one) for one in value]
    return str(value)


def plain_passage(passage: Passage) -> Passage:
    """Return a passage as rows may hold it: with metadata of plain JSON; itself where it is so already.

    Raises:
        ValueError: Something in it has half of a surrogate pair, which no file can hold.
    """
    metadata = plain_json(passage.metadata)
    check_encodable([passage.text, passage.title, passage.id, metadata])
    return passage if metadata == passage.metadata else replace(passage, metadata=metadata)


def check_encodable(value: Any) -> None:
    """Check that plain JSON can be written in UTF-8.

    Raises:
        ValueError: It has half of a surrogate pair.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20].encode("utf-8", "replace").decode()
        msg = f"it holds half of a surrogate pair, which no UTF-8 file can hold, at “{near}”"
        raise ValueError(msg) from error


def first_of(fields: Mapping[str, Any], *names: str) -> Any:
    """Give the first of these fields that is there and not None."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def content_id(title: str | None, text: str) -> str:
    """Derive an id from title and text, the same in any process."""
    return hashlib.blake2b(f"{title or ''}\x1f{text}".encode("utf-8", "replace"), digest_size=8).hexdigest()


def read_example(
    item: Any, number: int = 0, find: Callable[[str], Passage | None] = lambda key: None, title_key: str = "title"
) -> Example:
    """Read and check one example.

    Args:
        item: A dict with question, answers (or answer; a text, a list, or SQuAD's dict with a list `text`) and context
            (or gold_ids); or a LangChain Document or LlamaIndex node that is the gold passage and has question and
            answers in its metadata.
        number: Position in the input, for the id of an example without one.
        find: Gives the chunk with some id or text, or None.
        title_key: Metadata key that holds a title.

    Raises:
        ValueError: Something is missing or the answer is not in its gold; the message names the row.

    >>> read_example({"id": "q1", "question": "Who?", "answers": ["Ada"], "context": "It was Ada."}).spans
    (('Ada',),)
    """
    fields: Mapping[str, Any] = item if isinstance(item, Mapping) else getattr(item, "metadata", None) or {}
    given = first_of(fields, "id", "_id")
    row = f"row-{number}" if given is None else str(given)
    question = first_of(fields, "question", "query")
    if not isinstance(question, str) or not question.strip():
        msg = f"Row {row!r} has no question: give a non-empty 'question'."
        raise ValueError(msg)
    answers = _answers(fields, row)
    try:
        check_encodable([row, question, answers, str(fields.get("completion"))])
    except ValueError as error:
        msg = f"Row {row!r}: {error}."
        raise ValueError(msg) from error
    gold = _gold(item, fields, row, find, title_key)
    located = [_locate(answer, gold) for answer in answers]
    found = [(whole, spans) for whole, spans in located if spans]
    if not found:
        msg = (
            f"Row {row!r}: none of its answers {answers!r} occurs in its gold passage(s). Correct the answers or the "
            "context, or build with on_bad_row='skip'."
        )
        raise ValueError(msg)
    wholes, spans = zip(*found, strict=True)
    completion, document = (
        value if isinstance(value, str) and value else None for value in map(fields.get, ("completion", title_key))
    )
    aliases = tuple(answer for answer, spans in located if not spans)
    return Example(row, question, wholes, spans, gold, completion, document, aliases)


def _answers(fields: Mapping[str, Any], row: str) -> list[str]:
    given = first_of(fields, "answers", "answer", "gold_answers")
    texts = [text.strip() for text in all_texts(given) if text.strip()]
    if not texts:
        msg = f"Row {row!r} has no answers: give 'answers', a list of at least one non-empty text."
        raise ValueError(msg)
    return texts


def all_texts(given: Any) -> Iterator[str]:
    """Yield the texts of what a row gives as answers or ids: a text or number, lists of them, or SQuAD's dict.

    >>> list(all_texts({"text": ["1843"], "answer_start": [12]}))
    ['1843']
    """
    if isinstance(given, Mapping):
        given = given.get("text")
    if isinstance(given, Iterable) and not isinstance(given, str):
        for one in given:
            yield from all_texts(one)
    elif given is not None:
        yield str(given)


def contexts_of(fields: Mapping[str, Any]) -> list[Any]:
    """Give what stands as `context` (or `contexts`) in an example, as a list, empty where there is none."""
    given = first_of(fields, "context", "contexts")
    if isinstance(given, Sequence) and not isinstance(given, str):
        return list(given)
    return [] if given is None else [given]


def _gold(
    item: Any, fields: Mapping[str, Any], row: str, find: Callable[[str], Passage | None], title_key: str
) -> tuple[Passage, ...]:
    items = contexts_of(fields) if isinstance(item, Mapping) else [item]
    if not items:
        ids = list(all_texts(fields.get("gold_ids")))
        unknown = [gold for gold in ids if find(gold) is None]
        if unknown or not ids:
            msg = f"Row {row!r}: " + (f"gold ids {unknown!r} are in no chunk." if unknown else "no 'context' is given.")
            raise ValueError(msg)
        return tuple(chunk for chunk in map(find, ids) if chunk)
    passages = []
    for position, one in enumerate(items):
        try:
            passage = as_passage(one, None if not isinstance(one, str) else f"{row}-gold-{position}", title_key)
        except TypeError as error:
            msg = f"Row {row!r}: its context number {position} is empty or of an unknown form ({error})"
            raise ValueError(msg) from error
        if isinstance(one, str):
            title = fields.get("title") or None
            passage = find(one) or Passage(one, title if isinstance(title, str) else None, passage.id, {})
        try:
            passages.append(plain_passage(passage))
        except ValueError as error:
            msg = f"Row {row!r}: its context number {position}: {error}."
            raise ValueError(msg) from error
    return tuple(passages)


def _locate(answer: str, gold: Sequence[Passage]) -> tuple[str, tuple[str, ...]]:
    """Find an answer whole, or the parts of an answer joined by commas; the spans are empty where it is not there."""
    for passage in gold:
        whole = whole_words(answer, passage.text)
        if whole:
            return whole, (whole,)
    parts = [part.strip() for separator in (", ", "; ") if separator in answer for part in answer.split(separator)]
    spans = [next(filter(None, (whole_words(part, passage.text) for passage in gold)), None) for part in parts if part]
    found = tuple(filter(None, spans))
    return (", ".join(found), found) if found and all(spans) else (answer, ())


def read_rows(path: str | Path, *, torn: bytes | None = None) -> Iterator[Any]:
    """Stream the objects of a JSON-lines file (`.gz` too), or those of one JSON array.

    Args:
        path: The file.
        torn: How a line begins that a kill may have cut, and that is then passed over.

    Raises:
        ValueError: A line is no JSON; the message names file and line.
    """
    path = Path(path)
    with _open(path) as file:
        if file.read(_LOOKED_AT).lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"["):
            file.seek(0)
            yield from _loaded(file.read(), f"{path}")
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = _loaded(line, f"{path}, line {number}")
            except ValueError:
                if torn is None or not line.startswith(torn):
                    raise
            else:
                yield row


_LOOKED_AT = 64
"""Bytes within which a file must begin in earnest to be taken for one JSON array."""


def _loaded(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except ValueError as error:
        msg = f"{where}: not JSON in UTF-8 ({error})."
        raise ValueError(msg) from error


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_beir(folder: str | Path, split: str = "test") -> tuple[list[dict[str, Any]], list[Passage]]:
    """Read a BEIR folder (corpus.jsonl, queries.jsonl, qrels/<split>.tsv) as examples and chunks.

    BEIR has no answers; they are read from a query's `metadata.answer` or `metadata.answers`. A query without is left
    out.

    Raises:
        ValueError: No query has an answer.
    """
    folder = Path(folder)
    chunks = [as_passage(row) for row in read_rows(folder / "corpus.jsonl")]
    gold = read_qrels(folder / "qrels" / f"{split}.tsv")
    examples = []
    for row in read_rows(folder / "queries.jsonl"):
        metadata = row.get("metadata") or {}
        answers = first_of(metadata, "answers", "answer")
        if answers and row["_id"] in gold:
            examples.append(
                {"id": row["_id"], "question": row["text"], "answers": answers, "gold_ids": gold[row["_id"]]}
            )
    if not examples:
        msg = f"{folder}: no query has metadata.answer or metadata.answers, so nothing can be labelled."
        raise ValueError(msg)
    return examples, chunks


def read_qrels(file: Path) -> dict[str, list[str]]:
    """Read which passages are relevant to which query from BEIR's table of query, passage and score.

    Raises:
        ValueError: A line has not three columns, or a score that is no number.
    """
    gold: dict[str, list[str]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if number == 1 or not line.strip():
            continue
        try:
            query, passage, score = line.split("\t")
            relevant = float(score) > 0
        except ValueError as error:
            msg = f"{file}, line {number}: expected query, passage and score, parted by tabs ({error})."
            raise ValueError(msg) from error
        if relevant:
            gold.setdefault(query, []).append(passage)
    return gold


def refuse_one(items: Any, name: str) -> None:
    """Check that many things are given: a text or a dict can be iterated too, by characters or keys.

    Raises:
        TypeError: It is one text (or path) or dict.
    """
    if isinstance(items, str | bytes | Path | Mapping):
        msg = f"{name} is one {type(items).__name__}: give a list, or a stream."
        raise TypeError(msg)


def check_chunks(chunks: Iterable[Any], title_key: str = "title") -> list[Passage]:
    """Read all chunks and check that there are two or more and that ids are unique.

    Raises:
        ValueError: Too few chunks, two different chunks under one id, or half of a surrogate pair.
        TypeError: A chunk has no text, the message names its position; or it is no list of chunks.
    """
    refuse_one(chunks, "chunks")
    passages: dict[str, Passage] = {}
    for number, item in enumerate(chunks):
        try:
            passage = plain_passage(as_passage(item, title_key=title_key))
        except (TypeError, ValueError) as error:
            msg = f"Chunk number {number}: {error}"
            raise type(error)(msg) from error
        known = passages.setdefault(str(passage.id), passage)
        if known is not passage and known.text != passage.text:
            msg = f"Chunk number {number}: id {passage.id!r} is already that of another chunk; make ids unique."
            raise ValueError(msg)
    if len(passages) < 2:
        have = "the chunk list is empty" if not passages else f"there is one chunk only ({next(iter(passages))!r})"
        msg = f"Chunks: {have}; noise needs wrong passages beside the gold: give at least two different chunks."
        raise ValueError(msg)
    return list(passages.values())
