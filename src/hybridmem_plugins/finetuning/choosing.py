"""Fit how sure readings of single passages are, for `LocalModel.answer` to choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.generation.settling import Reading, ReadingWeights, answers_of
from hybridmem_plugins.generation.verifying import Candidate

EAGERNESS = 0.1
"""Nats by which an answer may be less sure than abstaining."""


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """A question whose passages were each read alone.

    Attributes:
        unread: The reading of no passage.
        readings: One for each passage.
        right: Whether each of the `answers` is right.
        answerable: Whether a passage holds the answer.
    """

    unread: Reading
    readings: Sequence[Reading]
    right: Sequence[bool]
    answerable: bool

    @property
    def answers(self) -> list[tuple[Reading, Candidate]]:
        """What there is to choose among: the likeliest reply of each reading, or all verified ones."""
        told = zip(self.readings, answers_of(self.readings), strict=True)
        return [(reading, candidate) for reading, candidates in told for candidate in candidates]


def fit_weights(
    questions: Sequence[ReadQuestion], *, eagerness: float = EAGERNESS, penalty: float = 0.0025
) -> ReadingWeights:
    """Fit a conditional logit: a right answer against the other ones and against abstaining.

    Answerable questions of which no answer is right say nothing about the choice and are left out.

    Args:
        questions: Of documents kept from training.
        eagerness: Nats by which an answer may be less sure than abstaining; higher declines less.
        penalty: Weight of the squared weights, of measures scaled to unit variance.

    Raises:
        ValueError: There is nothing to learn from: no question with a right answer, or none without one.
    """
    torch = require("torch", "train")
    used = [one for one in questions if one.answers and (any(one.right) or not one.answerable)]
    if not any(one.answerable for one in used) or all(one.answerable for one in used):
        msg = "Weights need questions with a right reading and questions without an answer."
        raise ValueError(msg)
    table = torch.cat([_table(torch, one) for one in used])
    centre, spread = table.mean(0), table.std(0) + 1e-9
    scaled = [(_table(torch, one) - centre) / spread for one in used]
    weights = torch.zeros(6, dtype=torch.float64, requires_grad=True)

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
    return ReadingWeights(-found[0], found[1], found[2], found[3] - found[2], bias + eagerness, found[4])


def _table(torch: Any, question: ReadQuestion) -> Any:
    unread = question.unread.question
    rows = [
        [reading.refusal, one.answer, reading.question - unread, unread, one.verdict]
        for reading, one in question.answers
    ]
    return torch.tensor(rows, dtype=torch.float64)
