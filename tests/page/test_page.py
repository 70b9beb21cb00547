"""The page through NiceGUI's own simulated user: no browser, no network."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from page_planted import IMAGE, QUESTION, base, planted_memory, tuned
from typer.testing import CliRunner

from hybridmem_plugins import HybridMemory, cli
from hybridmem_plugins.page.command import free_port, is_loopback
from hybridmem_plugins.page.desk import BASE, FINE_TUNED, Desk
from hybridmem_plugins.samples import load_corpus

pytest.importorskip("nicegui", reason="the page needs pip install 'hybridmem-plugins[serve]'")
from nicegui import ui
from nicegui.testing import User, user_simulation

from hybridmem_plugins.page.app import Conversation, tell


@asynccontextmanager
async def page_of(desk: Desk, samples: list[str] | None = None) -> AsyncIterator[User]:
    async with user_simulation(lambda: Conversation(desk, "3 passages", samples or []).build()) as user:
        await user.open("/")
        yield user


async def ask(user: User, question: str) -> None:
    field = user.find(ui.input)
    field.elements.pop().set_value(question)
    user.find("Ask").click()


async def see(user: User, what: str) -> bool:
    """Wait until the page shows a text; fails, with the page in the message, where it never does."""
    await user.should_see(what, retries=60)
    return True


@pytest.fixture
def memory() -> Any:
    with planted_memory() as made:
        yield made


async def test_answers_citations_walk_and_scores_are_shown(memory: HybridMemory) -> None:
    async with page_of(Desk(memory, lambda: {FINE_TUNED: tuned, BASE: base})) as user:
        await ask(user, QUESTION)
        for text in ("Fine-tuned model", "Its base", "Charles Babbage", "Route", "graph #", "words #", "vectors #"):
            assert await see(user, text)
        assert await see(user, "The answer stands in none of its sources.")


async def test_noise_breaks_the_context_and_both_are_asked_again(memory: HybridMemory) -> None:
    asked: list[str] = []

    def reader(messages: Any) -> str:
        asked.append(messages[-1]["content"])
        return "Charles Babbage"

    async with page_of(Desk(memory, lambda: {FINE_TUNED: reader})) as user:
        await ask(user, QUESTION)
        assert await see(user, "Move the slider")
        user.find(ui.slider).elements.pop().set_value(90)
        user.find(ui.slider).trigger("change")
        assert await see(user, "The context now")
        assert await see(user, "90% noise")
        await asyncio.sleep(0.2)
    assert len(set(asked)) == 2


async def test_without_a_model_it_finds_explains_breaks_and_says_what_to_install(memory: HybridMemory) -> None:
    async with page_of(Desk(memory, None, "pip install 'hybridmem-plugins[llm]'")) as user:
        await ask(user, QUESTION)
        assert await see(user, "pip install 'hybridmem-plugins[llm]'")
        assert await see(user, "graph #")
        user.find(ui.slider).elements.pop().set_value(50)
        user.find(ui.slider).trigger("change")
        assert await see(user, "The context now")


async def test_what_goes_wrong_is_told_on_the_page(memory: HybridMemory) -> None:
    def broken() -> Any:
        msg = "No model was given."
        raise ImportError(msg)

    async with page_of(Desk(memory, broken)) as user:
        await ask(user, "   ")
        assert await see(user, "Type a question first.")
        await ask(user, QUESTION)
        assert await see(user, "No model was given.")
        assert await see(user, "graph #")

    def failing(messages: Any) -> str:
        msg = "out of paper"
        raise RuntimeError(msg)

    async with page_of(Desk(memory, lambda: {FINE_TUNED: failing, BASE: tuned})) as user:
        await ask(user, QUESTION)
        assert await see(user, "Unexpected RuntimeError: out of paper")
        assert await see(user, "Charles Babbage")


async def test_a_connection_that_breaks_for_a_moment_loses_no_answer_and_a_closed_page_asks_no_more(
    memory: HybridMemory,
) -> None:
    go_on, asked = threading.Event(), threading.Semaphore(0)

    def slow(messages: Any) -> str:
        asked.release()
        go_on.wait(20)
        return tuned(messages)

    conversation = Conversation(Desk(memory, lambda: {FINE_TUNED: slow}), "3 passages")
    async with user_simulation(conversation.build) as user:
        await user.open("/")
        await ask(user, QUESTION)
        assert await asyncio.to_thread(asked.acquire, timeout=10)
        assert user.client is not None
        (connection,) = user.client._socket_to_document_id
        user.client.handle_disconnect(connection)
        await asyncio.sleep(0.1)
        go_on.set()
        assert await see(user, "s, retrieval")
        go_on.clear()
        await ask(user, QUESTION)
        assert await asyncio.to_thread(asked.acquire, timeout=10)
        job = conversation._jobs["ask"]
        user.client.delete()
        await asyncio.wait([job], timeout=5)
        assert job.cancelled()
        go_on.set()


async def test_an_empty_memory_says_so() -> None:
    with HybridMemory() as empty:
        async with page_of(Desk(empty, lambda: {FINE_TUNED: tuned})) as user:
            await ask(user, QUESTION)
            assert await see(user, "The memory is empty.")
            assert await see(user, "Nothing was found.")


async def test_a_sample_question_is_asked_at_a_click() -> None:
    with HybridMemory() as memory:
        memory.add(load_corpus())
        async with page_of(Desk(memory), ["What is SRAM?"]) as user:
            user.find("What is SRAM?").click()
            assert await see(user, "Route")


async def test_hostile_text_reaches_no_markup(memory: HybridMemory) -> None:
    async with page_of(Desk(memory, lambda: {FINE_TUNED: tuned, BASE: base})) as user:
        await ask(user, QUESTION)
        assert await see(user, "The answer stands in none of its sources.")
        user.find(ui.slider).elements.pop().set_value(100)
        user.find(ui.slider).trigger("change")
        assert await see(user, "The context now")
        found = user.find(ui.html).elements
        assert len(found) > 1
        for element in found:
            assert element._props["sanitize"] is True
            assert "<script" not in element.content
            assert "<img" not in element.content
        assert await see(user, IMAGE[:12])  # shown, as text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "example.org", "::"])
def test_other_machines_need_a_flag(host: str) -> None:
    assert not is_loopback(host)
    printed = CliRunner().invoke(cli.app, ["serve", "--host", host])
    assert printed.exit_code == 1
    assert "--expose" in printed.output


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1",) * 2, ("127.0.0.2",) * 2, ("localhost",) * 2, ("::ffff:127.0.0.1", "127.0.0.1")],
)
def test_the_page_answers_under_the_address_that_it_is_served_at(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("hybridmem_plugins.page.app.run", lambda *told: served.append(told))
    assert CliRunner().invoke(cli.app, ["serve", "--host", host, "--port", "0"]).exit_code == 0
    assert address in served[0][-1]
    assert "evil.example" not in served[0][-1]


def test_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="--port"):
            free_port("127.0.0.1", taken.getsockname()[1])
    assert free_port("127.0.0.1", 0) > 0


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Any) -> None:
    printed = CliRunner().invoke(cli.app, ["serve", str(tmp_path / "none"), "--port", "0"])
    assert printed.exit_code == 1
    assert "there is no folder" in printed.output


def test_errors_become_one_line() -> None:
    assert tell(ValueError("two\nlines")) == "two lines"
    assert tell(RuntimeError()) == "Unexpected RuntimeError: RuntimeError"
