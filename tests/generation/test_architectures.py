"""Other people's models: however they attend, a batch answers as its rows do alone, and as `generate` does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [llm]")
transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")

from hybridmem_plugins.generation import LocalModel  # noqa: E402
from hybridmem_plugins.generation.decoding import cache_keyword, decode, read_prompts  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 700,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Mistral": {"sliding_window": 48},
    "Gemma3": {
        "text_config": {**TINY, "head_dim": 8, "sliding_window": 48},
        "vision_config": {**VISION, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4, "image_token_index": 258, "boi_token_index": 257, "eoi_token_index": 256,
    },
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
}  # fmt: skip


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    inner.add_special_tokens(SPECIAL)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make(kind: str) -> LocalModel:
    """Make a tiny model whose weights are large enough that every token depends on those before it."""
    config = getattr(transformers, f"{kind}Config", None)
    if config is None:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    settings = KINDS[kind] if "text_config" in KINDS[kind] else {**TINY, **KINDS[kind]}
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return LocalModel.from_objects(model, byte_tokenizer(), batch_size=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_answers_as_its_rows_do_alone_and_as_transformers_does(kind: str) -> None:
    local = make(kind)
    chats = [
        [{"role": "user", "content": f"hi there you, hi there you{' and what about' * more} number {more}"}]
        for more in (1, 9, 4, 2)
    ]
    expected = []
    for chat in chats:
        ids = local.encode(chat)
        stops = sorted(local.stop_ids)
        out = local.model.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=stops, pad_token_id=0
        )
        expected.append(local._text([token for token in out[0, len(ids) :].tolist() if token not in stops]))
    assert len(set(expected)) > 1
    assert [local.chat(chat, max_new_tokens=24).text for chat in chats] == expected
    assert [answer.text for answer in local.generate(chats, max_new_tokens=24)] == expected


@pytest.mark.parametrize("kind", ["Llama", "Gemma3"])
def test_the_context_window_is_that_of_the_language_model(kind: str) -> None:
    assert make(kind).context_window == 700


def test_a_model_without_a_cache_of_keys_is_refused() -> None:
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=4)
    )
    with pytest.raises(ValueError, match="MambaForCausalLM keeps no cache of keys"):
        LocalModel.from_objects(model, byte_tokenizer())


def test_the_cache_is_given_under_the_name_that_the_model_has_for_it() -> None:
    class Newer(torch.nn.Module):
        def forward(self, input_ids: Any, cache: Any = None, **kwargs: Any) -> None: ...

    peft = pytest.importorskip("peft", reason="needs the extra [llm]")
    model = make("Llama").model
    plain = cache_keyword(model)
    assert plain in ("cache", "past_key_values")
    assert cache_keyword(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))) == plain
    assert cache_keyword(Newer()) == "cache"


def test_a_base_that_lies_elsewhere_than_in_training_is_nothing_to_warn_of(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra [llm]")
    trained = peft.get_peft_model(make("Llama").model, peft.LoraConfig(r=2, target_modules="all-linear"))
    trained.peft_config["default"].base_model_name_or_path = "where/it/was/trained"
    trained.save_pretrained(str(tmp_path))
    local = make("Llama")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*was renamed")
        local.load_adapter("other", tmp_path)
    assert local.adapters == ["base", "other"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_go_on_from_a_prompt_as_they_do_alone(kind: str) -> None:
    local = make(kind)
    prompts = ["A short one", "A prompt that is longer than what a window of forty-eight letters can hold at once"]
    rows = [local.row(local.tokens(text), local.choose({"max_new_tokens": 12})) for text in prompts]
    prefix = read_prompts(local.model, rows, local.pad_id)
    assert (prefix.cache is None) == (kind not in ("Llama", "Qwen2"))
    begun = [replace(rows[at], ids=local.tokens(text)) for at, text in ((1, "x"), (0, "yes"), (1, "and"))]
    alone = [replace(row, ids=list(row.ids)) for row in begun]
    list(decode(local.model, begun, begun[0].settings, local.pad_id, after=(prefix, [1, 0, 1])))
    for row in alone:
        list(decode(local.model, [row], row.settings, local.pad_id))
    assert [row.ids for row in begun] == [row.ids for row in alone]
