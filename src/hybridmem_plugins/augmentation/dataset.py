"""Rows for training, made one at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.augmentation.compose import compose
from hybridmem_plugins.augmentation.datasheet import Datasheet, hash_all
from hybridmem_plugins.augmentation.decontamination import Evaluations
from hybridmem_plugins.augmentation.examples import Example, check_chunks, read_beir, read_example, refuse_one
from hybridmem_plugins.augmentation.labels import label, target
from hybridmem_plugins.augmentation.pools import ChunkStore
from hybridmem_plugins.augmentation.templates import ANSWER_CUE
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter


class NoisyDataset:
    """An iterable of rows; each pass over it makes the same rows again.

    A row is a dict of plain JSON: `id`, `example_id`, `question`, `answers` (forms of the answer that the gold says),
    `answer_spans` (for each, the spans that must all be found), `aliases` (further given forms, which no wrong passage
    holds), `prompt` and `completion` (plain text), `messages` (chat with the completion as the assistant's),
    `template`, `split`, `gold_ids`, `passages` (as noised, each with its `role`), `clean` (the gold before noising),
    `labels` (see `labels.label`) and `edits` (see `edits.replay`).

    Attributes:
        datasheet: Counts of the last pass, complete when the pass is.
    """

    def __init__(
        self,
        augmenter: NoisyContextAugmenter,
        examples: Iterable[Any] | str | Path | None,
        chunks: Iterable[Any] | None,
        *,
        retriever: Any,
        copies: int,
        validation: float,
        decontaminate: Sequence[str | Path],
        on_bad_row: str,
        licences: Mapping[str, str],
        title_key: str,
    ) -> None:
        """Read the chunks and, where they are a list, check the examples; see `build_dataset` for the arguments."""
        _check_settings(copies, validation, on_bad_row)
        self.augmenter = augmenter
        self._title_key, self._copies, self._on_bad_row = title_key, copies, on_bad_row
        self._validation = validation
        examples, chunks = _sources(examples, chunks)
        passages = check_chunks(chunks, title_key)
        self.store = ChunkStore(passages, retriever)
        self.recipe = augmenter.recipe(self.store)
        self._examples = examples if examples is not None else _ClozeExamples(passages)
        self._evaluations = Evaluations(decontaminate)
        self._licences = dict(licences)
        self._chunks_sha256, self._examples_sha256 = hash_all(passages), ""
        self._checked: list[Example | str] | None = None
        self._read_once = False
        # A `datasets.Dataset` is a list too, but no `Sequence`.
        if hasattr(self._examples, "__len__") and hasattr(self._examples, "__getitem__"):
            self._checked = list(self._read(self._examples))
            _check_ids((example for example in self._checked if isinstance(example, Example)), copies)
            self._examples_sha256 = hash_all(self._checked)
        self.datasheet = self.new_datasheet()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Make the rows from the first on."""
        self.datasheet = self.new_datasheet()
        for _, rows in self.batches():
            yield from rows

    def batches(self, start: int = 0, split: str | None = None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Make the rows of one example after another, skipping the first `start` examples (to resume).

        Args:
            start: Examples that are done already.
            split: "train" or "validation" makes the rows of that split alone.

        Yields:
            How many examples are done, and the rows of the last one (none where it was left out).

        Raises:
            ValueError: The examples were an iterator, and this is the second pass.
        """
        if self._checked is None and isinstance(self._examples, Iterator):
            if self._read_once:
                msg = "The examples were an iterator, which is read: give a list, or what can be iterated again."
                raise ValueError(msg)
            self._read_once = True
        read = self._read(self._examples, start) if self._checked is None else self._checked[start:]
        for number, example in enumerate(read, start + 1):
            if isinstance(example, str):
                self.datasheet.left_out(example)
                yield number, []
            else:
                yield number, self._rows(example) if split in (None, self._split(example)) else []

    def __len__(self) -> int:
        """Count the rows; only where the examples came as a list.

        Raises:
            TypeError: The examples are a stream.
        """
        if self._checked is None:
            msg = "The examples are a stream, so the number of rows is known only after a pass (datasheet)."
            raise TypeError(msg)
        return self._copies * sum(isinstance(example, Example) for example in self._checked)

    def lookup(self, passage_id: str) -> Passage:
        """Give a chunk by id, for `edits.replay`."""
        return self.store[passage_id]

    @property
    def fingerprint(self) -> str:
        """Tell runs apart that would make other rows: settings, chunks and examples.

        Two streams, or two retrievers, have the same (see `is_fixed`).
        """
        return self.new_datasheet().fingerprint

    @property
    def is_fixed(self) -> bool:
        """Whether the fingerprint tells everything: the examples are a list, and no retriever is asked."""
        return self._checked is not None and not self.store.has_retriever

    @property
    def example_count(self) -> int | None:
        """How many examples there are, left-out ones included; None where they are a stream."""
        return None if self._checked is None else len(self._checked)

    def new_datasheet(self) -> Datasheet:
        """Begin a datasheet for a pass."""
        augmenter = self.augmenter
        settings = {
            "seed": augmenter.seed,
            "templates": [template.name for template in augmenter.templates],
            "copies": self._copies,
            "validation": self._validation,
            "retriever": self.store.has_retriever,
            **augmenter.settings(),
        }
        return Datasheet(
            settings,
            self._chunks_sha256,
            self._examples_sha256,
            dict(self._licences),
            list(self._evaluations.names),
            chunks=len(self.store.passages),
        )

    def _read(self, examples: Iterable[Any], start: int = 0) -> Iterator[Example | str]:
        """Read examples; one that is left out comes as the reason."""
        for number, item in enumerate(islice(examples, start, None), start):
            try:
                example = read_example(item, number, self.store.find, self._title_key)
            except ValueError:
                if self._on_bad_row == "raise":
                    raise
                yield "bad row"
                continue
            shared = self._evaluations.shared_with(example)
            yield f"contaminated: {shared}" if shared else example

    def _rows(self, example: Example) -> list[dict[str, Any]]:
        rows = [self._row(example, name) for name in _row_ids(example, self._copies)]
        for row in rows:
            self.datasheet.count(row)
        return rows

    def _row(self, example: Example, row_id: str) -> dict[str, Any]:
        seed = self.augmenter.seed
        draft, kind, supported = compose(example, self.recipe, self.store, seed, row_id)
        templates = self.augmenter.templates
        template = templates[int(_place(row_id, seed) * len(templates))]
        messages = template.messages(example.question, draft.passages)
        completion = target(draft, example, supported)
        return {
            "id": row_id,
            "example_id": example.id,
            "question": example.question,
            "answers": list(example.answers),
            "answer_spans": [list(spans) for spans in example.spans],
            "aliases": list(example.aliases),
            "prompt": f"{messages[0]['content']}\n\n{messages[1]['content']}{ANSWER_CUE}",
            "completion": completion,
            "messages": [*messages, {"role": "assistant", "content": completion}],
            "template": template.name,
            "split": self._split(example),
            "gold_ids": [passage.id for passage in example.gold],
            "passages": [
                {**_plain(passage), "role": role} for passage, role in zip(draft.passages, draft.roles, strict=True)
            ],
            "clean": [_plain(passage) for passage in example.gold],
            "labels": label(draft, example, kind, supported),
            "edits": [edit.as_dict() for edit in draft.edits],
        }

    def _split(self, example: Example) -> str:
        """Put all rows whose gold is of one document into one split."""
        documents = (passage.title or example.document or str(passage.id) for passage in example.gold)
        return "validation" if any(_place(document) < self._validation for document in documents) else "train"

    def export(self, path: str | Path, form: str = "prompt_completion", **options: Any) -> Datasheet:
        """Write the data set to a file; see `exports.export`."""
        from hybridmem_plugins.augmentation.exports import export

        return export(self, path, form, **options)

    def to_datasets(self, split: str | None = None) -> Any:
        """Make a `datasets.Dataset`, memory-mapped; see `exports.to_datasets`."""
        from hybridmem_plugins.augmentation.exports import to_datasets

        return to_datasets(self, split)


def _place(name: str, seed: int = 0) -> float:
    """Give a name its place in [0, 1), the same in any process."""
    return zlib.crc32(f"{seed}\x1f{name}".encode("utf-8", "replace")) / 2**32


def _plain(passage: Passage) -> dict[str, Any]:
    return {"id": passage.id, "title": passage.title, "text": passage.text, "metadata": dict(passage.metadata)}


def _check_settings(copies: int, validation: float, on_bad_row: str) -> None:
    if copies < 1:
        msg = f"copies is {copies}: give 1 or more rows for each example."
        raise ValueError(msg)
    if not 0 <= validation < 1:
        msg = f"validation is {validation}: give a share from 0 up to, but not including, 1."
        raise ValueError(msg)
    if on_bad_row not in ("raise", "skip"):
        msg = f"on_bad_row is {on_bad_row!r}: give 'raise' or 'skip'."
        raise ValueError(msg)


def _row_ids(example: Example, copies: int) -> list[str]:
    return [example.id, *(f"{example.id}#{copy}" for copy in range(1, copies))]


def _check_ids(examples: Iterable[Example], copies: int) -> None:
    """Check that the ids of rows are unique, as an id alone decides on a row's noise."""
    seen: set[str] = set()
    for example in examples:
        for row_id in _row_ids(example, copies):
            if row_id in seen:
                msg = (
                    f"Row {row_id!r} comes twice: make ids unique (copies=2 gives two rows of each example, of 'a' the "
                    "rows 'a' and 'a#1')."
                )
                raise ValueError(msg)
            seen.add(row_id)


def _sources(
    examples: Iterable[Any] | str | Path | None, chunks: Iterable[Any] | None
) -> tuple[Iterable[Any] | None, Iterable[Any]]:
    if isinstance(examples, str | Path):
        read, corpus = read_beir(examples)
        return read, corpus if chunks is None else chunks
    if examples is not None:
        refuse_one(examples, "examples")
    if chunks is None:
        msg = "Give chunks: the texts that wrong passages are drawn from (or a BEIR folder as examples)."
        raise ValueError(msg)
    return examples, chunks


class _ClozeExamples:
    """Questions made from chunks, anew on every pass."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from hybridmem_plugins.augmentation.questions import cloze_examples

        return cloze_examples(self._passages)
