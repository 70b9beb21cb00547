"""Several answers of each passage, and the verifier that chooses among them."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hybridmem_plugins.augmentation.templates import ABSTENTION, read_reply
from hybridmem_plugins.generation import GenerationSettings, LocalModel
from hybridmem_plugins.generation.decoding import Row, decode, next_logits, read_prompts
from hybridmem_plugins.generation.fingerprints import fingerprint
from hybridmem_plugins.generation.loading import SHIPPED_ADAPTERS, AdapterMismatchError, adapter_verifier
from hybridmem_plugins.generation.reading import read_questions
from hybridmem_plugins.generation.settling import Reading, ReadingWeights, answers_of, settle
from hybridmem_plugins.generation.verifying import Candidate, Opened, find_candidates, verifying_prompt
from hybridmem_plugins.passage import Passage

WEIGHTS = ReadingWeights(refusal=0.0, answer=1.0, question=0.0, unread=0.0, bias=3.0, verdict=2.0)
NOTHING = Reading("", refusal=9.0, answer=0.0, question=0.0)
BABBAGE = Passage(
    "Charles Babbage was an English polymath. He was born in London in 1791 and died in 1871.", title="Charles Babbage"
)
ENGINE = Passage(
    "The Analytical Engine was designed by Charles Babbage. Ada Lovelace wrote its first program in 1843, and Luigi "
    "Menabrea described it in French.",
    title="Analytical Engine",
)
BREAD = Passage("Bread is baked from flour. Its oldest traces are 14,000 years old.", title="Bread")
QUESTION = "When was Charles Babbage born?"


def reading(*candidates: tuple[str, float, float]) -> Reading:
    told = tuple(Candidate(f"[1] {text}", answer, verdict) for text, answer, verdict in candidates)
    return Reading(told[0].text, 0.0, told[0].answer, 0.0, candidates=told)


def test_a_verdict_outweighs_how_likely_an_answer_is() -> None:
    born = reading(("1871", -0.5, -2.0), ("1791", -1.0, 2.0))
    assert settle([BABBAGE], [], [NOTHING, born], WEIGHTS).text == "[1] 1791"
    assert settle([BABBAGE], [], [NOTHING, replace(born, candidates=())], WEIGHTS).text == "[1] 1871"


def test_what_was_not_verified_is_no_answer_beside_what_was() -> None:
    other = Reading("[1] flour", 0.0, -0.1, 0.0)
    chosen = settle([BREAD, BABBAGE], [], [NOTHING, other, reading(("1791", -1.0, 0.5))], WEIGHTS)
    assert chosen.text == "[2] 1791"
    assert answers_of([other, replace(other, text="x")]) == [[Candidate("[1] flour", -0.1)], [Candidate("x", -0.1)]]


def test_many_unsure_answers_do_not_make_one_that_is_sure() -> None:
    unsure = reading(*((f"18{year}", -1.0, -1.1) for year in range(10, 14)))
    assert settle([BABBAGE], [], [NOTHING, unsure], WEIGHTS).text == ABSTENTION


def test_a_fuller_form_of_the_same_passage_must_be_half_as_likely() -> None:
    near = reading(("1791", -1.0, 1.0), ("in London in 1791", -1.0, 0.7))
    assert settle([BABBAGE], [], [NOTHING, near], WEIGHTS).text == "[1] in London in 1791"
    far = reading(("1791", -1.0, 1.0), ("in London in 1791", -1.0, 0.6))
    assert settle([BABBAGE], [], [NOTHING, far], WEIGHTS).text == "[1] 1791"


def _rows(local: LocalModel, prompts: list[str], **options: object) -> list[Row]:
    settings = GenerationSettings(max_new_tokens=6)
    rows = [local.row(local.tokens(prompt), settings) for prompt in prompts]
    return [replace(row, measured=True, **options) for row in rows]


def test_rows_go_on_from_a_prompt_that_was_read_once(real_model) -> None:
    torch = pytest.importorskip("torch")
    prompts = ["The capital of France is", "One, two, three, four, five, six, seven and"]
    begun = [(0, " Paris"), (1, " eight"), (0, " a city on the river"), (1, " then")]
    prefix = read_prompts(real_model.model, _rows(real_model, prompts), real_model.pad_id)

    def started() -> list[Row]:
        return [replace(_rows(real_model, [prompts[at]])[0], ids=real_model.tokens(text)) for at, text in begun]

    together, alone = started(), started()
    after = (prefix, [at for at, _ in begun])
    told = next_logits(real_model.model, together, real_model.pad_id, after)
    list(decode(real_model.model, together, together[0].settings, real_model.pad_id, after=after))
    for number, row in enumerate(alone):
        whole = torch.tensor([row.prompt + row.ids])
        with torch.inference_mode():
            plain = real_model.model(input_ids=whole).logits[0, -1].float()
        assert torch.allclose(told[number], plain, atol=1e-3)
        list(decode(real_model.model, [row], row.settings, real_model.pad_id))
        assert together[number].ids == row.ids
        assert together[number].logprobs == pytest.approx(row.logprobs, abs=1e-3)


def test_the_next_best_tokens_are_kept_at_each_place(real_model) -> None:
    torch = pytest.importorskip("torch")
    short, long = _rows(real_model, ["The capital of France is", "Say it in plain words:"], rivals=3)
    list(decode(real_model.model, [short, long], short.settings, real_model.pad_id))
    assert [len(one) for one in short.beaten] == [3] * len(short.ids)
    with torch.inference_mode():
        logits = real_model.model(input_ids=torch.tensor([short.prompt])).logits[0, -1].float().log_softmax(-1)
    best = logits.topk(4)
    assert [short.ids[0], *(token for token, _ in short.beaten[0])] == best.indices.tolist()
    assert [sure for _, sure in short.beaten[0]] == pytest.approx(best.values[1:].tolist(), abs=1e-3)


@pytest.mark.slow
def test_answers_of_a_passage_are_distinct_and_stand_in_it(shipped) -> None:
    question = "Who is known for programming the Analytical Engine?"
    [read] = read_questions(shipped, [(question, [ENGINE, BREAD])], max_new_tokens=24)
    nothing, engine, bread = ([read_reply(one.text).answer for one in own.candidates] for own in read.readings)
    assert nothing == bread == [], "nothing is read there, and the other is far from the surest"
    assert len(engine) == len(set(engine)) > 1
    assert all(answer in ENGINE.text for answer in engine)
    told = [one.answer for one in read.readings[1].candidates]
    assert told == sorted(told, reverse=True)
    assert len({one.verdict for one in read.readings[1].candidates}) == len(told)
    assert read.readings[1].text == read.readings[1].candidates[0].text


@pytest.mark.slow
def test_a_verifier_is_no_adapter_to_call_and_leaves_readings_as_they_are(shipped) -> None:
    assert shipped.adapters == ["base", "smollm2-135m"]
    with pytest.raises(ValueError, match="No adapter"):
        shipped.chat([{"role": "user", "content": "Hi"}], adapter=shipped.verifiers["smollm2-135m"])
    verifiers, weights = dict(shipped.verifiers), shipped.weights_of("smollm2-135m")
    shown = [BABBAGE, BREAD]
    [verified] = read_questions(shipped, [(QUESTION, shown)])
    shipped.verifiers.clear()
    try:
        [plain] = read_questions(shipped, [(QUESTION, shown)])
        assert shipped.weights_of("smollm2-135m") != weights
        assert [replace(one, candidates=()) for one in verified.readings] == plain.readings
        assert shipped.answer(QUESTION, shown).text == "[1] 1791"
    finally:
        shipped.verifiers.update(verifiers)


@pytest.mark.slow
def test_a_cancelled_question_ends_with_what_there_is(shipped) -> None:
    cancelled = threading.Event()
    cancelled.set()
    [read] = read_questions(shipped, [(QUESTION, [BABBAGE])], cancelled=cancelled)
    assert len(read.readings) == 2


@pytest.mark.slow
def test_the_verifier_is_asked_after_the_very_prompt_that_was_read(shipped) -> None:
    row = shipped.row(shipped.encode(shipped.rag_messages(QUESTION, [BABBAGE])), shipped.settings)
    opened = Opened(QUESTION, BABBAGE, row)
    ids = verifying_prompt(shipped.tokenizer, shipped.tokens, opened, "[1] 1791", "numbered")
    assert ids[: len(row.prompt)] == row.prompt
    asked = shipped.tokenizer.decode(ids[len(row.prompt) :])
    assert asked.startswith("[1] 1791<|im_end|>")
    assert '"He was born in London in 1791 and died in 1871."' in asked
    assert asked.endswith("Is it 1791?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
def test_asking_the_verifier_fits_into_the_window_too(shipped, monkeypatch) -> None:
    monkeypatch.setattr(type(shipped), "context_window", 700)
    asked, forward = [0], shipped.model.forward

    def watched(**told):
        if "position_ids" in told:
            asked.append(int(told["position_ids"].max()))
        return forward(**told)

    monkeypatch.setattr(shipped.model, "forward", watched)
    long = Passage(BABBAGE.text + " He liked engines very much." * 200, title="Charles Babbage")
    [read] = read_questions(shipped, [(QUESTION, [long])], max_new_tokens=4)
    assert read.readings[1].candidates
    assert 430 < max(asked) < 700


@pytest.mark.slow
def test_a_reply_without_a_citation_has_no_other_answers(shipped) -> None:
    row = replace(_rows(shipped, ["Hello"])[0], ids=shipped.tokens("Hello there"), logprobs=[-1.0, -1.0], text="Hello")
    row.beaten = [[(5, -1.2)], [(6, -1.2)]]
    assert find_candidates(shipped, [Opened("Who?", BREAD, row)], "smollm2-135m") == [[Candidate("Hello", -2.0)]]


@pytest.mark.parametrize("missing", ["verified", "reading", "folder"])
def test_a_verifier_without_weights_or_weights_without_it_are_refused(tmp_path: Path, missing: str) -> None:
    told = json.loads((SHIPPED_ADAPTERS / "smollm2-135m/answering.json").read_text())
    if missing != "folder":
        del told[missing]
        (tmp_path / "verifier").mkdir()
        (tmp_path / "verifier/adapter_config.json").write_text("{}")
    (tmp_path / "answering.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="'reading' and 'verified'"):
        adapter_verifier(tmp_path)


@pytest.mark.slow
def test_a_verifier_that_does_not_fit_takes_its_reader_with_it(tmp_path: Path, shipped) -> None:
    shutil.copytree(SHIPPED_ADAPTERS / "smollm2-135m", tmp_path / "torn")
    weights = tmp_path / "torn/verifier/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AdapterMismatchError):
        shipped.load_adapter("torn", tmp_path / "torn")
    assert shipped.adapters == ["base", "smollm2-135m"]
    assert "torn" not in shipped.model.peft_config
    assert shipped.answer(QUESTION, [BABBAGE, BREAD]).text == "[1] 1791"


def test_replies_of_another_verifier_are_told_apart(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED_ADAPTERS / "smollm2-135m", tmp_path / "reader")
    own = fingerprint("base", tmp_path / "reader")
    weights = tmp_path / "reader/verifier/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert fingerprint("base", tmp_path / "reader") != own
