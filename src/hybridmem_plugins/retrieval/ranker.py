"""The fitted model that turns features into one ranking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.retrieval.features import (
    BASE_FEATURES,
    BEYOND_FEATURES,
    NAMED_FEATURES,
    SURE_FEATURES,
    Floats,
)
from hybridmem_plugins.retrieval.walk import WALK_FEATURES

FEATURES = BASE_FEATURES + BEYOND_FEATURES + NAMED_FEATURES + SURE_FEATURES + WALK_FEATURES

_LINK_CASED = BASE_FEATURES.index("link_cased")


@dataclass(frozen=True, slots=True)
class Ranker:
    """Two linear models: one over base features, which seeds the walk, and one over all features, which ranks.

    `benchmarks/fit_ranker.py` fits them; the weights are in `ranker.json` beside this module.

    Attributes:
        seed_bias: Intercept of the first model.
        seed_weights: Its weights, shape `(len(BASE_FEATURES),)`.
        bias: Intercept of the second model; it moves scores, not ranks.
        weights: Its weights, shape `(len(FEATURES),)`.
    """

    seed_bias: float
    seed_weights: NDArray[np.float32]
    bias: float
    weights: NDArray[np.float32]

    def seed_strength(self, base: Floats) -> Floats:
        """Return how much the walk trusts each passage, in (0, 1].

        That is how likely it answers, half of it relative to the likeliest: a question to which nothing seems an answer
        is still followed, but less than one with a sure start. Where the question says its title, it is at least how
        clearly it does: of two things compared, the less like the question is as good a seed as the other.
        """
        if not len(base):
            return np.zeros(0, dtype=np.float32)
        likelihood = np.sqrt(self.seed_likelihood(base))
        strength: Floats = np.maximum(likelihood / likelihood.max() ** 0.5, base[:, _LINK_CASED])
        return strength

    def seed_likelihood(self, base: Floats) -> Floats:
        """Return how likely each passage answers, in (0, 1)."""
        return _sigmoid(base @ self.seed_weights + self.seed_bias)

    def scores(self, features: Floats) -> Floats:
        """Return the score of each passage, in (0, 1), from its features, shape `(rows, len(FEATURES))`."""
        return _sigmoid(features @ self.weights + self.bias)


@cache
def default_ranker() -> Ranker:
    """Return the ranker that ships with the package."""
    text = resources.files("hybridmem_plugins.retrieval").joinpath("ranker.json").read_text(encoding="utf-8")
    return ranker_from_json(text)


def ranker_from_json(text: str) -> Ranker:
    """Read weights by feature name; features that are not named weigh nothing."""
    stored = json.loads(text)

    def weights(model: str, names: tuple[str, ...]) -> NDArray[np.float32]:
        return np.array([stored[model]["weights"].get(name, 0.0) for name in names], dtype=np.float32)

    return Ranker(
        seed_bias=float(stored["seed"]["bias"]),
        seed_weights=weights("seed", BASE_FEATURES),
        bias=float(stored["rank"]["bias"]),
        weights=weights("rank", FEATURES),
    )


def _sigmoid(values: Floats) -> Floats:
    result: Floats = (1 / (1 + np.exp(-np.clip(values, -30, 30)))).astype(np.float32)
    return result
