"""A model written as GGUF is the same model when it is read back."""

from __future__ import annotations

import pytest
import torch

from hybridmem_plugins.finetuning import gguf_file
from hybridmem_plugins.generation import loading

gguf = pytest.importorskip("gguf", reason="needs the extra [llm]")


def _source(file, config, architecture="llama"):
    """Write the metadata that a GGUF file of the model has."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_logits_survive_and_the_end_of_turn_is_put_right(tiny, tokenizer, tmp_path):
    source = _source(tmp_path / "source.gguf", tiny.config)
    gguf_file.write(tiny, tokenizer, gguf_file.check_source(source), tmp_path / "out" / "tuned.gguf")
    back = loading.load_base(tmp_path / "out" / "tuned.gguf", dtype="float32", device="cpu")
    ids = torch.tensor([[5, 9, 40, 7, 100, 3]])
    with torch.inference_mode():
        expected, found = tiny.eval()(ids).logits, back(ids).logits
    assert torch.allclose(found, expected, atol=2e-3), "float16 rounds, and nothing more"
    reader = gguf.GGUFReader(tmp_path / "out" / "tuned.gguf")
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id


def test_only_gguf_files_of_llama_models_can_be_written(tiny, tmp_path):
    with pytest.raises(ValueError, match="no GGUF file"):
        gguf_file.check_source(tmp_path)
    with pytest.raises(ValueError, match="gpt2"):
        gguf_file.check_source(_source(tmp_path / "other.gguf", tiny.config, "gpt2"))
