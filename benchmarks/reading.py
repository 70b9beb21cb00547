"""Passages read one by one against passages read together, on a CPU: fit the choice, then measure it.

    python benchmarks/finetune.py items --data DIR --work WORK     # the evaluation sets
    python benchmarks/reading.py fit --work WORK                   # weights, from questions kept for choosing
    python benchmarks/reading.py measure --work WORK --page docs/finetuning.md
    python benchmarks/reading.py scales --data DIR --work WORK --page docs/finetuning.md --plot PNG

Every reading is kept in WORK, so that a run goes on where it stopped. Decoding is `fast_llama.py`'s, in bfloat16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from fast_llama import FastLocal
from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template
from hybridmem_plugins.finetuning import evaluate
from hybridmem_plugins.finetuning.choosing import ReadQuestion, fit_weights
from hybridmem_plugins.finetuning.forgetting import perplexity
from hybridmem_plugins.finetuning.metrics import bootstrap, paired_difference, score_answer
from hybridmem_plugins.finetuning.report import plot_trade
from hybridmem_plugins.finetuning.sets import EvalItem, read_rows
from hybridmem_plugins.generation import GenerationSettings
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.loading import adapter_caution, adapter_reading
from hybridmem_plugins.generation.reading import Reading, contexts_of, find_leads, settle
from results import write_marked

ADAPTER = "smollm2-135m"
FITTED_ON = 60
SCALES = (0, 0.25, 0.5, 0.75, 1, 1.25)
VIEWS = (
    "accuracy under noise (NQ held out + XQuAD)", "accuracy under noise, NQ", "accuracy under noise, XQuAD",
    "accuracy, irrelevant passages", "accuracy, hard negatives", "accuracy, damaged and distracted",
    "accuracy, unseen operators", "accuracy, clean", "exact match under noise", "F1 under noise",
    "abstains, answer absent", "wrong refusal, answer present", "wrong refusal, clean", "RGB true passages, 60% noise",
)  # fmt: skip


def as_dict(passage):
    return {"text": passage.text, "title": passage.title or ""}


class Readings:
    """Replies with their log-probabilities, kept on disk by question and passages.

    Abstentions are ruled out: the reply shows what the model would say, and `refusal` whether it would.

    Args:
        work: Folder.
        local: A function that loads the model when something new has to be read.
    """

    def __init__(self, work, local):
        self.file, self.local, self.known = Path(work) / "readings.jsonl", local, {}
        if self.file.is_file():
            for line in self.file.read_text(encoding="utf-8").split("\n"):
                if line.endswith("}"):
                    record = json.loads(line)
                    self.known[record.pop("k")] = record

    @staticmethod
    def key(question, passages):
        return hashlib.sha256(json.dumps([question, passages]).encode()).hexdigest()[:20]

    def read(self, asked):
        """Read what is new of (question, passages as dicts) and keep it."""
        new = {key: one for one in asked if (key := self.key(*one)) not in self.known}
        todo = sorted(new.items(), key=lambda item: sum(len(passage["text"]) for passage in item[1][1]))
        for start in range(0, len(todo), 48):
            part = todo[start : start + 48]
            with self.file.open("a", encoding="utf-8") as file:
                for (key, _), record in zip(part, self._generate([one for _, one in part]), strict=True):
                    self.known[key] = record
                    file.write(json.dumps({"k": key, **record}) + "\n")
            print(f"{start + len(part)} of {len(todo)}", flush=True)

    def _generate(self, asked):
        local = self.local()
        refusing = local.tokens(ABSTENTION)[0]
        settings = GenerationSettings(max_new_tokens=24, first_token_bias={refusing: -math.inf})
        rows, after = [], []
        for question, passages in asked:
            chat = get_template("numbered").messages(question, evaluate.as_passages(passages))
            text = render_chat(local.tokenizer, chat)
            place = text.rindex(question)
            row = local.row(local.tokens(text), settings)
            row.scored, row.weighed = len(local.tokens(" " + text[place:])), refusing
            rows.append(row)
            after.append(len(local.tokens(text[place + len(question) :])))
        local.run_rows(rows, settings, ADAPTER)
        return [
            {
                "text": row.text, "refusal": row.margin, "a": [round(one, 4) for one in row.logprobs],
                "q": [round(one, 4) for one in row.prompt_logprobs[: len(row.prompt_logprobs) - rest]],
                "n": len(row.prompt),
            }
            for row, rest in zip(rows, after, strict=True)
        ]  # fmt: skip

    def get(self, question, passages):
        """Return a kept reading, or None."""
        record = self.known.get(self.key(question, passages))
        if record is None:
            return None
        asked = sum(record["q"]) / len(record["q"]) if record["q"] else 0.0
        return Reading(record["text"], record["refusal"], sum(record["a"]), asked, record["n"], len(record["a"]))


def load_items(work):
    with lzma.open(Path(work) / "items.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [EvalItem(**json.loads(line)) for line in lines]


def chosen_items(items, questions, unseen):
    """Return a part of the sets: every n-th question of each reading set, every n-th unseen item, RGB at 60%."""
    chosen = []
    for suite in evaluate.READING:
        own = [item for item in items if item.suite == suite and not item.condition.startswith("unseen")]
        ids = list(dict.fromkeys(item.id.split("/", 3)[3] for item in own))
        kept = set(ids[:: max(1, len(ids) // questions)][:questions])
        chosen += [item for item in own if item.id.split("/", 3)[3] in kept]
    damaged = [item for item in items if item.condition.startswith("unseen") and item.suite in evaluate.READING]
    chosen += damaged[:: max(1, len(damaged) // max(1, unseen))][:unseen]
    return chosen + [one for one in items if one.suite == "rgb" and one.condition == "noise" and one.severity == 0.6]


def joint_items(items):
    """Return those that are also read together: slow, hence every other question and fewer conditions."""
    few = [item for item in items if item.condition in ("irrelevant", "hard", "absent")]
    ids = sorted({(item.suite, item.id.split("/", 3)[3]) for item in few})[::2]
    few = [item for item in few if (item.suite, item.id.split("/", 3)[3]) in set(ids)]
    return few + [item for item in items if item.suite == "rgb"][::2]


def contexts(item):
    """Return what is read for an item when each passage is read alone, as lists of dicts."""
    passages = evaluate.as_passages(item.passages)
    read = contexts_of(passages, find_leads(item.question, passages))
    own = [[], *([passage] for passage in item.passages)]
    return own + [[as_dict(passage)] for passage in read[1 + len(passages) :]]


def fit(options, tuned):
    items = [item for item in load_items(options.work) if item.suite == "nq-val"]
    kept = set(sorted({item.id.split("/", 3)[3] for item in items})[:FITTED_ON])
    items = [item for item in items if item.id.split("/", 3)[3] in kept]
    tuned.read([(item.question, passages) for item in items for passages in contexts(item)[: 1 + len(item.passages)]])
    questions = []
    for item in items:
        unread, *own = (tuned.get(item.question, one) for one in contexts(item)[: 1 + len(item.passages)])
        right = [score_answer(reading.text, item.answers).contained for reading in own]
        questions.append(ReadQuestion(unread, own, right, item.expect == "answer"))
    print(json.dumps({name: round(value, 4) for name, value in asdict(fit_weights(questions)).items()}))


def replies(item, tuned):
    """Return what each way replies to an item, where it was read."""
    weights, caution = adapter_reading(ADAPTER), adapter_caution(ADAPTER)
    passages, found = evaluate.as_passages(item.passages), {}
    own = [tuned.get(item.question, one) for one in contexts(item)]
    if None not in own:
        found["each"] = settle(passages, find_leads(item.question, passages), own, weights).text
    if (together := tuned.get(item.question, item.passages)) is not None:
        found["together"] = ABSTENTION if together.refusal + caution > 0 else together.text
    return found


def measure(options, tuned):
    items = chosen_items(load_items(options.work), options.questions, options.unseen)
    if not options.known:
        tuned.read([(item.question, one) for item in items for one in contexts(item)])
        tuned.read([(item.question, item.passages) for item in joint_items(items)])
    records = {"each": {}, "together": {}}
    for item in items:
        for way, reply in replies(item, tuned).items():
            records[way][item.id] = evaluate._scored(item, reply)
    table = write_table(records)
    print(table)
    if options.page:
        write_marked(options.page, "passages read one by one", [table])


def write_table(records):
    """Write all that was read one by one, and beside it what was also read together."""
    lines = ["| | each | n | each, of those also read together | together | n | each − together |", "|" + "---|" * 7]
    for name in VIEWS:
        each, together = (evaluate.view(records[way].values(), name) for way in ("each", "together"))
        both = [one for one in each if one in together]
        cells = [bootstrap(list(each.values())), len(each)]
        if both and len({records["each"][one]["condition"] for one in both} - {"clean"}) > 0:
            ours, theirs = [each[one] for one in both], [together[one] for one in both]
            cells += [bootstrap(ours), bootstrap(theirs), len(both), paired_difference(ours, theirs)]
        else:
            cells += ["–"] * 4
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def scales(options):
    """Perplexity and clean accuracy of the adapter at several scales, each kept once measured."""
    file = options.work / "scales.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    items = chosen_items(load_items(options.work), options.questions, 0)
    items = [item for item in items if item.condition == "clean"]
    for scale in SCALES:
        if str(scale) in known:
            continue
        local = FastLocal(adapter=ADAPTER, adapter_scale=scale, batch_size=12)
        texts = [row["text"] for row in read_rows(options.data / "forgetting/wiki-passages.jsonl.gz")][::4]
        ids = [local.tokens(text) for text in texts]
        losses = [one for start in range(0, len(ids), 8) for one in local.fast[ADAPTER].losses(ids[start : start + 8])]
        records = evaluate.run_items(local, items, caution=0.0, max_new_tokens=24)
        known[str(scale)] = {
            "perplexity": perplexity(losses), "contained": [record["contained"] for record in records],
            "exact": [record["exact"] for record in records],
        }  # fmt: skip
        file.write_text(json.dumps(known), encoding="utf-8")
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
        plot_trade(points, options.plot, "accuracy on clean passages, by adapter scale")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["fit", "measure", "scales"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=os.environ.get("HYBRIDMEM_DATA", "."))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--questions", type=int, default=50, help="of each reading set")
    parser.add_argument("--unseen", type=int, default=120, help="items with operators that training does not know")
    parser.add_argument("--known", action="store_true", help="read nothing new")
    parser.add_argument("--page", type=Path, help="page with marks between which the table belongs")
    options = parser.parse_args()
    kept = SimpleNamespace(local=None)

    def local():
        kept.local = kept.local or FastLocal(adapter=ADAPTER, batch_size=12)
        return kept.local

    tuned = Readings(options.work, local)
    if options.stage == "scales":
        scales(options)
    elif options.stage == "fit":
        fit(options, tuned)
    else:
        measure(options, tuned)


if __name__ == "__main__":
    main()
