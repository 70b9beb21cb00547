"""Which operator wrote which part of a noisy text, told by its log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hybridmem_plugins.augmentation.edits import replay, row_passage
from hybridmem_plugins.passage import Passage


class Piece(NamedTuple):
    """A run of a noisy text: who wrote it (None: nobody, it is as it was), and whether it stands where text is gone."""

    text: str
    operator: str | None = None
    removed: str = ""


def marked(row: Mapping[str, Any], lookup: Callable[[str], Passage]) -> list[list[Piece]]:
    """Cut each noisy passage of a row into pieces that say which operator wrote them.

    The log is replayed with each character's operator carried along, through copies, moves and removals.

    Raises:
        ValueError: The log does not fit the passages.
    """
    passages = list(map(row_passage, row["clean"]))
    texts = {str(passage.id): [Piece(passage.text)] for passage in passages}
    order = [str(passage.id) for passage in passages]
    for edit in row["edits"]:
        if edit["field"] == "text":
            name = order[edit["passage"]]
            texts[name] = _rewritten(texts[name], edit)
        passages = replay(passages, [edit], lookup)
        renamed = [str(passage.id) for passage in passages]
        if edit["field"] == "id":
            texts[f"\x00{renamed[edit['passage']]}"] = texts.pop(order[edit["passage"]])
            renamed = [f"\x00{new}" if at == edit["passage"] else order[at] for at, new in enumerate(renamed)]
        elif edit["passage"] is not None:
            renamed = order
        for at, (name, passage) in enumerate(zip(renamed, passages, strict=True)):
            if name not in texts:
                source = texts.get(renamed[at - 1]) if name.endswith("#copy") and at else None
                texts[name] = list(source) if source else [Piece(passage.text)]
        order = renamed
    return [texts[name] for name in order]


def _rewritten(pieces: Sequence[Piece], edit: Mapping[str, Any]) -> list[Piece]:
    before, rest = _parted(pieces, edit["start"])
    _, after = _parted(rest, edit["end"] - edit["start"])
    return [*before, Piece(edit["after"], edit["operator"], edit["before"]), *after]


def _parted(pieces: Sequence[Piece], offset: int) -> tuple[list[Piece], list[Piece]]:
    """Part a text in two at a character."""
    for at, piece in enumerate(pieces):
        if offset < len(piece.text):
            head, tail = piece._replace(text=piece.text[:offset]), piece._replace(text=piece.text[offset:])
            return [*pieces[:at], *([head] if offset else [])], [tail, *pieces[at + 1 :]]
        offset -= len(piece.text)
    return list(pieces), []
