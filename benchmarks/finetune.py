"""Train and measure the arms of the fine-tuning study; see docs/finetuning.md for the results.

    python benchmarks/finetune.py rows    --data DIR --work DIR --arm ours --seed 0   # once for each arm and seed
    python benchmarks/finetune.py items   --data DIR --work DIR
    python benchmarks/finetune.py prepare --work DIR [--model FILE]                   # base model as a folder
    python benchmarks/finetune.py base    --data DIR --work DIR [--part replay|instructed|eval]
    python benchmarks/finetune.py arm     --data DIR --work DIR --name N --arm ours --seed 0 --compile --full
    python benchmarks/finetune.py tabulate --work DIR --page docs/finetuning.md
    python benchmarks/finetune.py queue   --data DIR --work DIR --plan PLAN.json --gpus 2 --slots 2

`queue` starts one process for each entry of the plan (a list of objects with the options of `arm`); each prepares its
data at once and then waits for one of its GPU's slots. `rows` and `items` need no GPU and may run on another machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import gc
import json
import lzma
import multiprocessing
import os
import random
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from hybridmem_plugins import line_files
from hybridmem_plugins.finetuning import evaluate, forgetting, recipes, report
from hybridmem_plugins.finetuning.instructions import answer_instructed
from hybridmem_plugins.finetuning.replay import answer_with_base
from hybridmem_plugins.finetuning.rows import RowEncoder, fitting_rows
from hybridmem_plugins.finetuning.sets import EvalItem, NegativePool, read_rows, reading_items, split_by_document
from hybridmem_plugins.finetuning.trainer import Trainer
from hybridmem_plugins.generation import GenerationSettings, LocalModel, loading
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.settling import Reading
from results import write_marked

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
    await_file(folder / "ready.json")
    return loading.load_base(folder, dtype="float32", device=device), loading.load_tokenizer(folder)


def prepare(options):
    """Write the base as a folder; a tokenizer that is there already is kept, as making one from GGUF takes long."""
    source, folder = options.model or loading.bundled_base(), Path(options.work) / "base"
    loading.load_base(source, dtype="float32", device="cpu").save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        loading.load_tokenizer(source).save_pretrained(folder)
    tokenizer = loading.load_tokenizer(folder)
    chat = render_chat(tokenizer, [{"role": "user", "content": "Ärger: 1,234.5 <b>x</b>\n\n``` don't \u00a0 \ufb01"}])
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    write_json(folder / "ready.json", {})
    say(options, f"vocabulary {len(tokenizer)}, check {zlib.crc32(str(ids).encode())}")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", preset=9, encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_lines(path):
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def rows(options):
    """Write the noised rows of one arm and seed."""
    made = recipes.training_rows(options.recipe, options.data, seed=options.seed, arm=options.arm)
    write_lines(Path(options.work) / f"rows/{options.arm}-s{options.seed}.jsonl.xz", made)
    say(options, f"{options.arm}, seed {options.seed}: {len(made)} rows")


def items(options):
    """Write the evaluation sets, and another one over 200 training questions, to choose a recipe with."""
    made = evaluate.load_items(options.data, questions=options.questions, unseen=options.unseen)
    write_lines(Path(options.work) / "items.jsonl.xz", [item.as_dict() for item in made])
    train, held = split_by_document(
        read_rows(Path(options.data) / "qa/train/nq-open-oracle.jsonl.gz"), evaluate.HELD_OUT
    )
    _, tuning = split_by_document(train, 200, seed=1)
    pool = NegativePool([{"text": row["context"], "title": row["title"]} for row in train])
    chosen = reading_items("tuning", tuning, pool, unseen=0)
    chosen += [
        replace(item, id=f"{item.id}/untitled", suite="untitled", passages=untitled(item.passages))
        for item in chosen
        if item.condition in ("hard", "damaged", "absent")
    ]
    for draw in range(2):  # the 100 questions that choose among recipes, with two draws of distractors
        again = reading_items("nq-val", held[: evaluate.TUNING], pool, unseen=0, seed=10 + draw)
        chosen += [replace(item, id=f"{item.id}/{draw}") for item in again]
    write_lines(Path(options.work) / "tuning.jsonl.xz", [item.as_dict() for item in chosen])
    say(options, f"{len(made)} items, {len(chosen)} to choose a recipe with")


def untitled(passages):
    return [{"text": passage["text"]} for passage in passages]


def load_eval(options, name):
    return [EvalItem(**row) for row in read_lines(Path(options.work) / f"{name}.jsonl.xz")][:: options.every]


def pack(items, readings):
    """Make readings plain JSON, those that items share once."""
    distinct = {id(one): one for own in readings for one in own}
    places = {key: place for place, key in enumerate(distinct)}
    measures = ("refusal", "answer", "question")
    return {
        "readings": [[one.text, *(round(getattr(one, m), 4) for m in measures)] for one in distinct.values()],
        "items": {item.id: [places[id(one)] for one in own] for item, own in zip(items, readings, strict=True)},
    }  # fmt: skip


def unpack(path, items):
    """Return the readings of some items from what `pack` made."""
    told = json.loads(path.read_text(encoding="utf-8"))
    known = [Reading(*one) for one in told["readings"]]
    return [[known[place] for place in told["items"][item.id]] for item in items]


def fast_copy(local, batch):
    """Return a plain copy of a model in the fastest form to generate with, its adapter merged."""
    import torch

    plain = copy.deepcopy(local.model)
    plain = plain.merge_and_unload() if hasattr(plain, "merge_and_unload") else plain
    return LocalModel.from_objects(plain.to(torch.bfloat16), local.tokenizer, batch_size=batch)


def measure(options, exact, name, items, adapter="base"):
    """Write every reading and measure of one model under `results/NAME.*`; the fewest needed come last."""
    out = Path(options.work) / "results"
    quick = fast_copy(exact, options.batch)
    if not options.forgetting:
        each = evaluate.read_each(quick, items, max_new_tokens=24 if adapter != "base" else options.tokens)
        write_json(out / f"{name}.each.json", pack(items, each))
        with contextlib.suppress(ValueError):  # a dry run has too few to fit on
            say(options, f"{name}, each: {brief(evaluate.settle_items(items, each, fitted(items, each)))}")
    summary = {"losses": wiki_losses(options, exact, adapter)}
    summary["perplexity"] = forgetting.perplexity(summary["losses"])
    write_json(out / f"{name}.json", summary)
    say(options, f"{name}: perplexity {summary['perplexity']:.3f}")
    if options.full:
        prompts = read_rows(Path(options.data) / "forgetting/ifeval.jsonl.gz")[:: options.every]
        summary["ifeval"] = forgetting.run_ifeval(quick, prompts, "base", options.ifeval_tokens)
        strict = [all(row["followed"]) for row in summary["ifeval"]]
        say(options, f"{name}: IFEval strict {sum(strict) / len(strict):.4f}")
        write_json(out / f"{name}.json", summary)
    if options.forgetting:
        return
    if adapter == "base":
        records = evaluate.run_items(quick, items, max_new_tokens=options.tokens)
        line_files.write_lines(out / f"{name}.jsonl", records)
        say(options, f"{name}, together: {brief(records)}")
    elif options.together:
        quick.batch_size = max(1, options.batch // 4)
        together = evaluate.read_together(quick, items, max_new_tokens=24)
        write_json(out / f"{name}.together.json", pack(items, [[one] for one in together]))
        say(options, f"{name}, together: {brief(evaluate.decline(items, together))}")


def wiki_losses(options, local, adapter):
    texts = [row["text"] for row in read_rows(Path(options.data) / "forgetting/wiki-passages.jsonl.gz")]
    with local.using(adapter):
        return forgetting.text_losses(local, texts[:: options.every], 32)


def fitted(items, each):
    """Fit what chooses among readings, on the questions kept for it."""
    kept = [number for number, item in enumerate(items) if item.suite == "nq-val"]
    return evaluate.fit_reading([items[number] for number in kept], [each[number] for number in kept])


def settled(file, items):
    """Return the records of a run that was measured in full, from its readings and its own fitted choice."""
    each = unpack(file, items)
    return evaluate.settle_items(items, each, fitted(items, each))


def brief(records):
    """Name the figures that decide, over every suite together."""
    noisy = [r for r in records if r["suite"] in ("nq", "xquad", "tuning", "untitled")]
    answer = [r for r in noisy if r["expect"] == "answer"]
    parts = {
        "noise": [r["contained"] for r in answer if r["condition"] != "clean"],
        "unseen": [r["contained"] for r in answer if r["condition"].startswith("unseen")],
        "untitled": [r["contained"] for r in answer if r["suite"] == "untitled"],
        "clean": [r["contained"] for r in answer if r["condition"] == "clean"],
        "exact": [r["exact"] for r in answer if r["condition"] != "clean"],
        "abstains": [r["abstained"] for r in noisy if r["expect"] == "abstain"],
        "refuses wrongly": [r["abstained"] for r in answer],
        "rgb 0.6": [r["contained"] for r in records if r["suite"] == "rgb" and r["severity"] == 0.6],
    }
    for condition in ("irrelevant", "hard", "damaged"):
        parts[condition] = [r["contained"] for r in answer if r["condition"] == condition]
    return ", ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in parts.items() if values)


def base(options):
    with gpu_slot(options) as device:
        fast_float32()
        model, tokenizer = load_model(options, device)
        local = LocalModel.from_objects(model, tokenizer, batch_size=options.batch, settings=GenerationSettings())
        recipe = options.recipe
        if options.part in ("replay", "all"):
            train, kept = recipes.replay_prompts(options.data, recipe)
            train, kept = train[:: options.every], kept[:: options.every]
            local.batch_size = 2 * options.batch
            rows = answer_with_base(
                local, [*kept, *train], max_new_tokens=recipe.replay_tokens, temperature=recipe.replay_temperature
            )
            names = {row["id"] for row in kept}
            replay = {"kept": [r for r in rows if r["id"] in names], "train": [r for r in rows if r["id"] not in names]}
            write_json(Path(options.work) / "replay.json", replay)
            say(options, f"replay: {len(rows)} answers")
        if options.part in ("instructed", "all"):
            prompts = recipes.instruction_prompts(options.data, recipe)[:: options.every]
            local.batch_size = 4 * options.batch
            rows = answer_instructed(local, prompts)
            write_json(Path(options.work) / "instructed.json", rows)
            say(options, f"{len(rows)} answers follow their instructions, of {len(prompts)}")
        if options.part in ("eval", "all"):
            measure(options, local, "base", load_eval(options, "items"))


def await_file(path, seconds=600):
    for _ in range(2 * seconds):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        time.sleep(0.5)
    msg = f"{path} did not appear"
    raise TimeoutError(msg)


def encode_rows(folder, max_length, rows):
    """Encode some rows; runs in a process of its own."""
    return fitting_rows(rows, loading.load_tokenizer(folder), max_length)


def encode_guards(folder, max_length, rows):
    encoder = RowEncoder(loading.load_tokenizer(folder), max_length)
    return [encoder.encode_guard(row) for row in rows]


def copy_name(row):
    """Return `nq.4` for the fifth copy of a question of NQ, of any round."""
    return row["id"].partition("-")[0] + row["id"].rpartition("/")[2][1:]


def encoded_rows(options, config):
    """Read one arm's rows, without the questions that choose among recipes, and encode them in several processes."""
    made = read_lines(Path(options.work) / f"rows/{options.arm}-s{options.seed}.jsonl.xz")[:: options.every]
    if options.recipe.instructed:
        made += options.recipe.rounds * await_file(Path(options.work) / "instructed.json", 1500)
    if options.items == "tuning":
        kept = {item.id.split("/")[3] for item in load_eval(options, "tuning") if item.suite == "tuning"}
        made = [row for row in made if row["id"].rpartition("/")[0] not in kept]
    if options.leave:
        made = [
            row for row in made if row["id"].partition("-")[0] + row["id"].rpartition("/")[2][1:] not in options.leave
        ]
    needed = (options.steps or 0) * (options.size or options.recipe.config.batch_size)
    if 0 < needed < len(made):
        made = random.Random(options.seed).sample(made, needed)
    folder, count = Path(options.work) / "base", options.workers
    with multiprocessing.get_context("fork").Pool(count) as pool:
        parts = pool.map(partial(encode_rows, folder, config.max_length), [made[n::count] for n in range(count)])
        replay = await_file(Path(options.work) / "replay.json")
        held = recipes.guard_rows(options.recipe, options.data, replay["train"], seed=options.seed)[:: options.every]
        guards = pool.map(partial(encode_guards, folder, config.max_length), [held[n::count] for n in range(count)])
    encoded = [row for rows, _ in parts for row in rows]
    tokens, left = sum(len(row.input_ids) for row in encoded), sum(left for _, left in parts)
    say(options, f"{len(encoded)} rows, {tokens} tokens, {left} rows do not fit")
    return encoded, [row for rows in guards for row in rows], replay


def arm_config(options, count):
    size = options.size or options.recipe.config.batch_size
    changes = {
        "kl_weight": options.kl, "guard_share": options.share, "kl_tokens": options.kl_tokens,
        "learning_rate": options.rate, "rank": options.rank, "alpha": options.rank and 2 * options.rank,
        "micro_batches": options.micro, "batch_size": options.size, "compile": options.compile or None,
        "epochs": options.steps and max(1, -(-options.steps * size // max(size, count - count % size))),
    }  # fmt: skip
    return replace(
        options.recipe.config, seed=options.seed, **{key: value for key, value in changes.items() if value is not None}
    )


def arm(options):
    out = Path(options.work) / "adapters" / options.name
    items = load_eval(options, options.items)
    if not options.trained:
        encoded, held, _ = encoded_rows(options, options.recipe.config)
        say(options, f"{len(held)} guard rows; waits for its slot")
    import torch

    with gpu_slot(options) as device:
        fast_float32()
        model, tokenizer = load_model(options, device)
        fresh = copy.deepcopy(model)
        if not options.trained:
            trainer = Trainer(model, out, arm_config(options, len(encoded)), tokenizer=tokenizer)
            trainer.model_name = loading.BUNDLED_NAME
            began = time.time()
            result = trainer.train(encoded, held, resume=False, progress=False, max_steps=options.steps)
            say(options, f"trained {result.steps} steps in {time.time() - began:.0f}s, last {result.log[-1:]}")
            del trainer.model, trainer.trained, trainer
        del model
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        replay = await_file(Path(options.work) / "replay.json")
        tuned = loading.attach_adapter(fresh, options.name, out)
        local = LocalModel.from_objects(tuned, tokenizer, batch_size=options.batch)
        with local.using(options.name):
            same = forgetting.agreement(local, replay["kept"][:: options.every])
        write_json(Path(options.work) / "results" / f"{options.name}.agreement.json", same)
        measure(options, local, options.name, items, options.name)
    (Path(options.work) / "results" / f"{options.name}.training.json").write_bytes((out / "training.json").read_bytes())


def tabulate(options):
    """Write the table of all runs, each with the choice fitted for it; the last arm is compared with the first."""
    items, records, runs = load_eval(options, "items"), {}, {}
    for file in sorted((Path(options.work) / "results").glob("*.each.json")):
        name = file.name.split(".")[0]
        records[name] = settled(file, items)
        runs.setdefault(name.split("-")[0], []).append(name)
    runs = {arm: runs[arm] for arm in ("base", "clean", "random", "ours") if arm in runs}
    lines = report.accuracy_table(records, runs)
    print("\n".join(lines))
    if options.page:
        write_marked(Path(options.page), "passages read one by one", lines)


def queue(options):
    common = sys.argv[2:]
    logs = Path(options.work) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    jobs, commands = [], []
    for entry in json.loads(Path(options.plan).read_text(encoding="utf-8")):
        stage = entry.pop("stage", "arm")
        flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in entry.items()]
        commands.append([stage, "--name", entry["name"], *flags])
    for number, command in enumerate(commands):
        log = (logs / f"{command[2]}-{number}.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
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
        time.sleep(0.2)
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
        halves = [target.parent / f"{name}.safetensors.{number}" for number in range(2)]
        if name in keep and done and not halves[1].exists():
            whole = file.read_bytes()
            for number, half in enumerate(halves):  # what comes back may have 16 MiB a file
                half.write_bytes(whole[number * (len(whole) // 2) : len(whole) if number else len(whole) // 2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = {
        "rows": rows,
        "items": items,
        "prepare": prepare,
        "base": base,
        "arm": arm,
        "queue": queue,
        "tabulate": tabulate,
    }
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--data", default=os.environ.get("HYBRIDMEM_DATA", ""))
    parser.add_argument("--work", required=True)
    parser.add_argument("--model")
    parser.add_argument("--name", default="-")
    parser.add_argument("--recipe", type=recipes.get_recipe, default="smollm2-135m")
    parser.add_argument("--part", default="all")
    parser.add_argument("--plan")
    parser.add_argument("--arm", default="ours", choices=recipes.ARMS)
    parser.add_argument("--items", default="items", choices=["items", "tuning"])
    parser.add_argument("--seed", type=int, default=0)
    for flag in ("--kl", "--share", "--rate"):
        parser.add_argument(flag, type=float)
    for flag in ("--kl-tokens", "--rank", "--micro", "--steps", "--size"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--trained", action="store_true", help="measure the adapter that a run before left")
    parser.add_argument("--full", action="store_true", help="measure IFEval too")
    parser.add_argument("--forgetting", action="store_true", help="measure only what is forgotten")
    parser.add_argument("--leave", type=lambda text: set(text.split(",")), help="copies to leave out, such as nq.4")
    parser.add_argument("--together", action="store_true", help="read passages together too")
    parser.add_argument("--tokens", type=int, default=48, help="longest reply of the base")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--unseen", type=int, default=50)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row of everything, for a dry run")
    parser.add_argument("--ifeval-tokens", type=int, default=640)
    parser.add_argument("--page", help="page with marks between which the table belongs")
    parser.add_argument("--bundle")
    parser.add_argument("--keep", default="")
    options = parser.parse_args()
    options.steps = options.steps or options.recipe.steps
    stages[options.stage](options)


if __name__ == "__main__":
    main()
