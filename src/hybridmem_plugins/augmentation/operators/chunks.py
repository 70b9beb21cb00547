"""Noise of the splitter: chunks that begin, end or join in the wrong place."""

from __future__ import annotations

import random
import re

from hybridmem_plugins.augmentation.edits import Change
from hybridmem_plugins.augmentation.operators.markdown import tables
from hybridmem_plugins.augmentation.operators.registry import insertion, operator, pick

# A full stop of Chinese, Japanese, Hindi, Arabic or Urdu ends a sentence also where no space follows.
_WITHIN = "[^.!?。！？।؟۔\\n]*"
SENTENCE = re.compile(rf"\S{_WITHIN}(?:[.!?](?!\s|$){_WITHIN})*(?:[.!?]|[。！？।؟۔][」』”]?)?")
_SPACE = re.compile(r"\s")


def _cut(text: str, severity: float) -> int:
    """Give how many characters to remove: the share that severity says, but never all."""
    return min(round(severity * len(text)), len(text) - 1) if text else 0


@operator("chunk", unit="characters", typical=0.25)
def truncate_head(text: str, severity: float, rng: random.Random) -> list[Change]:
    """The beginning is missing; the chunk starts at some word inside a sentence."""
    cut = _cut(text, severity)
    space = _SPACE.search(text, cut - 1) if cut else None
    start = space.end() if space and space.end() - cut < 20 and text[space.end() :].strip() else cut
    return [Change(0, start, "")] if cut else []


@operator("chunk", unit="characters", typical=0.25)
def truncate_tail(text: str, severity: float, rng: random.Random) -> list[Change]:
    """The end is missing; the chunk stops after a whole word."""
    keep = len(text) - _cut(text, severity)
    space = text.rfind(" ", max(keep - 20, 1), keep)
    return [Change(space if space > 0 else keep, len(text), "")] if keep < len(text) else []


@operator("chunk", unit="characters", typical=0.25)
def cut_mid_word(text: str, severity: float, rng: random.Random) -> list[Change]:
    """A fixed character limit stops the chunk inside a sentence, often inside a word."""
    cut = _cut(text, severity)
    return [Change(len(text) - cut, len(text), "")] if cut else []


@operator("chunk", unit="tokens (split at white space)", typical=0.25)
def token_limit(text: str, severity: float, rng: random.Random) -> list[Change]:
    """A token limit ends the chunk with an ellipsis."""
    tokens = list(re.finditer(r"\S+", text))
    keep = max(1, len(tokens) - round(severity * len(tokens)))
    return [Change(tokens[keep - 1].end(), len(text), " …")] if keep < len(tokens) else []


@operator("chunk", unit="sentences", typical=0.3)
def overlap_repeat(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Sentences come twice in a row, as where overlapping chunks were joined."""
    return [insertion(found.end(), f" {found[0]}") for found in pick(SENTENCE.finditer(text), severity, rng)]


@operator("chunk", unit="characters of the next chunk", typical=0.5, kind="neighbour")
def merged_chunks(text: str, severity: float, rng: random.Random, neighbour: str) -> list[Change]:
    """The beginning of the next chunk runs on at the end of this one, without a break."""
    taken = neighbour[: round(severity * len(neighbour))]
    return [insertion(len(text), f" {taken}")] if taken.strip() else []


@operator("chunk", unit="tables", typical=1.0)
def lost_table_header(text: str, severity: float, rng: random.Random) -> list[Change]:
    """A table comes without its header rows, as where the splitter cut between them and the body."""
    return [Change(table.start, table.rows[0].start, "") for table in pick(tables(text), severity, rng) if table.rows]
