"""What a search gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hybridmem_plugins.passage import Passage

Route = Literal["auto", "semantic", "relational", "both", "vector"]
ROUTES: tuple[str, ...] = get_args(Route)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that answers, and why it is there.

    Attributes:
        passage: The passage, as it was stored.
        score: Between 0 and 1, higher is better; comparable within one search.
        provenance: Plain JSON. `routes` holds, for each of `semantic`, `lexical` and `graph` that found the passage,
            its `rank` (from 1) and `score`; `route` the router's choice and reason; `seed`, `hops` and `path` how the
            graph led to it, each step with the `name` that joins the two passages and the `sentence` that says it.
    """

    passage: Passage
    score: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the hit as plain JSON values."""
        passage = self.passage
        return {
            "id": passage.id,
            "title": passage.title,
            "text": passage.text,
            "score": self.score,
            "metadata": dict(passage.metadata),
            "provenance": self.provenance,
        }


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement that links two entities, in the words of a passage.

    Attributes:
        subject: What the passage is about.
        relation: The words that join the two; the whole sentence where nothing shorter can be cut out.
        object: The other entity.
        passage_id: The passage that says so.
        sentence: The sentence it stands in.
        score: Between 0 and 1, higher is better; no more than that of its passage in `search`, so that a low one tells
            of a passage that hardly answers. A typed fact's is higher than all of these.
    """

    subject: str
    relation: str
    object: str
    passage_id: str
    sentence: str
    score: float
