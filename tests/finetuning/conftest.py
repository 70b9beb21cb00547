"""A tiny, randomly initialised model with a tokenizer of its own: trains in seconds on a CPU."""

from __future__ import annotations

import pytest

for _module in ("torch", "transformers", "peft", "trl", "datasets"):
    pytest.importorskip(_module, reason="needs the extra [train]")

WORDS = [
    "passages",
    "question",
    "who",
    "wrote",
    "it",
    "ada",
    "grace",
    "alan",
    "the",
    "a",
    "of",
    "in",
    "is",
    "was",
    "and",
    "number",
    "[1]",
    "[2]",
    "answer",
    "system",
    "user",
    "assistant",
    "do",
    "not",
    "contain",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "lovelace",
    "hopper",
    "turing",
    "compiler",
    "engine",
    "machine",
    "test",
    ".",
    "?",
    ":",
    ",",
    "`",
    "\n",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture
def tiny(tokenizer):
    """Make a fresh two-layer model; the same weights every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def rows():
    names = ["ada lovelace", "grace hopper", "alan turing"]
    return [
        {
            "id": f"r{number}",
            "messages": [
                {"role": "system", "content": "answer the question"},
                {
                    "role": "user",
                    "content": f"[1] machine {number}\nit was {names[number % 3]} .\n\nwho wrote {number} ?",
                },
                {"role": "assistant", "content": names[number % 3]},
            ],
            "completion": names[number % 3],
        }
        for number in range(24)
    ]


@pytest.fixture
def guards():
    return [
        {"id": f"g{number}", "text": f"the engine {number} is a machine of the number {number} . " * 2}
        for number in range(12)
    ]
