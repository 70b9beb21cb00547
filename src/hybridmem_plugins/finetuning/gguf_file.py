"""Write a tuned Llama model as GGUF, with the metadata and the tokenizer of the GGUF file that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.generation import loading

_OWN_KEYS = ("general.architecture", "general.file_type", "general.quantization_version", "tokenizer.ggml.eos_token_id")


def check_source(model: str | Path | None) -> Path:
    """Return the GGUF file that a base model was read from.

    Raises:
        ValueError: The base is no GGUF file, or not of a Llama model.
    """
    path = loading.bundled_base() if model is None else Path(model)
    if path.suffix != ".gguf" or not path.is_file():
        msg = (
            f"'{path}' is no GGUF file, so there is no GGUF tokenizer to take over. Export it as 'merged' and run "
            "llama.cpp's convert_hf_to_gguf.py on the folder."
        )
        raise ValueError(msg)
    reader = require("gguf", "llm").GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        msg = f"Only Llama models can be written as GGUF; '{path}' is {architecture!r}."
        raise ValueError(msg)
    return path


def write(model: Any, tokenizer: Any, source: Path, file: Path) -> None:
    """Write a model's weights (matrices as float16, vectors as float32) and its source's metadata.

    Args:
        model: Merged Llama model.
        tokenizer: Its tokenizer.
        source: GGUF file that the base came from.
        file: File to write.
    """
    gguf = require("gguf", "llm")
    fields = gguf.GGUFReader(source).fields
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    writer = gguf.GGUFWriter(part, "llama")
    for key, field in fields.items():
        if not key.startswith("GGUF.") and key not in _OWN_KEYS:
            nested = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=nested)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # The source may name the token that opens a turn as its end; a server that believes it never stops.
    writer.add_eos_token_id(_end_of_turn(tokenizer, model))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.float().cpu().numpy()
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        kind = name.split(".")[-2]
        if kind in heads:
            values = _interleaved(values, heads[kind])
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")),
            values.astype("float16" if values.ndim > 1 else "float32"),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(file)


def _end_of_turn(tokenizer: Any, model: Any) -> int:
    stops = loading.stop_token_ids(tokenizer, model)
    named = [tokenizer.get_vocab().get(token) for token in loading.END_OF_TURN]
    return next(int(token) for token in [*named, *sorted(stops)] if token in stops)


def _interleaved(weights: Any, heads: int) -> Any:
    """Order the rows of a query or key matrix as llama.cpp turns them: pairs side by side, not half a head apart."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
