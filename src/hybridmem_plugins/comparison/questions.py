"""Questions with answers over a set of passages: one's own folder, or the bundled samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.examples import all_texts, read_qrels
from hybridmem_plugins.passage import Passage

SAMPLES = "samples"
ID_KEY = "passage_id"
"""Metadata under which each passage carries its id, so that a question can be asked without its gold passages."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answers.

    Attributes:
        id: Unique in its benchmark.
        text: What is asked.
        answers: Right answers, aliases of one another; empty where the passages do not hold one.
        type: Kind of question, for figures by kind; `all` where none is given.
        gold: Ids of the passages that the answer needs; empty where unknown.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    type: str
    gold: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Passages, and questions about them."""

    name: str
    passages: list[Passage]
    questions: list[Question]


def load_benchmark(source: str | Path) -> Benchmark:
    """Read passages and questions.

    Args:
        source: `samples`, or a folder in BEIR's layout: `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl`
            (`_id`, `text` and, under `metadata` or beside them, `answer` or `answers`, where null or an empty list says
            that the passages hold none, and maybe `type`), and, where known, `qrels/test.tsv`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A record lacks a field, or a question's answer is not given.

    >>> samples = load_benchmark("samples")
    >>> len(samples.passages), len(samples.questions), samples.questions[-1].answers
    (45, 6, ())
    """
    if str(source) == SAMPLES:
        return _samples()
    folder = Path(source)
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (folder / name).is_file():
            msg = f"{folder} has no {name}. Give a folder with corpus.jsonl and queries.jsonl (BEIR), or 'samples'."
            raise FileNotFoundError(msg)
    qrels = folder / "qrels" / "test.tsv"
    gold = read_qrels(qrels) if qrels.is_file() else {}
    passages = [
        _passage(str(record["_id"]), record.get("title"), str(record["text"]))
        for record in _records(folder / "corpus.jsonl", ("_id", "text"))
    ]
    questions = [_question(record, gold) for record in _records(folder / "queries.jsonl", ("_id", "text"))]
    if not passages or not questions:
        msg = f"{folder} holds {len(passages)} passages and {len(questions)} questions: both are needed"
        raise ValueError(msg)
    return Benchmark(folder.resolve().name, passages, questions)


def _passage(identifier: str, title: str | None, text: str) -> Passage:
    return Passage(text if text.strip() else str(title), title or None, identifier, {ID_KEY: identifier})


def _samples() -> Benchmark:
    from hybridmem_plugins.samples import load_corpus, load_questions

    passages = [_passage(str(passage.id), passage.title, passage.text) for passage in load_corpus()]
    questions = [
        Question(asked.id, asked.question, (asked.answer,) if asked.answer else (), "all", asked.gold)
        for asked in load_questions()
    ]
    return Benchmark(SAMPLES, passages, questions)


def _question(record: dict[str, Any], gold: dict[str, list[str]]) -> Question:
    known = {**record, **(record.get("metadata") or {})}
    if "answer" not in known and "answers" not in known:
        msg = (
            f"question {record['_id']!r} has no answer. Give `answer` or `answers` in its metadata; null says that the "
            "passages hold none"
        )
        raise ValueError(msg)
    identifier = str(record["_id"])
    return Question(
        identifier,
        str(record["text"]),
        tuple(answer for answer in all_texts(known.get("answers", known.get("answer"))) if answer.strip()),
        str(known.get("type") or "all"),
        tuple(gold.get(identifier, ())),
    )


def _records(file: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            msg = f"{file}, line {number}: not JSON ({error})"
            raise ValueError(msg) from error
        missing = [field for field in fields if not isinstance(record, dict) or field not in record]
        if missing:
            msg = f"{file}, line {number}: no {', '.join(missing)}"
            raise ValueError(msg)
        records.append(record)
    return records
