"""Metrics, IFEval checkers, unseen noise and the evaluation's own rules, on cases worked out by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.templates import ABSTENTION
from hybridmem_plugins.finetuning import forgetting
from hybridmem_plugins.finetuning.evaluate import decline, is_noisy, keep_items, run_items
from hybridmem_plugins.finetuning.forgetting import keep_ifeval, run_ifeval
from hybridmem_plugins.finetuning.ifeval import CHECKERS, followed
from hybridmem_plugins.finetuning.metrics import bootstrap, paired_difference, score_answer
from hybridmem_plugins.finetuning.sets import EvalItem, NegativePool, reading_items, split_by_document
from hybridmem_plugins.finetuning.unseen import UNSEEN, damage
from hybridmem_plugins.generation import LocalModel
from hybridmem_plugins.generation.settling import Reading

CASES = [
    ("punctuation:no_comma", {}, "No comma here", "One, two"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "A b. C d.", "A. B. C."),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Spring>>\nText", "Spring"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a\n* b\n* c"),
    ("combination:two_responses", {}, "yes\n******\nno", "yes\n******\nyes"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. Done", "Done"),
    ("startend:quotation", {}, '"all of it"', '"half of it'),
    ("startend:end_checker", {"end_phrase": "The end."}, "So. the end.", "The end. Or not"),
    ("change_case:english_lowercase", {}, "the cat is on the mat", "The cat is on the mat"),
    ("change_case:english_capital", {}, "THE CAT IS ON THE MAT", "the CAT IS ON THE MAT"),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "a rocket", "a rock"),
    ("keywords:letter_frequency", {"letter": "e", "let_relation": "less than", "let_frequency": 2}, "ten", "seven ten"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi\nP.S. bye", "Hi\nPS bye"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund und die Katze", "This is the dog"),
    ("language:response_language", {"language": "ru"}, "Это кот", "That is a cat"),
]


@pytest.mark.parametrize(("name", "options", "good", "bad"), CASES)
def test_instructions_are_checked(name, options, good, bad):
    assert followed(good, [name], [options]) == [True]
    assert followed(bad, [name], [options]) == [False]


def test_a_blank_reply_follows_nothing():
    assert followed("  ", ["punctuation:no_comma"], [{}]) == [False]
    with pytest.raises(ValueError, match="Unknown"):
        followed("x", ["made:up"], [{}])
    assert len(CHECKERS) == 25


def test_answers_are_scored():
    score = score_answer("It was the Ada Lovelace.", ["Grace Hopper", "Ada Lovelace"])
    assert (score.contained, score.exact, score.abstained) == (True, False, False)
    assert score.f1 == pytest.approx(2 * 2 / (4 + 2))
    assert score_answer(ABSTENTION, ["Ada"]).abstained
    assert score_answer("the Ada", ["Ada"]).exact


def test_intervals_hold_the_mean_and_pairing_narrows_them():
    rng = random.Random(0)
    hard = [rng.random() for _ in range(300)]
    other = [value + 0.05 for value in hard]
    difference = paired_difference(other, hard)
    assert difference.low == pytest.approx(0.05, abs=1e-9)
    assert difference.high == pytest.approx(0.05, abs=1e-9)
    wide = bootstrap([hard, other])
    assert wide.low < wide.mean < wide.high
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([1.0], [1.0, 0.0])


@pytest.mark.parametrize("name", sorted(UNSEEN))
def test_unseen_noise_is_unseen_deterministic_and_keeps_the_answer(name):
    text = "The compiler was written by Grace Hopper, in 1952. It ran on the machine. " * 3
    assert name not in OPERATORS
    noisy = damage(text, name, 0.6, "id", ["Grace Hopper"])
    assert noisy == damage(text, name, 0.6, "id", ["Grace Hopper"])
    assert noisy is not None
    assert noisy != text
    assert contains_answer(noisy, ["Grace Hopper"])
    assert UNSEEN[name](text, 0.0, random.Random(1)) == text


def _rows(count):
    return [
        {
            "id": f"q{n}", "question": f"who made engine {n}", "answers": [f"maker{n}"], "title": f"t{n // 2}",
            "context": f"The engine {n} was made by maker{n} in a town near the river {n}.",
        }
        for n in range(count)
    ]  # fmt: skip


def test_wrong_passages_never_hold_the_answer_and_absent_means_absent():
    rows = _rows(12)
    items = reading_items("nq", rows, NegativePool([{"text": r["context"]} for r in rows]), unseen=3)
    for item in items:
        held = [contains_answer(passage["text"], item.answers) for passage in item.passages]
        assert sum(held) == (0 if item.expect == "abstain" else 1), item.id
    assert len({item.id for item in items}) == len(items)
    assert not is_noisy({**items[0].as_dict(), "condition": "clean"})


def test_no_document_is_on_both_sides():
    train, held = split_by_document(_rows(40), 10)
    assert len(held) >= 10
    assert not {row["title"] for row in train} & {row["title"] for row in held}
    assert split_by_document(_rows(40), 10)[1] == held


def test_an_evaluation_keeps_replies_as_they_come_and_goes_on_where_it_was_killed(tiny, tokenizer, tmp_path):
    local = LocalModel.from_objects(tiny, tokenizer, batch_size=1)
    items = [
        EvalItem(f"s/clean/0/{n}", "s", "clean", 0.0, f"who wrote {n} ?", [{"text": "ada wrote it ."}], ["ada"])
        for n in range(9)
    ]
    file, asked, answer = tmp_path / "out" / "replies.jsonl", [], local.generate_ids

    def counted(prompts, *options):
        if stop_after is not None and len(asked) >= stop_after:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return answer(prompts, *options)

    def kept():
        return [json.loads(line)["id"] for line in file.read_text().splitlines()]

    local.generate_ids = counted
    stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        keep_items(local, items, file, ["run"])
    assert kept() == [item.id for item in items[:8]]
    file.write_bytes(file.read_bytes()[:-30])
    stop_after = None
    asked.clear()
    whole = keep_items(local, items, file, ["run"])
    assert (len(asked), kept()) == (2, [item.id for item in items])
    assert [{name: value for name, value in one.items() if name != "made_from"} for one in whole] == run_items(
        local, items
    )
    asked.clear()
    assert keep_items(local, items, file, ["run"]) == whole
    assert not asked
    other = [replace(items[0], question="who ?"), *items[1:]]
    for changed, options, count in ((other, {}, 1), (items, {"resume": False}, 9)):
        keep_items(local, changed, file, ["run"], **options)
        assert (len(asked), len(kept())) == (count, 9)
        asked.clear()
    keep_items(local, items, file, ["another run"])
    assert len(asked) == 9


def test_replies_to_instructions_are_kept_as_they_come_too(tiny, tokenizer, tmp_path, monkeypatch):
    local = LocalModel.from_objects(tiny, tokenizer, batch_size=1)
    prompts = [
        {"key": n, "prompt": f"who wrote {n} ?", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        for n in range(6)
    ]
    whole, asked = run_ifeval(local, prompts, "base"), []

    def answered(local, some, adapter):
        if len(asked) == 4 and not told:
            raise KeyboardInterrupt
        asked.extend(some)
        return [one for one in whole if one["key"] in [row["key"] for row in some]]

    told = False
    monkeypatch.setattr(forgetting, "run_ifeval", answered)
    with pytest.raises(KeyboardInterrupt):
        keep_ifeval(local, prompts, "base", tmp_path / "ifeval.jsonl", ["run"])
    told = True
    kept = keep_ifeval(local, prompts, "base", tmp_path / "ifeval.jsonl", ["run"])
    assert [row["key"] for row in asked] == list(range(6))
    assert [{name: value for name, value in one.items() if name != "made_from"} for one in kept] == whole


def test_a_reply_that_cites_no_passage_there_is_has_no_evidence():
    items = [
        EvalItem("s/empty/0/0", "s", "empty", 0.0, "who wrote it ?", shown, ["ada"])
        for shown in ([], [{"text": "ada ."}])
    ]
    for reply in ("[0] ada", "[2] ada"):
        readings = [Reading(reply, -1.0, 0.0, 0.0)] * 2
        assert [record["evidence"] for record in decline(items, readings)] == ["", ""]
