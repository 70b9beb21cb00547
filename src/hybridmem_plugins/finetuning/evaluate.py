"""Run a model over evaluation sets and keep every reply, so that all figures can be recomputed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.templates import ABSTENTION, read_reply
from hybridmem_plugins.finetuning.choosing import EAGERNESS, ReadQuestion, fit_weights
from hybridmem_plugins.finetuning.metrics import score_answer
from hybridmem_plugins.finetuning.sets import (
    EvalItem,
    NegativePool,
    noiserbench_items,
    read_rows,
    reading_items,
    split_by_document,
)
from hybridmem_plugins.finetuning.sets import rgb_items as make_rgb_items
from hybridmem_plugins.generation.decoding import GenerationSettings
from hybridmem_plugins.generation.evidence import find_evidence
from hybridmem_plugins.generation.local_model import LocalModel, ReadingMode
from hybridmem_plugins.generation.reading import find_leads, read_contexts, read_questions
from hybridmem_plugins.generation.settling import Reading, ReadingWeights, answers_of, settle
from hybridmem_plugins.line_files import keep_records
from hybridmem_plugins.passage import Passage

HELD_OUT = 400
"""Natural Questions rows kept from training: the first 100 choose among recipes, the others are reported."""
TUNING = 100
READING = ("nq", "xquad")
Record = dict[str, Any]


def as_passages(passages: Sequence[Mapping[str, str]]) -> list[Passage]:
    """Return dicts with `text` and maybe `title` as passages."""
    return [Passage(text=p["text"], title=p.get("title") or None) for p in passages]


def run_items(
    local: LocalModel,
    items: Sequence[EvalItem],
    *,
    adapter: str | None = None,
    template: str = "numbered",
    max_new_tokens: int = 48,
    caution: float | None = None,
    reading: ReadingMode | None = None,
) -> list[Record]:
    """Answer every item greedily, as `LocalModel.answer` would, and score it.

    Args:
        local: The model; its `batch_size` decides how many are decoded together.
        items: What to answer.
        adapter: Adapter to use, `"base"` for none; None is the model's default.
        template: Prompt template.
        max_new_tokens: Longest reply.
        caution: Dial of refusing; see `LocalModel.answer`.
        reading: See `LocalModel.answer`.

    Returns:
        For each item its id, suite, condition, severity and expectation, the reply, and the scores `contained`,
        `quoted` (a gold answer occurs in the reply or in its `evidence`, the sentence of the passage cited first that
        holds the answer), `exact`, `f1`, `abstained` and `wrong` (a planted false answer occurs in the answer).
    """
    if local.reads(reading, adapter) == "each":
        weights = local.weights_of(local.check_adapter(adapter))
        each = read_each(local, items, adapter=adapter, template=template, max_new_tokens=max_new_tokens)
        return settle_items(items, each, weights, caution or 0.0)
    bias = local.caution_bias(adapter, caution)
    settings = GenerationSettings(max_new_tokens=max_new_tokens, first_token_bias=bias)
    chats = [local.rag_messages(item.question, as_passages(item.passages), template=template) for item in items]
    prompts = [local.encode(chat) for chat in chats]
    name = local.default_adapter if adapter is None else adapter
    replies = local.generate_ids(prompts, settings, name)
    return [_scored(item, reply.text) for item, reply in zip(items, replies, strict=True)]


def keep_items(
    local: LocalModel,
    items: Sequence[EvalItem],
    file: Path,
    run: Sequence[Any] = (),
    *,
    reading: ReadingMode | None = None,
    resume: bool = True,
) -> list[Record]:
    """Do as `run_items`, writing the records as they come, and go on where a killed run stopped.

    Args:
        local: The model; four of its batches are written at a time.
        items: What to answer.
        file: JSON lines of records, each with a digest of its run and item; those of other runs are dropped.
        run: What tells this run from others, as plain JSON.
        reading: See `LocalModel.answer`.
        resume: Take over the records of an earlier run of the same; False begins anew.
    """
    told = [*run, local.reads(reading)]
    return keep_records(
        file,
        [([*told, item.as_dict()], item) for item in items],
        lambda some: run_items(local, some, reading=reading),
        at_once=4 * local.batch_size,
        resume=resume,
    )


def read_each(
    local: LocalModel,
    items: Sequence[EvalItem],
    *,
    adapter: str | None = None,
    template: str = "numbered",
    max_new_tokens: int = 24,
) -> list[list[Reading]]:
    """Read every passage of every item alone, what several items share once.

    Args:
        local: The model; its `batch_size` decides how many are decoded together.
        items: What to answer.
        adapter: Adapter to use, `"base"` for none; None is the model's default.
        template: Prompt template.
        max_new_tokens: Longest reply.

    Returns:
        For each item the readings of `reading.contexts_of`: of nothing, of each passage, and of each under its lead.
    """
    asked = [(item.question, passages) for item, passages in _shown(items)]
    options: dict[str, Any] = {"adapter": adapter, "template": template, "max_new_tokens": max_new_tokens}
    return [own.readings for own in read_questions(local, asked, **options)]


def _shown(items: Sequence[EvalItem]) -> list[tuple[EvalItem, list[Passage]]]:
    return [(item, as_passages(item.passages)) for item in items]


def read_together(
    local: LocalModel,
    items: Sequence[EvalItem],
    *,
    adapter: str | None = None,
    template: str = "numbered",
    max_new_tokens: int = 48,
) -> list[Reading]:
    """Read all passages of each item in one prompt, abstaining ruled out; see `read_each`.

    `Reading.refusal` says how much likelier an abstention was, so that replies for any caution follow: see `decline`.
    """
    asked = [(item.question, passages) for item, passages in _shown(items)]
    return read_contexts(local, asked, adapter=adapter, template=template, max_new_tokens=max_new_tokens)


def settle_items(
    items: Sequence[EvalItem], readings: Sequence[Sequence[Reading]], weights: ReadingWeights, caution: float = 0.0
) -> list[Record]:
    """Score what is settled on from the readings of `read_each`; see `run_items` for what a record holds."""
    chosen = (
        settle(passages, find_leads(item.question, passages), own, weights, caution).text
        for (item, passages), own in zip(_shown(items), readings, strict=True)
    )
    return [_scored(item, text) for item, text in zip(items, chosen, strict=True)]


def decline(items: Sequence[EvalItem], readings: Sequence[Reading], caution: float = 0.0) -> list[Record]:
    """Score the replies of `read_together` at a caution: those whose abstention was likelier are abstentions."""
    return [
        _scored(item, ABSTENTION if reading.refusal + caution > 0 else reading.text)
        for item, reading in zip(items, readings, strict=True)
    ]


def fit_reading(
    items: Sequence[EvalItem], readings: Sequence[Sequence[Reading]], eagerness: float = EAGERNESS
) -> ReadingWeights:
    """Fit what chooses among the readings of `read_each`; see `choosing.fit_weights`.

    Args:
        items: Of documents kept from training.
        readings: Of these items.
        eagerness: See `choosing.fit_weights`.
    """
    questions = []
    for item, (unread, *own) in zip(items, readings, strict=True):
        own = own[: len(item.passages)]
        right = [score_answer(one.text, item.answers).contained for answers in answers_of(own) for one in answers]
        questions.append(ReadQuestion(unread, own, right, item.expect == "answer"))
    return fit_weights(questions, eagerness=eagerness)


def fit_caution(margins: Sequence[float], items: Sequence[EvalItem], wrong_refusals: float = 0.08) -> float:
    """Return the highest caution that refuses at most a share of the answerable items.

    Args:
        margins: The `Reading.refusal` that `read_together` gave for each item; of documents kept from all else.
        items: Answerable ones and others; only the answerable ones count.
        wrong_refusals: Share of them that may be refused, in [0, 1).

    Raises:
        ValueError: No item is answerable.
    """
    ranked = sorted(
        (margin for margin, item in zip(margins, items, strict=True) if item.expect == "answer"), reverse=True
    )
    if not ranked:
        msg = "No item has an answer: wrong refusals cannot be counted."
        raise ValueError(msg)
    return -ranked[int(wrong_refusals * len(ranked))]


def _scored(item: EvalItem, reply: str) -> Record:
    score, said = score_answer(reply, item.answers), read_reply(reply)
    cited = [item.passages[number - 1]["text"] for number in said.cited[:1] if 0 < number <= len(item.passages)]
    evidence = "" if said.abstained or said.quote or not cited else find_evidence(item.question, said.answer, cited[0])
    return {
        "id": item.id, "suite": item.suite, "condition": item.condition, "severity": item.severity,
        "expect": item.expect, "reply": reply, "contained": score.contained,
        "quoted": score.quoted or contains_answer(evidence, item.answers),
        "exact": score.exact,
        "f1": round(score.f1, 4), "abstained": score.abstained,
        "wrong": bool(item.wrong) and contains_answer(said.answer, item.wrong),
        "evidence": evidence,
    }  # fmt: skip


def load_items(data: str | Path, *, questions: int = 300, unseen: int = 50, seed: int = 0) -> list[EvalItem]:
    """Build every evaluation set from the data folder (its README says what each file is).

    Args:
        data: Folder with `qa/` and `retrieval/`.
        questions: Questions from each reading set.
        unseen: Questions for each unseen operator and severity.
        seed: Seed of samples and damage.
    """
    data = Path(data)
    _, held = split_by_document(read_rows(data / "qa/train/nq-open-oracle.jsonl.gz"), HELD_OUT)
    outside: list[dict[str, str]] = []
    for name in ("hotpotqa-100", "2wikimultihopqa-51"):
        outside += read_rows(data / "retrieval" / name / "corpus.jsonl")
    pool = NegativePool([{"text": row["context"], "title": row["title"]} for row in held] + outside)
    xquad = read_rows(data / "qa/eval/xquad-en.jsonl.gz")
    xquad_pool = NegativePool([{"text": row["context"], "title": row["title"]} for row in xquad])
    chosen = random.Random(seed).sample(xquad, min(questions, len(xquad)))
    items = reading_items("nq-val", held[:TUNING], pool, unseen=0, seed=seed)
    items += reading_items("nq", held[TUNING:][:questions], pool, unseen=unseen, seed=seed)
    items += reading_items("xquad", chosen, xquad_pool, unseen=unseen, seed=seed)
    items += make_rgb_items(read_rows(data / "qa/eval/rgb-en-fact.jsonl.gz"), seed)
    items += noiserbench_items(read_rows(data / "qa/eval/noiserbench-bamboogle.jsonl.gz"), seed)
    return items


def is_noisy(record: Mapping[str, Any], suites: Iterable[str] = READING) -> bool:
    """Tell whether a record counts for accuracy under noise: a reading question whose answer is there, not clean."""
    return bool(record["suite"] in suites and record["expect"] == "answer" and record["condition"] != "clean")


VIEWS: dict[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "accuracy under noise (NQ held out + XQuAD)": ("contained", is_noisy),
    "accuracy, unseen operators": ("contained", lambda r: is_noisy(r) and r["condition"].startswith("unseen:")),
    "accuracy under noise, NQ": ("contained", lambda r: is_noisy(r, ["nq"])),
    "accuracy under noise, XQuAD": ("contained", lambda r: is_noisy(r, ["xquad"])),
    "accuracy, irrelevant passages": ("contained", lambda r: is_noisy(r) and r["condition"] == "irrelevant"),
    "accuracy, hard negatives": ("contained", lambda r: is_noisy(r) and r["condition"] == "hard"),
    "accuracy, damaged and distracted": ("contained", lambda r: is_noisy(r) and r["condition"] == "damaged"),
    "accuracy under noise, answer or its evidence": ("quoted", is_noisy),
    "accuracy, unseen operators, answer or its evidence": (
        "quoted", lambda r: is_noisy(r) and r["condition"].startswith("unseen:")
    ),
    "RGB true passages, 60% noise, answer or its evidence": ("quoted", lambda r: _rgb(r, 0.6)),
    "accuracy, clean": ("contained", lambda r: r["suite"] in READING and r["condition"] == "clean"),
    "accuracy, clean, NQ": ("contained", lambda r: r["suite"] == "nq" and r["condition"] == "clean"),
    "accuracy, clean, XQuAD": ("contained", lambda r: r["suite"] == "xquad" and r["condition"] == "clean"),
    "exact match under noise": ("exact", is_noisy),
    "F1 under noise": ("f1", is_noisy),
    "abstains, answer absent": ("abstained", lambda r: r["suite"] in READING and r["expect"] == "abstain"),
    "wrong refusal, answer present": ("abstained", lambda r: r["suite"] in READING and r["expect"] == "answer"),
    "wrong refusal, clean": ("abstained", lambda r: r["suite"] in READING and r["condition"] == "clean"),
    "RGB true passages, no noise": ("contained", lambda r: _rgb(r, 0.0)),
    "RGB true passages, 60% noise": ("contained", lambda r: _rgb(r, 0.6)),
    "RGB true passages, 80% noise": ("contained", lambda r: _rgb(r, 0.8)),
    "RGB conflict: true answer": ("contained", lambda r: r["condition"] == "conflict"),
    "RGB conflict: false answer": ("wrong", lambda r: r["condition"] == "conflict"),
    "RGB false passages only: false answer": ("wrong", lambda r: r["condition"] == "false-only"),
    "NoiserBench, gold alone": ("contained", lambda r: r["suite"] == "noiserbench" and r["condition"] == "gold"),
    "NoiserBench, all noise": ("contained", lambda r: r["suite"] == "noiserbench" and r["condition"] != "gold"),
    "NoiserBench counterfactual: true answer": (
        "contained", lambda r: r["suite"] == "noiserbench" and r["condition"] == "counterfactual"
    ),
    "NoiserBench counterfactual: false answer": (
        "wrong", lambda r: r["suite"] == "noiserbench" and r["condition"] == "counterfactual"
    ),
}  # fmt: skip
"""What is reported: a name, the score it averages, and which records it averages over."""


def _rgb(record: Mapping[str, Any], noise: float) -> bool:
    return bool(record["suite"] == "rgb" and record["condition"] == "noise" and abs(record["severity"] - noise) < 1e-6)


def view(records: Iterable[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return the scores of one of `VIEWS`, by item id.

    Raises:
        ValueError: There is no such view.
    """
    if name not in VIEWS:
        msg = f"Unknown view {name!r}. Choose one of: {'; '.join(VIEWS)}."
        raise ValueError(msg)
    key, wanted = VIEWS[name]
    return {str(record["id"]): float(record[key]) for record in records if wanted(record)}
