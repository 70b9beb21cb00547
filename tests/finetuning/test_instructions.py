"""Replay of answers that follow checkable instructions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hybridmem_plugins.finetuning.ifeval import CHECKERS, followed
from hybridmem_plugins.finetuning.instructions import MAKERS, answer_instructed, instructed_prompts

GENERAL = [
    {"id": "r1", "prompt": "Describe a forest in winter."},
    {"id": "r2", "prompt": "Name three rivers."},
]


def test_each_prompt_gets_instructions_that_a_checker_knows():
    made = instructed_prompts(GENERAL, 300)
    assert len(made) == 300
    assert len({row["id"] for row in made}) == 300
    for row in made:
        assert row["prompt"].startswith(tuple(one["prompt"] for one in GENERAL))
        assert len(row["instructions"]) == len(row["options"]) in (1, 2)
        followed("A reply.", row["instructions"], row["options"])  # raises where a name or an option is missing
    assert len({name for row in made for name in row["instructions"]}) == len(MAKERS)


def test_more_than_half_of_the_kinds_are_never_trained_on():
    used = {name for row in instructed_prompts(GENERAL, 300) for name in row["instructions"]}
    assert len(CHECKERS) - len(used) == 14


def test_the_same_seed_makes_the_same_prompts():
    assert instructed_prompts(GENERAL, 20) == instructed_prompts(GENERAL, 20)
    assert instructed_prompts(GENERAL, 20) != instructed_prompts(GENERAL, 20, seed=1)


@pytest.mark.parametrize("prompts", [[], GENERAL])
def test_none_are_made_of_nothing(prompts):
    assert instructed_prompts(prompts, 0) == instructed_prompts([], 5) == []


class FakeModel:
    """Says what it is told to, and fails when that is said."""

    name, batch_size = "fake", 1

    def __init__(self, *replies):
        self.replies, self.asked = [SimpleNamespace(text=text, finish_reason=why) for text, why in replies], None

    def generate(self, chats, **settings):
        self.asked = settings
        told, self.replies = self.replies[: len(chats)], self.replies[len(chats) :]
        if len(told) < len(chats):
            raise KeyboardInterrupt
        return told


def test_only_whole_answers_that_follow_every_instruction_are_kept():
    plain = {"instructions": ["punctuation:no_comma"], "options": [{}]}
    both = {
        "instructions": ["punctuation:no_comma", "startend:end_checker"],
        "options": [{}, {"end_phrase": "And so it ends."}],
    }
    prompts = [
        {"id": str(number), "prompt": f"Say {number}", **told}
        for number, told in enumerate([plain, plain, plain, both, both])
    ]
    model = FakeModel(
        ("Snow and ice", "stop"), ("Snow, ice", "stop"), ("Snow and", "length"),
        ("Snow. And so it ends.", "stop"), ("Snow.", "stop"),
    )  # fmt: skip
    kept = answer_instructed(model, prompts)
    assert kept == [
        {"id": "0", "prompt": [{"role": "user", "content": "Say 0"}], "completion": "Snow and ice"},
        {"id": "3", "prompt": [{"role": "user", "content": "Say 3"}], "completion": "Snow. And so it ends."},
    ]
    assert model.asked["adapter"] == "base"


def test_a_killed_run_goes_on_with_the_replies_that_it_has(tmp_path):
    prompts = [
        {"id": str(number), "prompt": f"Say {number}", "instructions": ["punctuation:no_comma"], "options": [{}]}
        for number in range(6)
    ]
    file = tmp_path / "instructed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_instructed(FakeModel(*[("Snow", "stop")] * 4), prompts, file=file)
    rest = FakeModel(("Ice", "stop"), ("Ice, ice", "stop"))
    kept = answer_instructed(rest, prompts, file=file)
    assert [row["completion"] for row in kept] == ["Snow"] * 4 + ["Ice"]
    assert not rest.replies
    with pytest.raises(KeyboardInterrupt):  # Asked anew: with another seed, or everything.
        answer_instructed(FakeModel(), prompts, file=file, seed=1)
    with pytest.raises(KeyboardInterrupt):
        answer_instructed(FakeModel(), prompts, file=file, resume=False)
