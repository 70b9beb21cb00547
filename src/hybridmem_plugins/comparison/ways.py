"""Run the ways to build an assistant over the same questions and keep what each one answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.templates import is_abstention, read_reply
from hybridmem_plugins.comparison.questions import ID_KEY, Benchmark, Question
from hybridmem_plugins.comparison.replies import KeptReplies
from hybridmem_plugins.finetuning.metrics import score_answer
from hybridmem_plugins.generation.fingerprints import fingerprint
from hybridmem_plugins.generation.local_model import BASE, LocalModel
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.retrieval.model import Route
from hybridmem_plugins.system.answer import Answer
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem
from hybridmem_plugins.system.models import DEFAULT_ADAPTER, Asked, LocalChat, Messages

TUNED, CLOSED = "tuned", "closed_book"
CLOSED_SYSTEM = "Answer the question in a few words. If you do not know the answer, say: I don't know."


@dataclass(frozen=True, slots=True)
class Way:
    """One way to build the assistant.

    Attributes:
        name: Short and unique.
        title: As tables say it.
        route: How passages are retrieved; None answers without any.
        adapter: Adapter that answers, by its name in the comparison's model.
    """

    name: str
    title: str
    route: Route | None
    adapter: str


WAYS = (
    Way("vector_base", "RAG (vectors), base model", "vector", BASE),
    Way("closed_book", "fine-tuning alone (closed book)", None, CLOSED),
    Way("hybrid_base", "hybrid memory, base model", "auto", BASE),
    Way("hybrid_tuned", "hybrid memory, fine-tuned model", "auto", TUNED),
    Way("vector_tuned", "RAG (vectors), fine-tuned model", "vector", TUNED),
)
"""The four ways of the matrix, and fifth the control that parts the graph's share from the model's."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all ways share.

    Attributes:
        k: Passages to retrieve.
        budget: Tokens that passages may take.
        max_new_tokens: Longest answer of the base and the closed book.
        max_quoting_tokens: Longest reply of the fine-tuned reader, which may quote before it answers.
        timed: Questions of each way that are asked alone, for the seconds of one answer.
        batch: Further questions are decoded so many together.
        absent: Questions that are asked once more without their gold passages, to see who abstains.
    """

    k: int = 4
    budget: int = 768
    max_new_tokens: int = 48
    max_quoting_tokens: int = 112
    timed: int = 5
    batch: int = 8
    absent: int = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was answered.

    Attributes:
        benchmark: What was asked.
        settings: How.
        records: One for each way and question; `absent` marks those asked without their gold passages.
        models: Way to the fingerprint of its model.
    """

    benchmark: Benchmark
    settings: Settings
    records: list[Record]
    models: Mapping[str, str] = field(default_factory=dict)

    def of(self, way: str, *, absent: bool = False) -> list[Record]:
        """Return the records of one way, in the order of the questions."""
        return [record for record in self.records if record["way"] == way and record["absent"] == absent]


def load_model(
    adapter: str | Path = DEFAULT_ADAPTER, closed_book: str | Path | None = None, dtype: str | None = None
) -> LocalModel:
    """Load the base once with the adapters of all ways.

    Args:
        adapter: The fine-tuned reader.
        closed_book: An adapter trained on the passages themselves; None takes the reader, which was not.
        dtype: Torch dtype by name; see `LocalModel`.
    """
    return LocalModel(adapters={TUNED: adapter, CLOSED: closed_book or adapter}, dtype=dtype)


def compare(
    benchmark: Benchmark,
    output: Path,
    *,
    local: LocalModel,
    adapter: str | Path = DEFAULT_ADAPTER,
    closed_book: str | Path | None = None,
    settings: Settings | None = None,
    on_record: Callable[[Record], object] | None = None,
    ways: Sequence[Way] = WAYS,
) -> Comparison:
    """Ask every question in every way; what was answered before, in the same words, is not asked again.

    Args:
        benchmark: Passages and questions.
        output: Folder that keeps the replies.
        local: The model with its adapters, from `load_model`.
        adapter: The fine-tuned reader, as given to `load_model`.
        closed_book: Likewise.
        settings: What all ways share.
        on_record: Called after each answer.
        ways: Which ways to run.
    """
    chosen = settings or Settings()
    sources = {BASE: BASE, TUNED: adapter, CLOSED: closed_book or adapter}
    prints = {way.name: fingerprint(local.name, sources[way.adapter]) for way in ways}
    records: list[Record] = []
    with HybridMemory() as memory:
        memory.add(benchmark.passages)
        for way in ways:
            longest = chosen.max_quoting_tokens if way.adapter == TUNED else chosen.max_new_tokens
            chat = LocalChat(local, adapter=way.adapter, max_new_tokens=longest)
            kept = KeptReplies(chat, output / "replies.jsonl", prints[way.name])
            cases = [_Case(way, *one, memory, kept, chosen) for one in _asked(benchmark, chosen, way)]
            for start in [*range(chosen.timed), *range(chosen.timed, len(cases), chosen.batch)]:
                part = cases[start : start + 1 if start < chosen.timed else start + chosen.batch]
                kept.answer([one.prompt() for one in part])
                for one in part:
                    records.append(one.record())
                    if on_record is not None:
                        on_record(records[-1])
    return Comparison(benchmark, chosen, records, prints)


def _asked(benchmark: Benchmark, settings: Settings, way: Way) -> list[tuple[Question, bool]]:
    """Return the questions, and those to be asked without their gold."""
    asked = [(question, False) for question in benchmark.questions]
    if way.route is None:
        return asked
    fit = [
        q for q in benchmark.questions if q.gold and q.answers and not {*map(str.casefold, q.answers)} & {"yes", "no"}
    ]
    return asked + [(question, True) for question in fit[: settings.absent]]


@dataclass(frozen=True, slots=True)
class _Case:
    """One question in one way."""

    way: Way
    question: Question
    absent: bool
    memory: HybridMemory
    model: KeptReplies
    settings: Settings

    def prompt(self) -> Asked | Messages:
        """Return what the model is asked: a chat, or passages to read one by one; nothing where nothing was found."""
        if self.way.route is None:
            return [{"role": "system", "content": CLOSED_SYSTEM}, {"role": "user", "content": self.question.text}]
        asked = self._system().asked(self.question.text, filter=self._filter(), route=self.way.route)
        if asked is None:
            return []
        return asked if self.model.reads(None) == "each" else asked.messages

    def record(self) -> Record:
        """Answer, with the seconds of the time when the model was really asked."""
        key = self.model.key(self.prompt())
        if self.way.route is None:
            return self._record(self._closed(), key)
        answer = self._system().query(self.question.text, filter=self._filter(), route=self.way.route)
        return self._record(answer, key)

    def _system(self) -> HybridMemorySystem:
        settings = self.settings
        facts = 0 if self.way.route == "vector" else 2
        return HybridMemorySystem(self.memory, self.model, k=settings.k, budget=settings.budget, max_facts=facts)

    def _filter(self) -> Filter | None:
        return {ID_KEY: {"$nin": list(self.question.gold)}} if self.absent else None

    def _closed(self) -> Answer:
        reply = self.model.answer([self.prompt()])[0]
        return Answer(
            self.question.text,
            reply.text,
            abstained=is_abstention(reply.text) or not reply.text.strip(),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            reply=reply.text,
        )

    def _record(self, answer: Answer, key: str) -> Record:
        question, shown = self.question, {source.passage.id for source in answer.sources}
        timings = {name: value for name, value in answer.timings.items() if name not in ("total", "loading")}
        if key in self.model.seconds:
            timings["generation"] = self.model.seconds[key]
        timings["total"] = sum(timings.values())
        given = "" if answer.abstained else answer.text
        raw, final = (
            score_answer(read_reply(answer.reply).answer, question.answers),
            score_answer(given, question.answers),
        )
        held = any(contains_answer(f"{p.title or ''}\n{p.text}", question.answers) for p in answer.passages)
        return {
            "way": self.way.name, "id": question.id, "type": question.type, "question": question.text,
            "answers": list(question.answers), "absent": self.absent, "reply": answer.reply, "answer": answer.text,
            "abstained": answer.abstained, "reason": answer.reason, "faithful": answer.faithful,
            "cited": [source.passage.id for source in answer.cited], "shown": sorted(str(one) for one in shown),
            "held": held, "gold_shown": bool(question.gold) and set(question.gold) <= shown,
            "contained": final.contained, "exact": final.exact, "f1": round(final.f1, 4),
            "raw_contained": raw.contained, "raw_exact": raw.exact, "raw_f1": round(raw.f1, 4),
            "raw_abstained": raw.abstained or not answer.reply.strip(), "route": answer.route,
            "timings": {name: round(value, 5) for name, value in timings.items()},
            "alone": self.model.alone.get(key, False), "processor_seconds": self.model.processor.get(key, 0.0),
            "input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens,
        }  # fmt: skip
