"""The user's chunks as pools of wrong passages, none of which holds the answer."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Protocol

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.edits import random_for
from hybridmem_plugins.augmentation.examples import Example, as_passage, plain_passage
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE
from hybridmem_plugins.augmentation.templates import said_about
from hybridmem_plugins.passage import Passage

HARD_RANKS, LOW_RANKS = 20, 100
"""Hard negatives are ranked this high or higher; low-ranked passages between the two."""


class Index(Protocol):
    """Ranks chunks for a question. `memory.lexical.LexicalIndex` or any retriever can stand in for `WordIndex`."""

    def __call__(self, question: str) -> Sequence[Passage]:
        """Give passages, best first."""
        ...


class WordIndex:
    """A small inverted index over the rare words of chunks: enough to find what is on the same topic."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Index the passages' titles and texts."""
        self._passages = passages
        self._postings: dict[str, list[int]] = {}
        for number, passage in enumerate(passages):
            for word in {*normalise_answer(f"{passage.title or ''} {passage.text}").split()}:
                self._postings.setdefault(word, []).append(number)

    def __call__(self, question: str) -> list[Passage]:
        """Rank by the summed rarity of shared words; ties by position."""
        words = {*normalise_answer(question).split()} & self._postings.keys()
        scores: dict[int, float] = {}
        for word in sorted(words, key=lambda word: (len(self._postings[word]), word))[:6]:
            postings = self._postings[word]
            weight = 1 / (1 + len(postings) ** 0.5)
            for number in postings[:2000]:
                scores[number] = scores.get(number, 0.0) + weight
        best = heapq.nsmallest(LOW_RANKS, scores, key=lambda number: (-scores[number], number))
        return [self._passages[number] for number in best]


_FUNCTION_WORDS = frozenset(
    normalise_answer(
        "of in on at to for and or is are was were be been by with from as it its this that these those "
        "who what when where which why how did does do has have had"
    ).split()
)


def relevance(question: str, passage: Passage) -> str:
    """Judge a wrong passage by words alone: `near` where it shares half of the question's content words, else `far`.

    >>> relevance("Who built the Avon mill?", Passage("The Avon mill stands."))
    'near'
    """
    wanted = _content_words(question)
    said = _said(passage.title, passage.text)
    return "near" if wanted and 2 * sum(word in said for word in wanted) >= len(wanted) else "far"


@lru_cache(maxsize=64)
def _content_words(question: str) -> tuple[str, ...]:
    words = dict.fromkeys(normalise_answer(question).split())
    return tuple(f" {word} " for word in words if word not in _FUNCTION_WORDS)


# The same passages are found for many questions.
@lru_cache(maxsize=4096)
def _said(title: str | None, text: str) -> str:
    whole = f"{title} {text}" if title else text
    return f" {normalise_answer(whole)} "


def as_search(retriever: Any) -> Callable[[str], list[Passage]]:
    """Make a function of a question from a callable, a LangChain or LlamaIndex retriever, or a `HybridMemory`.

    Raises:
        TypeError: The object can neither be called nor has invoke, retrieve or search.
    """
    for name in ("invoke", "retrieve", "search", "__call__"):
        call = getattr(retriever, name, None)
        if callable(call):
            return partial(_searched, call)
    msg = f"{type(retriever).__name__} is no retriever: it has none of invoke, retrieve, search, and cannot be called."
    raise TypeError(msg)


def _searched(call: Callable[[str], Any], question: str) -> list[Passage]:
    found = call(question)
    if isinstance(found, str | Mapping) or not isinstance(found, Iterable):
        msg = f"the retriever returned {type(found).__name__} for {question!r}: a list of passages is needed"
        raise TypeError(msg)
    return [plain_passage(as_passage(one)) for one in found]


class ChunkStore:
    """All chunks, found by id, by text, by neighbourhood and by question."""

    def __init__(self, passages: Sequence[Passage], retriever: Any = None) -> None:
        """Hold the chunks; build an index over them where no retriever is given.

        Args:
            passages: Chunks with ids, in the order of their documents.
            retriever: Anything `as_search` takes; its results count as hard negatives. Called once for each question
                and remembered (the last 10,000 questions).
        """
        self.passages = passages
        self._by_id = {str(passage.id): number for number, passage in enumerate(passages)}
        self._by_text = {passage.text: number for number, passage in reversed(list(enumerate(passages)))}
        self._foreign: dict[str, Passage] = {}
        self.ranked = lru_cache(maxsize=10_000)(self._rank)
        self._search = as_search(retriever) if retriever is not None else None
        self._index: WordIndex | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Give all but what is remembered of questions, for pickles and copies."""
        return {name: value for name, value in self.__dict__.items() if name != "ranked"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave."""
        self.__dict__.update(state)
        self.ranked = lru_cache(maxsize=10_000)(self._rank)

    @property
    def has_retriever(self) -> bool:
        """Tell whether hard negatives come from the user's own retriever."""
        return self._search is not None

    def find(self, key: str) -> Passage | None:
        """Give the chunk with this id, else with this text."""
        number = self._by_id.get(key, self._by_text.get(key))
        return self._foreign.get(key) if number is None else self.passages[number]

    def __getitem__(self, passage_id: str) -> Passage:
        """Give the chunk with this id (the `lookup` of `replay`)."""
        found = self.find(passage_id)
        if found is None:
            raise KeyError(passage_id)
        return found

    def holds(self, passage: Passage) -> bool:
        """Tell whether this very object is one of the chunks, so untouched."""
        number = self._by_id.get(str(passage.id))
        return number is not None and self.passages[number] is passage

    def remember(self, passage: Passage) -> Passage:
        """Keep a passage that the retriever returned but the chunks lack, so that logs can name it."""
        return (
            self.find(str(passage.id)) or self.find(passage.text) or self._foreign.setdefault(str(passage.id), passage)
        )

    def after(self, passage: Passage) -> str:
        """Give the text of the next chunk of the same document, or "" where there is none."""
        number = self._by_id.get(str(passage.id), -1) + 1
        if not 0 < number < len(self.passages):
            return ""
        following = self.passages[number]
        return following.text if following.title == passage.title else ""

    def often_found(self, questions: int = 300, results: int = 8) -> list[Passage]:
        """Give what is found for sentences of the chunks: what contexts are made of, each as often as it comes up.

        Some chunks come up more often than others, and are more noisy or less. Words alone tell well enough which, so
        that the user's retriever need not be asked what nobody has asked.
        """
        find = self._index or WordIndex(self.passages)
        stride = max(1, len(self.passages) // questions)
        asked = [
            random_for(0, passage.id, "often found").choice([found[0] for found in SENTENCE.finditer(passage.text)])
            for passage in self.passages[::stride]
        ]
        return [passage for question in asked for passage in find(question)[:results]]

    def _rank(self, question: str) -> tuple[Passage, ...]:
        if self._search is not None:
            return tuple(self.remember(passage) for passage in self._search(question))
        self._index = self._index or WordIndex(self.passages)
        return tuple(self._index(question))


class Pools:
    """The pools for one example."""

    def __init__(self, store: ChunkStore, example: Example) -> None:
        """Draw from a store for an example."""
        self._store = store
        self._example = example
        self._gold_ids = {passage.id for passage in example.gold}
        self._gold_texts = {passage.text for passage in example.gold}
        self._giveaways = example.giveaways

    def allowed(self, passage: Passage) -> bool:
        """Tell whether a passage is wrong for the question: neither gold nor holding (a part of) the answer."""
        if passage.id in self._gold_ids or passage.text in self._gold_texts:
            return False
        given = self._giveaways
        return not (contains_answer(said_about(passage), given) or contains_answer(passage.text, given))

    def pool(self, operator: str, rng: random.Random) -> Iterator[Passage]:
        """Yield candidates of a pool, best first or in random order."""
        return filter(self.allowed, self._candidates(operator, rng))

    def _candidates(self, operator: str, rng: random.Random) -> Iterable[Passage]:
        if operator == "random_irrelevant":
            return _drawn(self._store.passages, rng)
        ranked = self._store.ranked(self._example.question)
        if operator == "low_ranked":
            return _drawn(ranked[min(HARD_RANKS, len(ranked) // 2) : LOW_RANKS], rng)
        if operator == "hard_negatives":
            return ranked[:HARD_RANKS]
        titles = {passage.title for passage in self._example.gold if passage.title}
        siblings = [passage for passage in ranked if passage.title in titles] if titles else []
        return chain(siblings, _drawn(ranked[:HARD_RANKS], rng))


def _drawn(passages: Sequence[Passage], rng: random.Random) -> Iterator[Passage]:
    """Yield in random order, drawing no more than is asked for (a sparse Fisher-Yates shuffle)."""
    moved: dict[int, int] = {}
    for last in range(len(passages) - 1, -1, -1):
        at = int(rng.random() * (last + 1))
        yield passages[moved.get(at, at)]
        moved[at] = moved.get(last, last)
