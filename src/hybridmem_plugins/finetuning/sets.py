"""Evaluation sets: questions with passages, clean and broken, and what a good reply is for each."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hybridmem_plugins.augmentation import examples
from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.finetuning.unseen import UNSEEN, damage

SEVERITIES = (0.3, 0.6, 1.0)
_ORTHOGRAPHIC = ("0.05", "0.1", "0.2", "0.4")


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One question to answer from given passages.

    Attributes:
        id: Unique over all sets.
        suite: Data set (`nq`, `nq-val`, `xquad`, `rgb`, `noiserbench`).
        condition: What was done to the passages.
        severity: How strongly, in [0, 1], or a set's own noise rate.
        question: The question.
        passages: Dicts with `text` and, where there is one, `title`.
        answers: Gold answers, any of which is right.
        expect: `"answer"` or `"abstain"`.
        wrong: Answers that planted false passages give.
    """

    id: str
    suite: str
    condition: str
    severity: float
    question: str
    passages: list[dict[str, str]]
    answers: list[str]
    expect: str = "answer"
    wrong: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read JSON lines, gzipped or not.

    Raises:
        ValueError: A line is no JSON object; the message names it.
    """
    return list(examples.read_rows(path))


def split_by_document(rows: Sequence[Mapping[str, Any]], held: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Split rows into training and held-out ones so that no document (title, else context) is in both.

    Args:
        rows: Rows with `title` or `context`.
        held: How many rows to hold out at least.
        seed: Seed of the choice; a document's place depends on nothing else.
    """
    documents: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        documents[str(row.get("title") or row["context"]).casefold()].append(row)
    ranked = sorted(documents, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())
    held_out: list[Any] = []
    while ranked and len(held_out) < held:
        held_out += documents[ranked.pop()]
    kept = {id(row) for row in held_out}
    return [row for row in rows if id(row) not in kept], held_out


class NegativePool:
    """Passages to mislead with, ranked for a question by the rare words that they share with it (TF-IDF cosine)."""

    def __init__(self, passages: Iterable[Mapping[str, str]]) -> None:
        self.passages = [{"text": p["text"], "title": p.get("title") or ""} for p in passages]
        counts = [Counter(normalise_answer(f"{p['title']} {p['text']}").split()) for p in self.passages]
        frequency = Counter(word for count in counts for word in count)
        self._weight = {word: float(np.log(len(counts) / seen)) for word, seen in frequency.items()}
        self._index: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for position, count in enumerate(counts):
            weights = {word: (1 + np.log(times)) * self._weight[word] for word, times in count.items()}
            norm = float(np.sqrt(sum(weight**2 for weight in weights.values()))) or 1.0
            for word, weight in weights.items():
                self._index[word].append((position, float(weight) / norm))

    def hard(self, question: str, answers: Sequence[str], gold: str, count: int) -> list[dict[str, str]]:
        """Return the passages nearest to a question that are not its gold and do not hold its answer."""
        scores: dict[int, float] = defaultdict(float)
        for word in set(normalise_answer(question).split()):
            for position, weight in self._index.get(word, ()):
                scores[position] += weight * self._weight[word]
        ranked = sorted(scores, key=lambda position: (-scores[position], position))
        usable = (self.passages[position] for position in ranked)
        return self._take(usable, answers, gold, count)

    def random(self, answers: Sequence[str], gold: str, count: int, rng: random.Random) -> list[dict[str, str]]:
        """Return passages drawn at random that do not hold the answer."""
        return self._take(rng.sample(self.passages, min(len(self.passages), 20 * count)), answers, gold, count)

    @staticmethod
    def _take(
        candidates: Iterable[dict[str, str]], answers: Sequence[str], gold: str, count: int
    ) -> list[dict[str, str]]:
        taken: list[dict[str, str]] = []
        for passage in candidates:
            if len(taken) == count:
                break
            if passage["text"] != gold and not contains_answer(f"{passage['title']}\n{passage['text']}", answers):
                taken.append(passage)
        return taken


def truncated_markdown(text: str, answers: Sequence[str], rng: random.Random) -> str:
    """Cut a passage at one end, as long as an answer stays, and litter it with broken Markdown."""
    words = text.split(" ")
    for share in (0.5, 0.3, 0.15):
        size = max(8, round(len(words) * (1 - share)))
        start = rng.choice([0, len(words) - size])
        cut = " ".join(words[max(0, start) : max(0, start) + size])
        if contains_answer(cut, answers):
            text = cut
            break
    text = re.sub(r"(?<=[.!?]) ", lambda m: rng.choice([" ", "\n## ", " **", "\n- ", " [", "\n| "]), text)
    return rng.choice(["### ", "* ", "| ", "```\n", ""]) + text


def reading_items(
    suite: str, rows: Sequence[Mapping[str, Any]], pool: NegativePool, *, unseen: int = 50, seed: int = 0
) -> list[EvalItem]:
    """Make every condition of a reading set: clean, distracted, damaged, unseen operators, answer absent.

    Args:
        suite: Name of the set.
        rows: Rows with `id`, `question`, `answers`, `context` and `title`.
        pool: Where wrong passages come from.
        unseen: Questions for each unseen operator and severity.
        seed: Seed of order and damage.
    """
    items = [item for row in rows for item in _distracted(suite, row, pool, random.Random(f"{seed} {row['id']}"))]
    names = sorted(UNSEEN)
    for number, name in enumerate(names):
        for level, severity in enumerate(SEVERITIES):
            start = (number * len(SEVERITIES) + level) * unseen
            for row in (rows[(start + k) % len(rows)] for k in range(min(unseen, len(rows)))):
                rng = random.Random(f"{seed} {name} {severity} {row['id']}")
                noisy = damage(row["context"], name, severity, str(row["id"]), row["answers"])
                if noisy is None:
                    continue
                others = pool.hard(row["question"], row["answers"], row["context"], 1)
                others += pool.random(row["answers"], row["context"], 1, rng)
                others = [{**other, "text": UNSEEN[name](other["text"], severity, rng)} for other in others]
                passages = [{"text": noisy, "title": row.get("title") or ""}, *others]
                rng.shuffle(passages)
                items.append(_item(suite, f"unseen:{name}", severity, row, passages))
    return items


def _distracted(suite: str, row: Mapping[str, Any], pool: NegativePool, rng: random.Random) -> list[EvalItem]:
    gold = {"text": row["context"], "title": row.get("title") or ""}
    irrelevant = pool.random(row["answers"], row["context"], 4, rng)
    hard = pool.hard(row["question"], row["answers"], row["context"], 5)
    broken = [{**p, "text": truncated_markdown(p["text"], row["answers"], rng)} for p in [gold, *irrelevant]]
    conditions = {
        "clean": (0.0, [gold]), "irrelevant": (0.5, [gold, *irrelevant]), "hard": (0.8, [gold, *hard[:4]]),
        "damaged": (0.8, broken), "absent": (1.0, hard),
    }  # fmt: skip
    items = []
    for condition, (severity, passages) in conditions.items():
        mixed = rng.sample(passages, len(passages))
        items.append(_item(suite, condition, severity, row, mixed))
    return items


def _item(
    suite: str, condition: str, severity: float, row: Mapping[str, Any], passages: list[dict[str, str]]
) -> EvalItem:
    expect = "abstain" if condition == "absent" else "answer"
    name = f"{suite}/{condition}/{severity}/{row['id']}"
    return EvalItem(name, suite, condition, severity, row["question"], passages, _flat(row["answers"]), expect)


def _flat(answers: Any) -> list[str]:
    """Flatten the lists of alternatives that some sets nest."""
    return [answers] if isinstance(answers, str) else [text for entry in answers for text in _flat(entry)]


def rgb_items(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[EvalItem]:
    """Make RGB's sets (arXiv 2309.01431): five passages of which a share is noise; false passages; both together."""
    spare = [text for row in rows for text in row["negative"]]
    items = []
    for row in rows:
        rng = random.Random(f"{seed} rgb {row['id']}")
        base = {"id": row["id"], "question": row["query"], "answers": [row["answer"]]}
        noise = [*row["negative"], *rng.sample(spare, 5)]
        for wrong in range(5):
            true = row["positive"][: 5 - wrong]
            texts = true + noise[: 5 - len(true)]
            rng.shuffle(texts)
            items.append(_item("rgb", "noise", wrong / 5, base, [{"text": text} for text in texts]))
        for condition, texts in {
            "false-only": row["positive_wrong"][:3],
            "conflict": [*row["positive"][:2], *row["positive_wrong"][:1]],
        }.items():
            mixed = rng.sample(texts, len(texts))
            item = _item("rgb", condition, 0.0, base, [{"text": text} for text in mixed])
            items.append(replace(item, wrong=_flat(row["fakeanswer"])))
    return items


def noiserbench_items(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[EvalItem]:
    """Make NoiserBench's noise types (arXiv 2408.13533) around its gold text, generator and texts its own."""
    items = []
    for row in rows:
        rng = random.Random(f"{seed} noiser {row['id']}")
        base = {"id": row["id"], "question": row["question"], "answers": row["gold_answers"]}
        gold = row["gold_text"]
        listed = {
            name: [str(entry["text"] if isinstance(entry, Mapping) else entry) for entry in row[f"{name} noise"]][:4]
            for name in ("supportive", "semantic", "illegal sentence")
        }
        cases: list[tuple[str, float, list[str]]] = [("gold", 0.0, [gold])]
        cases += [(name, 0.8, [gold, *texts]) for name, texts in listed.items()]
        cases.append(("datatype", 0.5, [str(row["datatype noise"][0])]))
        cases.append(("counterfactual", 0.5, [gold, row["counterfactual noise"]]))
        cases += [("orthographic", float(rate), [str(row["orthographic noise"][rate])]) for rate in _ORTHOGRAPHIC]
        for condition, severity, texts in cases:
            mixed = rng.sample(texts, len(texts))
            item = _item("noiserbench", condition, severity, base, [{"text": text} for text in mixed])
            wrong = _flat(row["counterfactual answer"]) if condition == "counterfactual" else []
            items.append(replace(item, wrong=wrong))
    return items
