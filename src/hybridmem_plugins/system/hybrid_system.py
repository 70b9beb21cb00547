"""Question in, grounded answer out: memory, context synthesis, model and citations as one object."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from hybridmem_plugins.augmentation.templates import ABSTENTION, read_reply
from hybridmem_plugins.generation.evidence import find_evidence
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.validation import positive
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.asking import check_question
from hybridmem_plugins.retrieval.model import Fact, Hit, Route
from hybridmem_plugins.system.answer import Answer, Source
from hybridmem_plugins.system.citing import find_support, is_polar, split_marks
from hybridmem_plugins.system.models import Asked, LocalChat, PassageReader, ReadingMode, Reply, as_chat_model
from hybridmem_plugins.system.retrievers import afacts_about, as_retriever, facts_about
from hybridmem_plugins.system.synthesis import Context, Order, Synthesis

FACTS_READ = 8
"""Facts that are asked for; most of them stand in passages that are shown anyway."""

NOT_FOUND = "the model found no answer in its sources"
UNSUPPORTED = "the answer stands in none of its sources"
POLAR = "a yes or no cannot be looked up in the sources"


class HybridMemorySystem:
    """An assistant over a memory: finds passages and facts, lets a model answer from them, and cites where it stands.

    Safe to use from many threads and tasks; a local model decodes one step at a time.

    Args:
        memory: A `HybridMemory`, a folder of one, or any retriever: LangChain's, LlamaIndex's, an object with `search`
            and `asearch`, or a function from a question to passages. None makes an empty memory.
        model: Answers the prompts; see `as_chat_model`. None is the shipped fine-tuned 135M model on this machine.
        adapter: For local models: the adapter to answer with, `"base"` for none.
        k: Passages to retrieve. Small models read few passages best, and a longer prompt costs time.
        budget: Most tokens that passages and facts may take in the prompt.
        max_facts: Most facts shown beside the passages.
        order: Where the best evidence stands; see `Synthesis`.
        template: Prompt template; see `Synthesis`.
        withhold_orders: Leave out sentences of passages that give orders to a model; see `defusing.defuse`.
        max_new_tokens: For local models: the longest reply, a sentence quoted before the answer included.
        reading: For local models: `each` reads every passage alone and answers from the one that the model is surest
            about, `together` reads all in one prompt. None is `each` where that was fitted for the adapter, as for the
            shipped one. Other models read together.
        unsupported: What to do with an answer that stands in none of its sources: `abstain`, or `keep` it and say so in
            `reason`. A bare yes or no is kept, since it stands nowhere even when it is right.

    Raises:
        TypeError: The memory or the model is nothing that can be asked.
        ValueError: A setting is out of range.

    >>> system = HybridMemorySystem(model=lambda messages: "Charles Babbage")
    >>> ids = system.ingest([Passage("It was designed by Charles Babbage.", title="Analytical Engine", id="p1")])
    >>> answer = system.query("Who designed the Analytical Engine?")
    >>> answer.text, answer.citations, answer.cited[0].passage.id
    ('Charles Babbage', (1,), 'p1')
    """

    def __init__(
        self,
        memory: Any = None,
        model: Any = None,
        *,
        adapter: str | None = None,
        k: int = 4,
        budget: int = 768,
        max_facts: int = 2,
        order: Order = "ends",
        template: str = "numbered",
        withhold_orders: bool = True,
        max_new_tokens: int = 112,
        reading: ReadingMode | None = None,
        unsupported: Literal["abstain", "keep"] = "abstain",
    ) -> None:
        if unsupported not in ("keep", "abstain"):
            msg = f"unsupported must be 'keep' or 'abstain', not {unsupported!r}"
            raise ValueError(msg)
        if reading not in (None, "each", "together"):
            msg = f"reading must be 'each' or 'together', not {reading!r}"
            raise ValueError(msg)
        self.k = positive("k", k)
        self.synthesis = Synthesis(budget, max_facts, order, template, withhold_orders)
        self.model = as_chat_model(model, adapter=adapter, max_new_tokens=max_new_tokens)
        if reading == "each" and not isinstance(self.model, PassageReader):
            msg = f"reading='each' needs a local model; a {type(model).__name__} reads together"
            raise TypeError(msg)
        self.reading = reading
        self._own = memory is None or isinstance(memory, str | os.PathLike)
        self.retriever = as_retriever(HybridMemory(path=memory) if self._own else memory)
        self.unsupported = unsupported

    # --- knowledge -----------------------------------------------------------------------------------------------

    @property
    def memory(self) -> HybridMemory:
        """The memory beneath.

        Raises:
            TypeError: The passages come from a retriever that has none.
        """
        source = self.retriever
        found = source if isinstance(source, HybridMemory) else getattr(source, "memory", None)
        if not isinstance(found, HybridMemory):
            msg = "the passages come from a retriever without a HybridMemory: change its own store instead"
            raise TypeError(msg)
        return found

    def ingest(self, source: Passage | str | Path | Sequence[Passage | str | Path]) -> list[str]:
        """Store passages, or read files and folders into the memory; the same id replaces.

        Args:
            source: Passages, paths, or a mixture. A string is a path; text goes in as `Passage(text=...)`.

        Returns:
            The ids of what was stored.

        Raises:
            FileNotFoundError: A path does not exist.
            TypeError: Something is neither passage nor path, or there is no memory to write to.
            ValueError: A path is empty, or a passage is not valid; nothing is stored then.
        """
        listed = [source] if isinstance(source, Passage | str | os.PathLike) else list(source)
        passages: list[Passage] = []
        for one in listed:
            passages += [one] if isinstance(one, Passage) else _read(one)
        return self.memory.add(passages)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Forget passages; return the ids that were stored."""
        return self.memory.delete(ids)

    async def aingest(self, source: Passage | str | Path | Sequence[Passage | str | Path]) -> list[str]:
        """Do as `ingest`, without blocking the event loop."""
        return await asyncio.to_thread(self.ingest, source)

    async def adelete(self, ids: Sequence[str]) -> list[str]:
        """Do as `delete`, without blocking the event loop."""
        return await self.memory.adelete(ids)

    def close(self) -> None:
        """Close the memory that this system made; one that was given stays open."""
        if self._own:
            self.memory.close()

    # --- answering -----------------------------------------------------------------------------------------------

    def query(self, question: str, *, filter: Filter | None = None, route: Route = "auto") -> Answer:  # noqa: A002
        """Answer a question from the memory.

        Args:
            question: In natural language.
            filter: Metadata that passages must have; see `HybridMemory.search`.
            route: `auto`, or a route to force.

        Raises:
            ImportError: The model, or what runs it, is not installed.
            TypeError: An argument has the wrong type.
            ValueError: An empty question, an unknown route or filter operator.
        """
        return self.batch([question], filter=filter, route=route)[0]

    def batch(
        self,
        questions: Sequence[str],
        *,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Answer]:
        """Answer several questions; a local model decodes them together.

        The seconds of generation are then those of the batch, shared evenly. Takes and raises what `query` does.
        """
        if isinstance(questions, str):
            msg = "batch takes a list of questions; query answers a single one"
            raise TypeError(msg)
        turns = [self._prepared(question, filter, route) for question in questions]
        asked = [turn for turn in turns if turn.context is not None]
        started = time.perf_counter()
        replies = self._replies([turn.asked for turn in asked]) if asked else []
        share = (time.perf_counter() - started) / max(1, len(asked))
        for turn, reply in zip(asked, replies, strict=True):
            turn.timings["generation"] = share
            turn.reply = reply
        return [self._finished(turn) for turn in turns]

    def _replies(self, asked: Sequence[Asked]) -> list[Reply]:
        if (reader := self._reader) is not None:
            return reader.reply_each(asked)
        return self.model.reply([one.messages for one in asked])

    @property
    def _reader(self) -> PassageReader | None:
        """The model, where it is to read each passage alone."""
        model = self.model
        return model if isinstance(model, PassageReader) and model.reads(self.reading) == "each" else None

    def asked(
        self,
        question: str,
        *,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> Asked | None:
        """Return what `query` would ask the model; None where it would abstain without asking."""
        turn = self._prepared(question, filter, route)
        return turn.asked if turn.context is not None else None

    def messages(
        self,
        question: str,
        *,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[dict[str, str]]:
        """Return the chat that `query` would send to the model; empty where it would abstain without asking."""
        return self._prepared(question, filter, route).messages

    def stream(
        self,
        question: str,
        *,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> Iterator[str | Answer]:
        """Answer a question piece by piece; see `query`.

        Yields:
            Pieces of the model's reply, and last the whole `Answer`, in which citations are checked. Where each passage
            is read alone the reply comes in one piece, once it is chosen.
        """
        yield from self._streamed(self._prepared(question, filter, route))

    def _streamed(self, turn: _Turn) -> Iterator[str | Answer]:
        if turn.context is not None and (reader := self._reader) is not None:
            with turn.stage("generation"):
                turn.reply = reader.reply_each([turn.asked])[0]
            yield turn.reply.text
        elif turn.context is not None:
            with turn.stage("generation"):
                for piece in self.model.stream(turn.messages):
                    if isinstance(piece, Reply):
                        turn.reply = piece
                    elif piece:
                        yield piece
        yield self._finished(turn)

    async def aquery(self, question: str, *, filter: Filter | None = None, route: Route = "auto") -> Answer:  # noqa: A002
        """Do as `query`, without blocking the event loop."""
        turn = await self._aprepared(question, filter, route)
        if turn.context is not None:
            reader = await asyncio.to_thread(lambda: self._reader)
            with turn.stage("generation"):
                turn.reply = await (reader.areply_each(turn.asked) if reader else self.model.areply(turn.messages))
        return self._finished(turn)

    async def astream(
        self,
        question: str,
        *,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> AsyncIterator[str | Answer]:
        """Do as `stream`, without blocking the event loop."""
        async for piece in self._astreamed(await self._aprepared(question, filter, route)):
            yield piece

    async def _astreamed(self, turn: _Turn) -> AsyncIterator[str | Answer]:
        reader = await asyncio.to_thread(lambda: self._reader) if turn.context is not None else None
        if reader is not None:
            with turn.stage("generation"):
                turn.reply = await reader.areply_each(turn.asked)
            yield turn.reply.text
        elif turn.context is not None:
            with turn.stage("generation"):
                async for piece in self.model.astream(turn.messages):
                    if isinstance(piece, Reply):
                        turn.reply = piece
                    elif piece:
                        yield piece
        yield self._finished(turn)

    # --- the stages ----------------------------------------------------------------------------------------------

    def _prepared(self, question: str, filter: Filter | None, route: Route) -> _Turn:  # noqa: A002
        turn = _begun(question)
        with turn.stage("retrieval"):
            turn.hits = self.retriever.search(question, self.k, filter, route)
            if turn.hits:
                turn.facts = facts_about(self.retriever, question, self._facts_read, filter)
        return self._synthesised(turn)

    async def _aprepared(self, question: str, filter: Filter | None, route: Route) -> _Turn:  # noqa: A002
        turn = _begun(question)
        with turn.stage("retrieval"):
            turn.hits = await self.retriever.asearch(question, self.k, filter, route)
            if turn.hits:
                turn.facts = await afacts_about(self.retriever, question, self._facts_read, filter)
        return await asyncio.to_thread(self._synthesised, turn)

    @property
    def _facts_read(self) -> int:
        return FACTS_READ if self.synthesis.max_facts else 0

    def _synthesised(self, turn: _Turn) -> _Turn:
        """Make the prompt, or say why there is none."""
        if not turn.hits:
            turn.abstain(self._nothing_found())
            return turn
        if isinstance(self.model, LocalChat) and not self.model.loaded:
            with turn.stage("loading"):
                _ = self.model.local
        with turn.stage("synthesis"):
            made = self.synthesis.context(
                turn.question, turn.hits, turn.facts, count=self.model.count_tokens, budget=self._room(turn.question)
            )
        if made.sources:
            turn.context = made
            passages = tuple(source.passage for source in made.sources)
            turn.asked = Asked(turn.question, passages, self.synthesis.template, made.messages)
        else:
            budget = self.synthesis.budget
            turn.abstain(
                f"the token budget of {budget} is too small: the smallest passage found takes {made.smallest} tokens"
            )
        return turn

    def _room(self, question: str) -> int | None:
        """Return what the model's window leaves for passages."""
        window = self.model.window()
        if window is None:
            return None
        empty = self.synthesis.context(question, [], count=self.model.count_tokens).messages
        # What a chat template writes around a message differs; 32 tokens are more than the usual ones take.
        return max(0, window - sum(self.model.count_tokens(message["content"]) for message in empty) - 32)

    def _nothing_found(self) -> str:
        try:
            empty = not len(self.memory)
        except TypeError:
            return "the retriever found no passage"
        return "the memory is empty" if empty else "no passage in the memory matches"

    def _finished(self, turn: _Turn) -> Answer:
        """Return the answer, checked against what the model read."""
        route = dict((turn.hits[0].provenance.get("route") if turn.hits else None) or {})
        declined = Answer(
            turn.question,
            ABSTENTION,
            route=str(route.get("chosen") or ("retriever" if turn.hits else "")),
            route_reason=str(route.get("reason") or ""),
            abstained=True,
            reason=turn.reason,
            timings=turn.total(),
        )
        if turn.context is None:
            return declined
        sources = turn.context.sources
        with turn.stage("citation"):
            checked = self._checked(turn.question, turn.reply.text, [source.passage for source in sources])
        return replace(
            declined,
            **checked,
            sources=sources,
            facts=turn.context.facts,
            timings=turn.total(),
            input_tokens=turn.reply.input_tokens,
            output_tokens=turn.reply.output_tokens,
            model=self.model.name,
            reply=turn.reply.text,
        )

    def _checked(self, question: str, written: str, passages: Sequence[Passage]) -> dict[str, Any]:
        """Return a reply's answer and quote with where they stand in the passages, or why there is no answer."""
        reply = read_reply(written)
        text, marked = split_marks(reply.answer, len(passages))
        if reply.abstained or not text:
            return {"reason": NOT_FOUND, "quote": reply.quote}
        claimed = [number for number in (*reply.cited, *marked) if number <= len(passages)]
        numbers = find_support(question, text, passages, claimed).numbers
        reason = "" if numbers else POLAR if is_polar(question, text) else UNSUPPORTED
        withheld = reason == UNSUPPORTED and self.unsupported == "abstain"
        quote = reply.quote
        if numbers and not quote:
            quote = find_evidence(question, text, passages[numbers[0] - 1].text)
        return {
            "text": ABSTENTION if withheld else text,
            "citations": numbers,
            "abstained": withheld,
            "reason": reason,
            "faithful": None if withheld else bool(numbers),
            "quote": quote,
        }

    # --- context managers ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True)
class _Turn:
    """One question on its way through the stages."""

    question: str
    hits: Sequence[Hit] = ()
    facts: Sequence[Fact] = ()
    context: Context | None = None
    asked: Asked = field(default_factory=lambda: Asked("", (), "", ()))
    reply: Reply = field(default_factory=lambda: Reply(""))
    reason: str = ""
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.context.sources if self.context is not None else ()

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.context.messages if self.context is not None else []

    def abstain(self, reason: str) -> None:
        self.reason = reason

    def total(self) -> dict[str, float]:
        return {**self.timings, "total": sum(self.timings.values())}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = time.perf_counter() - started


def _begun(question: str) -> _Turn:
    check_question(question)  # The memory checks its own, a retriever of others may answer anything.
    return _Turn(question)


def _read(path: Any) -> list[Passage]:
    from hybridmem_plugins.extraction.files import read_passages

    if not isinstance(path, str | os.PathLike):
        msg = f"a {type(path).__name__} is neither a Passage nor a path"
        raise TypeError(msg)
    if isinstance(path, str) and not path.strip():  # The empty path is that of the working directory.
        msg = "a path is empty. Text is stored as Passage(text=...)"
        raise ValueError(msg)
    if not _exists(Path(path)):
        msg = f"there is no file or folder at {str(path)[:120]!r}. Text is stored as Passage(text=...)"
        raise FileNotFoundError(msg)
    return list(read_passages([Path(path)]))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # A text taken for a path.
            return False
        raise
