"""`hybridmem train`, `evaluate` and `export-model`: functions that the main command registers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from hybridmem_plugins.finetuning.trainer import TrainConfig
    from hybridmem_plugins.generation.local_model import ReadingMode

Data = Annotated[Path, typer.Option(envvar="HYBRIDMEM_DATA", help="Folder with qa/, retrieval/ and forgetting/.")]


def train(
    output: Annotated[Path, typer.Argument(help="Folder for the adapter.")],
    rows: Annotated[Path | None, typer.Option(help="JSON lines with prompt and completion.")] = None,
    guard: Annotated[
        Path | None, typer.Option(help="JSON lines with text, or prompt and the base's completion.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Repeat a shipped adapter's recipe, such as smollm2-135m.")] = None,
    data: Annotated[Path | None, typer.Option(envvar="HYBRIDMEM_DATA", help="Data folder of the recipe.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder or .gguf; default: the bundled 135M.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    kl_weight: Annotated[float | None, typer.Option(help="Weight of the guard against forgetting.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop early, for a trial.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's last checkpoint, or begin anew.")] = True,
) -> None:
    """Fine-tune a model with LoRA on noisy contexts, guarded against forgetting; goes on where it was killed."""
    from hybridmem_plugins.finetuning.trainer import TrainConfig

    if (rows is None) == (recipe is None):
        msg = "Give either --rows or --recipe."
        raise typer.BadParameter(msg)
    if recipe:
        _train_recipe(recipe, output, data, model, seed=seed, kl_weight=kl_weight, max_steps=max_steps, resume=resume)
        return
    config = _configured(TrainConfig(save_steps=100), seed, kl_weight)
    _train(output, config, _read(rows), _read(guard), model, steps=max_steps, resume=resume)


def _configured(config: TrainConfig, seed: int, kl_weight: float | None) -> TrainConfig:
    config = replace(config, seed=seed)
    return config if kl_weight is None else replace(config, kl_weight=kl_weight)


def _train(
    output: Path,
    config: Any,
    rows: list[Any],
    guard: list[Any],
    model: str | None,
    *,
    steps: int | None,
    resume: bool,
) -> None:
    from hybridmem_plugins.finetuning.trainer import Trainer

    result = Trainer(model, output, config).train(rows, guard, max_steps=steps, resume=resume)
    typer.echo(f"{result.steps} steps; adapter in {result.folder}")


def _read(file: Path | None) -> list[Any]:
    from hybridmem_plugins.finetuning.sets import read_rows

    return read_rows(file) if file else []


def _train_recipe(
    name: str,
    output: Path,
    data: Path | None,
    model: str | None,
    *,
    seed: int,
    kl_weight: float | None,
    max_steps: int | None,
    resume: bool,
) -> None:
    """Train by a recipe."""
    from hybridmem_plugins.finetuning import recipes
    from hybridmem_plugins.finetuning.verifier import VERIFIERS

    if data is None:
        msg = "A recipe needs --data (or HYBRIDMEM_DATA)."
        raise typer.BadParameter(msg)
    known = (*recipes.RECIPES, *VERIFIERS)
    if name not in known:
        msg = f"Unknown recipe {name!r}. Choose one of: {', '.join(known)}."
        raise typer.BadParameter(msg)
    if name in VERIFIERS:
        if kl_weight is not None:
            msg = "A verifier is asked nothing else and has no guard: --kl-weight does not apply."
            raise typer.BadParameter(msg)
        _train_recipe_verifier(name, output, data, model, seed=seed, max_steps=max_steps, resume=resume)
        return
    recipe = recipes.get_recipe(name)
    config = _configured(recipe.config, seed, kl_weight)
    replay, instructed = _base_answers(recipe, data, model, output, guarded=bool(config.kl_weight), resume=resume)
    rows, guard = _recipe_rows(recipe, data, model, seed, replay, instructed)
    _train(output, config, rows, guard, model, steps=max_steps or recipe.steps, resume=resume)


def _train_recipe_verifier(
    name: str, output: Path, data: Path, model: str | None, *, seed: int, max_steps: int | None, resume: bool
) -> None:
    from hybridmem_plugins.finetuning import recipes
    from hybridmem_plugins.finetuning.verifier import VERIFIERS, train_verifier

    reader, config = VERIFIERS[name]
    recipe = recipes.get_recipe(reader)
    rows = recipes.training_rows(recipe, data, seed=seed)
    result = train_verifier(
        rows, output, _configured(recipe.config, seed, None), config, model=model, max_steps=max_steps, resume=resume
    )
    typer.echo(f"{result.steps} steps; verifier in {result.folder}")


def _recipe_rows(
    recipe: Any, data: Path, model: str | None, seed: int, replay: list[Any], instructed: list[Any]
) -> tuple[list[Any], list[Any]]:
    from hybridmem_plugins.finetuning import recipes
    from hybridmem_plugins.finetuning.rows import fitting_rows
    from hybridmem_plugins.generation import loading

    made = recipes.training_rows(recipe, data, seed=seed) + recipe.rounds * instructed
    training, left_out = fitting_rows(made, loading.load_tokenizer(model), recipe.config.max_length)
    typer.echo(f"{len(training)} rows, {left_out} left out as too long")
    return training, recipes.guard_rows(recipe, data, replay, seed=seed) if replay else []


def _base_answers(
    recipe: Any, data: Path, model: str | None, output: Path, *, guarded: bool, resume: bool
) -> tuple[list[Any], list[Any]]:
    """Return the base's answers to general prompts, for the guard, and its answers that follow instructions."""
    from hybridmem_plugins.finetuning import recipes
    from hybridmem_plugins.finetuning.instructions import answer_instructed
    from hybridmem_plugins.finetuning.replay import answer_with_base
    from hybridmem_plugins.generation import LocalModel

    general = recipes.replay_prompts(data, recipe)[0] if guarded else []
    instructed = recipes.instruction_prompts(data, recipe) if recipe.instructed else []
    if not general and not instructed:
        return [], []
    local = LocalModel(model, batch_size=64)
    if local.model.device.type != "cpu":
        local.batch_size = 512
    typer.echo(f"the base answers {len(general) + len(instructed)} prompts, kept in {output} as they come")
    output.mkdir(parents=True, exist_ok=True)
    replay = answer_with_base(
        local, general, max_new_tokens=recipe.replay_tokens, temperature=recipe.replay_temperature,
        file=output / "replay.jsonl", resume=resume,
    )  # fmt: skip
    return replay, answer_instructed(local, instructed, file=output / "instructed.jsonl", resume=resume)


def evaluate(
    data: Data,
    output: Annotated[Path, typer.Option(help="Folder for replies and figures.")],
    adapter: Annotated[str | None, typer.Option(help="Adapter; default: the base alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder or .gguf; default: the bundled 135M.")] = None,
    scale: Annotated[float, typer.Option(help="Dial of the adapter.")] = 1.0,
    questions: Annotated[int, typer.Option(help="Questions from each reading set.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together.")] = 16,
    reading: Annotated[str | None, typer.Option(help="each or together; default: as the adapter answers.")] = None,
    forgetting: Annotated[bool, typer.Option(help="Measure perplexity and IFEval too.")] = True,
    resume: Annotated[bool, typer.Option(help="Go on with the replies of the same run, or begin anew.")] = True,
) -> None:
    """Measure a model under noise, its abstention, and what it forgot; every reply is kept as it comes."""
    from hybridmem_plugins.finetuning import evaluate as evaluation
    from hybridmem_plugins.finetuning import forgetting as keeping
    from hybridmem_plugins.finetuning.metrics import bootstrap
    from hybridmem_plugins.finetuning.sets import read_rows
    from hybridmem_plugins.generation.fingerprints import fingerprint
    from hybridmem_plugins.generation.local_model import BASE, LocalModel

    local = LocalModel(model, adapter=adapter, adapter_scale=scale, batch_size=batch_size)
    mode = local.reads(cast("ReadingMode | None", reading))
    items = evaluation.load_items(data, questions=questions)
    run = [fingerprint(local.name, adapter or BASE), scale]
    records = evaluation.keep_items(local, items, output / "replies.jsonl", run, reading=mode, resume=resume)
    lines = ["| measure | mean [95% interval] |", "|---|---|"]
    for name in evaluation.VIEWS:
        values = list(evaluation.view(records, name).values())
        lines += [f"| {name} | {bootstrap(values)} |"] if values else []
    if forgetting:
        texts = [row["text"] for row in read_rows(data / "forgetting/wiki-passages.jsonl.gz")]
        with local.using(local.default_adapter):
            lines.append(f"| perplexity | {keeping.perplexity(keeping.text_losses(local, texts)):.3f} |")
        prompts = read_rows(data / "forgetting/ifeval.jsonl.gz")
        checked = keeping.keep_ifeval(
            local, prompts, local.default_adapter, output / "ifeval.jsonl", run, resume=resume
        )
        strict = [float(all(row["followed"])) for row in checked]
        lines.append(f"| IFEval, strict by prompt | {bootstrap(strict)} |")
    (output / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo("\n".join(lines))


def blend(
    output: Annotated[Path, typer.Argument(help="New folder for the adapter.")],
    adapters: Annotated[list[str], typer.Argument(help="Two adapters or more: folders, hub ids or shipped names.")],
    weight: Annotated[list[float] | None, typer.Option(help="One for each adapter; default: all alike.")] = None,
    rank: Annotated[int, typer.Option(help="Rank of the result.")] = 32,
    model: Annotated[str | None, typer.Option(help="Hub id, folder or .gguf; default: the bundled 135M.")] = None,
) -> None:
    """Write the weighted mean of LoRA adapters of one base as one adapter."""
    from hybridmem_plugins.finetuning.blending import blend as write

    typer.echo(str(write(adapters, output, weights=weight or None, rank=rank, model=model)))


def export_model(
    adapter: Annotated[str, typer.Argument(help="Adapter folder, hub id or shipped name.")],
    output: Annotated[Path, typer.Argument(help="New folder, or new .gguf file.")],
    model: Annotated[str | None, typer.Option(help="Hub id, folder or .gguf; default: the bundled 135M.")] = None,
    form: Annotated[str, typer.Option("--form", "--format", help="merged, vllm-lora or gguf.")] = "merged",
    scale: Annotated[float, typer.Option(help="Dial of the adapter.")] = 1.0,
) -> None:
    """Write a merged Hugging Face folder, base and adapter as vLLM serves them, or a GGUF file."""
    from hybridmem_plugins.finetuning.export import export as write

    typer.echo(str(write(adapter, output, model=model, form=form, scale=scale)))
