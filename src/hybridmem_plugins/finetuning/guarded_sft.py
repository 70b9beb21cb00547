"""TRL's trainer with the guard in its loss. The class is made on call, because its base needs TRL to be imported."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.finetuning import guard as guarding
from hybridmem_plugins.finetuning.rows import IGNORED, EncodedRow

if TYPE_CHECKING:
    from hybridmem_plugins.finetuning.trainer import TrainConfig


def collate(
    rows: Sequence[EncodedRow], held: Sequence[EncodedRow], pad_id: int, config: TrainConfig, step: int
) -> dict[str, Any]:
    """Put rows with answers, and guard rows after them, into one batch, with the places that a loss is computed at.

    Guard rows are strung together up to the width of the answer rows, so that short ones cost no padding. Padding is
    on the right, where no token looks, so that attention needs no mask. All places are found here, on the CPU: looking
    for them on the GPU would make it wait in every step.

    Args:
        rows: At least one row with targets.
        held: Guard rows.
        pad_id: Token to pad with.
        config: Weights and sizes of the guard.
        step: Number of the batch; with the seed, it picks the guarded places.

    Returns:
        `input_ids` (rows, tokens); `answer_at`, `answer_to`, `answer_weight`: flat places, targets and weights that sum
        to 1; `reference`: the rows that the base is run on; `kl_at`, `kl_reference_at`: flat places in the batch and,
        in the same order, in the reference rows.
    """
    torch = require("torch", "train")
    width = max(len(row.input_ids) for row in rows)
    strips = _strips(held, width) if config.kl_weight else []
    filled = [(row.input_ids, row.guard) for row in rows] + strips
    answers = [
        (number * width + place - 1, label, 1.0 / _targets(row) / len(rows))
        for number, row in enumerate(rows)
        for place, label in enumerate(row.labels)
        if label != IGNORED
    ]
    count = max(1, -(-config.kl_rows // config.micro_batches))
    prompts = list(range(min(len(rows), count))) if config.kl_weight else []
    held_numbers = list(range(len(rows), len(filled)))
    rng = random.Random(f"{config.seed} {step}")
    picked = [
        place
        for numbers in (prompts, held_numbers)
        for place in _pick(filled, numbers, max(1, config.kl_tokens // config.micro_batches), rng)
    ]
    order = {number: position for position, number in enumerate([*prompts, *held_numbers])}
    return {
        "input_ids": torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in filled]),
        "answer_at": torch.tensor([place for place, _, _ in answers]),
        "answer_to": torch.tensor([label for _, label, _ in answers]),
        "answer_weight": torch.tensor([weight for _, _, weight in answers]),
        "reference": torch.tensor(list(order), dtype=torch.long),
        "kl_at": torch.tensor([number * width + place for number, place in picked], dtype=torch.long),
        "kl_reference_at": torch.tensor([order[number] * width + place for number, place in picked], dtype=torch.long),
    }


def _targets(row: EncodedRow) -> int:
    return sum(label != IGNORED for label in row.labels)


def _strips(held: Sequence[EncodedRow], width: int) -> list[tuple[list[int], list[int]]]:
    """String guard rows together, none longer than the width; what is over it starts the next strip."""
    ids = [token for row in held for token in row.input_ids]
    guard = [flag for row in held for flag in row.guard]
    return [(ids[at : at + width], [*guard[at : at + width - 1], 0]) for at in range(0, len(ids), width)]


def _pick(
    filled: Sequence[tuple[list[int], list[int]]], numbers: Sequence[int], count: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Choose at most `count` of the guarded places in some rows."""
    places = [(number, place) for number in numbers for place, flag in enumerate(filled[number][1]) if flag]
    return sorted(rng.sample(places, count)) if len(places) > count else places


def guarded_loss(model: Any, inputs: dict[str, Any], config: TrainConfig) -> tuple[Any, Any, Any]:
    """Return the loss of a batch, and its two parts: the answers' cross-entropy and the KL to the base.

    Args:
        model: PEFT model in training mode.
        inputs: A batch that `collate` made.
        config: Weights and sizes of the guard.
    """
    torch = require("torch", "train")
    states = guarding.hidden_states(model, inputs["input_ids"]).flatten(0, 1)
    answers = guarding.answer_loss(model, states[inputs["answer_at"]], inputs["answer_to"], inputs["answer_weight"])
    if not len(inputs["kl_at"]):
        return answers, answers.detach(), torch.zeros((), device=answers.device)
    with torch.no_grad(), guarding.without_adapter(model):
        reference = guarding.hidden_states(model, inputs["input_ids"][inputs["reference"]]).flatten(0, 1)
    kl = guarding.kl_to_base(model, states[inputs["kl_at"]], reference[inputs["kl_reference_at"]])
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
        dataset: Order of training: `kind` (0 with an answer, 1 guard), `row` (place in `rows[kind]`) and `step` (number
            of the batch).
        rows: Rows with answers, and guard rows.
        lora: PEFT configuration.
        config: Weights and sizes of the guard.
    """
    torch, base = require("torch", "train"), require("trl", "train").SFTTrainer
    keep_dtype = require("peft.helpers", "train").disable_input_dtype_casting

    class GuardedSFTTrainer(base):  # type: ignore[misc,valid-type]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            peft_model = self.accelerator.unwrap_model(model)
            # The adapter is float32 and autocast makes it bfloat16: turning its inputs to float32 first is for nothing.
            with self.accelerator.autocast(), keep_dtype(peft_model):
                loss, answers, kl = guarded_loss(peft_model, inputs, config)
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
        return collate(answered, held, pad_id, config, records[0]["step"])

    trainer = GuardedSFTTrainer(
        model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, peft_config=lora,
        data_collator=gather,
    )  # fmt: skip
    # The loss is a mean already: the trainer must divide by the micro batches itself.
    trainer.model_accepts_loss_kwargs = False
    return trainer
