"""The page itself: one conversation a browser tab, over a desk that all share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any

from nicegui import app, ui

from hybridmem_plugins.errors import HybridMemoryError
from hybridmem_plugins.page import views
from hybridmem_plugins.page.breaking import Broken
from hybridmem_plugins.page.desk import BASE, FINE_TUNED, READ, SHOWN, Desk
from hybridmem_plugins.page.guard import LOOPBACK, Guard
from hybridmem_plugins.page.look import SHEET
from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.retrieval.explain import Explanation
from hybridmem_plugins.retrieval.model import ROUTES

logger = logging.getLogger(__name__)

_EXPECTED = (HybridMemoryError, ValueError, TypeError, OSError, ImportError)
STEP = 10
"""Percent that one step of the noise slider adds."""

PAUSE = 0.4
"""Seconds for which the slider must rest, so that the levels that it only passes are not answered."""

ASK, BREAK = "ask", "break"
"""What a page may be at work on."""


def tell(error: BaseException) -> str:
    """Put an error into one line for people; where it was unforeseen, say so."""
    message = shorten(str(error), 500) or type(error).__name__
    return message if isinstance(error, _EXPECTED) else f"Unexpected {type(error).__name__}: {message}"


class Conversation:
    """What one browser tab shows.

    Args:
        desk: What answers.
        about: One line on what is in the memory.
        samples: Questions to try.
    """

    def __init__(self, desk: Desk, about: str, samples: Sequence[str] = ()) -> None:
        self.desk, self.about, self.samples = desk, about, samples
        self.explanation: Explanation | None = None
        self.seed = 0
        self._jobs: dict[str, asyncio.Task[None]] = {}

    def build(self) -> None:
        """Make the elements; those that hold results stay hidden until something is asked."""
        ui.add_css(SHEET)
        with views.box("desk", "main"):
            views.text("hybridmem", tag="h1")
            views.text(self.about, "dim")
            self._build_question()
            self.error = ui.label().classes("error").props("role=alert")
            self.error.set_visibility(False)
            self.results = views.box("")
            self.results.set_visibility(False)
            with self.results:
                self._build_results()
        # Not at a disconnect: a browser whose connection broke for a moment comes back to the same page.
        ui.context.client.on_delete(lambda: self._stop(ASK, BREAK))

    def _build_question(self) -> None:
        with views.box("ask"):
            self.question = ui.input("Question").props("outlined autofocus aria-label=Question")
            self.question.on("keydown.enter", self.ask)
            self.route = ui.select(list(ROUTES), value="auto", label="Route").props("outlined")
            ui.button("Ask", on_click=self.ask).props("unelevated no-caps")
        with views.box("samples"):
            for sample in self.samples:
                ui.button(sample, on_click=partial(self._ask_sample, sample)).props("flat no-caps dense")

    def _build_results(self) -> None:
        with views.box("panel", "section"):
            views.text("Answers", tag="h2")
            self.answers = views.box("")
        with views.box("panel", "section"):
            views.text("Break the context", tag="h2")
            with views.box("noise"):
                self.level = ui.label("0% noise").classes("level")
                self.slider = ui.slider(min=0, max=100, step=STEP, value=0).props('aria-label="Noise"')
                self.slider.on_value_change(lambda: self.level.set_text(f"{self.slider.value}% noise"))
                self.slider.on("change", self.break_again)
                ui.button("Other damage", on_click=self._other_damage).props("flat no-caps dense")
            self.broken = views.box("")
        with views.box("panel", "section"):
            views.text("How it was found", tag="h2")
            self.walk = views.box("")
        with views.box("panel", "section"):
            views.text("Passages, by route", tag="h2")
            self.hits = views.box("")

    # --- what people do ------------------------------------------------------------------------------------------

    async def _ask_sample(self, sample: str) -> None:
        self.question.set_value(sample)
        await self.ask()

    async def ask(self) -> None:
        """Ask what stands in the field."""
        await self._run(ASK, self._ask)

    async def break_again(self) -> None:
        """Break the context as much as the slider says, and ask again."""
        if self.explanation is not None:
            await self._run(BREAK, self._break_after_pause)

    async def _other_damage(self) -> None:
        self.seed += 1
        await self.break_again()

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work in place of what was being done; what goes wrong is told on the page."""
        self._stop(name, BREAK)  # a new question ends the breaking of the one before, too
        self.error.set_visibility(False)

        async def guarded() -> None:
            try:
                await work()
            except Exception as error:
                logger.debug("the page could not do what was asked", exc_info=True)
                self.error.set_text(tell(error))
                self.error.set_visibility(True)

        job = self._jobs[name] = asyncio.create_task(guarded())
        await asyncio.wait([job])

    def _stop(self, *names: str) -> None:
        """Stop the work of these names."""
        for name in names:
            if name in self._jobs:
                self._jobs[name].cancel()

    # --- what is shown then --------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        self.results.set_visibility(False)
        self.explanation = None
        question = str(self.question.value or "").strip()
        if not question:
            msg = "Type a question first."
            raise ValueError(msg)
        found = self.explanation = await self.desk.explain(question, self.route.value)
        read = READ if self.desk.can_answer else SHOWN
        for place, draw in ((self.walk, views.draw_walk), (self.hits, partial(views.draw_hits, read=read))):
            place.clear()
            with place:
                draw(found)
        self.results.set_visibility(True)
        await asyncio.gather(self._answer(self.answers, found, None), self._break())

    async def _break_after_pause(self) -> None:
        await asyncio.sleep(PAUSE)
        await self._break()

    async def _break(self) -> None:
        """Show the broken context, and what is answered from it."""
        found = self.explanation
        self.broken.clear()
        if found is None or not found.hits:
            return
        with self.broken:
            if not self.slider.value:
                views.text("Move the slider: the passages are damaged as real retrieval damages them.", "dim")
                return
            answers = views.box("")
            broken = await self.desk.break_context(found, self.slider.value / 100, self.seed)
            size = f"The context now: {len(broken.passages)} passages. "
            noise = f"Noise: {', '.join(broken.operators)}" if broken.operators else "No operator applied"
            with ui.expansion(size + noise, value=not self.desk.can_answer).classes("small"):
                views.draw_broken(broken)
        await self._answer(answers, found, broken)

    async def _answer(self, place: ui.element, found: Explanation, broken: Broken | None) -> None:
        """Show what each reader answers, side by side, as it is written."""
        place.clear()
        if not self.desk.can_answer:
            if broken is None:
                with place:
                    views.text(self.desk.hint, "dim")
            return
        with place:
            waiting = ui.label("Loading the model…").classes("dim")
        readers = await self.desk.readers()
        waiting.delete()
        places = {}
        with place, views.box("pair"):
            for name in readers:
                with views.box("reply") as places[name]:
                    views.text(_heading(name), tag="h3")
        for name in readers:
            await self._listen(name, readers[name], places[name], found, broken)

    async def _listen(
        self, name: str, reader: Any, place: ui.element, found: Explanation, broken: Broken | None
    ) -> None:
        with place:
            writing = ui.label("…").classes("text dim")
        written: list[str] = []

        def hear(piece: str) -> None:
            written.append(piece)
            writing.set_text(printable("".join(written)) + "…")

        try:
            answer = await self.desk.answer(reader, found, broken, hear)
        except Exception as error:
            writing.set_text(tell(error))
            return
        writing.delete()
        with place:
            views.draw_answer(answer)


def _heading(name: str) -> str:
    return {FINE_TUNED: "Fine-tuned model", BASE: "Its base"}.get(name, name)


def run(
    desk: Desk, about: str, samples: Sequence[str], host: str, port: int, hosts: Collection[str] | None = LOOPBACK
) -> None:
    """Serve the page until the process is stopped.

    Args:
        desk: What answers.
        about: One line on what is in the memory.
        samples: Questions to try.
        host: Address to listen at.
        port: Port to listen at.
        hosts: Names under which browsers may ask for the page; None allows all.
    """
    app.add_middleware(Guard, hosts=hosts)
    ui.run(
        lambda: Conversation(desk, about, samples).build(),
        host=host,
        port=port,
        title="hybridmem",
        dark=None,
        favicon="🧠",
        show=False,
        reload=False,
        show_welcome_message=False,
        tailwind=False,
    )
