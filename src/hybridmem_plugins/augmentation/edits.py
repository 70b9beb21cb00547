"""What was changed, where, by which operator: a log that turns the clean context into the noisy one again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from hybridmem_plugins.passage import Passage

COPY_MARK = "#copy"
"""Suffix of the id of a passage that began as a copy of another one in the context."""

MISSING = "<missing>"
"""Stands in the log for a metadata key that is not there, as against one that is null."""


def random_for(seed: int, *names: object) -> random.Random:
    """Make a generator that depends on the seed and the names only: not on the process, the order or the worker.

    >>> random_for(0, "row-1", "typos").random() == random_for(0, "row-1", "typos").random()
    True
    """
    key = "\x1f".join([str(seed), *map(str, names)]).encode("utf-8", "surrogatepass")
    return random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))


def row_passage(fields: Mapping[str, Any]) -> Passage:
    """Return one of the passages of a row, in which they are plain JSON."""
    return Passage(fields["text"], fields["title"], fields["id"], fields["metadata"])


class Change(NamedTuple):
    """One replacement that an operator proposes in a text: `text[start:end]` becomes `after`."""

    start: int
    end: int
    after: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One logged step. Steps apply one after another; offsets refer to the state just before the step.

    Attributes:
        operator: Name of the operator.
        passage: Index of the edited passage in the context at that time; None for an edit of the list itself.
        field: "text", "title", "id", "metadata.<key>", or "passages" for the list.
        start: First character (or first passage of the list) replaced.
        end: One past the last.
        before: What stood there: characters, a metadata value, or the ids of passages.
        after: What stands there now, likewise.
    """

    operator: str
    passage: int | None
    field: str
    start: int
    end: int
    before: Any
    after: Any

    def as_dict(self) -> dict[str, Any]:
        """Give the edit as plain JSON."""
        return {
            "operator": self.operator,
            "passage": self.passage,
            "field": self.field,
            "start": self.start,
            "end": self.end,
            "before": self.before,
            "after": self.after,
        }


def apply_changes(text: str, changes: Sequence[Change]) -> str:
    """Carry out changes that are in order and do not overlap.

    >>> apply_changes("a cat", [Change(0, 1, "the"), Change(2, 5, "dog")])
    'the dog'
    """
    pieces, position = [], 0
    for start, end, after in changes:
        pieces += [text[position:start], after]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


@dataclass(slots=True)
class Draft:
    """A context while it is being noised: its passages, the part each one plays, and the log."""

    passages: list[Passage]
    roles: list[str]
    edits: list[Edit] = field(default_factory=list)
    planted: dict[str, str] = field(default_factory=dict)
    """What a false copy says in place of the answer: keys `operator`, `replaced`, `planted`."""
    severities: dict[str, float] = field(default_factory=dict)
    """The highest severity at which each operator changed something."""

    def record(self, operator: str, severity: float, edits_before: int) -> None:
        """Keep the severity of an operator that has added to the log."""
        if len(self.edits) > edits_before:
            self.severities[operator] = max(severity, self.severities.get(operator, 0.0))

    def change_text(self, index: int, operator: str, changes: Sequence[Change]) -> None:
        """Edit one passage's text. Logged from right to left, so that no edit moves the next one's offsets."""
        if not changes:
            return
        passage = self.passages[index]
        text = passage.text
        changes = [change for change in changes if text[change.start : change.end] != change.after]
        after = apply_changes(text, changes)
        if not changes or not after.strip():
            return
        for start, end, new in reversed(changes):
            self.edits.append(Edit(operator, index, "text", start, end, text[start:end], new))
        self.passages[index] = Passage(after, passage.title, passage.id, passage.metadata)

    def set_field(self, index: int, operator: str, name: str, value: Any) -> None:
        """Set the title, the id or a metadata value (`metadata.<key>`; `MISSING` removes the key)."""
        passage = self.passages[index]
        before = read_field(passage, name)
        if before == value and type(before) is type(value):
            return
        self.edits.append(Edit(operator, index, name, 0, 0, before, value))
        self.passages[index] = write_field(passage, name, value)

    def splice(self, operator: str, start: int, end: int, passages: Sequence[Passage], roles: Sequence[str]) -> None:
        """Replace a run of the list by other passages."""
        before = [passage.id for passage in self.passages[start:end]]
        after = [passage.id for passage in passages]
        if before == after:
            return
        self.edits.append(Edit(operator, None, "passages", start, end, before, after))
        self.passages[start:end] = passages
        self.roles[start:end] = roles

    def insert_copy(self, operator: str, index: int, role: str) -> int:
        """Put a copy of a passage after it, under a fresh id, and return the copy's index."""
        taken = {passage.id for passage in self.passages}
        new_id = f"{self.passages[index].id}{COPY_MARK}"
        while new_id in taken:
            new_id += COPY_MARK
        self.splice(operator, index + 1, index + 1, [replace(self.passages[index], id=new_id)], [role])
        return index + 1


def read_field(passage: Passage, name: str) -> Any:
    """Read the field that an edit names."""
    if name.startswith("metadata."):
        return passage.metadata.get(name[len("metadata.") :], MISSING)
    return getattr(passage, name)


def write_field(passage: Passage, name: str, value: Any) -> Passage:
    """Return the passage with one field set; the original stays as it is."""
    if not name.startswith("metadata."):
        return replace(passage, **{name: value})
    key = name[len("metadata.") :]
    kept = {other: old for other, old in passage.metadata.items() if other != key}
    return replace(passage, metadata=kept if value == MISSING else {**kept, key: value})


def replay(
    clean: Sequence[Passage],
    edits: Iterable[Edit | Mapping[str, Any]],
    lookup: Callable[[str], Passage] | None = None,
) -> list[Passage]:
    """Apply a log to the clean context and return the noisy one.

    Args:
        clean: The passages before noising.
        edits: The log, as `Edit`s or as the dicts of a row.
        lookup: Gives a passage that was added to the list by its id; not needed where none was added.

    Raises:
        ValueError: The log does not fit the passages.

    >>> edit = Edit("lost_case", 0, "text", 0, 1, "A", "a")
    >>> replay([Passage("A cat", id="1")], [edit])[0].text
    'a cat'
    """
    passages = list(clean)
    for raw in edits:
        edit = raw if isinstance(raw, Edit) else Edit(**raw)
        if edit.passage is None:
            passages[edit.start : edit.end] = _relisted(passages, edit, lookup)
            continue
        passage = passages[edit.passage]
        if edit.field == "text":
            _expect(passage.text[edit.start : edit.end], edit)
            text = passage.text[: edit.start] + edit.after + passage.text[edit.end :]
            passages[edit.passage] = replace(passage, text=text)
        else:
            _expect(read_field(passage, edit.field), edit)
            passages[edit.passage] = write_field(passage, edit.field, edit.after)
    return passages


def _relisted(passages: Sequence[Passage], edit: Edit, lookup: Callable[[str], Passage] | None) -> list[Passage]:
    _expect([passage.id for passage in passages[edit.start : edit.end]], edit)
    known = {passage.id: passage for passage in passages}
    found = []
    for passage_id in edit.after:
        if passage_id in known:
            found.append(known[passage_id])
        elif passage_id.endswith(COPY_MARK):
            # A copy is always made of its left neighbour.
            found.append(replace(passages[edit.start - 1], id=passage_id))
        elif lookup is not None:
            found.append(lookup(passage_id))
        else:
            msg = f"Operator {edit.operator!r} added passage {passage_id!r}: pass `lookup` to find it by id."
            raise ValueError(msg)
    return found


def _expect(found: Any, edit: Edit) -> None:
    if found != edit.before:
        msg = f"The log does not fit: {edit.operator!r} expected {edit.before!r} in {edit.field}, found {found!r}."
        raise ValueError(msg)
