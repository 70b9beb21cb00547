"""Noise for evaluation only: ways to damage a passage that no training operator uses.

A model that withstands the noise it was trained on may have learnt those very operators; these tell the difference.
Never train on them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from hybridmem_plugins.augmentation.answers import contains_answer

Damage = Callable[[str, float, random.Random], str]


def stutter(text: str, severity: float, rng: random.Random) -> str:
    """Say words twice, as a broken speech transcript does."""
    return re.sub(r"\w+", lambda m: f"{m[0]} {m[0]}" if rng.random() < 0.5 * severity else m[0], text)


def alternating_case(text: str, severity: float, rng: random.Random) -> str:
    """Flip the case of letters at random."""
    return "".join(c.swapcase() if rng.random() < 0.5 * severity else c for c in text)


def glued_words(text: str, severity: float, rng: random.Random) -> str:
    """Lose spaces after commas and between lower-case words, as some PDF readers do."""
    return re.sub(r"(?<=[a-z,;]) (?=[a-z])", lambda m: "" if rng.random() < 0.6 * severity else " ", text)


def log_prefixes(text: str, severity: float, rng: random.Random) -> str:
    """Break the text into lines that each begin with a time stamp and a log level."""
    words, lines = text.split(), []
    while words:
        size = max(4, round(30 - 24 * severity)) + rng.randrange(4)
        stamp = f"2031-0{rng.randrange(1, 9)}-1{rng.randrange(9)}T{rng.randrange(10, 23)}:{rng.randrange(10, 59)}:00Z"
        lines.append(f"{stamp} {rng.choice(['INFO', 'WARN', 'DEBUG'])} {' '.join(words[:size])}")
        words = words[size:]
    return "\n".join(lines) if severity else text


def sentence_shuffle(text: str, severity: float, rng: random.Random) -> str:
    """Move sentences to other places."""
    parts = re.split(r"(?<=[.!?])\s+", text)
    moved = [position for position in range(len(parts)) if rng.random() < severity]
    targets = rng.sample(moved, len(moved))
    result = list(parts)
    for place, source in zip(moved, targets, strict=True):
        result[place] = parts[source]
    return " ".join(result)


def interleaved_binary(text: str, severity: float, rng: random.Random) -> str:
    """Put runs of base64-like junk between words."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    words = []
    for word in text.split(" "):
        words.append(word)
        if rng.random() < 0.12 * severity:
            words.append("".join(rng.choices(alphabet, k=rng.randrange(12, 28))) + "==")
    return " ".join(words)


UNSEEN: Mapping[str, Damage] = {
    function.__name__: function
    for function in (stutter, alternating_case, glued_words, log_prefixes, sentence_shuffle, interleaved_binary)
}
"""The evaluation-only operators by name; severity is in [0, 1]."""


def damage(text: str, name: str, severity: float, seed: str, answers: list[str]) -> str | None:
    """Damage a gold passage so that its answer can still be found in it.

    Args:
        text: The passage.
        name: Key in `UNSEEN`.
        severity: 0 (nothing) to 1.
        seed: Makes the damage; give the item's id.
        answers: Gold answers of which one must remain.

    Returns:
        The damaged text, or None where ten tries each lost the answer.
    """
    for attempt in range(10):
        noisy = UNSEEN[name](text, severity, random.Random(f"{seed} {name} {severity} {attempt}"))
        if contains_answer(noisy, answers):
            return noisy
    return None
