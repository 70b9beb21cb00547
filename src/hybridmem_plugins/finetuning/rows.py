"""Training rows to token ids: prompts masked, contexts shrunk where they are too long, answers never."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.templates import ANSWER_CUE, read_reply
from hybridmem_plugins.generation.chat import check_template, render_chat, text_of
from hybridmem_plugins.generation.loading import stop_token_ids

IGNORED = -100
"""Label of a position that no loss is computed on (PyTorch's `ignore_index`)."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as the trainer takes it. All lists have one entry per token.

    Attributes:
        input_ids: Prompt and completion.
        labels: The token itself where it is a target, else -100.
        guard: 1 where the *next* token's distribution may be held to the base model's, else 0.
    """

    input_ids: list[int]
    labels: list[int]
    guard: list[int]


def row_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row's prompt as chat messages.

    Raises:
        ValueError: The row has neither a `prompt` (messages or text) nor `messages`.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        messages = row.get("messages")
        prompt = messages if messages else [{"role": "user", "content": prompt}]
    if prompt is None:
        prompt = row.get("messages")
    if not prompt:
        msg = f"Row {row.get('id', '?')!r} has no prompt. Give it `prompt` (text or messages) and `completion`."
        raise ValueError(msg)
    kept = [{**message, "content": text_of(message.get("content"))} for message in prompt]
    return kept[:-1] if kept[-1]["role"] == "assistant" else kept


def row_completion(row: Mapping[str, Any]) -> str:
    """Return a row's target text.

    Raises:
        ValueError: It is missing or blank, so that the row would teach nothing.
    """
    completion = row.get("completion")
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        completion = text_of(completion[-1]["content"]) if completion else ""
    if completion is None:
        last = (row.get("messages") or [{}])[-1]
        completion = text_of(last.get("content")) if last.get("role") == "assistant" else None
    if not completion or not str(completion).strip():
        msg = f"Row {row.get('id', '?')!r} has no completion: it has no target tokens to learn from."
        raise ValueError(msg)
    return str(completion)


_SAID = re.compile("“([^”]+)”")


def _answers(row: Mapping[str, Any]) -> list[str]:
    """Return what must stay readable in a row's context: its completion's answer, or those that it quotes."""
    answer = read_reply(row_completion(row)).answer
    return [answer, *_SAID.findall(answer), *(span for form in row.get("answer_spans") or () for span in form)]


class RowEncoder:
    """Encodes rows for one tokenizer.

    Args:
        tokenizer: A tokenizer with a chat template.
        max_length: Most tokens in a row. Longer rows lose words of their contexts.
    """

    def __init__(self, tokenizer: Any, max_length: int = 2048) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.end = self._end_of_turn()

    def _end_of_turn(self) -> int:
        check_template(self.tokenizer)
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "QZX"}]
        tail = str(self.tokenizer.apply_chat_template(chat, tokenize=False)).rpartition("QZX")[2]
        stops = stop_token_ids(self.tokenizer)
        found = [token for token in self.tokens(tail) if token in stops]
        if not found and self.tokenizer.eos_token_id is None:
            msg = "The tokenizer has no end-of-turn token, so an answer could never end. Set `tokenizer.eos_token`."
            raise ValueError(msg)
        return int(found[0] if found else self.tokenizer.eos_token_id)

    def tokens(self, text: str) -> list[int]:
        """Return a text's token ids, none added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, row: Mapping[str, Any]) -> EncodedRow:
        """Encode a row with `prompt` and `completion`: the completion and its end of turn are the targets.

        Raises:
            ValueError: The row has no target, or no prompt that fits although every spare word was left out.
        """
        completion = [*self.tokens(row_completion(row)), self.end]
        room = self.max_length - len(completion)
        prompt = self._fit(row_messages(row), _answers(row), room, row.get("id", "?"))
        ids = prompt + completion
        labels = [IGNORED] * len(prompt) + completion
        guard = [1] * (len(prompt) - 1) + [0] * (len(completion) + 1)
        return EncodedRow(ids, labels, guard)

    def encode_guard(self, row: Mapping[str, Any]) -> EncodedRow:
        """Encode a row that only holds the model to its base: `text` alone, or a prompt and the base's own answer."""
        if row.get("text"):
            ids = self.tokens(str(row["text"]))
        else:
            ids = self.tokens(render_chat(self.tokenizer, row_messages(row)))
            ids += [*self.tokens(row_completion(row)), self.end]
        ids = ids[: self.max_length]
        return EncodedRow(ids, [IGNORED] * len(ids), [1] * (len(ids) - 1) + [0])

    def _fit(self, messages: list[dict[str, str]], answers: Sequence[str], room: int, name: Any) -> list[int]:
        ids = self.tokens(render_chat(self.tokenizer, messages))
        while len(ids) > room:
            text = messages[-1]["content"]
            shorter = shrink_context(text, answers, 1.0 - max(room, 0) / len(ids))
            if len(shorter) >= len(text):
                msg = (
                    f"Row {name!r} needs {len(ids)} prompt tokens and has room for {room}, with nothing left to "
                    f"shorten. Raise max_length (now {self.max_length}) or leave the row out."
                )
                raise ValueError(msg)
            messages = [*messages[:-1], {**messages[-1], "content": shorter}]
            ids = self.tokens(render_chat(self.tokenizer, messages))
        return ids


def fitting_rows(rows: Iterable[Mapping[str, Any]], tokenizer: Any, max_length: int) -> tuple[list[EncodedRow], int]:
    """Encode rows, leaving out those that do not fit (a context that is all answer cannot shrink), and count these."""
    encoder, encoded, left_out = RowEncoder(tokenizer, max_length), [], 0
    for row in rows:
        try:
            encoded.append(encoder.encode(row))
        except ValueError:
            left_out += 1
    return encoded, left_out


def shrink_context(text: str, answers: Sequence[str], share: float, piece: int = 30) -> str:
    """Leave out about a share of a prompt's context words, latest first.

    The last paragraph (the question; a cue to answer after it is none), short lines (headings, fences, tags) and every
    run of words near an answer stay.

    Args:
        text: User message with contexts and, last, the question.
        answers: Texts that must stay readable where the contexts hold them.
        share: Share of the words to drop, in (0, 1].
        piece: Words that are kept or dropped together.
    """
    body = text.removesuffix(ANSWER_CUE)
    context, separator, question = body.rpartition("\n\n")
    lines = [re.findall(r"\S+\s*", line) or [line] for line in context.split("\n")]
    pieces = [[words[at : at + piece] for at in range(0, len(words), piece)] for words in lines]
    spare = sum(len(words) for words in lines if len(words) > piece // 3)
    to_drop = max(1, round(share * spare) + piece)
    for line in reversed(pieces):
        if sum(map(len, line)) <= piece // 3:
            continue
        near = _near_answer(line, answers)
        for position in reversed(range(len(line))):
            if to_drop > 0 and position not in near:
                to_drop -= len(line[position])
                line[position] = []
    kept = "\n".join("".join(word for words in line for word in words).rstrip() for line in pieces)
    return kept + separator + question + text[len(body) :]


def _near_answer(line: list[list[str]], answers: Sequence[str]) -> set[int]:
    near: set[int] = set()
    for position, words in enumerate(line):
        if contains_answer("".join(words), answers):
            near.add(position)
        elif contains_answer("".join([*words, *(line[position + 1] if position + 1 < len(line) else [])]), answers):
            near.update((position, position + 1))
    return near


def check_labels(rows: Iterable[EncodedRow], end: int) -> int:
    """Check every row before the first step and return how many there are.

    Args:
        rows: Encoded rows with targets.
        end: Token that ends a turn.

    Raises:
        ValueError: A row has no target, a target inside the prompt, a label that is not the token at its place, or a
            target that does not end the turn. (One published trainer set prompt labels to 0 instead of -100, and so
            trained every prompt towards token 0.)
    """
    count = 0
    for count, row in enumerate(rows, 1):
        targets = [position for position, label in enumerate(row.labels) if label != IGNORED]
        problem = ""
        if not len(row.input_ids) == len(row.labels) == len(row.guard):
            problem = "its lists differ in length"
        elif not targets or targets[0] == 0:
            problem = "it has no target tokens, or no prompt"
        elif targets != list(range(targets[0], len(row.labels))):
            problem = "its targets are not one run at the end"
        elif any(row.labels[position] != row.input_ids[position] for position in targets):
            problem = "a label is not the token at its place"
        elif row.labels[-1] != end:
            problem = "its target does not end the turn, so the model would not learn to stop"
        elif any(row.guard[position] for position in range(targets[0] - 1, len(row.guard))):
            problem = "a target position is guarded too"
        if problem:
            msg = f"Training row {count - 1} is wrong: {problem}."
            raise ValueError(msg)
    if count == 0:
        msg = "There are no training rows."
        raise ValueError(msg)
    return count
