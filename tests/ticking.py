"""Shows that an event loop goes on turning while something else works, by order of events and not by a clock."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from hybridmem_plugins.retrieval.router import Choice, Situation, default_router

# Only a loop that hangs waits as long.
PATIENCE = 60.0


class Ticking:
    """Counts the turns of the running event loop; work calls `wait_for_a_turn` from where it must not hold the loop up.

    A loop that the work blocks cannot turn, so the wait fails: at once on the loop's own thread, else after a minute.
    Before the context is entered there is no loop, and nothing waits.
    """

    def __init__(self) -> None:
        self.waits = 0
        self._thread: int | None = None
        self._turns = 0
        self._turned = threading.Condition()

    def wait_for_a_turn(self) -> None:
        if self._thread is None:
            return
        assert threading.get_ident() != self._thread, "this ran on the event loop's own thread"
        with self._turned:
            self.waits += 1
            before = self._turns
            assert self._turned.wait_for(lambda: self._turns > before, PATIENCE), "the event loop was held up"

    def router(self, situation: Situation) -> Choice:
        """Route as ever, in the midst of a search, after a turn."""
        self.wait_for_a_turn()
        return default_router(situation)

    async def __aenter__(self) -> Self:
        self._thread = threading.get_ident()
        self._task = asyncio.create_task(self._turn())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()

    async def _turn(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            with self._turned:
                self._turns += 1
                self._turned.notify_all()
