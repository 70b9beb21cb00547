"""Fit how sure readings of single passages are, for `LocalModel.answer` to choose among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.generation.reading import Reading, ReadingWeights


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """A question whose passages were each read alone.

    Attributes:
        unread: The reading of no passage.
        readings: One for each passage.
        right: Whether each reading's reply holds a gold answer.
        answerable: Whether a passage holds the answer.
    """

    unread: Reading
    readings: Sequence[Reading]
    right: Sequence[bool]
    answerable: bool


def fit_weights(
    questions: Sequence[ReadQuestion], *, wrong_refusals: float = 0.085, penalty: float = 0.0025
) -> ReadingWeights:
    """Fit a conditional logit: a right reading against the other passages' and against abstaining.

    Answerable questions of which no reading is right say nothing about the choice and only count for the bias, which is
    set so that at most a share of the answerable questions is declined.

    Args:
        questions: Of documents kept from training.
        wrong_refusals: That share, in [0, 1).
        penalty: Weight of the squared weights, of measures scaled to unit variance.

    Raises:
        ValueError: There is nothing to learn from: no question with a right reading, or none without an answer.
    """
    torch = require("torch", "train")
    used = [one for one in questions if one.readings and (any(one.right) or not one.answerable)]
    if not any(one.answerable for one in used) or all(one.answerable for one in used):
        msg = "Weights need questions with a right reading and questions without an answer."
        raise ValueError(msg)
    table = torch.cat([_table(torch, one) for one in used])
    centre, spread = table.mean(0), table.std(0) + 1e-9
    scaled = [(_table(torch, one) - centre) / spread for one in used]
    weights = torch.zeros(5, dtype=torch.float64, requires_grad=True)

    def loss() -> Any:
        total = torch.zeros((), dtype=torch.float64)
        for one, measures in zip(used, scaled, strict=True):
            odds = torch.cat([measures @ weights[:-1] + weights[-1], torch.zeros(1, dtype=torch.float64)])
            wanted = [*one.right, False] if one.answerable else [False] * len(one.right) + [True]
            total = total + odds.logsumexp(0) - odds[torch.tensor(wanted)].logsumexp(0)
        return total / len(used) + penalty * weights[:-1].square().sum()

    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Any:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(step)
    found = (weights[:-1].detach() / spread).tolist()
    bias = float(weights[-1].detach()) - sum(one * at for one, at in zip(found, centre.tolist(), strict=True))
    fitted = ReadingWeights(-found[0], found[1], found[2], found[3] - found[2], bias)
    return _declining(fitted, questions, wrong_refusals)


def _table(torch: Any, question: ReadQuestion) -> Any:
    unread = question.unread.question
    rows = [[one.refusal, one.answer, one.question - unread, unread] for one in question.readings]
    return torch.tensor(rows, dtype=torch.float64)


def _declining(weights: ReadingWeights, questions: Sequence[ReadQuestion], share: float) -> ReadingWeights:
    """Set the bias so that at most a share of the answerable questions is declined."""
    sure = sorted(
        math.log(sum(math.exp(min(weights.score(reading, one.unread), 500.0)) for reading in one.readings))
        for one in questions
        if one.answerable and one.readings
    )
    return replace(weights, bias=weights.bias - sure[int(share * len(sure))] + 1e-6)
