"""Tokens are drawn as their probabilities say, each row by itself."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hybridmem_plugins.generation.decoding import GenerationSettings, _Sampler

ROWS = 4000
LOGITS = torch.tensor([0.0, 2.0, -1.0, 1.0, 0.5, 1.5])


def drawn(**settings):
    """Draw one token for each of many rows that differ in their chance alone."""
    torch.manual_seed(0)
    sampler = _Sampler(GenerationSettings(seed=0, **settings), ROWS)
    for number, generator in enumerate(sampler.generators):
        generator.manual_seed(number)
    return sampler(LOGITS.repeat(ROWS, 1), [], list(range(ROWS)))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_come_as_often_as_they_are_likely(temperature):
    counts = Counter(drawn(temperature=temperature))
    for token, likely in enumerate((LOGITS / temperature).softmax(-1).tolist()):
        assert abs(counts[token] / ROWS - likely) < 4 * (likely * (1 - likely) / ROWS) ** 0.5 + 1e-9


def test_the_least_likely_are_left_out():
    assert set(drawn(temperature=1.0, top_k=2)) == {1, 5}
    # The likeliest have 0.42, 0.25, 0.15 and 0.09: the fourth begins where 0.83 is reached already.
    assert set(drawn(temperature=1.0, top_p=0.8)) == {1, 5, 3}
    assert set(drawn(temperature=1.0, top_p=1e-9)) == {1}


def test_a_row_is_drawn_alike_alone_and_among_others():
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(3))
    settings = GenerationSettings(temperature=0.8, top_p=0.9, seed=5)
    together = _Sampler(settings, 8)(logits.clone(), [], list(range(8)))
    alone = [_Sampler(settings, 1)(logits[row : row + 1].clone(), [], [0])[0] for row in range(8)]
    assert together == alone
