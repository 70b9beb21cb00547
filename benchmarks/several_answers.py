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
from hybridmem_plugins.finetuning import guard, guarded_sft
from hybridmem_plugins.finetuning.evaluate import _scored, as_passages
from hybridmem_plugins.finetuning.rows import IGNORED, EncodedRow
from hybridmem_plugins.finetuning.sets import read_rows
from hybridmem_plugins.finetuning.trainer import Trainer
from hybridmem_plugins.generation import LocalModel, loading
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.evidence import find_evidence
from hybridmem_plugins.generation.reading import FULLER, _agree, contexts_of, find_leads
from hybridmem_plugins.passage import Passage

DEVIATIONS, LONGEST, KEPT = 5, 16, 4
"""Ways to deviate that are followed, tokens of an answer, and answers that are kept of a passage."""

LONGEST_PROMPT, COLLATE = 1900, guarded_sft.collate
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

        These are up to `KEPT` distinct ones, the likeliest first, each with its log-probability. Others than the
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
        return sorted(ways, key=lambda way: -way[0])[:DEVIATIONS]

    def _greedy(self, begun, mask, cache):
        """Return the likeliest tokens after each prompt in the cache and what is begun, their log-probabilities, and
        the four next best of each.
        """
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
        own = {"id": row["id"], **told, "answers": answers, "absent": reply.abstained}
        made.setdefault(shown[0], {**own, "completion": row["completion"]})
    finetune.write_lines(Path(options.work) / "singles.jsonl.xz", list(made.values()))
    say(len(made), "contexts")


def half_of(row):
    return zlib.crc32(row["id"].rpartition("/")[0].encode()) % 2


def half(options):
    """Train a reader on the rows of half of the questions, and write its answers to the other half's."""
    folder, count = Path(options.work), options.workers
    made = finetune.read_lines(folder / "rows/ours-s0.jsonl.xz")
    own = [row for row in made if half_of(row) == options.half][:: options.every]
    own = random.Random(options.half).sample(own, min(len(own), options.size * options.steps))
    with multiprocessing.get_context("fork").Pool(count) as pool:
        parts = pool.map(partial(finetune.encode_rows, folder / "base", 768), [own[n::count] for n in range(count)])
    _train(options, folder / f"half{options.half}", [row for rows, _ in parts for row in rows], rate=2e-3)
    reader = Reader(options, folder / f"half{options.half}")
    asked = [row for row in finetune.read_lines(folder / "singles.jsonl.xz") if half_of(row) != options.half]
    asked = asked[:: options.every]
    asked = random.Random(options.half).sample(asked, min(len(asked), options.most))
    prompts = [reader.tokens.prompt(row["question"], [_passage(row)]) for row in asked]
    told = reader.read([(_said(_passage(row)), prompt) for row, prompt in zip(asked, prompts, strict=True)])
    rows = [{**row, "candidates": own} for row, (*_, own) in zip(asked, told, strict=True)]
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


def _train(options, out, rows, rate, guards=(), contrast=0.0):
    finetune.fast_float32()
    model = loading.load_base(Path(options.work) / "base", dtype="float32", device=options.device)
    recipe = finetune.recipes.get_recipe("smollm2-135m").config
    config = replace(
        recipe, kl_weight=recipe.kl_weight if guards else 0.0, learning_rate=rate, seed=options.seed,
        compile=options.device == "cuda", batch_size=min(options.size, len(rows)),
        epochs=max(1, -(-options.size * options.steps // len(rows))),
    )  # fmt: skip
    if contrast:
        guarded_sft.collate, guarded_sft.guarded_loss = collate_rivals, partial(contrasting_loss, contrast)
    trainer = Trainer(model, out, config, tokenizer=loading.load_tokenizer(Path(options.work) / "base"))
    trainer.model_name = loading.BUNDLED_NAME
    result = trainer.train(rows, guards, resume=False, progress=False, max_steps=options.steps)
    say(out.name, "trained", result.steps, "steps on", len(rows), "rows", result.log[-1:])


@dataclass(frozen=True, slots=True)
class Contested(EncodedRow):
    """A row whose answer is to be likelier than another one, a reader's mistake."""

    rival: tuple[int, ...] = ()


def collate_rivals(rows, held, pad_id, config, step):
    """As `guarded_sft.collate`, with rivals as more rows."""
    contested = [number for number, row in enumerate(rows) if getattr(row, "rival", ())]
    rivals = []
    for number in contested:
        row, rival = rows[number], list(rows[number].rival)
        prompt = row.input_ids[: len(row.input_ids) - guarded_sft._targets(row)]
        rivals.append(EncodedRow(prompt + rival, [IGNORED] * len(prompt) + rival, [0] * (len(prompt) + len(rival))))
    batch = COLLATE([*rows, *rivals], held, pad_id, config, step)
    import torch

    counts = torch.tensor([guarded_sft._targets(row) for row in (*rows, *rivals)])
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    batch["answer_weight"] = batch["answer_weight"] * len(counts) / len(rows) * (owner < len(rows))
    return {**batch, "owner": owner, "contested": torch.tensor(contested, dtype=torch.long)}


def contrasting_loss(weight, model, inputs, config):
    """As `guarded_sft.guarded_loss`, and how little likelier answers are than their rivals."""
    import torch

    states = guard.hidden_states(model, inputs["input_ids"]).flatten(0, 1)
    sure = -torch.nn.functional.cross_entropy(
        guard.head(model, states[inputs["answer_at"]]), inputs["answer_to"], reduction="none"
    )
    answers = -(sure * inputs["answer_weight"]).sum()
    contested, rows = inputs["contested"], int(inputs["owner"][-1]) + 1
    whole = torch.zeros(rows, device=sure.device).index_add(0, inputs["owner"], sure.float())
    ahead = whole[contested] - whole[rows - len(contested) :]
    contrast = torch.nn.functional.softplus(-ahead).sum() / max(1, rows - len(contested))
    with torch.no_grad(), guard.without_adapter(model):
        reference = guard.hidden_states(model, inputs["input_ids"][inputs["reference"]]).flatten(0, 1)
    kl = guard.kl_to_base(model, states[inputs["kl_at"]], reference[inputs["kl_reference_at"]])
    return answers + weight * contrast + config.kl_weight * kl, answers.detach(), kl.detach()


def _candidates(options):
    folder = Path(options.work)
    return [row for half in range(2) for row in finetune.await_file(folder / f"candidates{half}.json", 1500)]


def judge(options):
    """Train an adapter to tell right answers from wrong ones."""
    _train(options, Path(options.work) / options.name, _judged_rows(options), rate=1e-3)


def _judged_rows(options):
    rng, rows = random.Random(options.seed), []
    for row in _candidates(options):
        flags = [(text, _right(row, text)) for text, _ in row["candidates"]]
        good, bad = [one for one in flags if one[1]], [one for one in flags if not one[1]]
        rows += [(row, *one) for one in (good[:1] + bad[: 1 if row["absent"] else 2])]
    rng.shuffle(rows)
    return _encoded(options, _encode_judged, rows)


def _encoded(options, encode, rows):
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        shares = [rows[n :: options.workers] for n in range(options.workers)]
        return [row for own in pool.map(partial(encode, Path(options.work) / "base"), shares) for row in own]


def _encode_contested(folder, rows):
    tokens, encoded = Tokens(loading.load_tokenizer(folder)), []
    for row in rows:
        wrong = [text for text, _ in row["candidates"] if not _right(row, text)]
        prompt = tokens.prompt(row["question"], [_passage(row)])[0]
        if wrong and len(prompt) < 700:
            reply = [*tokens.ids(row["completion"]), tokens.end]
            rival = (*tokens.ids(f"[1] {wrong[0]}"), tokens.end)
            ids, labels = prompt + reply, [IGNORED] * len(prompt) + reply
            encoded.append(Contested(ids, labels, [1] * (len(prompt) - 1) + [0] * (len(reply) + 1), rival))
    return encoded


def both(options):
    """Train one adapter to read, under guard, with a share of rows that judge and a share that has rivals."""
    made = _judged_rows(options) if options.judging else []
    contested = _encoded(options, _encode_contested, _candidates(options)) if options.rivals else []
    rng, count = random.Random(options.seed), options.size * options.steps
    taken = [
        _drawn(rng, own, share)
        for own, share in ((made, int(options.judging * count)), (contested, int(options.rivals * count)))
    ]
    needs = argparse.Namespace(
        **vars(options) | {
            "recipe": finetune.recipes.get_recipe("smollm2-135m"), "arm": "ours", "items": "items", "leave": None,
            "steps": (count - sum(map(len, taken))) // options.size,
        }
    )  # fmt: skip
    encoded, guards, _ = finetune.encoded_rows(needs, needs.recipe.config)
    encoded = [row for row in encoded if len(row.input_ids) <= 768]
    say(options.name, len(encoded), "rows to read", *map(len, taken), "to judge and contested")
    _train(options, Path(options.work) / options.name, [*encoded, *taken[0], *taken[1]], 2e-3, guards, options.contrast)
    model = loading.load_base(Path(options.work) / "base", dtype="float32", device=options.device)
    model = loading.attach_adapter(model, options.name, Path(options.work) / options.name)
    local = LocalModel.from_objects(model, loading.load_tokenizer(Path(options.work) / "base"), batch_size=64)
    losses = finetune.wiki_losses(options, local, options.name)
    say(options.name, "perplexity", round(finetune.forgetting.perplexity(losses), 3))


def _drawn(rng, rows, count):
    """Draw so many rows, each again only when all were taken."""
    drawn = []
    while rows and len(drawn) < count:
        drawn += rng.sample(rows, min(len(rows), count - len(drawn)))
    return drawn


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
    stages = {one.__name__: one for one in (singles, half, judge, both, read, weigh, choose)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--data")
    parser.add_argument("--work", required=True)
    parser.add_argument("--name", default="judge")
    parser.add_argument("--adapter", type=Path, help="folder of the reader")
    parser.add_argument("--judge", type=Path, help="folder of the judge")
    parser.add_argument("--half", type=int, default=0, choices=[0, 1])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--size", type=int, default=64, help="rows of a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row, for a dry run")
    parser.add_argument("--room", type=int, default=400_000, help="prompt tokens of a batch that is read")
    parser.add_argument("--most", type=int, default=5000, help="contexts that each half answers")
    parser.add_argument("--judging", type=float, default=0.0, help="share of rows that judge")
    parser.add_argument("--rivals", type=float, default=0.0, help="share of rows with a rival")
    parser.add_argument("--contrast", type=float, default=0.0, help="weight of being likelier than the rival")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    stages[options.stage](options)


if __name__ == "__main__":
    main()
