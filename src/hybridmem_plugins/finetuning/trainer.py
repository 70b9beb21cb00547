"""Fine-tune a causal language model with LoRA through TRL, without letting it forget what it could do before."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.finetuning import guard as guarding
from hybridmem_plugins.finetuning.rows import EncodedRow, RowEncoder, check_labels
from hybridmem_plugins.generation import loading


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train.

    Attributes:
        rank: Rank of the LoRA matrices; `alpha` is their scale's numerator (scale = alpha / rank).
        alpha: See `rank`.
        dropout: Dropout before the LoRA matrices.
        target_modules: Layers to adapt; `"all-linear"` is every linear layer but the head.
        learning_rate: Peak of a cosine schedule that warms up over `warmup` of the steps.
        warmup: Share of the steps, in [0, 1).
        epochs: Passes over the rows.
        batch_size: Rows with answers in one optimiser step.
        micro_batches: Parts that a step is computed in, to save memory.
        max_length: Most tokens in a row; longer ones lose context words, never their answer.
        kl_weight: Weight of the KL divergence to the base model; 0 switches the guard off.
        kl_tokens: Most guarded positions in a step, from prompts and from guard rows each.
        kl_rows: Rows of a step whose prompts are guarded; the reference runs over these only.
        guard_share: Guard rows (replay and plain text) in a step, as a share of `batch_size`.
        weight_decay: AdamW's, on the adapter.
        seed: Seed of everything random.
        save_steps: Steps between checkpoints to resume from; 0 for none.
        bf16: Compute in bfloat16; None does where CUDA is there.
        gradient_checkpointing: Recompute activations to save memory.
        compile: Compile the decoder layers (`torch.compile`): takes a minute, and pays in long runs on a GPU.
        save_dtype: Precision of the saved adapter, `"float32"` or, at half the size, `"float16"`.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    target_modules: str | Sequence[str] = "all-linear"
    learning_rate: float = 5e-4
    warmup: float = 0.05
    epochs: int = 1
    batch_size: int = 32
    micro_batches: int = 1
    max_length: int = 2048
    kl_weight: float = 1.0
    kl_tokens: int = 2048
    kl_rows: int = 8
    guard_share: float = 0.25
    weight_decay: float = 0.0
    seed: int = 0
    save_steps: int = 0
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    save_dtype: str = "float32"

    def __post_init__(self) -> None:
        positive = ("rank", "alpha", "learning_rate", "epochs", "batch_size", "micro_batches", "max_length")
        wrong = [name for name in positive if getattr(self, name) <= 0]
        wrong += [name for name in ("kl_weight", "guard_share", "kl_tokens", "kl_rows") if getattr(self, name) < 0]
        wrong += ["save_dtype"] if self.save_dtype not in ("float32", "float16", "bfloat16") else []
        if wrong:
            msg = f"Training settings out of range: {', '.join(wrong)}."
            raise ValueError(msg)
        if self.batch_size % self.micro_batches or self.guard_rows % self.micro_batches:
            msg = f"batch_size and its guard rows ({self.guard_rows}) must be multiples of micro_batches."
            raise ValueError(msg)

    @property
    def guard_rows(self) -> int:
        """Guard rows in one step."""
        return round(self.batch_size * self.guard_share) if self.kl_weight else 0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        folder: Folder with `adapter_model.safetensors`, `adapter_config.json` and `training.json`.
        steps: Optimiser steps done.
        log: One record per logged step: `step`, `loss`, `answer_loss`, `kl` (nats), `learning_rate`.
    """

    folder: Path
    steps: int
    log: list[dict[str, float]] = field(default_factory=list)


def arrange(lengths: Sequence[int], batch_size: int, epochs: int, seed: int, window: int = 16) -> list[int]:
    """Order rows so that a batch holds rows of like length, and batches come in random order.

    Args:
        lengths: Tokens in each row.
        batch_size: Rows in a batch; the rows that do not fill one are left out of that epoch.
        epochs: Times each row comes.
        seed: Seed of the order.
        window: Batches that are sorted together.

    Returns:
        Row indices: `batch_size` after `batch_size` form the batches.
    """
    order: list[int] = []
    batch_size = min(batch_size, len(lengths))
    for epoch in range(epochs):
        rng = random.Random(f"arrange {seed} {epoch}")
        indices = rng.sample(range(len(lengths)), len(lengths))
        batches = []
        for start in range(0, len(indices), window * batch_size):
            near = sorted(indices[start : start + window * batch_size], key=lambda index: lengths[index])
            spare = len(near) % batch_size
            skipped = set(rng.sample(near, spare))
            near = [index for index in near if index not in skipped]
            batches += [near[at : at + batch_size] for at in range(0, len(near), batch_size)]
        rng.shuffle(batches)
        order += [index for batch in batches for index in batch]
    return order


def save_in(dtype: str, source: Path, target: Path) -> None:
    """Write a safetensors file in a precision, in one step; the target may be the source."""
    numbers, precision = require("safetensors.torch", "train"), getattr(require("torch", "train"), dtype)
    part = target.with_suffix(".part")
    numbers.save_file({key: value.to(precision) for key, value in numbers.load_file(source).items()}, part)
    part.replace(target)


def _identity(
    config: TrainConfig,
    model: str,
    max_steps: int | None,
    rows: Sequence[EncodedRow],
    guards: Sequence[EncodedRow],
) -> str:
    """Tell runs apart that come to other adapters (SHA-256, hex)."""
    digest = hashlib.sha256(json.dumps([asdict(config), model, max_steps, len(rows)]).encode())
    for row in (*rows, *guards):
        digest.update(repr((row.input_ids, row.labels)).encode())
    return digest.hexdigest()


def _encoded(
    rows: Iterable[Mapping[str, Any] | EncodedRow], encode: Callable[[Mapping[str, Any]], EncodedRow], kind: str
) -> list[EncodedRow]:
    """Encode what is not encoded yet; one that cannot be is named by its id, or else by its number from 0."""
    encoded = []
    for number, row in enumerate(rows):
        if not isinstance(row, EncodedRow | Mapping):
            msg = f"{kind} row {number} is no dict: {str(row)[:80]}"
            raise ValueError(msg)
        encoded.append(row if isinstance(row, EncodedRow) else encode({"id": number, **row}))
    return encoded


class Trainer:
    """Trains a LoRA adapter on prompt and completion rows.

    Args:
        model: Hub id, folder, `.gguf` file, or a loaded model (then `tokenizer` is needed); None is the bundled one.
        output: Folder for the adapter and its checkpoints.
        config: How to train.
        tokenizer: Tokenizer of a loaded model.
        device: Torch device; None picks the accelerator that is there.
    """

    def __init__(
        self,
        model: Any,
        output: str | Path,
        config: TrainConfig | None = None,
        *,
        tokenizer: Any = None,
        device: str | None = None,
    ) -> None:
        self.config, self.output = config or TrainConfig(), Path(output)
        if model is None or isinstance(model, str | Path):
            tokenizer = loading.load_tokenizer(model)
            self.model_name = loading.BUNDLED_NAME if model is None else str(model)
            model = loading.load_base(model, dtype="float32", device=device)
        else:
            self.model_name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        if tokenizer is None:
            msg = "A loaded model needs its tokenizer: pass tokenizer=."
            raise ValueError(msg)
        guarding.check_head(model)
        self.model, self.tokenizer = model, tokenizer
        self.encoder = RowEncoder(tokenizer, self.config.max_length)

    def train(
        self,
        rows: Iterable[Mapping[str, Any] | EncodedRow],
        guard_rows: Iterable[Mapping[str, Any] | EncodedRow] = (),
        *,
        resume: bool = True,
        progress: bool = True,
        max_steps: int | None = None,
    ) -> TrainResult:
        """Train and save the adapter.

        Args:
            rows: Each with `prompt` (text or messages) and `completion`, or encoded already.
            guard_rows: Each with `text`, or `prompt` and the base model's own `completion`: what the model must keep.
            resume: Go on from the last checkpoint in the output folder, if there is one; False begins anew.
            progress: Show a progress bar.
            max_steps: Stop early, for a trial.

        Raises:
            ValueError: A row has no target, does not fit, or is labelled wrongly; or the checkpoints in the output
                folder are of a run with other rows or settings.
        """
        if max_steps is not None and max_steps < 1:
            msg = f"max_steps must be 1 or more, not {max_steps}; None trains to the end."
            raise ValueError(msg)
        encoded = _encoded(rows, self.encoder.encode, "Training")
        guards = _encoded(guard_rows if self.config.guard_rows else (), self.encoder.encode_guard, "Guard")
        check_labels(encoded, self.encoder.end)
        dataset, step_rows = self._dataset(encoded, guards)
        trainer = self._trainer(dataset, step_rows, progress, max_steps)
        checkpoint = self._begin(_identity(self.config, self.model_name, max_steps, encoded, guards), resume)
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        return self._save(trainer, int(outcome.global_step), len(encoded))

    def _dataset(self, rows: list[EncodedRow], guards: list[EncodedRow]) -> tuple[Any, int]:
        config, size = self.config, min(self.config.batch_size, len(rows))
        order = arrange([len(row.input_ids) for row in rows], size, config.epochs, config.seed)
        steps = len(order) // size
        beside = config.guard_rows if guards else 0
        lengths = [len(row.input_ids) for row in guards]
        need = -(-steps * beside // max(1, len(guards) - len(guards) % max(1, beside))) if guards else 0
        guard_order = arrange(lengths, beside, max(1, need), config.seed + 1) if beside else []
        parts = config.micro_batches if size == config.batch_size else 1
        self._rows = [rows, guards]
        picked: list[tuple[int, int, int]] = []
        for step in range(steps):
            batch = order[step * size : (step + 1) * size]
            held = guard_order[step * beside : (step + 1) * beside]
            for part in range(parts):
                number = step * parts + part
                picked += [(0, index, number) for index in batch[part::parts]]
                picked += [(1, index, number) for index in held[part::parts]]
        self._parts = parts
        # The data set holds places only: writing all tokens to Arrow takes longer than training on some of them.
        columns = {name: [entry[at] for entry in picked] for at, name in enumerate(("kind", "row", "step"))}
        return require("datasets", "train").Dataset.from_dict(columns), (size + beside) // parts

    def _trainer(self, dataset: Any, step_rows: int, progress: bool, max_steps: int | None) -> Any:
        from hybridmem_plugins.finetuning.guarded_sft import make_guarded_trainer

        torch, trl, peft = require("torch", "train"), require("trl", "train"), require("peft", "train")
        config = self.config
        on_gpu = next(self.model.parameters()).device.type == "cuda"
        bf16 = on_gpu and torch.cuda.is_bf16_supported() if config.bf16 is None else config.bf16
        if bf16:
            self.model.to(torch.bfloat16)  # the frozen base alone; the adapter's weights are float32
        steps = len(dataset) // (step_rows * self._parts)
        arguments = trl.SFTConfig(
            output_dir=str(self.output), num_train_epochs=1, max_steps=max_steps or -1,
            per_device_train_batch_size=step_rows, gradient_accumulation_steps=self._parts,
            learning_rate=config.learning_rate, lr_scheduler_type="cosine",
            warmup_steps=round(config.warmup * min(steps, max_steps or steps)), weight_decay=config.weight_decay,
            optim="adamw_torch_fused" if on_gpu else "adamw_torch", max_grad_norm=1.0,
            bf16=bf16, use_cpu=not on_gpu, seed=config.seed, data_seed=config.seed, report_to="none", logging_steps=10,
            save_strategy="steps" if config.save_steps else "no", save_steps=config.save_steps or 500,
            save_total_limit=2, gradient_checkpointing=config.gradient_checkpointing,
            dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False, max_length=None,
            disable_tqdm=not progress, dataloader_pin_memory=on_gpu, logging_nan_inf_filter=False,
        )  # fmt: skip
        lora = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, task_type="CAUSAL_LM",
            target_modules=config.target_modules if isinstance(config.target_modules, str)
            else list(config.target_modules),
        )  # fmt: skip
        require("transformers", "train").set_seed(config.seed)
        trainer = make_guarded_trainer(self.model, self.tokenizer, arguments, dataset, self._rows, lora, config)
        if config.compile:
            for layer in guarding.backbone(trainer.model).layers:
                layer.compile(dynamic=True)
        return trainer

    def _begin(self, identity: str, resume: bool) -> str | None:
        """Note which run this is, and return the checkpoint that it goes on from."""
        note = self.output / "run.sha256"
        folders = [path for path in self.output.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
        if folders and resume:
            if not note.is_file() or note.read_text(encoding="utf-8") != identity:
                msg = (
                    f"The checkpoints in '{self.output}' are of a run with other rows, settings or steps. Pass "
                    "resume=False (--no-resume) to begin anew, or choose another folder."
                )
                raise ValueError(msg)
            return str(max(folders, key=lambda path: int(path.name.rpartition("-")[2])))
        for folder in folders:  # or a kill before the first new one would leave the old ones under the new note
            shutil.rmtree(folder)
        self.output.mkdir(parents=True, exist_ok=True)
        note.write_text(identity, encoding="utf-8")
        return None

    def _save(self, trainer: Any, steps: int, rows: int) -> TrainResult:
        self.output.mkdir(parents=True, exist_ok=True)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        for peft_config in trained.peft_config.values():
            peft_config.base_model_name_or_path = self.model_name
        trained.save_pretrained(str(self.output), safe_serialization=True)
        if self.config.save_dtype != "float32":
            weights = self.output / "adapter_model.safetensors"
            save_in(self.config.save_dtype, weights, weights)
        log = [record for record in trainer.state.log_history if "answer_loss" in record]
        facts = {"base": self.model_name, "rows": rows, "steps": steps, "config": asdict(self.config), "log": log}
        (self.output / "training.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        self.trained = trained
        return TrainResult(self.output, steps, log)
