"""Recipes: rows of single passages, of snippets, of withheld answers and of questions made from gaps."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import typer

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.templates import is_abstention, read_reply
from hybridmem_plugins.finetuning.recipes import (
    GAPS,
    Copy,
    Recipe,
    Source,
    gap_questions,
    get_recipe,
    training_passages,
    training_rows,
    withheld,
)
from hybridmem_plugins.finetuning.trainer import TrainConfig

PLACES = ["London", "Paris", "Vienna", "Madrid", "Rome", "Oslo", "Turin", "Basel", "Lyon", "Prague", "Kiel", "Bath"]


def _context(number: int) -> str:
    filler = " ".join(f"Word{number}x{n} was noted by the clerk in the long book of the mill." for n in range(8))
    return f"The mill number {number} is old and made of stone and wood. It was built in {PLACES[number]} . {filler}"


EXAMPLES = [
    {
        "id": f"mini-{number}",
        "question": f"where was mill number {number} built",
        "answers": [PLACES[number]],
        "title": f"Mill {number}",
        "context": _context(number),
    }
    for number in range(12)
]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "qa/train"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in EXAMPLES)
    (folder / "mini.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def _rows(data, *copies, **options):
    recipe = Recipe("mini", (Source("mini", copies),), TrainConfig(), rounds=1)
    passages = training_passages(recipe, data)
    return training_rows(recipe, data, search=lambda question: passages, **options)


def test_a_row_of_one_passage_answers_from_it_or_declines(data):
    rows = _rows(data, *[Copy(1, "near")] * 4)
    declined = [row for row in rows if is_abstention(row["completion"])]
    assert 0.2 < len(declined) / len(rows) < 0.8
    for row in rows:
        place = PLACES[int(row["id"].split("/")[0].split("-")[1])]
        shown = row["prompt"][-1]["content"]
        assert contains_answer(shown.rpartition("Question:")[0], [place]) == (row not in declined)
        if row not in declined:
            assert read_reply(row["completion"]).cited


def test_a_withheld_answer_leaves_the_rest_of_its_own_passage(data):
    rows = _rows(data, Copy(1, "withheld"))
    assert len(rows) == len(EXAMPLES)
    assert all(is_abstention(row["completion"]) for row in rows)
    own = [row for row in rows if f"Word{row['id'].split('/')[0].split('-')[1]}x" in row["prompt"][-1]["content"]]
    assert len(own) >= 10, "what is shown is the gold passage without its answer, unless damage hides where it is from"
    assert withheld([{**EXAMPLES[0], "context": "It was built in London."}])(EXAMPLES[0]["question"]) == []


def test_snippets_are_short_and_untitled_and_still_hold_the_answer(data):
    rows = _rows(data, Copy(1, "near", "snippet"))
    for row in rows:
        shown = row["prompt"][-1]["content"].rpartition("Question:")[0]
        assert len(shown.split()) < len(_context(0).split())
        assert "Mill " not in shown
    answers = [read_reply(row["completion"]).answer for row in rows if not is_abstention(row["completion"])]
    told = [answer for answer in answers if "disagree" not in answer]
    assert told
    assert set(told) <= set(PLACES)


def test_the_arms_differ_in_noise_alone(data):
    assert not any(is_abstention(row["completion"]) for row in _rows(data, Copy(1, "near"), arm="clean"))
    random = _rows(data, *[Copy(1, "near")] * 4, arm="random")
    assert any(is_abstention(row["completion"]) for row in random)
    with pytest.raises(ValueError, match="Unknown arm"):
        _rows(data, Copy(1, "near"), arm="dirty")


def test_gaps_ask_for_a_whole_name_or_number_of_a_titled_passage(data):
    recipe = Recipe("mini", (Source("mini", ()), Source(GAPS, (Copy(1, "near"),))), TrainConfig(), rounds=1)
    passages = training_passages(recipe, data)
    asked = gap_questions(passages, "0 0")
    assert asked
    for row in asked:
        assert contains_answer(row["context"], row["answers"])
        assert not contains_answer(row["question"], row["answers"])
        assert row["question"].endswith("?")
    assert gap_questions([replace(passage, title=None) for passage in passages], "0 0") == []
    rows = training_rows(recipe, data, search=lambda question: passages)
    assert len(rows) == len(asked)


def test_the_same_seed_makes_the_same_rows(data):
    copies = Copy(1, "near"), Copy(3, "mixed", "snippet")
    assert _rows(data, *copies) == _rows(data, *copies)
    assert _rows(data, *copies) != _rows(data, *copies, seed=1)


def test_an_unknown_recipe_is_told_which_there_are():
    with pytest.raises(ValueError, match="smollm2-135m-together, smollm2-135m"):
        get_recipe("other")


@pytest.mark.parametrize(
    ("recipe", "options", "told"),
    [
        ("other", {}, "smollm2-135m, smollm2-135m-verifier"),
        ("smollm2-135m-verifier", {"kl_weight": 1.0}, "--kl-weight does not apply"),
    ],
)
def test_the_command_refuses_what_it_would_ignore(recipe, options, told, tmp_path):
    from hybridmem_plugins.finetuning import command

    with pytest.raises(typer.BadParameter, match=told):
        command.train(tmp_path / "out", recipe=recipe, data=tmp_path, **options)


@pytest.mark.parametrize("slots", ["near", "random"])
def test_a_row_of_one_passage_shows_one_and_never_speaks_of_disagreement(data, slots):
    rows = [row for seed in range(12) for row in _rows(data, Copy(1, slots), seed=seed)]
    assert rows
    for row in rows:
        asked = row["prompt"][-1]["content"]
        assert "[2]" not in asked
        assert "disagree" not in row["completion"]


def test_a_recipe_trains_from_the_command_line(data, tiny, tokenizer, tmp_path, monkeypatch):
    from hybridmem_plugins.finetuning import command, instructions, recipes, rows

    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    general = [
        {"id": f"r{number}", "prompt": f"who wrote {number} ?"} for number in range(recipes.AGREEMENT_PROMPTS + 8)
    ]
    (data / "forgetting").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in general)
    (data / "forgetting/replay-prompts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    config = TrainConfig(rank=2, alpha=4, batch_size=2, max_length=500, kl_tokens=8, kl_rows=1, guard_share=0.5)
    recipe = Recipe(
        "one", (Source("mini", (Copy(1, "random", "snippet"),)),), config,
        rounds=1, steps=1, plain=4, replay=4, replay_tokens=8, instructed=3,
    )  # fmt: skip
    monkeypatch.setattr(recipes, "RECIPES", {"one": recipe})
    # What a model with random weights replies neither ends nor follows anything.
    told = {"text": "ada", "finish_reason": "stop"}
    monkeypatch.setattr(instructions, "base_replies", lambda local, prompts, **_: [told] * len(prompts))
    monkeypatch.setattr(instructions, "followed", lambda *_: [True])
    encoded, fitting = [], rows.fitting_rows
    monkeypatch.setattr(rows, "fitting_rows", lambda made, *rest: encoded.append(list(made)) or fitting(made, *rest))
    out = tmp_path / "out"
    command.train(out, recipe="one", data=data, model=str(tmp_path / "base"))
    assert (out / "adapter_model.safetensors").is_file()
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    assert len((out / "replay.jsonl").read_text().splitlines()) == 4
    learnt = encoded[0][-3:]
    assert [row["completion"] for row in learnt] == ["ada"] * 3
    assert all(row["prompt"][0]["content"].startswith("who wrote") for row in learnt)


def test_the_shipped_adapter_is_scaled_as_its_recipe_trained_it():
    from hybridmem_plugins.generation import loading

    told = json.loads((loading.SHIPPED_ADAPTERS / "smollm2-135m" / "adapter_config.json").read_text())
    config = get_recipe("smollm2-135m").config
    assert (told["r"], told["lora_alpha"]) == (config.rank, config.alpha)
