"""Token by token: one decoding loop that serves single, batched and streamed generation alike.

Streaming is the same loop as generating, so both give the same text; no second thread exists whose failure could be
lost, and an abandoned stream holds no lock.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.generation.stopping import check_stop, first_stop, safe_length


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How tokens are chosen and when to stop.

    Attributes:
        max_new_tokens: Most tokens to generate.
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: Sample from the likeliest tokens that together have this probability, in (0, 1].
        top_k: Sample from this many likeliest tokens; 0 is no limit.
        repetition_penalty: Divides the logits of tokens seen before (arXiv 1909.05858); 1 is off.
        stop: Strings before which the text ends; they may span any number of tokens.
        seed: Seed of the sampling; None draws a new one. Each row of a batch uses it afresh, so that a batch gives
            what its rows would give alone.
        first_token_bias: Token id to what is added to its logit at the start of the text, and there alone.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: Sequence[str] | str = ()
    seed: int | None = None
    first_token_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", check_stop(self.stop))
        for name in ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed"):
            value, whole = getattr(self, name), name in ("max_new_tokens", "top_k", "seed")
            number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
            if not number and not (name == "seed" and value is None):
                msg = f"{name} must be a {'whole ' if whole else ''}number; got {value!r}."
                raise TypeError(msg)
        checks = {
            "max_new_tokens must be 1 or more": self.max_new_tokens >= 1,
            "temperature must be 0 or more": 0.0 <= self.temperature < float("inf"),
            "top_p must be in (0, 1]": 0.0 < self.top_p <= 1.0,
            "top_k must be 0 or more": self.top_k >= 0,
            "repetition_penalty must be above 0": self.repetition_penalty > 0,
            "seed must fit into 64 bits": self.seed is None or -(2**63) <= self.seed < 2**64,
        }
        for message, holds in checks.items():
            if not holds:
                msg = f"{message}; got {getattr(self, message.split()[0])}."
                raise ValueError(msg)


@dataclass(slots=True)
class Row:
    """One text being generated.

    Attributes:
        prompt: Token ids of the prompt.
        ids: Token ids generated so far.
        text: The text so far, cut at a stop string.
        finish_reason: `"stop"` or `"length"` once finished, else None.
        scored: Tokens at the end of the prompt whose log-probability is wanted as well.
        weighed: A token whose logit in the first place is compared with the best other one.
        measured: Whether log-probabilities of the generated tokens are kept.
        rivals: How many of the next best tokens are kept at each place.
        prompt_logprobs: Natural log-probabilities of the `scored` tokens, once the first token is chosen.
        logprobs: Those of the generated tokens, where `measured`.
        beaten: The `rivals` next best tokens at each place, best first, each with its log-probability.
        margin: How much likelier the weighed token is than any other in the first place, in nats.
    """

    prompt: list[int]
    limit: int
    decode: Callable[[list[int]], str]
    settings: GenerationSettings
    stop_ids: set[int]
    watched: bool = False
    ids: list[int] = field(default_factory=list)
    text: str = ""
    shown: int = 0
    finish_reason: str | None = None
    scored: int = 0
    weighed: int | None = None
    measured: bool = False
    rivals: int = 0
    prompt_logprobs: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    beaten: list[list[tuple[int, float]]] = field(default_factory=list)
    margin: float = 0.0

    def push(self, token: int) -> str:
        """Take the next token and return the text that may be shown because of it."""
        self.ids.append(token)
        ended = token in self.stop_ids
        if ended:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"
        stop = check_stop(self.settings.stop)
        if not (self.watched or stop or self.finish_reason):
            return ""
        self.text = self.decode(self.ids[:-1] if ended else self.ids)
        cut = first_stop(self.text, stop)
        if cut >= 0:
            self.text, self.finish_reason = self.text[:cut], "stop"
        end = len(self.text) if self.finish_reason else safe_length(self.text, stop)
        piece = self.text[self.shown : end]
        self.shown = max(self.shown, end)
        return piece


class _Sampler:
    """Chooses the next token of each row; a row's choice depends on nothing but that row."""

    def __init__(self, settings: GenerationSettings, count: int) -> None:
        torch = require("torch", "llm")
        self.settings = settings
        self.generators: list[Any] = []
        if settings.temperature > 0:
            for _ in range(count):
                generator = torch.Generator()
                generator.manual_seed(settings.seed) if settings.seed is not None else generator.seed()
                self.generators.append(generator)

    def __call__(self, logits: Any, rows: list[Row], indices: list[int]) -> list[int]:
        for token, bias in self.settings.first_token_bias.items():
            logits[[position for position, row in enumerate(rows) if not row.ids], token] += bias
        if self.settings.repetition_penalty != 1.0:
            for position, row in enumerate(rows):
                self._penalise(logits[position], row)
        if not self.generators:
            return [int(token) for token in logits.argmax(dim=-1).tolist()]
        return self._draw(logits, indices)

    def _penalise(self, logits: Any, row: Row) -> None:
        torch = require("torch", "llm")
        seen = torch.tensor(sorted({*row.prompt, *row.ids}), device=logits.device)
        values, penalty = logits[seen], self.settings.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)

    def _draw(self, logits: Any, indices: list[int]) -> list[int]:
        """Draw each row's token with its own generator, from the cumulated probabilities of the likeliest."""
        torch = require("torch", "llm")
        width = min(self.settings.top_k or logits.shape[-1], logits.shape[-1])
        ordered, tokens = (part.cpu() for part in logits.topk(width, dim=-1))
        # From the likeliest down, so that the least temperature cannot overflow.
        probabilities = ((ordered - ordered[:, :1]) / self.settings.temperature).softmax(dim=-1)
        reached = probabilities.double().cumsum(dim=-1)
        kept = reached - probabilities < self.settings.top_p
        kept[:, 0] = True
        last = kept.sum(dim=-1, keepdim=True) - 1
        chance = torch.stack([torch.rand(1, generator=self.generators[index], dtype=torch.double) for index in indices])
        places = torch.searchsorted(reached, chance * reached.gather(1, last), right=True)
        return [int(token) for token in tokens.gather(1, places.minimum(last)).squeeze(1).tolist()]


SHARED = 24
"""From so many tokens on, a beginning that all prompts of a batch share is read once for all of them."""


def shared_length(prompts: Sequence[list[int]], most: int) -> int:
    """Return how many tokens all prompts begin with alike, at most `most`."""
    first, last = min(prompts), max(prompts)
    same = next((n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return min(same, most)


def cache_keyword(model: Any) -> str:
    """Return what a model, PEFT or plain, calls its cache: `past_key_values`, or `cache` from transformers 5.24 on."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(type(plain).forward).parameters else "past_key_values"


@dataclass(slots=True)
class Prefix:
    """Prompts that were read, for other rows to go on from without reading them again.

    Attributes:
        lengths: Tokens in each prompt.
        cache: Keys and values of all of them; None for models whose cache cannot be forked, where rows that go on from
            a prompt read it again.
        mask: Which places of the cache are theirs, (prompts, places).
    """

    lengths: list[int]
    cache: Any = None
    mask: Any = None


class _Batch:
    """The rows still running, their key-value cache and their masks.

    Args:
        model: Causal language model in evaluation mode.
        rows: Texts to generate, or to go on with where they have tokens.
        pad_id: Token to pad with, on the left.
        after: What was read of the rows' beginnings, and the place of each row's own in it.
    """

    def __init__(
        self, model: Any, rows: Sequence[Row], pad_id: int, after: tuple[Prefix, Sequence[int]] | None = None
    ) -> None:
        torch, transformers = require("torch", "llm"), require("transformers", "llm")
        self.model, self.torch = model, torch
        self.rows, self.indices = list(rows), list(range(len(rows)))
        device = next(model.parameters()).device
        forked = after if after and after[0].cache is not None else None
        self.cache = copy.deepcopy(forked[0].cache) if forked else transformers.DynamicCache(config=model.config)
        self.cached = {cache_keyword(model): self.cache, "use_cache": True}
        layers, kinds = {type(layer) for layer in self.cache.layers}, transformers.cache_utils
        # Padding after a beginning would count towards what a sliding window sees, and go through a recurrence.
        self.plain = layers <= {kinds.DynamicLayer}
        # Recurrent states cannot be dropped row by row.
        self.divisible = layers <= {kinds.DynamicLayer, kinds.DynamicSlidingWindowLayer}
        texts = [row.prompt + row.ids for row in rows]
        self.ids = self.mask = torch.zeros((len(rows), 0), dtype=torch.long, device=device)
        if forked:
            prefix, places = forked
            chosen = torch.tensor(list(places), device=device)
            with torch.inference_mode():
                self.cache.batch_select_indices(chosen)
            self.mask = prefix.mask[chosen]
            texts = [text[prefix.lengths[place] :] for text, place in zip(texts, places, strict=True)]
        elif self.plain and (shared := self._shared(texts)):
            with torch.inference_mode():
                model(input_ids=torch.tensor([texts[0][:shared]], device=device), logits_to_keep=1, **self.cached)
                self.cache.batch_repeat_interleave(len(rows))
            self.mask = self.mask.new_ones((len(rows), shared))
            texts = [text[shared:] for text in texts]
        width = max(map(len, texts))
        padded = [[pad_id] * (width - len(text)) + text for text in texts]
        real = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
        self.ids = torch.tensor(padded, device=device)
        self.mask = torch.cat([self.mask, torch.tensor(real, device=device)], dim=-1)
        self.positions = (self.mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -width:]

    def prefix(self) -> Prefix:
        """Return what was read, after `first_logits`."""
        lengths = [len(row.prompt) for row in self.rows]
        with self.torch.inference_mode():
            return Prefix(lengths, copy.deepcopy(self.cache), self.mask) if self.plain else Prefix(lengths)

    def _shared(self, texts: Sequence[list[int]]) -> int:
        """Return how many tokens to read once for all rows."""
        if len(texts) < 2:
            return 0
        read_alone = min(len(text) - 1 - row.scored for text, row in zip(texts, self.rows, strict=True))
        shared = shared_length(texts, read_alone)
        return shared if shared >= SHARED else 0

    def first_logits(self) -> Any:
        """Return the logits of the first tokens, and measure the rows that ask for it."""
        logits = self._run(1 + max(row.scored for row in self.rows))
        for row, own in zip(self.rows, logits, strict=True):
            if row.scored:
                told = own[-1 - row.scored : -1].float().log_softmax(dim=-1)
                asked = self.torch.tensor(row.prompt[-row.scored :], device=told.device)
                row.prompt_logprobs = told.gather(1, asked.unsqueeze(1)).squeeze(1).tolist()
            if row.weighed is not None:
                first = own[-1].float()
                others = first.clone()
                others[row.weighed] = -math.inf
                row.margin = float(first[row.weighed] - others.max())
        return self._float32(logits[:, -1])

    def logits(self) -> Any:
        """Run the model over the tokens not yet seen; return the logits after the last one, in float32."""
        return self._float32(self._run(1)[:, -1])

    def _run(self, keep: int) -> Any:
        with self.torch.inference_mode():
            out = self.model(
                input_ids=self.ids, attention_mask=self.mask, position_ids=self.positions, logits_to_keep=keep,
                **self.cached,
            )  # fmt: skip
            return out.logits[:, -keep:]

    def _float32(self, logits: Any) -> Any:
        # Outside of inference mode a tensor made in it cannot be changed in place; a copy can.
        return logits.to(self.torch.float32, copy=True)

    def advance(self, tokens: list[int]) -> None:
        """Drop finished rows once they are half of the batch, and queue the new tokens."""
        torch = self.torch
        with torch.inference_mode():
            ids = torch.tensor(tokens, device=self.mask.device).unsqueeze(1)
            positions = self.positions[:, -1:] + 1
            keep = [position for position, row in enumerate(self.rows) if row.finish_reason is None]
            if keep and 2 * len(keep) <= len(self.rows) and self.divisible:
                chosen = torch.tensor(keep, device=self.mask.device)
                self.cache.batch_select_indices(chosen)
                self.mask, ids, positions = self.mask[chosen], ids[chosen], positions[chosen]
                self.rows, self.indices = [self.rows[k] for k in keep], [self.indices[k] for k in keep]
            self.ids, self.positions = ids, positions
            self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=-1)


def decode(
    model: Any,
    rows: Sequence[Row],
    settings: GenerationSettings,
    pad_id: int,
    turn: Callable[[], AbstractContextManager[Any]] = nullcontext,
    cancelled: Callable[[], bool] = bool,
    *,
    after: tuple[Prefix, Sequence[int]] | None = None,
) -> Iterator[tuple[int, str]]:
    """Generate until every row has finished.

    Args:
        model: Causal language model in evaluation mode.
        rows: Texts to generate; they are filled in.
        settings: How to choose tokens; shared by the rows.
        pad_id: Token to pad prompts with, on the left.
        turn: Makes a context to run each model step in. It is left before anything is yielded.
        cancelled: Asked before every token; once true, generation ends with what there is.
        after: What was read of the rows' beginnings, and the place of each row's own in it.

    Yields:
        Row index and the piece of text it gained.
    """
    sampler = _Sampler(settings, len(rows))
    with turn():
        batch = _Batch(model, rows, pad_id, after)
    started = False
    while not cancelled():
        with turn():
            logits = batch.logits() if started else batch.first_logits()
            started = True
            tokens = sampler(logits, batch.rows, batch.indices)
            _measure(batch.rows, logits, tokens)
        pieces = [
            (index, row.push(token))
            for index, row, token in zip(batch.indices, batch.rows, tokens, strict=True)
            if row.finish_reason is None
        ]
        yield from ((index, piece) for index, piece in pieces if piece)
        if all(row.finish_reason for row in batch.rows):
            return
        with turn():
            batch.advance(tokens)


def bare(row: Row) -> Row:
    """Return a row with the same prompt that is not begun and not measured."""
    return replace(row, ids=[], scored=0, weighed=None)


def read_prompts(model: Any, rows: Sequence[Row], pad_id: int) -> Prefix:
    """Read the prompts of rows, whatever was generated after them, for others to go on from."""
    batch = _Batch(model, [bare(row) for row in rows], pad_id)
    if batch.plain:
        batch.first_logits()
    return batch.prefix()


def next_logits(model: Any, rows: Sequence[Row], pad_id: int, after: tuple[Prefix, Sequence[int]]) -> Any:
    """Return the logits of the token after each row, (rows, vocabulary) in float32; see `decode` for `after`."""
    return _Batch(model, rows, pad_id, after).first_logits()


def _measure(rows: Sequence[Row], logits: Any, tokens: Sequence[int]) -> None:
    if not any(row.measured for row in rows):
        return
    chosen = logits.new_tensor(tokens, dtype=require("torch", "llm").long).unsqueeze(1)
    norms = logits.logsumexp(dim=-1)
    told = (logits.gather(1, chosen).squeeze(1) - norms).tolist()
    for row, own in zip(rows, told, strict=True):
        if row.measured and row.finish_reason is None:
            row.logprobs.append(own)
    if most := max(row.rivals for row in rows):
        values, others = ((logits - norms.unsqueeze(1)).scatter(1, chosen, -math.inf)).topk(most, dim=-1)
        for row, best, sure in zip(rows, others.tolist(), values.tolist(), strict=True):
            if row.rivals and row.finish_reason is None:
                row.beaten.append(list(zip(best, sure, strict=True))[: row.rivals])
