"""The noise slider's damage, and who may ask for the page."""

from __future__ import annotations

from typing import Any

import pytest

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.page.breaking import break_context
from hybridmem_plugins.page.desk import READ, Desk
from hybridmem_plugins.page.guard import Guard
from hybridmem_plugins.samples import load_corpus

CORPUS = load_corpus()


def test_at_level_0_nothing_is_touched() -> None:
    broken = break_context("Who?", CORPUS[:4], CORPUS[4:8], 0.0)
    assert list(broken.passages) == CORPUS[:4]
    assert not broken.operators
    assert not any(broken.strays)


def test_damage_grows_with_the_level_and_is_all_accounted_for() -> None:
    changed = []
    for level in (0.1, 0.5, 1.0):
        broken = [break_context(f"question {n}", CORPUS[:4], CORPUS[4:8], level) for n in range(8)]
        changed.append(sum(len(one.operators) + sum(one.strays) for one in broken))
        for one in broken:
            assert ["".join(piece.text for piece in pieces) for pieces in one.pieces] == [p.text for p in one.passages]
    assert changed[0] < changed[1] < changed[2]


def test_the_same_seed_breaks_alike_and_another_differently() -> None:
    first, again, other = (break_context("Who?", CORPUS[:4], CORPUS[4:8], 0.8, seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("level", [-0.1, 1.5, float("nan")])
def test_a_level_out_of_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        break_context("Who?", CORPUS[:2], [], level)


async def test_the_broken_passages_are_what_a_reader_reads() -> None:
    read: list[str] = []

    def reader(messages: Any) -> str:
        read.append(messages[-1]["content"])
        return "Terrell, Texas"

    with HybridMemory() as memory:
        memory.add(CORPUS)
        desk = Desk(memory, lambda: {"one": reader})
        found = await desk.explain("Where was the inventor of the one-transistor DRAM cell born?")
        broken = await desk.break_context(found, 0.9, 0)
        heard: list[str] = []
        clean = await desk.answer((await desk.readers())["one"], found, None, heard.append)
        await desk.answer(reader, found, broken)
    assert clean.text == "Terrell, Texas" == "".join(heard)
    assert clean.cited[0].passage.id == "robert-dennard"
    assert len(clean.sources) >= READ
    assert broken.passages[0].text in read[1]
    assert read[0] != read[1]


@pytest.mark.parametrize(
    ("host", "origin", "welcome"),
    [
        ("127.0.0.1:8321", None, True),
        ("localhost:8321", "http://localhost:8321", True),
        ("[::1]:8321", "http://[::1]:8321", True),
        ("rebound.example:8321", None, False),
        ("127.0.0.1:8321", "http://evil.example", False),
        ("127.0.0.1:8321", "http://127.0.0.1:9999", False),
        ("127.0.0.1:8321", "null", False),
        ("[", None, False),
        ("", None, False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_only_this_machine_and_only_the_page_itself(
    kind: str, host: str, origin: str | None, welcome: bool
) -> None:
    passed: list[str] = []
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin is not None else [])]
    await Guard(inner)({"type": kind, "headers": headers}, None, send)  # type: ignore[arg-type]
    assert bool(passed) is welcome
    if welcome and kind == "http":
        policy = dict(sent[0]["headers"])[b"content-security-policy"]
        assert b"default-src 'self'" in policy
        assert b"http" not in policy
    if not welcome:
        assert sent[0].get("status", sent[0].get("code")) in (403, 1008)
