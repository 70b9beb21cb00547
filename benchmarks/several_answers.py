"""Several answers of each passage, and a judge of them: what choosing among more than the likeliest answer could gain.

A reader's second and third answer to a passage is often right where its first is not. `read` writes, for every
context of the evaluation sets, the likeliest answer and the likeliest ways to deviate from it at one token; `choose`
fits the choice among them on the validation questions and scores it. The stages in between train a judge: two readers,
each trained on one half of the questions, answer the other half, so that their mistakes are those of questions never
seen (as verifiers are trained in arXiv 2110.14168), and an adapter learns to say Yes or No to each answer beside the
sentence that holds it.

    python benchmarks/finetune.py rows    --data DIR --work DIR       # and items, prepare, as for the study
    python benchmarks/several_answers.py singles --data DIR --work DIR
    python benchmarks/several_answers.py half    --work DIR --half 0  # and --half 1, on a GPU
    python benchmarks/several_answers.py judge   --work DIR --name judge --steps 400
    python benchmarks/several_answers.py read    --work DIR --adapter DIR --name shipped
    python benchmarks/several_answers.py weigh   --work DIR --judge DIR/judge --name shipped
    python benchmarks/several_answers.py choose  --work DIR --name shipped
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import random
import re
import time
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import finetune
from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template, read_reply
from hybridmem_plugins.finetuning.evaluate import _scored, as_passages
from hybridmem_plugins.finetuning.rows import IGNORED, EncodedRow
from hybridmem_plugins.finetuning.sets import read_rows
from hybridmem_plugins.finetuning.trainer import Trainer
from hybridmem_plugins.generation import loading
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.reading import FULLER, _agree, contexts_of, find_evidence, find_leads
from hybridmem_plugins.passage import Passage

DEVIATIONS, LONGEST, KEPT = 5, 16, 4
"""Ways to deviate that are followed, tokens of an answer, and answers that are kept of a passage."""

LONGEST_PROMPT = 1900
_SINGLE = re.compile(r"\APassages:\n```\n\[1\] ?(.*?)\n(.*)\n```\n\nQuestion: (.*)\Z", re.DOTALL)
_STARTED = time.time()


def say(*told):
    print(f"[{time.time() - _STARTED:6.1f}s]", *told, flush=True)


class Tokens:
    """The prompts of reading and of judging, as token ids."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.cited, self.end = self.ids("[1]"), self.ids("<|im_end|>")[0]
        self.refusing = self.ids(ABSTENTION)[0]
        self.yes, self.no = self.ids("Yes")[0], self.ids("No")[0]

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def prompt(self, question, passages):
        """Return the prompt, and how many tokens at its end begin with the question and stand after it."""
        text = render_chat(self.tokenizer, get_template("numbered").messages(question, passages))
        place, ids = text.rindex(question), self.ids(text)
        tail = self.ids(" " + text[place:])
        if len(ids) > LONGEST_PROMPT:
            shorter = replace(passages[0], text=passages[0].text[: len(passages[0].text) * 4 // 5])
            return self.prompt(question, [shorter])
        return ids, (len(tail) if ids[-len(tail) :] == tail else 0), len(self.ids(text[place + len(question) :]))

    def judged(self, prompt, question, text, answer):
        """Return the prompt that asks whether an answer to the same question is right, in a turn after it."""
        evidence = find_evidence(question, answer, text)
        asked = (f'"{evidence}"\n' if evidence else "") + f"{question}\nIs it {answer}?"
        turn = f"[1] {answer}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        return prompt + self.ids(turn)


class Reader:
    """A model in its fastest form, for many prompts at once."""

    def __init__(self, options, adapter):
        import torch

        folder = Path(options.work) / "base"
        model = loading.load_base(folder, dtype="float32", device=options.device)
        model = loading.attach_adapter(model, "reader", adapter).merge_and_unload()
        self.torch, self.tokens = torch, Tokens(loading.load_tokenizer(folder))
        self.model = model.to(torch.bfloat16 if options.device == "cuda" else torch.float32).eval()
        self.device, self.batch = options.device, options.batch

    def _batches(self, prompts):
        """Yield prompts of like length together, padded on the left: their places, ids, mask and positions."""
        torch = self.torch
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            width = max(len(prompts[place]) for place in places)
            padding = [width - len(prompts[place]) for place in places]
            pairs = list(zip(padding, places, strict=True))
            ids = torch.tensor([[self.tokens.end] * pad + prompts[place] for pad, place in pairs], device=self.device)
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=self.device)
            yield places, ids, mask, (mask.cumsum(1) - 1).clamp(min=0)

    def _last_logits(self, prompts, keep=1):
        with self.torch.inference_mode():
            for places, ids, mask, positions in self._batches(prompts):
                kept = min(ids.shape[1], keep if isinstance(keep, int) else 1 + max(keep[place] for place in places))
                logits = self.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept, use_cache=False
                ).logits
                yield places, ids, logits

    def measures(self, asked):
        """Return the margin of refusing and the mean log-probability of the question, for `Tokens.prompt`s."""
        found = [(0.0, 0.0)] * len(asked)
        for places, ids, logits in self._last_logits([one[0] for one in asked], [one[1] for one in asked]):
            for number, place in enumerate(places):
                _, tail, after = asked[place]
                first = logits[number, -1].float()
                margin = float(first[self.tokens.refusing])
                first[self.tokens.refusing] = -math.inf
                question = 0.0
                if tail > after:
                    told = logits[number, -tail - 1 : logits.shape[1] - after - 1].float().log_softmax(-1)
                    wanted = ids[number, ids.shape[1] - tail : ids.shape[1] - after]
                    question = float(told.gather(1, wanted[:, None]).mean())
                found[place] = (margin - float(first.max()), question)
        return found

    def weigh(self, prompts):
        """Return how much likelier Yes is than No, in nats."""
        found = [0.0] * len(prompts)
        for places, _, logits in self._last_logits(prompts):
            last = logits[:, -1].float()
            for place, odds in zip(places, (last[:, self.tokens.yes] - last[:, self.tokens.no]).tolist(), strict=True):
                found[place] = odds
        return found

    def greedy(self, prompts):
        """Return, for each prompt, the likeliest tokens, their log-probabilities, and the four next best of each."""
        torch, found = self.torch, [None] * len(prompts)
        with torch.inference_mode():
            for places, ids, mask, positions in self._batches(prompts):
                out = self.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=True
                )
                last, steps = positions[:, -1:], []
                done = torch.zeros(len(places), dtype=torch.bool, device=self.device)
                while True:
                    values, tokens = out.logits[:, -1].float().log_softmax(-1).topk(5, -1)
                    steps.append((tokens, values))
                    done |= tokens[:, 0] == self.tokens.end
                    if len(steps) == LONGEST or bool(done.all()):
                        break
                    mask, last = torch.cat([mask, mask.new_ones(len(places), 1)], 1), last + 1
                    out = self.model(
                        input_ids=tokens[:, :1], attention_mask=mask, position_ids=last, use_cache=True,
                        past_key_values=out.past_key_values,
                    )  # fmt: skip
                told = torch.stack([one for one, _ in steps], 1).tolist()
                sure = torch.stack([one for _, one in steps], 1).tolist()
                for number, place in enumerate(places):
                    chosen = [step[0] for step in told[number]]
                    size = chosen.index(self.tokens.end) + 1 if self.tokens.end in chosen else len(chosen)
                    found[place] = (told[number][:size], sure[number][:size])
        return found

    def answers(self, contexts):
        """Return up to `KEPT` distinct answers of each context, the likeliest first: its text, its log-probability.

        Others than the likeliest must stand in the passage.

        Args:
            contexts: A passage's text with its title, and the prompt.
        """
        starts = [prompt + self.tokens.cited for _, prompt in contexts]
        first = self.greedy(starts)
        found = [[(self.tokens.text([one[0] for one in told]), sum(one[0] for one in sure))] for told, sure in first]
        ways = []
        for place, (told, sure) in enumerate(first):
            before, own = 0.0, []
            for step, (tokens, values) in enumerate(zip(told, sure, strict=True)):
                for token, value in zip(tokens[1:], values[1:], strict=True):
                    if step or token not in (self.tokens.end, self.tokens.refusing):
                        own.append((before + value, place, [one[0] for one in told[:step]] + [token]))
                before += values[0]
            ways += sorted(own, key=lambda way: -way[0])[:DEVIATIONS]
        running = [way for way in ways if way[2][-1] != self.tokens.end]
        more = iter(self.greedy([starts[place] + ids for _, place, ids in running]))
        for sure, place, ids in ways:
            told, values = next(more) if ids[-1] != self.tokens.end else ([], [])
            text = self.tokens.text(ids + [one[0] for one in told])
            found[place].append((text, sure + sum(one[0] for one in values)))
        return [_distinct(own, said) for own, (said, _) in zip(found, contexts, strict=True)]


def _distinct(answers, said):
    kept = {}
    for number, (text, sure) in enumerate([answers[0], *sorted(answers[1:], key=lambda one: -one[1])]):
        key = normalise_answer(text)
        if key and (number == 0 or contains_answer(said, [text])):
            kept.setdefault(key, (text, sure))
    return list(kept.values())[:KEPT]


def singles(options):
    """Write the training rows of one passage in the form that readings take, with their gold answers."""
    files = sorted(Path(options.data).glob("qa/train/*.jsonl.gz"))
    gold = {row["id"]: row["answers"] for file in files for row in read_rows(file)}
    made = {}
    for row in finetune.read_lines(Path(options.work) / "rows/ours-s0.jsonl.xz"):
        shown = _SINGLE.match(row["prompt"][-1]["content"])
        if not shown or "\n\n[2] " in shown[0]:
            continue
        reply = read_reply(row["completion"])
        answers = gold.get(row["id"].rpartition("/")[0], [] if reply.abstained else [reply.answer])
        told = dict(zip(("title", "text", "question"), shown.groups(), strict=True))
        made.setdefault(shown[0], {"id": row["id"], **told, "answers": answers, "absent": reply.abstained})
    finetune.write_lines(Path(options.work) / "singles.jsonl.xz", list(made.values()))
    say(len(made), "contexts")


def half_of(row):
    return zlib.crc32(row["id"].rpartition("/")[0].encode()) % 2


def half(options):
    """Train a reader on the rows of half of the questions, and write its answers to the other half's."""
    folder, count = Path(options.work), options.workers
    made = finetune.read_lines(folder / "rows/ours-s0.jsonl.xz")
    own = [row for row in made if half_of(row) == options.half][:: options.every]
    own = random.Random(options.half).sample(own, min(len(own), 64 * options.steps))
    with multiprocessing.get_context("fork").Pool(count) as pool:
        parts = pool.map(partial(finetune.encode_rows, folder / "base", 768), [own[n::count] for n in range(count)])
    _train(options, folder / f"half{options.half}", [row for rows, _ in parts for row in rows], rate=2e-3)
    reader = Reader(options, folder / f"half{options.half}")
    asked = [row for row in finetune.read_lines(folder / "singles.jsonl.xz") if half_of(row) != options.half]
    asked = asked[:: options.every]
    prompts = [reader.tokens.prompt(row["question"], [_passage(row)])[0] for row in asked]
    told = reader.answers([(_said(_passage(row)), prompt) for row, prompt in zip(asked, prompts, strict=True)])
    rows = [{**row, "candidates": own} for row, own in zip(asked, told, strict=True)]
    finetune.write_json(folder / f"candidates{options.half}.json", rows)
    there = [[_right(row, text) for text, _ in row["candidates"]] for row in rows if not row["absent"]]
    say(
        len(rows), "contexts; right first", _mean(own[:1] == [True] for own in there), "of four", _mean(map(any, there))
    )


def _mean(values):
    values = list(values)
    return round(sum(values) / max(1, len(values)), 3)


def _passage(row):
    return Passage(row["text"], row["title"] or None)


def _said(passage):
    return f"{passage.text} {passage.title or ''}"


def _right(row, answer):
    return not row["absent"] and contains_answer(answer, row["answers"])


def _train(options, out, rows, rate):
    finetune.fast_float32()
    model = loading.load_base(Path(options.work) / "base", dtype="float32", device=options.device)
    config = replace(
        finetune.recipes.get_recipe("smollm2-135m").config, kl_weight=0.0, learning_rate=rate, seed=options.seed,
        compile=options.device == "cuda", batch_size=min(64, len(rows)),
        epochs=max(1, -(-64 * options.steps // len(rows))),
    )  # fmt: skip
    trainer = Trainer(model, out, config, tokenizer=loading.load_tokenizer(Path(options.work) / "base"))
    trainer.model_name = loading.BUNDLED_NAME
    result = trainer.train(rows, [], resume=False, progress=False, max_steps=options.steps)
    say(out.name, "trained", result.steps, "steps on", len(rows), "rows")


def judge(options):
    """Train an adapter to tell right answers from wrong ones."""
    folder, rng, rows = Path(options.work), random.Random(options.seed), []
    told = [row for half in range(2) for row in finetune.await_file(folder / f"candidates{half}.json", 1500)]
    for row in told:
        flags = [(text, _right(row, text)) for text, _ in row["candidates"]]
        good, bad = [one for one in flags if one[1]], [one for one in flags if not one[1]]
        rows += [(row, *one) for one in (good[:1] + bad[: 1 if row["absent"] else 2])]
    rng.shuffle(rows)
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        shares = [rows[n :: options.workers] for n in range(options.workers)]
        encoded = [row for own in pool.map(partial(_encode_judged, folder / "base"), shares) for row in own]
    _train(options, folder / options.name, encoded, rate=1e-3)


def _encode_judged(folder, rows):
    tokens, encoded = Tokens(loading.load_tokenizer(folder)), []
    for row, answer, right in rows:
        passage = _passage(row)
        prompt = tokens.judged(tokens.prompt(row["question"], [passage])[0], row["question"], passage.text, answer)
        if len(prompt) < 700:
            reply = [tokens.yes if right else tokens.no, tokens.end]
            guard = [1] * (len(prompt) - 1) + [0] * 3
            encoded.append(EncodedRow(prompt + reply, [IGNORED] * len(prompt) + reply, guard))
    return encoded


def _contexts(options):
    """Return the items, their distinct contexts, and which of these each item has."""
    items, known, places = finetune.load_eval(options, "items"), {}, []
    for item in items:
        passages = as_passages(item.passages)
        places.append([
            known.setdefault((item.question, *((one.title, one.text) for one in context)), len(known))
            for context in contexts_of(passages, find_leads(item.question, passages))
        ])  # fmt: skip
    asked = [(question, [Passage(text, title) for title, text in shown]) for question, *shown in known]
    return items, asked, places


def _told(options):
    return Path(options.work) / "results" / f"{options.name}.answers.json.gz"


def _write_told(options, told):
    _told(options).parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(_told(options), "wt", encoding="utf-8") as file:
        json.dump(told, file)


def read(options):
    """Write the measures and answers of every context."""
    _, asked, _ = _contexts(options)
    reader = Reader(options, options.adapter)
    prompts = [reader.tokens.prompt(question, passages) for question, passages in asked]
    measures = reader.measures(prompts)
    say("measured", len(asked), "contexts")
    some = [place for place, (_, passages) in enumerate(asked) if passages]
    told = reader.answers([(_said(asked[place][1][0]), prompts[place][0]) for place in some])
    found = dict(zip(some, told, strict=True))
    _write_told(
        options,
        [
            {"refusal": refusal, "question": question, "answers": [[*one, 0.0] for one in found.get(place, [])]}
            for place, (refusal, question) in enumerate(measures)
        ],
    )
    say("answered")


def weigh(options):
    """Add to each answer what the judge says of it."""
    _, asked, _ = _contexts(options)
    reader = Reader(options, options.judge)
    with gzip.open(_told(options), "rt", encoding="utf-8") as file:
        told = json.load(file)
    prompts = [reader.tokens.prompt(question, passages)[0] for question, passages in asked]
    weighed = [
        (one, reader.tokens.judged(prompt, question, passages[0].text, one[0]))
        for (question, passages), prompt, context in zip(asked, prompts, told, strict=True)
        for one in context["answers"]
    ]
    for (answer, _), odds in zip(weighed, reader.weigh([prompt for _, prompt in weighed]), strict=True):
        answer[2] = odds
    _write_told(options, told)


@dataclass
class Asked:
    """An item's answers: the passage of each, its text and its measures, and which are right."""

    item: object
    answers: list
    right: list

    @property
    def answerable(self):
        return self.item.expect == "answer"


def _asked(item, own, told, kept):
    passages, found = as_passages(item.passages), []
    leads, (unread, *contexts) = find_leads(item.question, passages), [told[place] for place in own]
    for place, context in enumerate(contexts):
        led = place >= len(passages)
        at = leads[place - len(passages)].target if led else place
        for text, sure, odds in context["answers"][:kept]:
            if not led or normalise_answer(text) in ("yes", "no") or contains_answer(passages[at].text, [text]):
                asks = context["question"] - unread["question"]
                found.append((at, text, [-context["refusal"], sure, asks, unread["question"], odds]))
    right = [item.expect == "answer" and contains_answer(text, item.answers) for _, text, _ in found]
    return Asked(item, found, right)


def fit(questions, measures, declined=0.085):
    """Fit a conditional logit over answers and abstaining, as `finetuning.choosing.fit_weights` does over passages."""
    import torch

    used = [one for one in questions if one.answers and (any(one.right) or not one.answerable)]
    tables = [torch.tensor([[own[m] for m in measures] for *_, own in one.answers]).double() for one in used]
    every = torch.cat(tables)
    centre, spread = every.mean(0), every.std(0) + 1e-9
    weights = torch.zeros(len(measures) + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        loss = 0.0025 * weights[:-1].square().sum()
        for one, table in zip(used, tables, strict=True):
            odds = torch.cat([(table - centre) / spread @ weights[:-1] + weights[-1], weights.new_zeros(1)])
            wanted = torch.tensor([*one.right, not one.answerable])
            loss = loss + (odds.logsumexp(0) - odds[wanted].logsumexp(0)) / len(used)
        loss.backward()
        return loss

    optimiser.step(step)
    found = (weights[:-1].detach() / spread).tolist()

    def score(one):
        return [sum(w * own[m] for w, m in zip(found, measures, strict=True)) for *_, own in one.answers]

    sure = sorted(math.log(sum(map(math.exp, score(one)))) for one in questions if one.answerable and one.answers)
    bias = 1e-6 - sure[int(declined * len(sure))]
    return lambda one: [value + bias for value in score(one)]


def settle(question, scores, share):
    """Choose as `reading.settle` does; a fuller form must be so likely, as a share of the likeliest one."""
    surest = {}
    for (at, text, _), score in zip(question.answers, scores, strict=True):
        key = (at, normalise_answer(text))
        surest[key] = max(surest.get(key, (-math.inf, "")), (score, text))
    entries = [
        (at, text, math.exp(min(score, 500.0)), frozenset(key.split())) for (at, key), (score, text) in surest.items()
    ]
    if sum(odds for *_, odds, _ in entries) < 1.0:
        return ABSTENTION
    agreed = [sum(other[2] for other in entries if _agree(one[3], other[3])) for one in entries]
    best = entries[max(range(len(entries)), key=lambda n: (agreed[n], entries[n][2]))]
    fuller = [
        one for one in entries if one[3] > best[3] and len(one[3] - best[3]) <= FULLER and one[2] >= share * best[2]
    ]
    at, text, *_ = max(fuller, key=lambda one: one[2], default=best)
    return f"[{at + 1}] {text}"


def choose(options):
    """Print the figures of choosing among one and among several answers of each passage."""
    items, _, places = _contexts(options)
    with gzip.open(_told(options), "rt", encoding="utf-8") as file:
        told = json.load(file)
    judged = any(one[2] for context in told for one in context["answers"])
    for kept, share in ((1, 0.5), (KEPT, 0.5), (KEPT, 0.2), (KEPT, 0.05)):
        asked = [_asked(item, own, told, kept) for item, own in zip(items, places, strict=True)]
        for measures in ((0, 1, 2, 3), (0, 1, 2, 3, 4)) if judged else ((0, 1, 2, 3),):
            score = fit([one for one in asked if one.item.suite == "nq-val"], measures)
            shown = [one for one in asked if one.item.suite != "nq-val"]
            records = [_scored(one.item, settle(one, score(one), share)) for one in shown]
            noisy = [r for r in records if finetune.evaluate.is_noisy(r)]
            some = [any(one.right) for one, r in zip(shown, records, strict=True) if finetune.evaluate.is_noisy(r)]
            words = [len(read_reply(r["reply"]).answer.split()) for r in noisy if not r["abstained"]]
            print(f"answers {kept}, fuller from {share}, judge {len(measures) > 4}: {finetune.brief(records)}")
            print(f"    some right {_mean(some)}, F1 {_mean(r['f1'] for r in noisy)}, words {_mean(words)}", flush=True)


def main():
    stages = {one.__name__: one for one in (singles, half, judge, read, weigh, choose)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--data")
    parser.add_argument("--work", required=True)
    parser.add_argument("--name", default="judge")
    parser.add_argument("--adapter", type=Path, help="folder of the reader")
    parser.add_argument("--judge", type=Path, help="folder of the judge")
    parser.add_argument("--half", type=int, default=0, choices=[0, 1])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row, for a dry run")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    stages[options.stage](options)


if __name__ == "__main__":
    main()
