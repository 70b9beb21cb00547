"""Hand a tuned model to other servers: a merged folder, or an adapter that vLLM loads as LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.generation import loading

FORMS = ("merged", "vllm-lora")


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
        output: Folder to write; it must not exist or be empty.
        model: The base: hub id, folder or `.gguf` file; None is the bundled one.
        form: `"merged"`: a plain Hugging Face folder (vLLM, TGI, transformers; llama.cpp's `convert_hf_to_gguf.py`
            makes GGUF of it). `"vllm-lora"`: the base beside a float16 adapter, for
            `vllm serve OUT/base --enable-lora --lora-modules NAME=OUT/adapter`.
        scale: Dial of the adapter, written into the weights: 0 is the base, 1 the adapter as trained.

    Returns:
        The folder.

    Raises:
        ValueError: The form is unknown, or the folder is not empty.
        AdapterMismatchError: The adapter does not fit the base.
    """
    folder = Path(output)
    if form not in FORMS:
        msg = f"Unknown form {form!r}. Choose one of: {', '.join(FORMS)}."
        raise ValueError(msg)
    if folder.exists() and any(folder.iterdir()):
        msg = f"'{folder}' is not empty. Name a new folder."
        raise ValueError(msg)
    base, tokenizer = loading.load_base(model, dtype="float32", device="cpu"), loading.load_tokenizer(model)
    tuned = loading.attach_adapter(base, "export", adapter, scale)
    if form == "vllm-lora":
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
