"""Hand a tuned model to other servers: a merged folder, an adapter that vLLM loads as LoRA, or a GGUF file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.finetuning import gguf_file
from hybridmem_plugins.generation import loading

FORMS = ("merged", "vllm-lora", "gguf")


def export(
    adapter: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    form: str = "merged",
    scale: float = 1.0,
) -> Path:
    """Write a tuned model for serving.

    Args:
        adapter: Folder, hub id or the name of a shipped adapter.
        output: Folder to write, which must not exist or be empty; for `"gguf"` a new file.
        model: The base: hub id, folder or `.gguf` file; None is the bundled one.
        form: `"merged"`: a plain Hugging Face folder (vLLM, TGI, transformers; llama.cpp's `convert_hf_to_gguf.py`
            makes GGUF of it). `"vllm-lora"`: the base beside the adapter, for
            `vllm serve OUT/base --enable-lora --lora-modules NAME=OUT/adapter`. `"gguf"`: one float16 file for
            llama.cpp; the base must be a GGUF file of a Llama model, as the bundled one is.
        scale: Dial of the adapter, written into the weights: 0 is the base, 1 the adapter as trained.

    Returns:
        The folder or file.

    Raises:
        ValueError: The form is unknown, the folder is not empty, the file exists, or the base cannot become GGUF.
        AdapterMismatchError: The adapter does not fit the base.
    """
    folder = Path(output)
    if form not in FORMS:
        msg = f"Unknown form {form!r}. Choose one of: {', '.join(FORMS)}."
        raise ValueError(msg)
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        msg = f"'{folder}' is not empty. Name a new folder."
        raise ValueError(msg)
    source = gguf_file.check_source(model) if form == "gguf" else None
    base, tokenizer = loading.load_base(model, dtype="float32", device="cpu"), loading.load_tokenizer(model)
    tuned = loading.attach_adapter(base, "export", adapter, scale)
    if source is not None:
        gguf_file.write(tuned.merge_and_unload(), tokenizer, source, folder)
    elif form == "vllm-lora":
        _write_lora(loading.resolve_adapter(adapter), folder / "adapter", scale)
        plain = tuned.unload()
        _write_model(plain, tokenizer, folder / "base")
    else:
        _write_model(tuned.merge_and_unload(), tokenizer, folder)
    return folder


def _write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    torch = require("torch", "llm")
    # The model must stop where its tokenizer ends a turn, or a server would run on to the length limit.
    model.generation_config.eos_token_id = sorted(loading.stop_token_ids(tokenizer, model))
    model.to(torch.float16).save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))


def _write_lora(source: str, folder: Path, scale: float) -> None:
    folder.mkdir(parents=True)
    shutil.copyfile(Path(source) / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = json.loads((Path(source) / "adapter_config.json").read_text(encoding="utf-8"))
    config["lora_alpha"] = config["lora_alpha"] * scale
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
