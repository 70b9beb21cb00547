"""Keep out of the training set what evaluation files hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.answers import normalise_answer
from hybridmem_plugins.augmentation.examples import Example, read_rows

RUN = 13
"""Words in a row that two texts must share to count as one source."""

_QUESTION_KEYS = ("question", "query", "text")
_PASSAGE_KEYS = ("context", "contexts", "positive", "gold_text", "passage")


class Evaluations:
    """The questions and passages of evaluation files."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        """Read the files (JSON lines, `.gz` too).

        Raises:
            ValueError: A file has no questions.
        """
        self.names = [Path(path).name for path in paths]
        self._questions: dict[str, str] = {}
        self._runs: dict[int, str] = {}
        for path, name in zip(paths, self.names, strict=True):
            known = len(self._questions)
            for row in read_rows(path):
                self._take(row, name)
            if len(self._questions) == known:
                msg = f"{path}: no question found under any of {', '.join(_QUESTION_KEYS)}; nothing to keep apart from."
                raise ValueError(msg)

    def _take(self, row: Mapping[str, Any], name: str) -> None:
        question = next((row[key] for key in _QUESTION_KEYS if isinstance(row.get(key), str)), None)
        if question:
            self._questions[normalise_answer(question)] = name
        for text in (text for key in _PASSAGE_KEYS for text in _texts(row.get(key))):
            self._runs.update((run, name) for run in _runs(text))

    def shared_with(self, example: Example) -> str | None:
        """Say what an example shares with which file; None where nothing.

        >>> Evaluations([]).shared_with(Example("1", "Who?", ("A",), (("A",),), ())) is None
        True
        """
        if not self._questions:
            return None
        name = self._questions.get(normalise_answer(example.question))
        if name:
            return f"question in {name}"
        shared = (self._runs[run] for passage in example.gold for run in _runs(passage.text) if run in self._runs)
        name = next(shared, None)
        return f"passage in {name}" if name else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _runs(text: str) -> Iterator[int]:
    words = normalise_answer(text).split()
    # Within one process only, so the built-in hash is fine: nothing of it is stored.
    return (hash(tuple(words[at : at + RUN])) for at in range(len(words) - RUN + 1))
