"""Questions written from what passages say of each other, with the passages that each needs; no model writes them.

The ranker has to weigh a step over a name against a word in common for corpora of any kind, and three sets of questions
show three balances of them. These questions show more: over any titled corpus, some need one passage, some the
passage that another one leads to, two that they compare, or a chain of three. They read badly ("what born king of
the marriage Teutberga") but share with what they ask about what real questions do: its name, or some of its words, and
often not a single one of the passage at the end of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from beir import DataSet, Query
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.tokens import STOPWORDS, name_key, words
from hybridmem_plugins.passage import Passage

# Asked of things by people, and seldom said by the passages that answer.
_ATTRIBUTES = (
    "born, die, place of birth, date of death, nationality, country, director, mother, father, spouse, founder, "
    "located, released, profession, educated, award, owner, genre, capital, population, older, first, year, known for"
).split(", ")
_OPENINGS = "What is", "Who is", "When was", "Where is", "Which", "What", "How many", "In which"
# How many of each kind in a hundred.
SHARES = {"single": 20, "telling": 20, "bridge": 30, "described": 10, "compared": 12, "chain": 8}


@dataclass(frozen=True)
class _Way:
    """What a passage says of another one.

    Attributes:
        target: Number of the other passage.
        near: The words around its name.
    """

    target: int
    near: list[str]


class Writer:
    """Writes questions about the passages of a data set.

    Args:
        data: A set with titles.
        seed: Same seed, same questions.
    """

    def __init__(self, data: DataSet, seed: int = 0) -> None:
        self._data = data
        self._rng = np.random.default_rng([seed, len(data.passages)])
        self._passages = data.passages
        self._frequency: dict[str, int] = {}
        self._said = [self._content(passage) for passage in self._passages]
        for said in self._said:
            for word in set(said):
                self._frequency[word] = self._frequency.get(word, 0) + 1
        self._ways = self._read_ways()
        self._linked = [number for number, ways in enumerate(self._ways) if ways]

    def questions(self, count: int) -> list[Query]:
        """Return about so many questions, of the kinds in `SHARES`."""
        kinds: dict[str, Callable[[], tuple[str, list[int]] | None]] = {
            "single": self._single,
            "telling": self._telling,
            "bridge": self._bridge,
            "described": self._described,
            "compared": self._compared,
            "chain": self._chain,
        }
        written = []
        for kind, share in SHARES.items():
            for _ in range(round(count * share / 100)):
                made = kinds[kind]()
                if made:
                    text, gold = made
                    opening = _OPENINGS[int(self._rng.integers(len(_OPENINGS)))]
                    written.append(Query(f"{opening} {text}?", frozenset(self._passages[i].id for i in gold)))
        return written

    # --- kinds ------------------------------------------------------------------------------------------------------

    def _single(self) -> tuple[str, list[int]] | None:
        number = self._any()
        return f"the {self._asked(number)} of {self._name(number)}", [number]

    def _telling(self) -> tuple[str, list[int]] | None:
        number = self._any()
        return " ".join(self._some(self._said[number], 3 + int(self._rng.integers(3)))), [number]

    def _bridge(self) -> tuple[str, list[int]] | None:
        number = self._from()
        way = self._way(number)
        return f"the {self._asked(way.target)} of the {' '.join(way.near)} of {self._name(number)}", [
            number,
            way.target,
        ]

    def _described(self) -> tuple[str, list[int]] | None:
        number = self._from()
        way = self._way(number)
        shown = " ".join(self._some(self._said[number], 3))
        return f"the {self._asked(way.target)} of the {' '.join(way.near)} of the {shown}", [number, way.target]

    def _compared(self) -> tuple[str, list[int]] | None:
        one, two = self._any(), self._any()
        attribute = _ATTRIBUTES[int(self._rng.integers(len(_ATTRIBUTES)))]
        return f"has the {attribute}, {self._name(one)} or {self._name(two)}", [one, two]

    def _chain(self) -> tuple[str, list[int]] | None:
        first = self._from()
        way = self._way(first)
        onward = [step for step in self._ways[way.target] if step.target not in (first, way.target)]
        if not onward:
            return None
        last = onward[int(self._rng.integers(len(onward)))]
        asked = f"the {self._asked(last.target)} of the {' '.join(last.near[:1])} of the {' '.join(way.near)}"
        return f"{asked} of {self._name(first)}", [first, way.target, last.target]

    # --- parts ------------------------------------------------------------------------------------------------------

    def _any(self) -> int:
        return int(self._rng.integers(len(self._passages)))

    def _from(self) -> int:
        return self._linked[int(self._rng.integers(len(self._linked)))]

    def _way(self, number: int) -> _Way:
        ways = self._ways[number]
        return ways[int(self._rng.integers(len(ways)))]

    def _name(self, number: int) -> str:
        return (self._passages[number].title or "").split(" (")[0]

    def _asked(self, number: int) -> str:
        """Return what is asked of a passage: in its own words, or, as often, in words that it does not say."""
        if self._rng.random() < 0.5:
            return _ATTRIBUTES[int(self._rng.integers(len(_ATTRIBUTES)))]
        return " ".join(self._some(self._said[number], 1 + int(self._rng.integers(2))))

    def _some(self, said: list[str], count: int) -> list[str]:
        """Draw words, those in the middle of the scale from common to rare first."""
        if not said:
            return []
        kept = list(dict.fromkeys(said))
        weights = np.array([1.0 if self._frequency[word] > 1 else 0.3 for word in kept])
        chosen = self._rng.choice(len(kept), size=min(count, len(kept)), replace=False, p=weights / weights.sum())
        return [kept[i] for i in sorted(chosen.tolist())]

    def _content(self, passage: Passage) -> list[str]:
        """Return the lower-case content words of a text that are not of its title."""
        own = set(words(passage.title or ""))
        common = [token for token in passage.text.split() if token[:1].islower()]
        return [w for token in common for w in words(token) if w not in STOPWORDS and len(w) > 2 and w not in own]

    def _read_ways(self) -> list[list[_Way]]:
        titles: dict[str, list[int]] = {}
        for number, passage in enumerate(self._passages):
            titles.setdefault(name_key(passage.title or ""), []).append(number)
        ways: list[list[_Way]] = []
        for number, extraction in enumerate(BuiltinExtractor().extract(self._passages)):
            found = []
            for mention in extraction.mentions:
                targets = titles.get(mention.name, [])
                if len(targets) == 1 and targets[0] != number:
                    sentence = self._passages[number].text[slice(*extraction.sentences[mention.sentence])]
                    near = list(self._near(sentence, mention.name))
                    if near:
                        found.append(_Way(targets[0], near))
            ways.append(found)
        return ways

    def _near(self, sentence: str, name: str) -> Iterator[str]:
        """Yield up to two content words of a sentence that are nearest to a name in it."""
        tokens, run = words(sentence), name.split()
        lower = {w for token in sentence.split() if token[:1].islower() for w in words(token)}
        at = next((i for i in range(len(tokens)) if tokens[i : i + len(run)] == run), None)
        if at is None:
            return
        places = sorted(range(len(tokens)), key=lambda i: (at - i) if i < at else (i - at - len(run)) + 2.5)
        fit = [i for i in places if tokens[i] in lower and tokens[i] not in STOPWORDS and len(tokens[i]) > 2]
        for i in sorted(fit[: 1 + int(self._rng.random() < 0.4)]):
            yield tokens[i]
