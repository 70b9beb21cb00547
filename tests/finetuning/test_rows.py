"""Rows: masked prompts, contexts that shrink and answers that do not, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.templates import ANSWER_CUE
from hybridmem_plugins.finetuning.rows import IGNORED, RowEncoder, check_labels, shrink_context


def test_only_the_answer_and_its_end_are_targets(tokenizer, rows):
    row = RowEncoder(tokenizer).encode(rows[0])
    targets = [label for label in row.labels if label != IGNORED]
    assert tokenizer.decode(targets) == "ada lovelace<|im_end|>"
    prompt = tokenizer.decode(row.input_ids[: len(row.input_ids) - len(targets)])
    assert prompt.endswith("<|im_start|>assistant\n")
    assert "ada lovelace<|im_end|>" not in prompt


def test_guarded_positions_never_predict_a_target(tokenizer, rows):
    row = RowEncoder(tokenizer).encode(rows[0])
    for position, guarded in enumerate(row.guard[:-1]):
        assert not (guarded and row.labels[position + 1] != IGNORED)
    assert sum(row.guard) == row.labels.count(IGNORED) - 1


def test_prompt_and_completion_in_trls_form_give_the_same_row(tokenizer, rows):
    encoder = RowEncoder(tokenizer)
    trl = {"prompt": rows[0]["messages"][:-1], "completion": [rows[0]["messages"][-1]]}
    assert encoder.encode(trl) == encoder.encode(rows[0])


def test_long_contexts_shrink_and_the_answer_stays_whole(tokenizer):
    filler = "\n".join(f"[{n}] title {n}\n" + "word " * 200 for n in range(2, 6))
    text = f"[1] first\n{'noise ' * 90}it was grace hopper .{' noise' * 90}\n{filler}\n\nwho wrote the compiler ?"
    row = {"messages": [{"role": "user", "content": text}], "completion": "grace hopper"}
    encoded = RowEncoder(tokenizer, max_length=500).encode(row)
    whole = tokenizer.decode(encoded.input_ids)
    assert len(encoded.input_ids) <= 500
    assert whole.endswith("grace hopper<|im_end|>")
    assert "it was grace hopper ." in whole
    assert "who wrote the compiler ?" in whole


def test_a_row_that_cannot_fit_is_refused_by_name(tokenizer):
    row = {"id": "long", "messages": [{"role": "user", "content": "word " * 300}], "completion": "ada"}
    with pytest.raises(ValueError, match=r"'long'.*max_length"):
        RowEncoder(tokenizer, max_length=64).encode(row)


@pytest.mark.parametrize("completion", ["", "   ", None, []])
def test_a_row_without_target_is_refused(tokenizer, completion):
    with pytest.raises(ValueError, match="'empty'"):
        RowEncoder(tokenizer).encode({"id": "empty", "prompt": "hello", "completion": completion})


def test_a_row_without_prompt_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no prompt"):
        RowEncoder(tokenizer).encode({"completion": "ada"})


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_shrinking_keeps_question_headings_and_answer(share):
    text = f"[1] Heading\n{'alpha ' * 120}Ada Lovelace {'beta ' * 120}\n\nQuestion: who?"
    short = shrink_context(text, ["Ada Lovelace"], share)
    assert len(short) < len(text)
    assert short.startswith("[1] Heading\n")
    assert short.endswith("\n\nQuestion: who?")
    assert contains_answer(short, ["Ada Lovelace"])


@pytest.mark.parametrize(
    "completion",
    [
        "1843",
        "[2] 1843",
        "[2] it was in 1843 .\nAnswer: 1843",
        "The passages disagree: passage 2 says “1843”, passage 3 says “1912”.",
    ],
)
@pytest.mark.parametrize("cue", ["", ANSWER_CUE])
def test_a_long_row_keeps_its_answer_and_question_whatever_its_form(tokenizer, completion, cue):
    asked = "question: in what year was it that she wrote the very first one of all the programs ?"
    passages = ["one " * 150, f"{'two ' * 150}it was in 1843 . {'two ' * 40}", "three " * 90]
    text = "\n\n".join([*passages, asked]) + cue
    encoded = RowEncoder(tokenizer, max_length=360).encode({"prompt": text, "completion": completion})
    prompt = [token for token, label in zip(encoded.input_ids, encoded.labels, strict=True) if label == IGNORED]
    assert contains_answer(tokenizer.decode(prompt), ["1843"])
    assert asked in tokenizer.decode(prompt)
    assert cue.strip() in tokenizer.decode(prompt)


def _broken(row, what):
    labels = list(row.labels)
    first = next(position for position, label in enumerate(labels) if label != IGNORED)
    if what == "prompt trained":
        labels[:first] = [0] * first
    elif what == "all masked":
        labels = [IGNORED] * len(labels)
    elif what == "no end":
        labels[-1] = IGNORED
    elif what == "wrong token":
        labels[first] += 1
    return replace(row, labels=labels)


@pytest.mark.parametrize("what", ["prompt trained", "all masked", "no end", "wrong token"])
def test_wrong_labels_are_found_before_training(tokenizer, rows, what):
    encoder = RowEncoder(tokenizer)
    good = [encoder.encode(row) for row in rows[:3]]
    assert check_labels(good, encoder.end) == 3
    with pytest.raises(ValueError, match="Training row 2 is wrong"):
        check_labels([*good[:2], _broken(good[2], what)], encoder.end)


def test_no_rows_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="no training rows"):
        check_labels([], RowEncoder(tokenizer).end)


def test_a_row_may_have_its_messages_in_parts(tokenizer, rows):
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in rows[0]["messages"]]
    plain = {"id": "r", "messages": rows[0]["messages"]}
    assert RowEncoder(tokenizer).encode({"id": "r", "messages": parts}) == RowEncoder(tokenizer).encode(plain)
