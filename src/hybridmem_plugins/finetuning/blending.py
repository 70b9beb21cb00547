"""Blend adapters of one base into one: what was learnt in several runs, without a step of training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.finetuning.trainer import save_in
from hybridmem_plugins.generation import loading


def blend(
    adapters: Sequence[str | Path],
    output: str | Path,
    *,
    weights: Sequence[float] | None = None,
    rank: int = 32,
    model: Any = None,
    save_dtype: str = "float16",
) -> Path:
    """Write the weighted mean of LoRA adapters, at a rank of choice, by PEFT's singular value decomposition.

    The mean of runs from one base reads as well as its parts, or better, and forgets less (model soups,
    arXiv 2203.05482).

    Args:
        adapters: Folders, hub ids or shipped names, of the same base.
        output: New folder for `adapter_model.safetensors` and `adapter_config.json`.
        weights: One for each adapter; None weighs all alike, adding up to 1.
        rank: Of the result; what the strongest singular values do not hold is lost.
        model: Hub id, folder or `.gguf` file of the base; None is the bundled one.
        save_dtype: Precision of the result, `"float32"`, `"float16"` or `"bfloat16"`.

    Raises:
        AdapterMismatchError: An adapter was trained for another base.
        ValueError: There are fewer than two adapters, weights do not match them, or the output is there already.
    """
    output, shares = Path(output), list(weights or [1.0 / max(1, len(adapters))] * len(adapters))
    if len(adapters) < 2 or len(shares) != len(adapters) or rank < 1:
        msg = f"Blending takes two adapters or more, a weight for each and a rank of at least 1; got {len(adapters)}."
        raise ValueError(msg)
    if (output / "adapter_model.safetensors").exists():
        msg = f"'{output}' holds an adapter already; give a new folder."
        raise ValueError(msg)
    tuned = loading.load_base(model, dtype="float32", device="cpu")
    names = [f"part{number}" for number in range(len(adapters))]
    for name, adapter in zip(names, adapters, strict=True):
        tuned = loading.attach_adapter(tuned, name, adapter)
    tuned.add_weighted_adapter(names, shares, "blend", combination_type="svd", svd_rank=rank, svd_full_matrices=False)
    tuned.peft_config["blend"].base_model_name_or_path = loading.BUNDLED_NAME if model is None else str(model)
    with tempfile.TemporaryDirectory() as folder:
        tuned.save_pretrained(folder, selected_adapters=["blend"], safe_serialization=True)
        output.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(folder) / "blend" / "adapter_config.json", output)
        name = "adapter_model.safetensors"
        save_in(save_dtype, Path(folder) / "blend" / name, output / name)
    return output
