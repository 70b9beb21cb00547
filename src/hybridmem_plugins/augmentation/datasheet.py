"""What is in a data set: counts, hashes and licences, so that nobody has to guess later."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1
_LIMITS = (0.1, 0.3, 0.6)
_BANDS = ("up to 0.1", "0.1 to 0.3", "0.3 to 0.6", "0.6 to 1")


def hash_all(items: Iterable[object]) -> str:
    """Hash passages or examples, with all of their fields, in their order (SHA-256, hex)."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item!r}\n".encode())
    return digest.hexdigest()


@dataclass(slots=True)
class Datasheet:
    """Counts over rows.

    Attributes:
        settings: Everything that decides on the rows, beside the inputs; of a retriever only that there is one.
        chunks_sha256: Over ids, titles, texts and metadata of all chunks, in order.
        examples_sha256: Over all fields of all examples and their gold passages, in order, and why examples were left
            out; "" where they are a stream.
        rows_sha256: Over the exported file; "" where none was written.
        licences: Source to licence, as the user gave them.
        kept_apart_from: Evaluation files checked for shared questions and passages.
        rows: How many there are.
        counts: By split, kind, template, outcome (answer, abstention, disagreement) and reason of leaving out.
        operators: By operator: rows in which it changed something, and edits.
        severities: By operator: rows in each band of severity.
    """

    settings: dict[str, Any]
    chunks_sha256: str
    examples_sha256: str = ""
    licences: dict[str, str] = field(default_factory=dict)
    kept_apart_from: list[str] = field(default_factory=list)
    rows_sha256: str = ""
    rows: int = 0
    chunks: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    operators: dict[str, dict[str, int]] = field(default_factory=dict)
    severities: dict[str, dict[str, int]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Name what decides on the rows: settings, chunks, examples and the names of the files kept apart."""
        parts = [self.settings, self.chunks_sha256, self.examples_sha256, self.kept_apart_from, self.format]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def count(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        labels = row["labels"]
        self.rows += 1
        outcome = "abstention" if labels["abstain"] else "disagreement" if labels["contradiction"] else "answer"
        named = {"split": row["split"], "kind": labels["kind"], "template": row["template"], "outcome": outcome}
        for name, value in named.items():
            self._add(self.counts, name, value)
        for name, number in Counter([edit["operator"] for edit in row["edits"]]).items():
            self._add(self.operators, name, "rows")
            self._add(self.operators, name, "edits", number)
        for name, severity in labels["severities"].items():
            self._add(self.severities, name, _BANDS[bisect_left(_LIMITS, severity)])

    def left_out(self, reason: str) -> None:
        """Count one example that gave no row."""
        self._add(self.counts, "left_out", reason)

    @staticmethod
    def _add(table: dict[str, dict[str, int]], name: str, value: str, number: int = 1) -> None:
        counted = table.setdefault(name, {})
        counted[value] = counted.get(value, 0) + number

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Datasheet:
        """Read what `as_dict` gave."""
        return cls(**fields)
