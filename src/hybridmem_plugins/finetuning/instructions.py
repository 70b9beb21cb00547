"""Replay of what the base does when told how to answer: those of its answers that follow checkable instructions.

The guard's KL holds the distribution of each token; whether a whole answer keeps to "no commas" hangs on all of them.
So general prompts are given such instructions, the base answers, and the answers that follow are learnt as they are
(rejection sampling, as in arXiv 2308.01825, from the base itself: no text is written by anyone else).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.finetuning.ifeval import followed
from hybridmem_plugins.finetuning.replay import answered, base_replies
from hybridmem_plugins.generation.local_model import LocalModel

Instruction = tuple[str, str, dict[str, Any]]
"""What the prompt says, the checker's name in `ifeval.CHECKERS`, and the checker's options."""

_ENDINGS = ("Hope this is useful.", "That is the whole story.", "Ask me for more.", "And so it ends.")
_POSTSCRIPTS = ("P.S.", "P.P.S")


def _words_of(prompt: str) -> list[str]:
    """Return the longer words of a prompt, which an answer to it can be expected to use."""
    return sorted({word.lower() for word in re.findall(r"[A-Za-z]{5,}", prompt)}) or ["time"]


def _no_comma(rng: random.Random, prompt: str) -> Instruction:
    said = rng.choice(["Write it without a single comma.", "Leave out all commas.", "Your text must have no commas."])
    return said, "punctuation:no_comma", {}


def _lowercase(rng: random.Random, prompt: str) -> Instruction:
    said = rng.choice(["Write in small letters only.", "Use no capital letters.", "Answer in lowercase English."])
    return said, "change_case:english_lowercase", {}


def _title(rng: random.Random, prompt: str) -> Instruction:
    said = rng.choice(["Begin with a title in angular brackets, like <<title>>.", "Add a title, as in <<a title>>."])
    return said, "detectable_format:title", {}


def _bullets(rng: random.Random, prompt: str) -> Instruction:
    count = rng.randint(2, 6)
    said = rng.choice([f"Answer with exactly {count} bullets that begin with *.", f"Use {count} bullets (- one)."])
    return said, "detectable_format:number_bullet_lists", {"num_bullets": count}


def _json(rng: random.Random, prompt: str) -> Instruction:
    said = rng.choice(["Give the whole answer as JSON.", "Your entire output must be valid JSON."])
    return said, "detectable_format:json_format", {}


def _words(rng: random.Random, prompt: str) -> Instruction:
    relation, count = rng.choice(["less than", "at least"]), rng.choice([40, 60, 80, 100, 150, 200, 250, 300])
    said = rng.choice([f"Use {relation} {count} words.", f"The answer should have {relation} {count} words."])
    return said, "length_constraints:number_words", {"relation": relation, "num_words": count}


def _sentences(rng: random.Random, prompt: str) -> Instruction:
    relation, count = rng.choice(["less than", "at least"]), rng.randint(3, 12)
    said = rng.choice([f"Write {relation} {count} sentences.", f"Your reply should have {relation} {count} sentences."])
    return said, "length_constraints:number_sentences", {"relation": relation, "num_sentences": count}


def _keywords(rng: random.Random, prompt: str) -> Instruction:
    known = _words_of(prompt)
    words = rng.sample(known, min(len(known), rng.randint(1, 2)))
    said = rng.choice([f"Use the words: {', '.join(words)}.", f"Mention {' and '.join(words)}."])
    return said, "keywords:existence", {"keywords": words}


def _frequency(rng: random.Random, prompt: str) -> Instruction:
    word, count = rng.choice(_words_of(prompt)), rng.randint(2, 4)
    said = rng.choice([f"Say {word} at least {count} times.", f"The word {word} must occur {count} times or more."])
    return said, "keywords:frequency", {"keyword": word, "relation": "at least", "frequency": count}


def _postscript(rng: random.Random, prompt: str) -> Instruction:
    marker = rng.choice(_POSTSCRIPTS)
    said = rng.choice([f"Add a postscript that starts with {marker}", f"Close with a postscript ({marker})."])
    return said, "detectable_content:postscript", {"postscript_marker": marker}


def _ending(rng: random.Random, prompt: str) -> Instruction:
    phrase = rng.choice(_ENDINGS)
    said = rng.choice([f'The last words must be "{phrase}"', f'Finish with this and nothing more: "{phrase}"'])
    return said, "startend:end_checker", {"end_phrase": phrase}


MAKERS: tuple[Callable[[random.Random, str], Instruction], ...] = (
    _no_comma, _lowercase, _title, _bullets, _json, _words, _sentences, _keywords, _frequency, _postscript, _ending,
)  # fmt: skip
"""Eleven of IFEval's 25 kinds, in other words than its own; the others are kept to tell what carries over."""

TWO = 0.3
"""Share of the prompts that are given two instructions."""

LONGEST, TEMPERATURE = 640, 0.3
"""Of the base's answers: tokens, after which an answer counts as cut off, and how they are sampled."""


def instructed_prompts(prompts: Sequence[Mapping[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Give general prompts checkable instructions, each prompt in its turn until there are enough.

    Args:
        prompts: Rows with `id` and `prompt` (text).
        count: How many to make.
        seed: Seed of the choice.

    Returns:
        Rows with `id`, `prompt` (text), and `instructions` and `options` as `ifeval.followed` takes them.
    """
    made = []
    for number in range(count if prompts else 0):
        row = prompts[number % len(prompts)]
        rng = random.Random(f"{seed} {number} {row['id']}")
        given = [maker(rng, row["prompt"]) for maker in rng.sample(MAKERS, 1 + (rng.random() < TWO))]
        made.append({
            "id": f"{row['id']}/{number}",
            "prompt": " ".join([row["prompt"], *(said for said, _, _ in given)]),
            "instructions": [name for _, name, _ in given],
            "options": [options for _, _, options in given],
        })  # fmt: skip
    return made


def answer_instructed(
    local: LocalModel,
    prompts: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    file: Path | None = None,
    resume: bool = True,
) -> list[dict[str, Any]]:
    """Let the base answer prompts, and keep the answers that are whole and follow every instruction.

    Args:
        local: A model; its adapters are switched off.
        prompts: What `instructed_prompts` made.
        seed: Seed of the sampling.
        file: Keeps the replies; see `replay.base_replies`.
        resume: Likewise.

    Returns:
        Training rows with `id`, `prompt` (messages) and `completion`.
    """
    replies = base_replies(
        local, prompts, max_new_tokens=LONGEST, temperature=TEMPERATURE, seed=seed, file=file, resume=resume
    )
    return [
        answered(row, reply)
        for row, reply in zip(prompts, replies, strict=True)
        if reply["finish_reason"] == "stop" and all(followed(reply["text"], row["instructions"], row["options"]))
    ]
