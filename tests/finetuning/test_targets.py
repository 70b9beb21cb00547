"""What the model is taught to say, how a reply is read again, and the dial of refusing."""

from __future__ import annotations

import json

import pytest

from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.templates import ABSTENTION, read_reply
from hybridmem_plugins.finetuning.evaluate import fit_caution
from hybridmem_plugins.finetuning.metrics import score_answer
from hybridmem_plugins.finetuning.sets import EvalItem
from hybridmem_plugins.finetuning.targets import write_target
from hybridmem_plugins.generation import loading

CHUNKS = [
    {
        "id": "ada",
        "title": "Ada",
        "text": "The engine was built late. Ada King, Countess of Lovelace, wrote it in 1843.",
    },
    {"id": "mill", "title": "Mill", "text": "The mill at Avon grinds corn. It was built by monks."},
    {"id": "bee", "title": "Bee", "text": "A bee dances to tell where flowers are."},
]
EXAMPLE = {"id": "q", "question": "Who wrote it?", "answers": ["Ada King", "Ada King, Countess of Lovelace"]}


def _rows(**options):
    augmenter = NoisyContextAugmenter(seed=0, size=3, rates={"random_irrelevant": 1.0, "order": 1.0}, **options)
    example = {**EXAMPLE, "context": CHUNKS[0]["text"]}
    return list(augmenter.build_dataset([example], CHUNKS, copies=6, validation=0.0))


@pytest.mark.parametrize("style", ["span", "cited", "quoted"])
def test_a_target_names_the_passage_that_holds_the_answer(style):
    for row in _rows(mix={"noisy": 1.0}):
        reply = read_reply(write_target(row, style))
        assert reply.answer == "Ada King, Countess of Lovelace", "the fullest form that the context holds"
        if style == "span":
            assert reply.cited == ()
        else:
            (number,) = reply.cited
            assert "Ada King" in row["passages"][number - 1]["text"]
        quoted = "Ada King, Countess of Lovelace, wrote it in 1843." if style == "quoted" else ""
        assert reply.quote == quoted


def test_an_abstention_stays_one_and_an_unknown_style_is_refused():
    for row in _rows(mix={"no_gold": 1.0}):
        assert write_target(row, "cited") == ABSTENTION
    with pytest.raises(ValueError, match="style"):
        write_target(_rows(mix={"clean": 1.0})[0], "haiku")


def test_a_sentence_that_can_no_longer_be_read_is_not_taught():
    row = _rows(mix={"clean": 1.0})[0]
    row["passages"][0]["text"] = "zq xv kj wq Ada King zzz qqq xxx vvv"
    assert write_target(row, "quoted") is None
    assert write_target(row, "span") is not None


def test_replies_are_taken_apart_and_only_the_answer_is_scored():
    reply = "[2] Ada met Charles Babbage in 1833.\nAnswer: 1833"
    assert read_reply(reply).cited == (2,)
    score = score_answer(reply, ["Charles Babbage"])
    assert (score.contained, score.quoted) == (False, True)
    assert score_answer("[1] [3] 1833", ["1833"]).exact
    assert read_reply("plain").answer == "plain"
    assert read_reply(f"[1] {ABSTENTION}").abstained


def test_the_caution_refuses_no_more_answerable_items_than_asked():
    items = [EvalItem(str(n), "s", "c", 0.0, "q", [], ["a"], "answer" if n < 10 else "abstain") for n in range(20)]
    margins = [float(-n) for n in range(10)] + [50.0] * 10
    caution = fit_caution(margins, items, wrong_refusals=0.2)
    assert sum(margin + caution > 0 for margin in margins[:10]) == 2
    with pytest.raises(ValueError, match="answer"):
        fit_caution(margins[10:], items[10:])


def test_a_stored_caution_biases_the_first_token_alone(tiny, tokenizer, tmp_path):
    from hybridmem_plugins.generation import GenerationSettings, LocalModel

    local = LocalModel.from_objects(tiny, tokenizer)
    refusal = local.tokens(ABSTENTION)[0]
    plain = local.answer("who wrote it ?", ["it was ada ."], max_new_tokens=4)
    pushed = local.answer("who wrote it ?", ["it was ada ."], max_new_tokens=4, caution=1e4)
    assert pushed.text.startswith(tokenizer.decode([refusal]))
    assert pushed.text != plain.text
    prompt = local.encode(local.rag_messages("who wrote it ?", ["it was ada ."]))
    (after,) = local.generate_ids([[*prompt, refusal]], GenerationSettings(max_new_tokens=3), "base")
    assert pushed.text == tokenizer.decode([refusal]) + after.text, "later tokens are chosen freely"
    (tmp_path / loading.ANSWERING).write_text(json.dumps({"caution": 2.5}))
    assert loading.adapter_caution(tmp_path) == 2.5
    (tmp_path / loading.ANSWERING).write_text("[]")
    with pytest.raises(ValueError, match="caution"):
        loading.adapter_caution(tmp_path)
