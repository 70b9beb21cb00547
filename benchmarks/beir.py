"""Reading BEIR folders, and the variations of them that the benchmarks use."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hybridmem_plugins import Passage

CHUNK_WORDS = 60


@dataclass(frozen=True)
class Query:
    """A question and the documents that answer it."""

    text: str
    gold: frozenset[str]


@dataclass(frozen=True)
class DataSet:
    """Passages, each of one document, and questions whose answers are documents."""

    name: str
    passages: list[Passage]
    queries: list[Query]

    @staticmethod
    def document(passage_id: str) -> str:
        """Return the document that a passage is of."""
        return passage_id.split("#")[0]


def read_sets(folder: Path) -> list[DataSet]:
    """Read every data set below a folder, or the one that the folder is."""
    folders = (
        [folder] if (folder / "corpus.jsonl").exists() else sorted(p.parent for p in folder.glob("*/corpus.jsonl"))
    )
    if not folders:
        msg = f"no corpus.jsonl in {folder} or a folder below it"
        raise SystemExit(msg)
    return [_read(path) for path in folders]


def _read(folder: Path) -> DataSet:
    passages = []
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        text = record["text"] if record["text"].strip() else record["title"]
        passages.append(Passage(text=text, title=record.get("title") or None, id=record["_id"]))
    gold: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            gold[query].add(document)
    records = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    return DataSet(
        folder.name, passages, [Query(r["text"], frozenset(gold[r["_id"]])) for r in records if r["_id"] in gold]
    )


def without_titles(data: DataSet) -> DataSet:
    """Remove all titles."""
    return DataSet(f"{data.name} no titles", [replace(p, title=None) for p in data.passages], data.queries)


def in_chunks(data: DataSet) -> DataSet:
    """Cut passages into chunks of 60 words that keep their title."""
    chunks = []
    for passage in data.passages:
        words = passage.text.split()
        for start in range(0, len(words), CHUNK_WORDS):
            text = " ".join(words[start : start + CHUNK_WORDS])
            chunks.append(replace(passage, text=text, id=f"{passage.id}#{start // CHUNK_WORDS}"))
    return DataSet(f"{data.name} chunks", chunks, data.queries)


def recall(found: Sequence[str], gold: frozenset[str], k: int) -> float:
    """Return the share of gold documents among the documents of the first k passages."""
    return len({DataSet.document(i) for i in found[:k]} & gold) / len(gold)


def perfect(found: Sequence[str], gold: frozenset[str], k: int) -> float:
    """Return 1.0 if all gold documents are among those of the first k passages."""
    return float(gold <= {DataSet.document(i) for i in found[:k]})


METRICS: dict[str, Callable[[Sequence[str], frozenset[str]], float]] = {
    "recall@2": lambda found, gold: recall(found, gold, 2),
    "recall@5": lambda found, gold: recall(found, gold, 5),
    "perfect@5": lambda found, gold: perfect(found, gold, 5),
    "perfect@8": lambda found, gold: perfect(found, gold, 8),
}


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95% bootstrap interval of a mean (2,000 resamples)."""
    rng = np.random.default_rng(seed)
    array = np.asarray(values)
    means = array[rng.integers(0, len(array), (2000, len(array)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
