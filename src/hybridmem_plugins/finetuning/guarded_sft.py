"""TRL's trainer with the guard in its loss. The class is made on call, because its base needs TRL to be imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.finetuning import guard as guarding
from hybridmem_plugins.finetuning.rows import IGNORED, EncodedRow

if TYPE_CHECKING:
    from hybridmem_plugins.finetuning.trainer import TrainConfig


def collate(rows: Sequence[EncodedRow], held: Sequence[EncodedRow], pad_id: int) -> dict[str, Any]:
    """Pad rows with answers, and after them guard rows, to one width, on the right.

    One forward pass over both costs some padding and saves a second pass: a small model's step is bound by the number
    of kernels it launches.

    Args:
        rows: At least one row with targets.
        held: Guard rows.
        pad_id: Token to pad with.
    """
    torch = require("torch", "train")
    both = [*rows, *held]
    width = max(len(row.input_ids) for row in both)
    fills = {"input_ids": pad_id, "labels": IGNORED, "guard": 0}
    batch = {
        key: torch.tensor([getattr(row, key) + [fill] * (width - len(row.input_ids)) for row in both])
        for key, fill in fills.items()
    }
    batch["attention_mask"] = torch.tensor(
        [[1] * len(row.input_ids) + [0] * (width - len(row.input_ids)) for row in both]
    )
    batch["held"] = torch.tensor([0] * len(rows) + [1] * len(held))
    return batch


def guarded_loss(model: Any, inputs: dict[str, Any], config: TrainConfig, step: int) -> tuple[Any, Any, Any]:
    """Return the loss of a batch, and its two parts: the answers' cross-entropy and the KL to the base.

    Args:
        model: PEFT model in training mode.
        inputs: A batch that `collate` made.
        config: Weights and sizes of the guard.
        step: Number of the optimiser step; it picks the guarded positions.
    """
    torch = require("torch", "train")
    states = guarding.hidden_states(model, inputs["input_ids"], inputs["attention_mask"])
    answers = guarding.answer_loss(model, states, inputs["labels"])
    nothing = torch.zeros((), device=answers.device)
    held = inputs["held"].bool()
    prompts = min(int((~held).sum()), -(-config.kl_rows // config.micro_batches))
    guarded = held.clone()
    guarded[:prompts] = True
    if not config.kl_weight or not guarded.any():
        return answers, answers.detach(), nothing
    count, seed = max(1, config.kl_tokens // config.micro_batches), 1_000_003 * config.seed + 2 * step
    chosen = [
        guarding.pick_positions(inputs["guard"][rows], count, seed + number)
        for number, rows in enumerate((guarded & ~held, held))
        if rows.any()
    ]
    picked = torch.cat(chosen)
    with torch.no_grad(), model.disable_adapter():
        reference = guarding.hidden_states(model, inputs["input_ids"][guarded], inputs["attention_mask"][guarded])
    kl = guarding.kl_to_base(model, states[guarded][picked], reference[picked])
    return answers + config.kl_weight * kl, answers.detach(), kl.detach()


def make_guarded_trainer(
    model: Any,
    tokenizer: Any,
    arguments: Any,
    dataset: Any,
    rows: Sequence[Sequence[EncodedRow]],
    lora: Any,
    config: TrainConfig,
) -> Any:
    """Return a TRL trainer that takes rows in the order given and trains with `guarded_loss`.

    Args:
        model: Plain causal model.
        tokenizer: Its tokenizer.
        arguments: TRL's `SFTConfig`.
        dataset: Order of training: `kind` (0 with an answer, 1 guard) and `row` (place in `rows[kind]`).
        rows: Rows with answers, and guard rows.
        lora: PEFT configuration.
        config: Weights and sizes of the guard.
    """
    torch, base = require("torch", "train"), require("trl", "train").SFTTrainer

    class GuardedSFTTrainer(base):  # type: ignore[misc,valid-type]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            peft_model = self.accelerator.unwrap_model(model)
            with self.accelerator.autocast():
                loss, answers, kl = guarded_loss(peft_model, inputs, config, self.state.global_step)
            self._metrics["train"]["answer_loss"].append(answers)
            self._metrics["train"]["kl"].append(kl)
            return (loss, None) if return_outputs else loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            metrics = self._metrics["train"]
            for key, values in list(metrics.items()):
                metrics[key] = [float(value) for value in values]
            super().log(logs, start_time)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Write none: the package writes its own, with measurements."""

    pad_id = int(tokenizer.pad_token_id or 0)

    def gather(records: list[dict[str, int]]) -> dict[str, Any]:
        answered, held = ([rows[kind][r["row"]] for r in records if r["kind"] == kind] for kind in (0, 1))
        return collate(answered, held, pad_id)

    trainer = GuardedSFTTrainer(
        model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, peft_config=lora,
        data_collator=gather,
    )  # fmt: skip
    # The loss is a mean already: the trainer must divide by the micro batches itself.
    trainer.model_accepts_loss_kwargs = False
    return trainer
