"""The noise that a real retriever has, learnt from what it returned: counts only, never any text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.detectors import DETECTED_TEXT, detect
from hybridmem_plugins.augmentation.edits import row_passage
from hybridmem_plugins.augmentation.pools import as_search, relevance
from hybridmem_plugins.augmentation.traces import Trace, read_traces
from hybridmem_plugins.passage import Passage

FORMAT = 2
RANK_BANDS = ((1, "1"), (2, "2"), (5, "3-5"), (10, "6-10"), (10**9, "11+"))
SEVERITY_BANDS = ((0.15, "light"), (0.5, "medium"), (1.0, "heavy"))
DETECTED = (*DETECTED_TEXT, "missing_metadata", "null_metadata")


def band(bands: Sequence[tuple[float, str]], value: float) -> str:
    """Give the name of the first band whose upper limit the value does not pass."""
    return next(name for limit, name in bands if value <= limit)


@dataclass(slots=True)
class NoiseProfile:
    """Counts over retrievals.

    Attributes:
        contexts: Number of retrievals seen.
        passages: Number of passages seen.
        features: Feature to bin to count. `results` (how many came back), `gold_rank` (band, or `absent`),
            `gold_found` (none, some or all of a question's right passages), `relevance@<rank band>` (gold, near, far)
            and `operator:<name>` (none, light, medium, heavy).
        shapes: How many came back, how many right passages there are, and the ranks at which those stood ("8:2:1,4";
            "8::" where it is not known which are right), to count.
        together: Which operators were seen in one passage and how severe ("nbsp:light+heading_spam:medium"; "" for
            none), to count.
        severities: Operator to band to mean severity.
    """

    contexts: int = 0
    passages: int = 0
    features: dict[str, dict[str, int]] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    together: dict[str, int] = field(default_factory=dict)
    severities: dict[str, dict[str, float]] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def from_retriever(
        cls,
        retriever: Any,
        questions: Iterable[str] | Mapping[str, str],
        gold: Mapping[str, Iterable[str]] | Sequence[Iterable[str]] | None = None,
    ) -> NoiseProfile:
        """Ask a retriever the user's questions.

        Args:
            retriever: A callable, LangChain or LlamaIndex retriever, or `HybridMemory`.
            questions: Texts, or id to text.
            gold: Ids of the right passages: for each question's id (or text), or in the questions' order. Without it,
                gold rank and relevance stay unknown.

        Raises:
            ValueError: No questions.
        """
        return cls.from_traces(record(retriever, questions, gold))

    @classmethod
    def from_traces(
        cls, source: str | Path | Iterable[Any], gold: Mapping[str, Iterable[str]] | None = None
    ) -> NoiseProfile:
        """Read a JSON-lines file of traces, or trace objects; see `traces.read_traces` for the forms.

        Args:
            source: The file or the objects.
            gold: Question to ids of the right passages, for logs that do not know them. Without it, ranks of gold and
                relevance stay unknown for those.

        Raises:
            ValueError: Not one retrieval is in it.
        """
        counting = _Counting()
        known = {question: frozenset(map(str, ids)) for question, ids in (gold or {}).items()}
        for trace in read_traces(source):
            counting.add(trace if trace.question not in known else replace(trace, gold=known[trace.question]))
        return counting.profile()

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> NoiseProfile:
        """Profile the contexts that an augmenter made, to compare them with what it learnt from."""
        return cls.from_traces(
            Trace(
                row["question"],
                tuple(map(row_passage, row["passages"])),
                frozenset(row["gold_ids"]),
            )
            for row in rows
        )

    def shares(self, feature: str) -> dict[str, float]:
        """Give a feature's distribution."""
        counts = self.features.get(feature, {})
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()} if total else {}

    def distance(self, other: NoiseProfile) -> dict[str, float]:
        """Measure the total variation of each feature that both profiles know: 0 the same, 1 nothing in common.

        Features of rank bands beyond the shorter lists, or of operators that neither saw, are left out; `together` is
        how operators occur together.
        """
        known = [name for name in {**self.features, **other.features} if self.shares(name) and other.shares(name)]
        distances = {name: _variation(self.shares(name), other.shares(name)) for name in known}
        distances["together"] = _variation(self._names_together(), other._names_together())
        return distances

    def _names_together(self) -> dict[str, float]:
        """Give how often which operators were seen in one passage, whatever their severity."""
        counts: Counter[str] = Counter()
        for pattern, count in self.together.items():
            counts["+".join(seen.partition(":")[0] for seen in pattern.split("+"))] += count
        return {names: count / counts.total() for names, count in counts.items()}

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain JSON."""
        return {"kind": "hybridmem noise profile", **asdict(self)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], name: str = "profile") -> NoiseProfile:
        """Read what `as_dict` gave.

        Raises:
            ValueError: It is no profile, or one of another version.
        """
        if fields.get("kind") != "hybridmem noise profile":
            msg = f"{name} is no noise profile: save one with NoiseProfile.save."
            raise ValueError(msg)
        if fields.get("format") != FORMAT:
            msg = (
                f"{name} has profile format {fields.get('format')!r}, this version reads {FORMAT}: learn it again from "
                "the traces, or install the version that wrote it."
            )
            raise ValueError(msg)
        return cls(**{key: value for key, value in fields.items() if key != "kind"})

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.as_dict(), indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NoiseProfile:
        """Read a saved profile.

        Raises:
            ValueError: The file is no profile, or one of another version; the message names the file.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{path} is no noise profile: it is not JSON ({error})."
            raise ValueError(msg) from error
        return cls.from_dict(fields if isinstance(fields, dict) else {}, str(path))


def record(
    retriever: Any,
    questions: Iterable[str] | Mapping[str, str],
    gold: Mapping[str, Iterable[str]] | Sequence[Iterable[str]] | None = None,
) -> list[Trace]:
    """Ask a retriever and keep what it returned as traces; see `NoiseProfile.from_retriever`.

    Raises:
        ValueError: No questions, or not as many golds as questions.
    """
    asked = list(questions.items()) if isinstance(questions, Mapping) else [(text, text) for text in questions]
    if not asked:
        msg = "questions is empty: a profile is learnt from at least one question."
        raise ValueError(msg)
    if gold is not None and not isinstance(gold, Mapping):
        if len(gold) != len(asked):
            msg = f"gold has {len(gold)} entries for {len(asked)} questions: give one for each, in their order."
            raise ValueError(msg)
        gold = {key: ids for (key, _), ids in zip(asked, gold, strict=True)}
    search = as_search(retriever)
    known = {key: frozenset(map(str, ids)) for key, ids in gold.items()} if gold is not None else {}
    return [Trace(text, tuple(search(text)), known.get(key, known.get(text))) for key, text in asked]


def named(found: Mapping[str, float]) -> list[str]:
    """Name what was detected with its band of severity: "nbsp:light"."""
    return sorted(f"{name}:{band(SEVERITY_BANDS, severity)}" for name, severity in found.items())


def _variation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    return sum(abs(first.get(name, 0.0) - second.get(name, 0.0)) for name in {**first, **second}) / 2


class _Counting:
    """Tallies traces."""

    def __init__(self) -> None:
        self.features: dict[str, Counter[str]] = {}
        self.shapes: Counter[str] = Counter()
        self.together: Counter[str] = Counter()
        self.sums: dict[tuple[str, str], list[float]] = {}
        self.contexts = self.passages = 0

    def add(self, trace: Trace) -> None:
        self.contexts += 1
        self._count("results", str(len(trace.passages)))
        ranks = range(1, len(trace.passages) + 1)
        if trace.gold is None:
            self.shapes[f"{len(trace.passages)}::"] += 1
        else:
            first = {passage.id: rank for rank, passage in reversed(list(zip(ranks, trace.passages, strict=True)))}
            found = sorted(rank for passage_id, rank in first.items() if passage_id in trace.gold)
            self._count("gold_rank", band(RANK_BANDS, found[0]) if found else "absent")
            self._count("gold_found", "none" if not found else "all" if len(found) >= len(trace.gold) else "some")
            self.shapes[f"{len(trace.passages)}:{len(trace.gold)}:{','.join(map(str, found))}"] += 1
        for rank, passage in zip(ranks, trace.passages, strict=True):
            if trace.gold is not None:
                judged = "gold" if passage.id in trace.gold else relevance(trace.question, passage)
                self._count(f"relevance@{band(RANK_BANDS, rank)}", judged)
            self._noise(passage)

    def _noise(self, passage: Passage) -> None:
        self.passages += 1
        found = detect(passage)
        self.together["+".join(named(found))] += 1
        for name in DETECTED:
            severity = found.get(name, 0.0)
            where = band(SEVERITY_BANDS, severity) if severity else "none"
            self._count(f"operator:{name}", where)
            if severity:
                self.sums.setdefault((name, where), []).append(severity)

    def _count(self, feature: str, value: str) -> None:
        self.features.setdefault(feature, Counter())[value] += 1

    def profile(self) -> NoiseProfile:
        severities: dict[str, dict[str, float]] = {}
        for (name, where), values in self.sums.items():
            severities.setdefault(name, {})[where] = round(sum(values) / len(values), 4)
        features = {name: dict(counts) for name, counts in self.features.items()}
        return NoiseProfile(self.contexts, self.passages, features, dict(self.shapes), dict(self.together), severities)
