"""The sample corpus keeps what the demo promises."""

from __future__ import annotations

import doctest
import re
from collections import Counter
from itertools import pairwise

import pytest

from hybridmem_plugins import samples
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.samples import SampleQuestion, load_corpus, load_questions

CORPUS = {passage.id: passage for passage in load_corpus()}
QUESTIONS = load_questions()


def mentions(passage: Passage, other: Passage) -> bool:
    """Whether a passage names the title of another one as whole words."""
    assert other.title
    return re.search(rf"(?<!\w){re.escape(other.title)}(?!\w)", passage.text, re.IGNORECASE) is not None


def test_size_ids_and_titles() -> None:
    assert len(CORPUS) == len(load_corpus()) >= 40, "ids are unique"
    assert len({passage.title for passage in CORPUS.values()}) == len(CORPUS), "titles are unique"


@pytest.mark.parametrize("passage", CORPUS.values(), ids=lambda passage: passage.id)
def test_each_passage_is_short_prose_with_metadata(passage: Passage) -> None:
    assert 60 <= len(passage.text.split()) <= 120
    assert passage.text.endswith(".")
    assert "  " not in passage.text
    assert "\n" not in passage.text
    assert passage.metadata["kind"] in {"technology", "product", "machine", "idea", "person", "company"}
    assert set(passage.metadata) <= {"kind", "year"}
    assert isinstance(passage.metadata.get("year", 1900), int)


def test_passages_are_densely_linked() -> None:
    links = [
        (source.id, target.id)
        for source in CORPUS.values()
        for target in CORPUS.values()
        if source is not target and mentions(source, target)
    ]
    assert len(links) >= 2.5 * len(CORPUS)
    linked = Counter(end for link in links for end in link)
    assert set(linked) == {identifier for identifier in CORPUS if identifier is not None}, "every passage has a link"


def test_questions_are_five_answered_and_one_not() -> None:
    assert QUESTIONS[0].question == "How does the energy efficiency of NVM compare to DRAM?"
    assert [question.answer is not None for question in QUESTIONS] == [True] * 5 + [False]
    assert [bool(question.gold) for question in QUESTIONS] == [True] * 5 + [False]
    assert len({question.id for question in QUESTIONS}) == 6


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_gold_passages_exist_and_lead_to_each_other(question: SampleQuestion) -> None:
    gold = [CORPUS[identifier] for identifier in question.gold]
    assert all(mentions(first, second) for first, second in pairwise(gold))


def test_three_questions_end_in_a_passage_that_shares_few_words_with_them() -> None:
    def words(text: str) -> set[str]:
        return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3} - {"that", "what", "which", "where"}

    far = [q for q in QUESTIONS if q.gold and len(words(q.question) & words(CORPUS[q.gold[-1]].text)) <= 2]
    assert len(far) >= 3


def test_short_answers_stand_in_the_last_gold_passage() -> None:
    for question in QUESTIONS[1:4]:
        assert question.answer is not None
        answer = question.answer.removeprefix("The ").lower()
        assert answer in CORPUS[question.gold[-1]].text.lower()


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(samples)
    assert result.attempted >= 6
    assert result.failed == 0
