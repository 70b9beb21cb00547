"""A verifier: which rows it learns from, and that it is trained on answers to questions its reader never saw."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hybridmem_plugins.augmentation.templates import ABSTENTION
from hybridmem_plugins.finetuning import verifier as verifying
from hybridmem_plugins.finetuning.rows import IGNORED
from hybridmem_plugins.finetuning.trainer import TrainConfig
from hybridmem_plugins.finetuning.verifier import (
    VerifierConfig,
    half_of,
    is_right,
    single_contexts,
    train_verifier,
    verifier_rows,
)
from hybridmem_plugins.generation.local_model import LocalModel
from hybridmem_plugins.generation.verifying import Opened
from hybridmem_plugins.passage import Passage

NAMES = ["ada lovelace", "grace hopper", "alan turing"]


def row(number: int, copy: int = 0, *, absent: bool = False, passages: int = 1) -> dict[str, object]:
    name = NAMES[number % 3]
    text = f"the engine {number} was a machine ." if absent else f"{name} wrote the engine {number} ."
    shown = [{"title": f"machine {number}", "text": text}, {"title": None, "text": "the compiler ."}][:passages]
    question = f"who wrote the engine {number} ?"
    prompt = [{"role": "user", "content": f"{text}\n\n{question}"}]
    completion = ABSTENTION if absent else f"[1] {name}"
    told = {"question": question, "answers": [name], "passages": shown}
    return {"id": f"q{number}/0.{copy}", "prompt": prompt, "completion": completion, **told}


def test_all_copies_of_a_question_are_of_one_half_and_a_passage_comes_once() -> None:
    rows = [row(number, copy) for number in range(40) for copy in range(3)]
    assert all(len({half_of(row(number, copy)) for copy in range(3)}) == 1 for number in range(40))
    assert 5 < sum(half_of(row(number)) for number in range(40)) < 35
    assert len(single_contexts([*rows, row(1, passages=2), row(1, absent=True)])) == 41


def test_an_answer_is_right_where_the_passage_holds_it() -> None:
    assert is_right(row(0), "Ada Lovelace")
    assert not is_right(row(0), "grace hopper")
    assert not is_right(row(0, absent=True), "ada lovelace"), "the passage does not say so"


def test_a_verifier_learns_one_right_answer_and_two_wrong_ones_of_a_passage(tiny, tokenizer) -> None:
    local = LocalModel.from_objects(tiny, tokenizer)
    made = []
    for told in (row(0), row(0, absent=True)):
        passage = Passage(told["passages"][0]["text"], told["passages"][0]["title"])
        prompt = local.row(local.tokens("passages : ada ? answer "), local.settings)
        opened = Opened(told["question"], passage, prompt)
        replies = ["[1] grace hopper", "[1] ada lovelace", "[1] engine", "[1] the", "[1] "]
        made.append(verifier_rows(tokenizer, [(told, opened, replies)], 400))
    yes, no = local.tokens("Yes")[0], local.tokens("No")[0]
    targets = [[next(label for label in one.labels if label != IGNORED) for one in rows] for rows in made]
    assert targets == [[yes, no, no], [no]]
    assert all(one.input_ids[:3] == local.tokens("passages : ada ? answer ")[:3] for rows in made for one in rows)
    assert verifier_rows(tokenizer, [(row(0), opened, replies)], 10) == [], "what is too long is left out"


def test_a_verifier_is_trained_on_answers_to_the_other_half(tiny, tokenizer, tmp_path, monkeypatch) -> None:
    tiny.config.max_position_embeddings = 2048
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    answered, kept = [], verifying.answer_contexts

    def watched(local, rows):
        answered.append([one["id"] for one in rows])
        # What so small a model makes up is no answer: these stand in for it.
        return [(opened, ["[1] ada lovelace", "[1] grace hopper"]) for opened, _ in kept(local, rows)]

    monkeypatch.setattr(verifying, "answer_contexts", watched)
    rows = [row(number, absent=number % 4 == 3) for number in range(24)]
    reader = TrainConfig(rank=2, alpha=4, batch_size=2, learning_rate=1e-2, max_length=1500)
    told = {"model": str(tmp_path / "base"), "max_steps": 2, "device": "cpu"}
    result = train_verifier(rows, tmp_path / "out", reader, VerifierConfig(longest=2000), **told)
    assert result.steps == 2
    assert (tmp_path / "out/adapter_model.safetensors").is_file()
    for half, ids in enumerate(answered):
        assert {half_of({"id": one}) for one in ids} == {1 - half}
    before = json.loads((tmp_path / "out/half0/training.json").read_text())
    again = train_verifier(rows, tmp_path / "out", reader, VerifierConfig(longest=2000), **told)
    assert json.loads((tmp_path / "out/half0/training.json").read_text()) == before, "a reader that is there is taken"
    assert [one["answer_loss"] for one in again.log] == [one["answer_loss"] for one in result.log]
    train_verifier(rows, tmp_path / "out", replace(reader, seed=1), VerifierConfig(longest=2000), **told)
    other = json.loads((tmp_path / "out/half0/training.json").read_text())
    assert other["config"]["seed"] == 1, "a reader that was trained otherwise is not"
    written = (tmp_path / "out/half0/training.json").stat().st_mtime_ns
    train_verifier(rows, tmp_path / "out", replace(reader, seed=1), VerifierConfig(longest=2000), **told, resume=False)
    assert (tmp_path / "out/half0/training.json").stat().st_mtime_ns > written, "begun anew"
    with pytest.raises(ValueError, match="a half of them has none"):
        train_verifier([row(1)], tmp_path / "none", reader, **told)
