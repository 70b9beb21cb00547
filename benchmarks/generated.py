"""Generated passages of any number, with names that are said as unevenly as in real text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hybridmem_plugins import Passage

_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er", "il", "on")]
_LINKS = "the of and in to with for on by from at as was is its which that".split()


class Corpus:
    """Passages of about 75 words that say four to eight names each; each is about a name of its own.

    Names and words follow Zipf's law: the first name is said in several percent of all passages, most names in a few.

    Args:
        size: Number of passages.
        seed: Same seed, same passages.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        self.words = _pseudo_words(rng, 20_000)
        parts = _pseudo_words(rng, 4_000)
        pairs = rng.choice(len(parts) ** 2, size=size, replace=False)
        self.names = [f"{parts[p // len(parts)].title()} {parts[p % len(parts)].title()}" for p in pairs.tolist()]
        self._word_weights = _zipf(len(self.words), 1.0)
        self._name_weights = _zipf(size, 1.0)

    def passages(self, start: int = 0, stop: int | None = None, variant: int = 0) -> Iterator[Passage]:
        """Yield passages; another variant says something else under the same ids and titles."""
        for number in range(start, self.size if stop is None else stop):
            yield self.passage(number, variant)

    def passage(self, number: int, variant: int = 0) -> Passage:
        """Return one passage."""
        rng = np.random.default_rng([self.seed, 2, number, variant])
        names = [self.names[i] for i in self._draw(rng, self._name_weights, int(rng.integers(4, 9)))]
        sentences = []
        for name in names:
            body = [self.words[i] for i in self._draw(rng, self._word_weights, 7)]
            links = [_LINKS[i] for i in rng.integers(0, len(_LINKS), 4)]
            sentences.append(f"{body[0].title()} {' '.join(body[1:4])} {links[0]} {name} {links[1]} {body[4]} "
                             f"{links[2]} {body[5]} {links[3]} {body[6]}.")  # fmt: skip
        return Passage(
            f"{self.names[number]} is a {self.words[int(rng.integers(2000))]}. " + " ".join(sentences),
            title=self.names[number],
            id=f"p{number}",
            metadata={"tenant": "abc"[number % 3], "year": 1950 + number % 70},
        )

    def questions(self, count: int) -> list[str]:
        """Return questions: a third about one name, a third about two, a third about none."""
        rng = np.random.default_rng([self.seed, 3])
        questions = []
        for number in range(count):
            text = self.passage(int(rng.integers(self.size))).text.split(". ")
            sentence = text[int(rng.integers(1, len(text)))].lower().split()
            about = [self.names[i] for i in rng.integers(0, self.size, number % 3)]
            about = [f"of {name}" for name in about]
            questions.append(f"What {' '.join(sentence[1:7])} {' and '.join(about)}?".replace(" ?", "?"))
        return questions

    def _draw(self, rng: np.random.Generator, cumulative: np.ndarray, count: int) -> list[int]:
        return np.searchsorted(cumulative, rng.random(count)).tolist()


def _pseudo_words(rng: np.random.Generator, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), int(rng.integers(2, 4))))] = None
    return list(found)


def _zipf(size: int, exponent: float) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1) ** exponent
    return np.cumsum(weights) / weights.sum()
