"""What the system gives back: an answer with the numbered sources that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hybridmem_plugins.augmentation.examples import plain_json
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.model import Fact, Hit


@dataclass(frozen=True, slots=True)
class Source:
    """One numbered block of the context that the model read.

    Attributes:
        number: Its number in the prompt, from 1.
        kind: `passage`, or `fact` for a single sentence of a passage that is not shown whole.
        passage: What stands under that number, as the model read it; for a fact, its sentence under the title of its
            passage.
        score: Of the passage or fact, higher is better.
        routes: Which of `semantic`, `lexical` and `graph` found it; empty where the retriever does not say.
        provenance: Why it was found, as in `Hit.provenance`.
        merged: Ids of further passages that say the same and are therefore not shown.
        withheld: Sentences of the passage that were not shown, because they give orders to a model.
    """

    number: int
    kind: Literal["passage", "fact"]
    passage: Passage
    score: float
    routes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    merged: tuple[str, ...] = ()
    withheld: int = 0

    @property
    def label(self) -> str:
        """Number and title: `[2] Robert Dennard`."""
        return f"[{self.number}] {self.passage.title or self.passage.id or ''}".rstrip()


@dataclass(frozen=True, slots=True)
class NumberedFact:
    """A fact and the number of the source that states it."""

    number: int
    fact: Fact


@dataclass(frozen=True, slots=True)
class Answer:
    """A grounded answer, or an abstention with its reason.

    Attributes:
        question: As asked.
        text: The answer; the canonical abstention where the system abstains.
        sources: What the model read, by number. All of it is here, cited or not.
        facts: The structural facts about the question, each with the number of the source that states it.
        citations: Numbers of the sources in which the answer was found, best first.
        route: How the passages were retrieved: `semantic`, `relational`, `both`, `vector`, or `retriever` where a
            foreign retriever does not say.
        route_reason: Why that route was taken.
        abstained: Whether the system declines to answer.
        reason: Why it abstains, or that the answer could not be found in its sources; empty otherwise.
        faithful: Whether the answer was found in what is cited; None for an abstention.
        timings: Seconds by stage: `retrieval`, `synthesis`, `generation`, `citation`, `total`, and `loading` when this
            call had to load the model.
        input_tokens: Tokens of the prompt; 0 where the model was not asked or does not say.
        output_tokens: Tokens generated; likewise.
        model: Name of the model that answered; empty where none was asked.
        reply: What the model wrote, before it was taken apart.
        quote: The sentence that the model quoted before its answer, else the one of the source cited first that holds
            the answer; empty where there is neither.
    """

    question: str
    text: str
    sources: tuple[Source, ...] = ()
    facts: tuple[NumberedFact, ...] = ()
    citations: tuple[int, ...] = ()
    route: str = ""
    route_reason: str = ""
    abstained: bool = False
    reason: str = ""
    faithful: bool | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    reply: str = ""
    quote: str = ""

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The passages that the model read, in the order of their numbers."""
        return tuple(source.passage for source in self.sources)

    @property
    def cited(self) -> tuple[Source, ...]:
        """The sources that the answer cites, best first."""
        by_number = {source.number: source for source in self.sources}
        return tuple(by_number[number] for number in self.citations)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "question": self.question,
            "answer": self.text,
            "abstained": self.abstained,
            "reason": self.reason,
            "faithful": self.faithful,
            "citations": list(self.citations),
            "route": self.route,
            "route_reason": self.route_reason,
            "sources": [
                {
                    "number": source.number,
                    "kind": source.kind,
                    **plain_json(Hit(source.passage, source.score, dict(source.provenance)).to_dict()),
                    "routes": list(source.routes),
                    "merged": list(source.merged),
                    "withheld": source.withheld,
                }
                for source in self.sources
            ],
            "facts": [
                {
                    "number": numbered.number,
                    "subject": numbered.fact.subject,
                    "relation": numbered.fact.relation,
                    "object": numbered.fact.object,
                    "sentence": numbered.fact.sentence,
                    "passage_id": numbered.fact.passage_id,
                    "score": numbered.fact.score,
                }
                for numbered in self.facts
            ],
            "timings": dict(self.timings),
            "tokens": {"input": self.input_tokens, "output": self.output_tokens},
            "model": self.model,
            "reply": self.reply,
            "quote": self.quote,
        }
