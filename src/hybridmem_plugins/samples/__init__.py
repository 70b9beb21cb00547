"""A small corpus about memory technology and its makers, written for this project, with questions to try.

Passages refer to each other by title ("DRAM" names "Robert Dennard"), so that some questions need two of them of
which the second shares hardly a word with the question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from hybridmem_plugins.passage import Passage

__all__ = ["SampleQuestion", "load_corpus", "load_questions"]


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A question about the sample corpus.

    Attributes:
        id: Unique among the questions.
        question: What is asked.
        gold: Ids of all passages that the answer needs, in the order in which one leads to the next.
        answer: A short answer, or None when the corpus does not hold it.
    """

    id: str
    question: str
    gold: tuple[str, ...]
    answer: str | None


def load_corpus() -> list[Passage]:
    """Read the sample passages.

    >>> corpus = load_corpus()
    >>> len(corpus)
    45
    >>> corpus[0].id, corpus[0].title, corpus[0].metadata["year"]
    ('dram', 'DRAM', 1966)
    """
    return [Passage(**record) for record in _records("corpus.jsonl")]


def load_questions() -> list[SampleQuestion]:
    """Read the sample questions: five that the corpus answers, then one that it does not.

    >>> questions = load_questions()
    >>> questions[0].question
    'How does the energy efficiency of NVM compare to DRAM?'
    >>> questions[1].gold, questions[1].answer
    (('dram', 'robert-dennard'), 'Terrell, Texas')
    >>> questions[-1].answer is None
    True
    """
    return [SampleQuestion(**{**record, "gold": tuple(record["gold"])}) for record in _records("questions.jsonl")]


def _records(name: str) -> Iterator[dict[str, Any]]:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    return (json.loads(line) for line in text.split("\n") if line)
