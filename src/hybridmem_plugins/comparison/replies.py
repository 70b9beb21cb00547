"""A model whose replies are kept on disk, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hybridmem_plugins.line_files import append_lines, read_lines
from hybridmem_plugins.system.models import Asked, LocalChat, Messages, ReadingMode, Reply


class KeptReplies:
    """A `ChatModel` around a local model that asks it only what it has not been asked before.

    Args:
        model: Answers what is new.
        file: JSON lines of replies, appended to.
        fingerprint: Tells the model and its weights from others; part of each key.

    Attributes:
        seconds: Wall-clock seconds of each reply, by key.
        processor: Seconds of processor time of each, which does not count how busy the machine was with other things.
        alone: Whether it was decoded alone; only then are its seconds those that a user would wait.
    """

    def __init__(self, model: LocalChat, file: Path, fingerprint: str) -> None:
        self.model, self.file, self.fingerprint = model, file, fingerprint
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.alone: dict[str, bool] = {}
        self._known: dict[str, Reply] = {}
        for record in read_lines(file):
            self._remember(record)

    def _remember(self, record: Mapping[str, Any]) -> None:
        key = record["key"]
        self._known[key] = Reply(record["text"], record["input_tokens"], record["output_tokens"])
        self.seconds[key] = record["seconds"]
        self.processor[key] = record["processor_seconds"]
        self.alone[key] = record["alone"]

    def key(self, asked: Asked | Messages) -> str:
        """Return what a reply is kept under: of a chat, or of passages that are read one by one."""
        told = ["each", *_told(asked)] if isinstance(asked, Asked) else list(asked)
        text = json.dumps([self.fingerprint, self.model.max_new_tokens, told], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def name(self) -> str:
        """Model and adapter."""
        return self.model.name

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text takes."""
        return self.model.count_tokens(text)

    def window(self) -> int | None:
        """Return how many tokens a prompt may have."""
        return self.model.window()

    def reply(self, chats: Sequence[Messages]) -> list[Reply]:
        """Answer several chats: what is known from the file, the rest together, timed and shared evenly."""
        return self._answered(chats, self.model.reply)

    def reads(self, reading: ReadingMode | None) -> ReadingMode:
        """Return how the model reads passages."""
        return self.model.reads(reading)

    def reply_each(self, asked: Sequence[Asked]) -> list[Reply]:
        """Do as `reply`, each passage being read alone."""
        return self._answered(asked, self.model.reply_each)

    async def areply_each(self, asked: Asked) -> Reply:
        """Answer one question; a comparison waits anyway."""
        return self.reply_each([asked])[0]

    def answer(self, prompts: Sequence[Asked | Messages]) -> list[Reply]:
        """Answer chats, or questions with passages to read one by one; all of one kind, empty ones left out."""
        each = [one for one in prompts if isinstance(one, Asked)]
        return self.reply_each(each) or self.reply([one for one in prompts if one and not isinstance(one, Asked)])

    def _answered(self, asked: Sequence[Any], answer: Callable[[Sequence[Any]], list[Reply]]) -> list[Reply]:
        keys = [self.key(one) for one in asked]
        new = {key: one for key, one in zip(keys, asked, strict=True) if key not in self._known}
        if new:
            started, used = time.perf_counter(), time.process_time()
            replies = answer(list(new.values()))
            share, used = (time.perf_counter() - started) / len(new), (time.process_time() - used) / len(new)
            records = [
                {
                    "key": key, "model": self.fingerprint, "text": reply.text, "seconds": round(share, 4),
                    "alone": len(new) == 1, "processor_seconds": round(used, 4), "input_tokens": reply.input_tokens,
                    "output_tokens": reply.output_tokens,
                }
                for key, reply in zip(new, replies, strict=True)
            ]  # fmt: skip
            self.file.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self.file, records)
            for record in records:
                self._remember(record)
        return [self._known[key] for key in keys]

    async def areply(self, messages: Messages) -> Reply:
        """Answer one chat; a comparison waits anyway."""
        return self.reply([messages])[0]

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        """Answer one chat in one piece."""
        reply = self.reply([messages])[0]
        yield reply.text
        yield reply

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        """Answer one chat in one piece."""
        for piece in self.stream(messages):
            yield piece


def _told(asked: Asked) -> list[Any]:
    return [asked.question, asked.template, [asdict(replace(passage, id=None)) for passage in asked.passages]]
