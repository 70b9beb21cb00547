"""Measure an adapter on a CPU, on parts of the sets that `finetune.py` measures on a GPU.

    python benchmarks/finetune.py items --data DIR --work WORK     # the evaluation sets
    python benchmarks/reading.py fit     --work WORK --adapter A   # what chooses among readings, and the caution
    python benchmarks/reading.py measure --work WORK --adapter A --part 0/2
    python benchmarks/reading.py table   --work WORK --adapter A --full RESULTS
    python benchmarks/reading.py ifeval  --work WORK --adapter A --data DIR --part 0/2
    python benchmarks/reading.py scales  --work WORK --adapter A --data DIR --page docs/finetuning.md --plot PNG

Parts can run side by side, one core each. Decoding is `fast_llama.py`, in bfloat16. `RESULTS` holds what `finetune.py`
wrote for runs that were measured in full: the table sets the adapter beside them on the same items, and estimates from
that difference what the full sets would have shown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import zlib
from dataclasses import asdict
from pathlib import Path

from fast_llama import FastLocal
from finetune import fitted, load_eval, pack, settled, unpack, write_json
from hybridmem_plugins.augmentation.templates import read_reply
from hybridmem_plugins.finetuning import evaluate
from hybridmem_plugins.finetuning.forgetting import perplexity, run_ifeval
from hybridmem_plugins.finetuning.metrics import bootstrap, paired_difference
from hybridmem_plugins.finetuning.report import plot_trade
from hybridmem_plugins.finetuning.sets import read_rows
from hybridmem_plugins.generation.loading import adapter_reading
from results import write_marked

FITTED_ON = 60
SCALES = (0, 0.25, 0.5, 0.75, 1, 1.25)
VIEWS = (
    "accuracy under noise (NQ held out + XQuAD)", "accuracy under noise, NQ", "accuracy under noise, XQuAD",
    "accuracy, irrelevant passages", "accuracy, hard negatives", "accuracy, damaged and distracted",
    "accuracy, unseen operators", "accuracy, clean", "exact match under noise", "F1 under noise",
    "abstains, answer absent", "wrong refusal, answer present", "wrong refusal, clean", "RGB true passages, 60% noise",
)  # fmt: skip


def question_of(item):
    return item.id.split("/", 3)[3]


def fitting_items(options):
    """Return the questions that nothing was trained on and no table reports."""
    items = [item for item in load_eval(options, "items") if item.suite == "nq-val"]
    kept = set(sorted({question_of(item) for item in items})[:FITTED_ON])
    return [item for item in items if question_of(item) in kept]


def chosen_items(items, questions, unseen):
    """Return a part of the sets: every n-th question of each reading set, every n-th unseen item, RGB at 60%."""
    chosen = []
    for suite in evaluate.READING:
        own = [item for item in items if item.suite == suite and not item.condition.startswith("unseen")]
        ids = list(dict.fromkeys(question_of(item) for item in own))
        kept = set(ids[:: max(1, len(ids) // questions)][:questions])
        chosen += [item for item in own if question_of(item) in kept]
    damaged = [item for item in items if item.condition.startswith("unseen") and item.suite in evaluate.READING]
    chosen += damaged[:: max(1, len(damaged) // max(1, unseen))][:unseen]
    return chosen + [one for one in items if one.suite == "rgb" and one.condition == "noise" and one.severity == 0.6]


def own_part(options, items, key):
    """Return the share of some items that this process takes; what shares a key stays together."""
    number, count = map(int, options.part.split("/"))
    return [item for item in items if zlib.crc32(key(item).encode()) % count == number]


def kept_file(options, what, part=None):
    return options.work / f"cpu/{options.adapter.strip('/').replace('/', '-')}.{what}{part or ''}.json"


def fit(options):
    local, items = FastLocal(adapter=options.adapter, batch_size=24), fitting_items(options)
    each = evaluate.read_each(local, items)
    print(json.dumps({name: round(value, 4) for name, value in asdict(fitted(items, each)).items()}), flush=True)
    noisy = [item for item in items if item.expect == "answer"]
    margins = [reading.refusal for reading in evaluate.read_together(local, noisy, max_new_tokens=1)]
    print(json.dumps({"caution": round(evaluate.fit_caution(margins, noisy, 0.085), 3)}))


def measure(options):
    items = chosen_items(load_eval(options, "items"), options.questions, options.unseen)
    own = own_part(options, items, lambda item: item.question)
    each = evaluate.read_each(FastLocal(adapter=options.adapter, batch_size=24), own)
    write_json(kept_file(options, "each", options.part.replace("/", "of")), pack(own, each))


def table(options):
    """Write the sample's table, and what the full sets would have shown."""
    every = load_eval(options, "items")
    items, records = chosen_items(every, options.questions, options.unseen), {}
    for file in sorted(kept_file(options, "").parent.glob(kept_file(options, "each", "*").name)):
        known = json.loads(file.read_text(encoding="utf-8"))["items"]
        own = [item for item in items if item.id in known]
        chosen = evaluate.settle_items(own, unpack(file, own), adapter_reading(options.adapter))
        records |= {record["id"]: record for record in chosen}
    runs = [settled(file, every) for file in sorted(options.full.glob("ours-*.each.json"))]
    lines = ["| | this adapter, sample | n | the runs, same sample | runs, full sets | this adapter, estimated |"]
    lines.append("|" + "---|" * 6)
    for name in VIEWS:
        ours = evaluate.view(records.values(), name)
        full = [evaluate.view(run, name) for run in runs]
        same = [[one[key] for key in ours] for one in full]
        gain = paired_difference([list(ours.values())] * len(same), same)
        whole = bootstrap([list(one.values()) for one in full])
        guess = f"{whole.mean + gain.mean:.3f} [{whole.mean + gain.low:.3f}, {whole.mean + gain.high:.3f}]"
        cells = [bootstrap(list(ours.values())), len(ours), bootstrap(same), whole, guess]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    answered = [record for record in records.values() if record["expect"] == "answer" and not record["abstained"]]
    print(f"{sum(len(read_reply(record['reply']).cited) > 0 for record in answered)} of {len(answered)} answers cite")
    print("\n".join(lines))
    if options.page:
        write_marked(options.page, "the shipped adapter", lines)


def ifeval(options):
    adapter = None if options.adapter == "base" else options.adapter
    local = FastLocal(adapter=adapter, adapter_scale=options.scale, batch_size=24)
    prompts = read_rows(options.data / "forgetting/ifeval.jsonl.gz")
    prompts = own_part(options, random.Random(0).sample(prompts, len(prompts)), lambda row: str(row["key"]))
    scale = "" if options.scale == 1 else f"@{options.scale}"
    done, file = [], kept_file(options, f"ifeval{scale}", options.part.replace("/", "of"))
    for start in range(0, len(prompts), 48):
        done += run_ifeval(local, prompts[start : start + 48], local.default_adapter)
        write_json(file, done)
        strict = [all(row["followed"]) for row in done]
        print(f"{len(done)} of {len(prompts)}: {sum(strict) / len(strict):.4f}", flush=True)


def scales(options):
    """Perplexity and clean accuracy of the adapter at several scales, each kept once measured."""
    file = kept_file(options, "scales")
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    items = chosen_items(load_eval(options, "items"), options.questions, 0)
    items = [item for item in items if item.condition == "clean"]
    for scale in SCALES:
        if str(scale) in known:
            continue
        local = FastLocal(adapter=options.adapter, adapter_scale=scale, batch_size=12)
        texts = [row["text"] for row in read_rows(options.data / "forgetting/wiki-passages.jsonl.gz")][::4]
        ids = [local.tokens(text) for text in texts]
        held = local.fast[local.default_adapter]
        losses = [one for start in range(0, len(ids), 8) for one in held.losses(ids[start : start + 8])]
        records = evaluate.run_items(local, items, caution=0.0, max_new_tokens=24, reading="together")
        known[str(scale)] = {
            "perplexity": perplexity(losses), "contained": [record["contained"] for record in records],
            "exact": [record["exact"] for record in records],
        }  # fmt: skip
        write_json(file, known)
    base = known["0"]["perplexity"]
    lines = ["| scale | perplexity | change | clean accuracy | exact match |", "|---|---|---|---|---|"]
    for scale in SCALES:
        one = known[str(scale)]
        change = f"{one['perplexity'] / base - 1:+.1%}" if scale else ""
        answers = [bootstrap([float(value) for value in one[name]]) for name in ("contained", "exact")]
        lines.append(f"| {scale} | {one['perplexity']:.2f} | {change} | {answers[0]} | {answers[1]} |")
    print("\n".join(lines))
    if options.page:
        write_marked(options.page, "adapter scales", lines)
    if options.plot:
        points = {str(s): (known[str(s)]["perplexity"], bootstrap(known[str(s)]["contained"]).mean) for s in SCALES}
        plot_trade(points, options.plot, "clean accuracy, by adapter scale")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = {one.__name__: one for one in (fit, measure, table, ifeval, scales)}
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--adapter", default="smollm2-135m", help="folder or name; for ifeval also `base`")
    parser.add_argument("--data", type=Path, default=os.environ.get("HYBRIDMEM_DATA", "."))
    parser.add_argument("--scale", type=float, default=1.0, help="of the adapter, for ifeval")
    parser.add_argument("--part", default="0/1", help="this process's share, such as 0/2")
    parser.add_argument("--full", type=Path, help="folder with the readings of runs measured in full")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--questions", type=int, default=50, help="of each reading set")
    parser.add_argument("--unseen", type=int, default=120, help="items with operators that training does not know")
    parser.add_argument("--page", type=Path, help="page with marks between which the table belongs")
    options = parser.parse_args()
    options.every = 1
    stages[options.stage](options)


if __name__ == "__main__":
    main()
