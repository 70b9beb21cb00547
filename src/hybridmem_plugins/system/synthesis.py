"""Found passages and facts become the numbered context of one prompt, within a token budget."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rapidfuzz import fuzz

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.templates import SHOWN_METADATA, get_template, said_about
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.model import Fact, Hit
from hybridmem_plugins.system.answer import NumberedFact, Source
from hybridmem_plugins.system.defusing import defuse

Order = Literal["ends", "best_first", "best_last"]
SPELLED_ALIKE = 90.0
"""Similarity of two words, in percent of `rapidfuzz.fuzz.ratio`, from which on they are one in two spellings."""

BLOCK_TOKENS = 6
"""For the number, its brackets and the blank line of each block."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the model is to read.

    Attributes:
        messages: The chat to send.
        sources: The numbered blocks in it.
        facts: Facts, each with the number of the source that states it.
        tokens: What the blocks take, as counted.
        smallest: Tokens of the smallest passage found; 0 where none was.
    """

    messages: list[dict[str, str]]
    sources: tuple[Source, ...]
    facts: tuple[NumberedFact, ...]
    tokens: int
    smallest: int


@dataclass(frozen=True, slots=True)
class Synthesis:
    """How a context is put together.

    Attributes:
        budget: Most tokens that passages and facts may take together.
        max_facts: Most facts that are shown as blocks of their own. A fact that a shown passage states anyway takes no
            room and does not count.
        order: `ends` puts the best evidence first, the next best last and the weakest in the middle, where models read
            worst (arXiv 2307.03172); or `best_first`, `best_last`.
        withhold_orders: Leave out sentences that give orders to a model; see `defusing.defuse`.
        template: Name in `augmentation.templates.TEMPLATES`; the shipped adapter was trained on all of them.
    """

    budget: int = 768
    max_facts: int = 2
    order: Order = "ends"
    template: str = "numbered"
    withhold_orders: bool = True

    def __post_init__(self) -> None:
        get_template(self.template)
        if self.budget < 1 or self.max_facts < 0:
            msg = f"budget must be 1 or more and max_facts 0 or more, not {self.budget} and {self.max_facts}"
            raise ValueError(msg)
        if self.order not in ("ends", "best_first", "best_last"):
            msg = f"unknown order {self.order!r}; use 'ends', 'best_first' or 'best_last'"
            raise ValueError(msg)

    def context(
        self,
        question: str,
        hits: Sequence[Hit],
        facts: Sequence[Fact] = (),
        *,
        count: Callable[[str], int],
        budget: int | None = None,
    ) -> Context:
        """Make the context of a question.

        Passages that say the same are shown once, unless they have different titles. Each passage is shown whole or
        not at all; one that does not fit makes room for later ones that do.

        Args:
            question: What is asked.
            hits: Passages, best first.
            facts: Structural facts, best first.
            count: Returns how many tokens a text takes.
            budget: Instead of the usual one, where that is smaller.
        """
        left = min(self.budget, budget if budget is not None else self.budget)
        allowed, chosen, smallest = left, list[Source](), 0
        for source in self._read(hits):
            size = _size(source.passage, count)
            smallest = min(smallest or size, size)
            if size <= left:
                chosen.append(source)
                left -= size
        told = self._statements(facts)
        for fact in told:
            if _stating(fact, chosen) is not None or not chosen:
                continue
            if sum(source.kind == "fact" for source in chosen) >= self.max_facts:
                break
            source = Source(0, "fact", Passage(fact.sentence, fact.subject, fact.passage_id), fact.score, ("graph",))
            if (size := _size(source.passage, count)) <= left:
                chosen.append(source)
                left -= size
        numbered = [replace(source, number=number) for number, source in enumerate(self._ordered(chosen), 1)]
        stated = [NumberedFact(at.number, fact) for fact in told if (at := _stating(fact, numbered)) is not None]
        messages = self.messages(question, [source.passage for source in numbered])
        return Context(messages, tuple(numbered), tuple(stated), allowed - left, smallest)

    def _read(self, hits: Sequence[Hit]) -> list[Source]:
        """Return what the passages say, each thing once, without orders to a model."""
        if not self.withhold_orders:
            return _merged([(hit, 0) for hit in hits])
        cleaned = []
        for hit in hits:
            passage, withheld = _without_orders(hit.passage)
            if passage.text:
                cleaned.append((replace(hit, passage=passage), withheld))
        return _merged(cleaned)

    def messages(self, question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
        """Return the chat for a question and its passages as they stand, in the form of the template."""
        return get_template(self.template).messages(question, passages)

    def _statements(self, facts: Sequence[Fact]) -> list[Fact]:
        return [fact for fact in facts if not self.withhold_orders or not _orders_in(fact)]

    def _ordered(self, best_first: list[Source]) -> list[Source]:
        if self.order == "ends":
            return best_first[::2] + best_first[1::2][::-1]
        return best_first[::-1] if self.order == "best_last" else best_first


def _without_orders(passage: Passage) -> tuple[Passage, int]:
    """Return a passage without orders to a model in anything that a prompt shows of it, and how many there were."""
    text, withheld = defuse(passage.text)
    title, in_title = defuse(passage.title or "")
    named = [key for key in SHOWN_METADATA if key in passage.metadata and defuse(str(passage.metadata[key]))[1]]
    if not (found := withheld + in_title + len(named)):
        return passage, 0
    metadata = {key: value for key, value in passage.metadata.items() if key not in named}
    return replace(passage, text=text, title=title or None, metadata=metadata), found


def _orders_in(fact: Fact) -> int:
    return defuse(fact.sentence)[1] + defuse(fact.subject)[1]


def _size(passage: Passage, count: Callable[[str], int]) -> int:
    return count(f"{said_about(passage)}\n{passage.text}") + BLOCK_TOKENS


def _merged(hits: Sequence[tuple[Hit, int]]) -> list[Source]:
    """Return the hits as sources without those that say what a better one says; of two, the longer text stays.

    Args:
        hits: Passages, best first, each with the number of its sentences that are withheld.
    """
    kept: list[tuple[str, Source]] = []
    for hit, withheld in hits:
        said, title = _said(hit.passage.text), normalise_answer(hit.passage.title or "")
        routes = tuple(hit.provenance.get("routes") or ())
        source = Source(0, "passage", hit.passage, hit.score, routes, hit.provenance, withheld=withheld)
        for position, (other, before) in enumerate(kept):
            if title and title != (normalise_answer(before.passage.title or "") or title):
                continue  # "He was born in Texas." says of each title something else.
            if _spelled_alike(said, other) or f" {said} " in f" {other} ":
                kept[position] = (other, _with(before, hit.passage.id, routes))
                break
            if f" {other} " in f" {said} ":
                longer = replace(source, score=before.score, merged=before.merged)
                kept[position] = (said, _with(longer, before.passage.id, before.routes))
                break
        else:
            kept.append((said, source))
    return [source for _, source in kept]


# A minus, C#, percent: signs that mean something. Others are told by their Unicode category.
_SIGN = re.compile(r"((?<!\w)[-\u2212\u2013](?=\d)|(?<=\w)#|[%@])|[^\w\s]")
_MARKUP = frozenset("|`\ufffd")


def _said(text: str) -> str:
    """Normalise a text as answers are, but keep signs as words of their own: -5 is not 5, nor is x + y x - y."""

    def spelled(found: re.Match[str]) -> str:
        sign = found[0]
        telling = found[1] or (unicodedata.category(sign)[0] == "S" and sign not in _MARKUP)
        return f" u{ord(sign):x} " if telling else sign

    return normalise_answer(_SIGN.sub(spelled, text)) or text.strip()


def _spelled_alike(said: str, other: str) -> bool:
    """Tell whether two normalised texts are the same words, but for the spelling of some.

    A figure, a name or a word more or less ("not") may turn what is said into its contrary; so may a prefix.
    """
    first, second = said.split(), other.split()
    return len(first) == len(second) and all(
        a == b or (a[0] == b[0] and f"{a}{b}".isalpha() and fuzz.ratio(a, b) >= SPELLED_ALIKE)
        for a, b in zip(first, second, strict=True)
    )


def _with(source: Source, also: str | None, routes: tuple[str, ...]) -> Source:
    merged = (*source.merged, also) if also and also != source.passage.id else source.merged
    return replace(source, merged=merged, routes=tuple(dict.fromkeys([*source.routes, *routes])))


def _stating(fact: Fact, sources: Sequence[Source]) -> Source | None:
    """Return the source that states a fact: its own passage first, then any that holds its sentence and subject."""
    for source in sources:
        if fact.passage_id and fact.passage_id in (source.passage.id, *source.merged) and source.kind == "passage":
            return source
    return next((source for source in sources if _holds(source.passage, fact)), None)


def _holds(passage: Passage, fact: Fact) -> bool:
    told = f"{passage.title or ''}\n{passage.text}"
    return contains_answer(passage.text, [fact.sentence]) and contains_answer(told, [fact.subject])
