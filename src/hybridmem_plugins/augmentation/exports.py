"""Data sets in the forms that trainers read, written row by row, and taken up again where a run was cut off."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.datasheet import Datasheet
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE
from hybridmem_plugins.augmentation.operators.context import GOLD_ROLES
from hybridmem_plugins.errors import require

if TYPE_CHECKING:
    from hybridmem_plugins.augmentation.dataset import NoisyDataset

Row = Mapping[str, Any]
CHECKPOINT_EVERY = 500
"""Examples between two notes of how far an export has come."""


def prompt_completion(row: Row) -> dict[str, Any]:
    """TRL's plain form: two texts; the completion begins with the space after the prompt's cue."""
    return {"prompt": row["prompt"], "completion": f" {row['completion']}"}


def conversational(row: Row) -> dict[str, Any]:
    """TRL's prompt/completion form for chat models: the chat template is applied, and only the completion trained."""
    return {"prompt": row["messages"][:2], "completion": row["messages"][2:]}


def chat(row: Row) -> dict[str, Any]:
    """One conversation a line, as the common fine-tuning services take it."""
    return {"messages": row["messages"]}


def raft(row: Row) -> dict[str, Any]:
    """RAFT's columns (arXiv 2403.10131); the answer quotes the sentence it rests on, where there is one."""
    oracle = "\n\n".join(passage["text"] for passage in row["clean"])
    return {
        "id": row["id"],
        "type": "general",
        "question": row["question"],
        "context": {
            "sentences": [[passage["text"] for passage in row["passages"]]],
            "title": [[passage["title"] or "placeholder_title" for passage in row["passages"]]],
        },
        "oracle_context": oracle,
        "cot_answer": f"{_quotation(row)}<ANSWER>: {row['completion']}",
        "instruction": row["messages"][1]["content"],
    }


def _quotation(row: Row) -> str:
    if row["labels"]["abstain"]:
        return ""
    for passage in row["passages"]:
        for sentence in SENTENCE.finditer(passage["text"]) if passage["role"] in GOLD_ROLES else ():
            if contains_answer(sentence[0], row["answers"]):
                return f"##begin_quote## {sentence[0]} ##end_quote##\n"
    return ""


def whole_rows(row: Row) -> dict[str, Any]:
    """Everything: passages, labels and edit log."""
    return dict(row)


LINES: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "prompt_completion": prompt_completion,
    "conversational": conversational,
    "chat": chat,
    "raft": raft,
    "rows": whole_rows,
}
"""Forms of one JSON object a line. `embedding_qa` is the one form that is a single JSON object."""


def export(
    dataset: NoisyDataset,
    path: str | Path,
    form: str = "prompt_completion",
    *,
    split: str | None = None,
    resume: bool = True,
    progress: bool = False,
    limit: int | None = None,
) -> Datasheet:
    """Write a data set, and its datasheet beside it (`<name>.datasheet.json`).

    Rows go to `<name>.part`, which gets its name when it is complete. A run that was cut off leaves it and a note of
    how far it came; the next one with the same settings goes on from there and writes the same bytes.

    Args:
        dataset: What `build_dataset` gave.
        path: File to write.
        form: A key of `LINES`, or `embedding_qa` (the JSON of LlamaIndex's former EmbeddingQAFinetuneDataset).
        split: "train" or "validation" alone; None writes both.
        resume: Go on from an unfinished run, trusting that a stream or a retriever gives the same again; False begins
            anew.
        progress: Show a bar on standard error.
        limit: Stop after so many rows, as if cut off (for trials).

    Raises:
        ValueError: An unknown form or split, or an unfinished run with other settings.
    """
    path = Path(path)
    if form not in (*LINES, "embedding_qa"):
        msg = f"Unknown form {form!r}. Choose one of: {', '.join([*LINES, 'embedding_qa'])}."
        raise ValueError(msg)
    if split not in (None, "train", "validation"):
        msg = f"Unknown split {split!r}: give 'train', 'validation' or None for both."
        raise ValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "embedding_qa":
        _write_embedding_qa(dataset, path, split, progress)
    elif not _write_lines(_Run(dataset, path, form, split), resume, progress, limit):
        return dataset.datasheet
    dataset.datasheet.rows_sha256 = _sha256(path)
    sheet = path.with_name(path.name + ".datasheet.json")
    sheet.write_text(json.dumps(dataset.datasheet.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    return dataset.datasheet


class _Run:
    """One export to lines: where it writes, and the note of how far it came."""

    def __init__(self, dataset: NoisyDataset, path: Path, form: str, split: str | None) -> None:
        self.dataset, self.path, self.split = dataset, path, split
        self.line = LINES[form]
        self.part = path.with_name(path.name + ".part")
        self.note = path.with_name(path.name + ".progress.json")
        self.identity = {"fingerprint": dataset.fingerprint, "form": form, "split": split}

    def begin(self, resume: bool) -> int:
        """Set the datasheet up and give the number of examples already done."""
        self.dataset.datasheet = self.dataset.new_datasheet()
        noted = self._noted() if resume else None
        if noted is None:
            # The note goes first: beside a part file that it does not speak of, it would let the next run mix the two.
            self.note.unlink(missing_ok=True)
            self.part.write_bytes(b"")
            return 0
        if noted["identity"] != self.identity:
            msg = (
                f"{self.part} was begun with other settings, chunks or examples; finish it with those, or pass "
                "resume=False."
            )
            raise ValueError(msg)
        os.truncate(self.part, noted["bytes"])
        self.dataset.datasheet = Datasheet.from_dict(noted["datasheet"])
        return int(noted["examples"])

    def _noted(self) -> dict[str, Any] | None:
        """Read the note; None where there is none, or the part file lacks bytes that it speaks of."""
        if not (self.note.exists() and self.part.exists()):
            return None
        noted: dict[str, Any] = json.loads(self.note.read_text(encoding="utf-8"))
        return noted if noted["bytes"] <= self.part.stat().st_size else None

    def keep(self, file: IO[bytes], examples: int) -> None:
        """Note how far the file is good. The rows are on disk before the note says so."""
        file.flush()
        os.fsync(file.fileno())
        sheet = self.dataset.datasheet.as_dict()
        noted = {"identity": self.identity, "examples": examples, "bytes": file.tell(), "datasheet": sheet}
        fresh = self.note.with_suffix(".new")
        fresh.write_text(json.dumps(noted), encoding="utf-8")
        fresh.replace(self.note)


def _write_lines(run: _Run, resume: bool, progress: bool, limit: int | None) -> bool:
    """Write the rows; False where the limit stopped it."""
    start = run.begin(resume)
    with run.part.open("ab") as file, _Bar(run.dataset, start, progress) as bar:
        for examples, rows in run.dataset.batches(start, run.split):
            for row in rows:
                file.write(json.dumps(run.line(row), ensure_ascii=False).encode() + b"\n")
            bar.advance()
            stop = limit is not None and run.dataset.datasheet.rows >= limit
            if stop or examples % CHECKPOINT_EVERY == 0:
                run.keep(file, examples)
            if stop:
                return False
    run.part.replace(run.path)
    run.note.unlink(missing_ok=True)
    return True


def _write_embedding_qa(dataset: NoisyDataset, path: Path, split: str | None, progress: bool) -> None:
    """Write queries, corpus and relevant passages; unanswerable rows are left out, as nothing is relevant to them."""
    names = ("queries", "corpus", "relevant_docs")
    parts = {name: path.with_name(f"{path.name}.{name}.part") for name in names}
    files = {name: part.open("w", encoding="utf-8") for name, part in parts.items()}
    try:
        with _Bar(dataset, 0, progress) as bar:
            dataset.datasheet = dataset.new_datasheet()
            for _, rows in dataset.batches(split=split):
                bar.advance()
                for row in rows:
                    if not row["labels"]["abstain"]:
                        _write_pairs(files, row)
    finally:
        for file in files.values():
            file.close()
    with path.open("w", encoding="utf-8") as whole:
        for number, name in enumerate(names):
            whole.write(f'{"{" if number == 0 else ", "}"{name}": {{')
            with parts[name].open(encoding="utf-8") as file:
                for at, line in enumerate(file):
                    whole.write(("," if at else "") + line.rstrip("\n"))
            whole.write("}")
            parts[name].unlink()
        whole.write(', "mode": "text"}')


def _write_pairs(files: Mapping[str, IO[str]], row: Row) -> None:
    ids = [f"{row['id']}/{number}" for number in range(len(row["passages"]))]
    relevant = [name for name, passage in zip(ids, row["passages"], strict=True) if passage["role"] in GOLD_ROLES]
    pairs = {"queries": [(row["id"], row["question"])], "relevant_docs": [(row["id"], relevant)]}
    pairs["corpus"] = [(name, passage["text"]) for name, passage in zip(ids, row["passages"], strict=True)]
    for name, entries in pairs.items():
        for key, value in entries:
            files[name].write(f"{json.dumps(key)}: {json.dumps(value)}\n")


def to_datasets(dataset: NoisyDataset, split: str | None = None) -> Any:
    """Make a memory-mapped `datasets.Dataset`; labels and edits are JSON text there, as their values' types vary.

    The same data set is taken from the cache; one from a stream or with a retriever is made anew each time.

    Raises:
        ImportError: `datasets` is not installed (extra `train`).
    """
    datasets = require("datasets", "train")

    def rows() -> Iterator[dict[str, Any]]:
        dataset.datasheet = dataset.new_datasheet()
        for row in (row for _, made in dataset.batches(split=split) for row in made):
            plain = ("id", "question", "answers", "prompt", "completion", "messages", "split", "gold_ids")
            packed = {name: json.dumps(row[name], ensure_ascii=False) for name in ("passages", "labels", "edits")}
            yield {**{name: row[name] for name in plain}, **packed}

    # The cache must tell apart what makes other rows; what a stream or a retriever gives is known only afterwards.
    name = dataset.fingerprint if dataset.is_fixed else uuid4().hex
    return datasets.Dataset.from_generator(rows, fingerprint=f"{name}{split or 'all'}")


class _Bar:
    """A progress bar on standard error, or nothing."""

    def __init__(self, dataset: NoisyDataset, done: int, shown: bool) -> None:
        self._progress: Any = None
        if shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("examples"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task("rows", total=dataset.example_count, completed=done)

    def __enter__(self) -> _Bar:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self) -> None:
        if self._progress:
            self._progress.advance(self._task)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
