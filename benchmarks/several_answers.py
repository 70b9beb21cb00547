"""Several answers of each passage, and a verifier of them, on the full evaluation sets; see docs/finetuning.md.

The stages do what `hybridmem train --recipe smollm2-135m-verifier` and `LocalModel.answer` do, in the form in which a
GPU reads tens of thousands of contexts in a minute or two. Another `--seed` trains on that seed's rows; give each a
`--work` of its own.

    python benchmarks/finetune.py rows    --data DIR --work DIR       # and items, prepare, as for the study
    python benchmarks/several_answers.py half     --work DIR --half 0   # and --half 1, on a GPU
    python benchmarks/several_answers.py verifier --work DIR --name verifier
    python benchmarks/several_answers.py read     --work DIR --adapter DIR --name shipped
    python benchmarks/several_answers.py weigh    --work DIR --verifier DIR/verifier --name shipped
    python benchmarks/several_answers.py choose   --work DIR --name shipped
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import random
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import finetune
from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template
from hybridmem_plugins.finetuning import evaluate, recipes
from hybridmem_plugins.finetuning.metrics import bootstrap
from hybridmem_plugins.finetuning.rows import EncodedRow
from hybridmem_plugins.finetuning.trainer import Trainer
from hybridmem_plugins.finetuning.verifier import VerifierConfig, half_of, is_right, single_contexts, verifier_rows
from hybridmem_plugins.generation import loading
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.decoding import Row
from hybridmem_plugins.generation.reading import contexts_of, find_leads, nearly_surest
from hybridmem_plugins.generation.settling import Reading
from hybridmem_plugins.generation.verifying import ANSWERS, BRANCHES, NEAR, Candidate, Opened, verifying_prompt
from hybridmem_plugins.passage import Passage

LONGEST, LONGEST_PROMPT = 16, 1900
_STARTED = time.time()


def say(*told):
    print(f"[{time.time() - _STARTED:6.1f}s]", *told, flush=True)


class Tokens:
    """The prompts of reading and of verifying, as token ids."""

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

    def opened(self, question, passage):
        """Return what asking a verifier needs of a passage that was read."""
        return Opened(question, passage, Row(self.prompt(question, [passage])[0], 1, str, None, set()))


class Reader:
    """A model in its fastest form, for many prompts at once."""

    def __init__(self, options, adapter):
        import torch

        folder = Path(options.work) / "base"
        model = loading.load_base(folder, dtype="float32", device=options.device)
        model = loading.attach_adapter(model, "reader", adapter).merge_and_unload()
        self.torch, self.tokens = torch, Tokens(loading.load_tokenizer(folder))
        self.model = model.to(torch.bfloat16 if options.device == "cuda" else torch.float32).eval()
        self.device, self.room = options.device, options.room

    def _batches(self, prompts):
        """Yield the places of prompts of like length, with no more tokens together than there is room for."""
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        while order:
            count, width = 0, 0
            for place in order:
                width = max(width, len(prompts[place]))
                if count and width * (count + 1) > self.room:
                    break
                count += 1
            yield order[:count]
            order = order[count:]

    def _padded(self, rows):
        """Return rows padded on the left: their ids, and which of them are real."""
        torch, width = self.torch, max(map(len, rows))
        ids = torch.tensor([[self.tokens.end] * (width - len(row)) + row for row in rows], device=self.device)
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return ids, real

    def _run(self, ids, mask, cache=None, kept=1):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept,
            past_key_values=cache, use_cache=cache is not None,
        )  # fmt: skip

    def weigh(self, prompts):
        """Return how much likelier Yes is than No, in nats."""
        found = [0.0] * len(prompts)
        with self.torch.inference_mode():
            for places in self._batches(prompts):
                last = self._run(*self._padded([prompts[place] for place in places])).logits[:, -1].float()
                odds = (last[:, self.tokens.yes] - last[:, self.tokens.no]).tolist()
                for place, one in zip(places, odds, strict=True):
                    found[place] = one
        return found

    def read(self, asked):
        """Return, for each context, the margin of refusing, the mean log-probability of the question and the answers.

        These are up to `ANSWERS` distinct ones, the likeliest first, each with its log-probability. Others than the
        likeliest must stand in the passage.

        Args:
            asked: What the passage says, with its title, and the prompt, from `Tokens.prompt`.
        """
        found = [None] * len(asked)
        with self.torch.inference_mode():
            for places in self._batches([prompt for _, (prompt, _, _) in asked]):
                for place, one in zip(places, self._read([asked[place] for place in places]), strict=True):
                    found[place] = one
        return found

    def _read(self, asked):
        from transformers import DynamicCache

        ids, mask = self._padded([prompt for _, (prompt, _, _) in asked])
        cache, width = DynamicCache(), ids.shape[1]
        logits = self._run(ids, mask, cache, 1 + max(tail for _, (_, tail, _) in asked)).logits
        measures = [self._measures(logits[n], ids[n], *asked[n][1][1:]) for n in range(len(asked))]
        del logits
        first = self._greedy([self.tokens.cited] * len(asked), mask, cache)
        found = [[(self.tokens.text([one[0] for one in told]), sum(one[0] for one in sure))] for told, sure in first]
        ways = [self._ways(told, sure) for told, sure in first]
        for number in range(max(map(len, ways))):
            cache.crop(width - cache.get_seq_length())
            taken = [own[number] if number < len(own) else (0.0, [self.tokens.end]) for own in ways]
            more = self._greedy([self.tokens.cited + started for _, started in taken], mask, cache)
            for own, (sure, started), (told, values), kept in zip(ways, taken, more, found, strict=True):
                if number < len(own):
                    ended = started[-1] == self.tokens.end
                    text = self.tokens.text(started + [one[0] for one in ([] if ended else told)])
                    kept.append((text, sure + sum(one[0] for one in ([] if ended else values))))
        return [
            (*measure, _distinct(own, said)) for measure, own, (said, _) in zip(measures, found, asked, strict=True)
        ]

    def _measures(self, logits, ids, tail, after):
        first, question = logits[-1].float(), 0.0
        margin = float(first[self.tokens.refusing])
        first[self.tokens.refusing] = -math.inf
        if tail > after:
            told = logits[-tail - 1 : len(logits) - after - 1].float().log_softmax(-1)
            question = float(told.gather(1, ids[len(ids) - tail : len(ids) - after][:, None]).mean())
        return margin - float(first.max()), question

    def _ways(self, told, sure):
        """Return the likeliest beginnings that deviate at their last token: log-probabilities and tokens."""
        before, ways = 0.0, []
        for step, (tokens, values) in enumerate(zip(told, sure, strict=True)):
            for token, value in zip(tokens[1:], values[1:], strict=True):
                if step or token not in (self.tokens.end, self.tokens.refusing):
                    ways.append((before + value, [one[0] for one in told[:step]] + [token]))
            before += values[0]
        return sorted(ways, key=lambda way: -way[0])[:BRANCHES]

    def _greedy(self, begun, mask, cache):
        """Go on greedily; return the tokens, their log-probabilities, and the four next best of each."""
        torch = self.torch
        ids, real = self._padded(begun)
        done, steps = torch.zeros(len(begun), dtype=torch.bool, device=self.device), []
        while True:
            mask = torch.cat([mask, real], 1)
            values, tokens = self._run(ids, mask, cache).logits[:, -1].float().log_softmax(-1).topk(5, -1)
            steps.append((tokens, values))
            done |= tokens[:, 0] == self.tokens.end
            if len(steps) == LONGEST or bool(done.all()):
                break
            ids, real = tokens[:, :1], mask.new_ones(len(begun), 1)
        told = torch.stack([one for one, _ in steps], 1).tolist()
        sure = torch.stack([one for _, one in steps], 1).tolist()
        found = []
        for own, values in zip(told, sure, strict=True):
            chosen = [step[0] for step in own]
            size = chosen.index(self.tokens.end) + 1 if self.tokens.end in chosen else len(chosen)
            found.append((own[:size], values[:size]))
        return found


def _distinct(answers, said):
    kept = {}
    for number, (text, sure) in enumerate([answers[0], *sorted(answers[1:], key=lambda one: -one[1])]):
        key = normalise_answer(text)
        if key and (number == 0 or (contains_answer(said, [text]) and sure >= answers[0][1] - NEAR)):
            kept.setdefault(key, (text, sure))
    return list(kept.values())[:ANSWERS]


def _passage(row):
    return Passage(row["passages"][0]["text"], row["passages"][0]["title"] or None)


def _said(passage):
    return f"{passage.text} {passage.title or ''}"


def half(options):
    """Train a reader on the rows of half of the questions, and write its answers to the other half's."""
    folder, count, config = Path(options.work), options.workers, recipes.get_recipe("smollm2-135m").config
    made = finetune.read_lines(folder / f"rows/{options.arm}-s{options.seed}.jsonl.xz")[:: options.every]
    own = [row for row in made if half_of(row) == options.half]
    own = random.Random(options.half).sample(own, min(len(own), options.size * VerifierConfig().reader_steps))
    with multiprocessing.get_context("fork").Pool(count) as pool:
        parts = pool.map(partial(finetune.encode_rows, folder / "base", 768), [own[n::count] for n in range(count)])
    _train(options, folder / f"half{options.half}", [row for rows, _ in parts for row in rows], config.learning_rate)
    reader = Reader(options, folder / f"half{options.half}")
    asked = [row for row in single_contexts(made) if half_of(row) != options.half]
    asked = random.Random(options.half).sample(asked, min(len(asked), VerifierConfig().contexts))
    prompts = [reader.tokens.prompt(row["question"], [_passage(row)]) for row in asked]
    told = reader.read([(_said(_passage(row)), prompt) for row, prompt in zip(asked, prompts, strict=True)])
    rows = [{**row, "candidates": [text for text, _ in own]} for row, (*_, own) in zip(asked, told, strict=True)]
    finetune.write_json(folder / f"candidates{options.half}.json", rows)
    there = [[is_right(row, text) for text in row["candidates"]] for row in rows if row["answers"]]
    say(len(rows), "contexts; right first", _mean(own[:1] == [True] for own in there), "of all", _mean(map(any, there)))


def _mean(values):
    values = list(values)
    return round(sum(values) / max(1, len(values)), 3)


def _train(options, out, rows, rate):
    finetune.fast_float32()
    model = loading.load_base(Path(options.work) / "base", dtype="float32", device=options.device)
    config = replace(
        recipes.get_recipe("smollm2-135m").config, kl_weight=0.0, learning_rate=rate, seed=options.seed,
        compile=options.device == "cuda", batch_size=min(options.size, len(rows)),
        epochs=max(1, -(-options.size * options.steps // len(rows))),
    )  # fmt: skip
    trainer = Trainer(model, out, config, tokenizer=loading.load_tokenizer(Path(options.work) / "base"))
    trainer.model_name = loading.BUNDLED_NAME
    result = trainer.train(rows, [], resume=False, progress=False, max_steps=options.steps)
    say(out.name, "trained", result.steps, "steps on", len(rows), "rows", result.log[-1:])


def verifier(options):
    """Train an adapter to tell right answers from wrong ones."""
    folder = Path(options.work)
    rows = [row for half in range(2) for row in finetune.await_file(folder / f"candidates{half}.json", 1500)]
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        shares = [rows[n :: options.workers] for n in range(options.workers)]
        made = [row for own in pool.map(partial(_verifier_rows, folder / "base"), shares) for row in own]
    _train(options, folder / options.name, made, VerifierConfig().learning_rate)


def _verifier_rows(folder, rows) -> list[EncodedRow]:
    tokenizer = loading.load_tokenizer(folder)
    tokens = Tokens(tokenizer)
    answered = (
        (row, tokens.opened(row["question"], _passage(row)), [f"[1] {text}" for text in row["candidates"]])
        for row in rows
    )
    return verifier_rows(tokenizer, answered, VerifierConfig().longest)


def _contexts(options):
    """Return the items, their distinct contexts, and which of these each item has."""
    items, known, places = finetune.load_eval(options, "items"), {}, []
    for item in items:
        passages = evaluate.as_passages(item.passages)
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


def _read_told(options):
    with gzip.open(_told(options), "rt", encoding="utf-8") as file:
        return json.load(file)


def read(options):
    """Write the measures and answers of every context."""
    _, asked, _ = _contexts(options)
    reader = Reader(options, options.adapter)
    prompts = [reader.tokens.prompt(question, passages) for question, passages in asked]
    told = reader.read([
        (_said(passages[0]) if passages else "", prompt) for (_, passages), prompt in zip(asked, prompts, strict=True)
    ])  # fmt: skip
    say("read", len(asked), "contexts")
    _write_told(
        options,
        [
            {"refusal": refusal, "question": question, "answers": [[*one, 0.0] for one in answers if passages]}
            for (refusal, question, answers), (_, passages) in zip(told, asked, strict=True)
        ],
    )


def weigh(options):
    """Add to each answer what the verifier says of it."""
    _, asked, _ = _contexts(options)
    reader, told = Reader(options, options.verifier), _read_told(options)
    weighed = []
    for (question, passages), context in zip(asked, told, strict=True):
        opened = reader.tokens.opened(question, passages[0]) if context["answers"] else None
        for one in context["answers"]:
            ids = verifying_prompt(reader.tokens.tokenizer, reader.tokens.ids, opened, f"[1] {one[0]}", "numbered")
            weighed.append((one, ids))
    for (answer, _), odds in zip(weighed, reader.weigh([ids for _, ids in weighed]), strict=True):
        answer[2] = odds
    _write_told(options, told)


def choose(options):
    """Print the weights fitted on the validation questions and the figures of the others, with the verifier and not."""
    items, _, places = _contexts(options)
    plain, verified = zip(*map(_readings, _read_told(options)), strict=True)
    each = [[plain[place] for place in own] for own in places]
    weights = _shown(items, each, "likeliest answers")
    near = [nearly_surest(range(len(own)), own, weights) for own in each]
    _shown(
        items,
        [
            [verified[place] if number in surest else plain[place] for number, place in enumerate(own)]
            for own, surest in zip(places, near, strict=True)
        ],
        "verified answers",
    )


def _readings(context):
    found = [Candidate(f"[1] {text}", sure, odds) for text, sure, odds in context["answers"]]
    first = found[0] if found else Candidate("", 0.0)
    reading = Reading(first.text, context["refusal"], first.answer, context["question"])
    return reading, replace(reading, candidates=tuple(one for one in found if one.answer >= first.answer - NEAR))


def _shown(items, each, name):
    weights = finetune.fitted(items, each)
    records = [one for one in evaluate.settle_items(items, each, weights) if one["suite"] != "nq-val"]
    print(f"{name}: {weights}\n    {finetune.brief(records)}", flush=True)
    for view in evaluate.VIEWS:
        values = list(evaluate.view(records, view).values())
        if values:
            print(f"    {view}: {bootstrap(values)}", flush=True)
    return weights


def main():
    stages = {one.__name__: one for one in (half, verifier, read, weigh, choose)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--data")
    parser.add_argument("--work", required=True)
    parser.add_argument("--name", default="verifier")
    parser.add_argument("--adapter", type=Path, help="folder of the reader")
    parser.add_argument("--verifier", type=Path, help="folder of the verifier")
    parser.add_argument("--arm", default="ours", choices=recipes.ARMS)
    parser.add_argument("--half", type=int, default=0, choices=[0, 1])
    parser.add_argument("--steps", type=int, default=250, help="500 for the verifier")
    parser.add_argument("--size", type=int, default=64, help="rows of a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row, for a dry run")
    parser.add_argument("--room", type=int, default=400_000, help="prompt tokens of a batch that is read")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    stages[options.stage](options)


if __name__ == "__main__":
    main()
