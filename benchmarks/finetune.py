"""Train and measure the arms of the fine-tuning study; see docs/finetuning.md for the results.

    python benchmarks/finetune.py prepare --data DIR --work DIR [--model FILE]   # base model as a folder
    python benchmarks/finetune.py base    --data DIR --work DIR [--part replay|eval]
    python benchmarks/finetune.py arm     --data DIR --work DIR --name N --noise ours --seed 0 --kl 1 --share 0.25
    python benchmarks/finetune.py queue   --data DIR --work DIR --arms "name:noise:seed:kl:share ..." --gpus 2 --slots 3

`queue` starts one process per arm; each prepares its data at once and then waits for one of the GPUs' slots.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import gc
import json
import os
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

from hybridmem_plugins.finetuning import evaluate, forgetting, recipes
from hybridmem_plugins.finetuning.replay import answer_with_base
from hybridmem_plugins.finetuning.rows import RowEncoder, fitting_rows
from hybridmem_plugins.finetuning.sets import read_rows
from hybridmem_plugins.finetuning.trainer import Trainer
from hybridmem_plugins.generation import GenerationSettings, LocalModel, loading
from hybridmem_plugins.generation.chat import render_chat

STARTED = time.time()


def say(options, text):
    print(f"[{time.time() - STARTED:6.1f}s] {options.name}: {text}", flush=True)


def write_json(path, value):
    """Write in one step, so that a waiting process never reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    part.rename(path)


@contextlib.contextmanager
def gpu_slot(options):
    """Hold one of the GPUs' slots; the environment is set before torch sees a GPU."""
    if not options.gpus:
        yield "cpu"
        return
    locks = Path(options.work) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        for slot in range(options.slots):
            file = (locks / f"gpu{os.environ.get('CUDA_VISIBLE_DEVICES', 0)}-slot{slot}").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            yield "cuda"
            file.close()
            return
        time.sleep(0.5)


def fast_float32():
    import torch

    torch.set_float32_matmul_precision("high")


def load_model(options, device):
    folder = Path(options.work) / "base"
    return loading.load_base(folder, dtype="float32", device=device), loading.load_tokenizer(folder)


def prepare(options):
    source = options.model or loading.bundled_base()
    model, tokenizer = loading.load_base(source, dtype="float32", device="cpu"), loading.load_tokenizer(source)
    model.save_pretrained(Path(options.work) / "base")
    tokenizer.save_pretrained(Path(options.work) / "base")
    reread = loading.load_tokenizer(Path(options.work) / "base")
    chat = render_chat(reread, [{"role": "user", "content": "Ärger: 1,234.5 <b>x</b>\n\n``` don't \u00a0 \ufb01"}])
    say(options, f"tokenizer check {zlib.crc32(str(reread(chat, add_special_tokens=False)['input_ids']).encode())}")
    say(options, f"base folder written, vocabulary {len(tokenizer)}, stops {loading.stop_token_ids(tokenizer, model)}")


def eval_items(options):
    items = evaluate.load_items(options.data, questions=options.questions, unseen=options.unseen)
    return items[:: options.every]


def measure(options, local, adapter, name, items, full=True):
    """Write every reply and measure of one model under `results/NAME.*`."""
    out = Path(options.work) / "results"
    records = evaluate.run_items(local, items, adapter=adapter)
    evaluate.write_records(out / f"{name}.jsonl", records)
    noisy = list(evaluate.view(records, "accuracy under noise (NQ held out + XQuAD)").values())
    say(options, f"{name}: {len(records)} replies, accuracy under noise {sum(noisy) / max(1, len(noisy)):.3f}")
    wiki = [row["text"] for row in read_rows(Path(options.data) / "forgetting/wiki-passages.jsonl.gz")][
        :: options.every
    ]
    with local._using(adapter):
        losses = forgetting.text_losses(local, wiki, 32)
    summary = {"perplexity": forgetting.perplexity(losses), "losses": losses}
    say(options, f"{name}: perplexity {summary['perplexity']:.3f}")
    if full:
        prompts = read_rows(Path(options.data) / "forgetting/ifeval.jsonl.gz")[:: options.every]
        local.batch_size = len(prompts)  # decoding is bound by launches: one batch costs little more than a small one
        summary["ifeval"] = forgetting.run_ifeval(local, prompts, adapter, options.ifeval_tokens)
        strict = [all(row["followed"]) for row in summary["ifeval"]]
        local.batch_size = options.batch
        say(options, f"{name}: IFEval strict {sum(strict) / len(strict):.4f}")
    write_json(out / f"{name}.json", summary)


def base(options):
    with gpu_slot(options) as device:
        fast_float32()
        model, tokenizer = load_model(options, device)
        local = LocalModel.from_objects(model, tokenizer, batch_size=options.batch, settings=GenerationSettings())
        recipe = recipes.get_recipe("smollm2-135m")
        if options.part in ("replay", "all"):
            train, kept = recipes.replay_prompts(options.data, recipe)
            train, kept = train[:: options.every], kept[:: options.every]
            local.batch_size = 2 * options.batch
            rows = answer_with_base(local, [*kept, *train], max_new_tokens=recipe.replay_tokens)
            names = {row["id"] for row in kept}
            replay = {"kept": [r for r in rows if r["id"] in names], "train": [r for r in rows if r["id"] not in names]}
            write_json(Path(options.work) / "replay.json", replay)
            say(options, f"replay: {len(rows)} answers")
        if options.part in ("eval", "all"):
            local.batch_size = options.batch
            measure(options, local, "base", "base", eval_items(options))


def await_file(path, seconds=600):
    for _ in range(2 * seconds):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        time.sleep(0.5)
    msg = f"{path} did not appear"
    raise TimeoutError(msg)


def arm(options):
    recipe = recipes.get_recipe("smollm2-135m")
    rows = recipes.training_rows(recipe, options.data, seed=options.seed, arm=options.noise)[:: options.every]
    config = replace(
        recipe.config, kl_weight=options.kl, guard_share=options.share, seed=options.seed,
        micro_batches=options.micro, learning_rate=options.rate or recipe.config.learning_rate,
    )  # fmt: skip
    say(options, f"{len(rows)} rows made")
    encoder = RowEncoder(loading.load_tokenizer(Path(options.work) / "base"), config.max_length)
    rows, left_out = fitting_rows(rows, encoder.tokenizer, config.max_length)
    say(options, f"{left_out} rows do not fit")
    items = eval_items(options)
    tokens = sum(len(row.input_ids) for row in rows)
    say(options, f"{tokens} tokens in {len(rows)} rows, {len(items)} items to evaluate")
    replay = await_file(Path(options.work) / "replay.json")
    held = recipes.guard_rows(recipe, options.data, replay["train"], seed=options.seed)[:: options.every]
    held = [encoder.encode_guard(row) for row in held]
    out = Path(options.work) / "adapters" / options.name
    import torch

    with gpu_slot(options) as device:
        fast_float32()
        model, tokenizer = load_model(options, device)
        fresh = copy.deepcopy(model)
        trainer = Trainer(model, out, config, tokenizer=tokenizer)
        trainer.model_name = loading.BUNDLED_NAME
        began = time.time()
        result = trainer.train(rows, held, resume=False, progress=False, max_steps=options.max_steps)
        say(options, f"trained {result.steps} steps in {time.time() - began:.0f}s, last {result.log[-1:]}")
        del trainer.model, trainer.trained, trainer, model
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        tuned = loading.attach_adapter(fresh, options.name, out)
        local = LocalModel.from_objects(tuned, tokenizer, batch_size=options.batch)
        with local._using(options.name):
            same = forgetting.agreement(local, replay["kept"])
        write_json(Path(options.work) / "results" / f"{options.name}.agreement.json", same)
        for scale in [1.0, *map(float, options.scales.split(",") if options.scales else ())]:
            loading.set_adapter_scale(tuned, options.name, scale)
            tuned.merge_adapter()
            name = options.name if scale == 1.0 else f"{options.name}@{scale}"
            small = [item for item in items if item.suite == "nq" and not item.condition.startswith("unseen")]
            measure(options, local, options.name, name, items if scale == 1.0 else small, full=scale == 1.0)
            tuned.unmerge_adapter()
    (Path(options.work) / "results" / f"{options.name}.training.json").write_bytes((out / "training.json").read_bytes())


def queue(options):
    common = sys.argv[2:]
    logs = Path(options.work) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    jobs = []
    commands = [["base", "--name", "base", "--part", part] for part in options.base.split(",") if part]
    for entry in options.arms.split():
        name, noise, seed, kl, share, *scales = entry.split(":")
        command = ["arm", "--name", name, "--noise", noise, "--seed", seed, "--kl", kl, "--share", share]
        commands.append([*command, *(["--scales", scales[0]] if scales else [])])
    for number, command in enumerate(commands):
        log = (logs / f"{command[2]}-{number}.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        if options.gpus:  # one GPU for each process: TRL refuses to see several
            environment["CUDA_VISIBLE_DEVICES"] = str(number % options.gpus)
        jobs.append(
            subprocess.Popen(
                [sys.executable, __file__, command[0], *common, *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        )
        time.sleep(1.0 if number < 2 else 0.1)
    while any(job.poll() is None for job in jobs):
        time.sleep(5)
        if options.bundle:
            bundle(options)
    bundle(options)
    for command, job in zip(commands, jobs, strict=True):
        print(command[2], "exit", job.returncode, flush=True)


def bundle(options):
    """Pack results and logs into one file, replaced in one step, so that a killed call still brings the latest."""
    target = Path(options.bundle or Path(options.work) / "results.tgz")
    part = target.with_suffix(".part")
    folders = [name for name in ("results", "logs") if (Path(options.work) / name).is_dir()]
    subprocess.run(["tar", "-czf", str(part), "-C", str(options.work), *folders], check=False)
    part.rename(target)
    for file in Path(options.work).glob("adapters/*/adapter_model.safetensors"):
        keep = options.keep.split(",") if options.keep else []
        name = file.parent.name
        done = (file.parent / "training.json").is_file()
        copy_to = target.parent / f"{name}.safetensors"
        if name in keep and done and not copy_to.exists():
            copy_to.write_bytes(file.read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["prepare", "base", "arm", "queue"])
    parser.add_argument("--data", default=os.environ.get("HYBRIDMEM_DATA", ""))
    parser.add_argument("--work", required=True)
    parser.add_argument("--model")
    parser.add_argument("--name", default="-")
    parser.add_argument("--part", default="all")
    parser.add_argument("--base", default="")
    parser.add_argument("--arms", default="")
    parser.add_argument("--noise", default="ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kl", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--micro", type=int, default=1)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--scales", default="")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--unseen", type=int, default=50)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row of everything, for a dry run")
    parser.add_argument("--ifeval-tokens", type=int, default=640)
    parser.add_argument("--bundle")
    parser.add_argument("--keep", default="")
    options = parser.parse_args()
    {"prepare": prepare, "base": base, "arm": arm, "queue": queue}[options.stage](options)


if __name__ == "__main__":
    main()
