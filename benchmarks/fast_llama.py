"""A Llama decoder for measuring on a CPU: no padding, one prefix read once, key-value cache in place, bfloat16.

Gives what `transformers` gives to within rounding (`python benchmarks/fast_llama.py` compares the two), at about three
times the speed on one core, where batches of short replies spend their time copying caches and padding.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hybridmem_plugins.generation import LocalModel
from hybridmem_plugins.generation.decoding import shared_length
from hybridmem_plugins.generation.local_model import BASE

NEVER = -1e30


class FastLlama:
    """The weights of a plain `LlamaForCausalLM`, read in batches of unlike lengths."""

    def __init__(self, model, dtype=torch.bfloat16):
        config, inner = model.config, model.model
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size, self.epsilon, self.dtype = config.hidden_size // self.heads, config.rms_norm_eps, dtype
        cast = lambda weight: weight.detach().to(dtype)  # noqa: E731
        self.embedding, self.head = cast(inner.embed_tokens.weight), cast(model.lm_head.weight)
        self.norm = inner.norm.weight.detach().float()
        self.layers = [
            (
                layer.input_layernorm.weight.detach().float(),
                torch.cat([cast(getattr(layer.self_attn, f"{name}_proj").weight) for name in "qkv"]),
                cast(layer.self_attn.o_proj.weight),
                layer.post_attention_layernorm.weight.detach().float(),
                torch.cat([cast(layer.mlp.gate_proj.weight), cast(layer.mlp.up_proj.weight)]),
                cast(layer.mlp.down_proj.weight),
            )
            for layer in inner.layers
        ]
        places = torch.arange(config.max_position_embeddings)
        self.cos, self.sin = (table[0].float() for table in inner.rotary_emb(torch.zeros(1), places[None]))
        self.prefixes = {}

    def _normed(self, x, weight):
        x = x.float()
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * weight).to(self.dtype)

    def _turned(self, x, places):
        """Rotate (tokens, heads, size) by its places."""
        cos, sin = self.cos[places].unsqueeze(1), self.sin[places].unsqueeze(1)
        x = x.float()
        half = self.size // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    def _forward(self, ids, places, attend):
        x = self.embedding[ids].float()
        for number, (norm, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            made = functional.linear(self._normed(x, norm), qkv)
            made = made.view(len(ids), self.heads + 2 * self.groups, self.size)
            turned = self._turned(made[:, : self.heads + self.groups], places)
            q, k, v = turned[:, : self.heads], turned[:, self.heads :], made[:, self.heads + self.groups :]
            x = x + functional.linear(attend(number, q, k, v).to(self.dtype), out)
            gate, up = functional.linear(self._normed(x, norm2), gate_up).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, down)
        return self._normed(x, self.norm)

    def logits(self, states):
        """Return float32 logits of final states (tokens, width)."""
        return functional.linear(states, self.head).float()

    def read(self, rows, room=0, prefix=None):
        """Read rows of token ids, all of which begin with `prefix`; return their final states and the cache.

        Args:
            rows: Lists of ids, prefix included.
            room: Places to keep free in the cache of each row.
            prefix: Ids that all rows begin with; read once and remembered.
        """
        before, start = (None, 0) if not prefix else (self._remembered(tuple(prefix)), len(prefix))
        lengths = [len(row) - start for row in rows]
        widest = start + max(lengths) + room
        cache = torch.zeros(len(self.layers), 2, len(rows), self.groups, widest, self.size)
        if before is not None:
            cache[:, :, :, :, :start] = before
        places = torch.cat([torch.arange(start, start + length) for length in lengths])
        masks = {
            length: torch.ones(length, start + length, dtype=torch.bool).tril(start) for length in set(lengths) if start
        }

        def attend(layer, q, k, v):
            done, first = [], 0
            for row, length in enumerate(lengths):
                own, end = slice(first, first + length), start + length
                cache[layer, 0, row, :, start:end] = k[own].transpose(0, 1)
                cache[layer, 1, row, :, start:end] = v[own].transpose(0, 1).float()
                keys, values = (
                    cache[layer, part, row, :, :end]
                    .to(self.dtype)
                    .repeat_interleave(self.heads // self.groups, 0)[None]
                    for part in (0, 1)
                )
                query = q[own].transpose(0, 1)[None].to(self.dtype)
                mask = masks[length] if start else None
                heard = functional.scaled_dot_product_attention(query, keys, values, mask, is_causal=mask is None)
                done.append(heard[0].transpose(0, 1).reshape(length, -1))
                first += length
            return torch.cat(done)

        states = self._forward(torch.tensor([token for row in rows for token in row[start:]]), places, attend)
        return list(states.split(lengths)), cache, torch.tensor([len(row) for row in rows])

    def _remembered(self, prefix):
        if prefix not in self.prefixes:
            self.prefixes[prefix] = self.read([list(prefix)])[1]
        return self.prefixes[prefix]

    def step(self, tokens, cache, filled):
        """Read one more token of each row into the cache; return the final states."""
        count, end = len(tokens), int(filled.max()) + 1
        hidden = torch.where(torch.arange(end)[None] > filled[:, None], NEVER, 0.0)[:, None, None]
        rows = torch.arange(count)

        def attend(layer, q, k, v):
            cache[layer, 0, rows, :, filled], cache[layer, 1, rows, :, filled] = k, v.float()
            query = q.view(count, self.groups, -1, self.size)
            scores = query @ cache[layer, 0, :, :, :end].transpose(-1, -2) / self.size**0.5 + hidden
            return (scores.softmax(-1) @ cache[layer, 1, :, :, :end]).reshape(count, -1)

        return self._forward(torch.tensor(tokens), filled, attend)

    @torch.inference_mode()
    def generate(self, rows, stop, *, most, prefix=None, bias=None, scored=(), weighed=None, rivals=0):
        """Continue rows greedily.

        Args:
            rows: Lists of ids.
            stop: Ids that end a row.
            most: Longest reply of each row.
            prefix: See `read`.
            bias: Token to what is added to its logit in the first place.
            scored: For each row how many tokens at its end are scored.
            weighed: Token whose logit in the first place is compared with the best other one.
            rivals: How many of the next best tokens are kept at each place.

        Returns:
            For each row a dict: `ids` (the stop token included), `logprobs`, `beaten`, `prompt_logprobs`, `margin`.
        """
        states, cache, filled = self.read(rows, max(most), prefix)
        made = [{"ids": [], "logprobs": [], "beaten": [], "prompt_logprobs": [], "margin": 0.0} for _ in rows]
        for one, own, row, count in zip(made, states, rows, scored or [0] * len(rows), strict=True):
            if count:
                told = self.logits(own[-1 - count : -1]).log_softmax(-1)
                one["prompt_logprobs"] = told.gather(1, torch.tensor(row[-count:])[:, None])[:, 0].tolist()
        logits = self.logits(torch.stack([own[-1] for own in states]))
        if weighed is not None:
            others = logits.clone()
            others[:, weighed] = -torch.inf
            for one, margin in zip(made, (logits[:, weighed] - others.max(-1).values).tolist(), strict=True):
                one["margin"] = margin
        for token, added in (bias or {}).items():
            logits[:, token] += added
        running = list(range(len(rows)))
        while running:
            best = logits.topk(1 + rivals, -1)
            certain, tokens = (best.values - logits.logsumexp(-1, keepdim=True)).tolist(), best.indices.tolist()
            left = []
            for place, (index, (token, *others)) in enumerate(zip(running, tokens, strict=True)):
                made[index]["ids"].append(token)
                made[index]["logprobs"].append(certain[place][0])
                made[index]["beaten"].append(list(zip(others, certain[place][1:], strict=True)))
                if token not in stop and len(made[index]["ids"]) < most[index]:
                    left.append(place)
            if not left:
                break
            if len(left) < len(running):
                cache, filled, running = cache[:, :, left], filled[left], [running[place] for place in left]
            logits = self.logits(self.step([made[index]["ids"][-1] for index in running], cache, filled))
            filled = filled + 1
        return made

    @torch.inference_mode()
    def losses(self, rows):
        """Return each row's summed negative log-likelihood in nats and its number of predicted tokens."""
        states, _, _ = self.read(rows)
        return [
            (
                float(functional.cross_entropy(self.logits(own[:-1]), torch.tensor(row[1:]), reduction="sum")),
                len(row) - 1,
            )
            for own, row in zip(states, rows, strict=True)
        ]


class FastLocal(LocalModel):
    """A `LocalModel` whose greedy decoding is done by `FastLlama`."""

    def __init__(self, *args, **options):
        super().__init__(*args, device="cpu", dtype="float32", **options)
        self.fast = {}
        for name in self.adapters:
            with self.using(name):
                if name != BASE:
                    self.model.merge_adapter([name])
                self.fast[name] = FastLlama(self.model.get_base_model() if self.adapters[1:] else self.model)
                if name != BASE:
                    self.model.unmerge_adapter()

    def run_rows(self, rows, settings, adapter, *, cancelled=None):
        """Do as `LocalModel.run_rows`."""
        if settings.temperature or settings.stop or settings.repetition_penalty != 1.0:
            msg = "only greedy decoding without stop strings"
            raise ValueError(msg)
        order = sorted(rows, key=lambda row: -len(row.prompt))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            least = min(len(row.prompt) - 1 - row.scored for row in part)
            made = self.fast[adapter].generate(
                [row.prompt for row in part], self.stop_ids, most=[row.limit for row in part],
                prefix=part[0].prompt[: shared_length([row.prompt for row in part], min(least, 64))],
                bias=settings.first_token_bias, scored=[row.scored for row in part], weighed=part[0].weighed,
                rivals=part[0].rivals,
            )  # fmt: skip
            for row, one in zip(part, made, strict=True):
                row.ids, row.logprobs, row.margin = one["ids"], one["logprobs"], one["margin"]
                row.beaten = one["beaten"]
                row.prompt_logprobs = one["prompt_logprobs"]
                ended = row.ids[-1] in self.stop_ids
                row.text, row.finish_reason = (
                    self._text(row.ids[:-1] if ended else row.ids),
                    "stop" if ended else "length",
                )


def main():
    """Compare the replies of both decoders to a few questions."""
    from hybridmem_plugins.samples import load_corpus, load_questions

    plain, fast = LocalModel(adapter="smollm2-135m"), FastLocal(adapter="smollm2-135m")
    for asked in load_questions():
        passages = [passage for passage in load_corpus() if passage.id in asked.gold] or load_corpus()[:2]
        for options in ({"adapter": BASE, "max_new_tokens": 24}, {"reading": "together"}, {"reading": "each"}):
            ours, theirs = (local.answer(asked.question, passages, **options).text for local in (fast, plain))
            print("same" if ours == theirs else f"other: {ours!r} for {theirs!r}")


if __name__ == "__main__":
    main()
