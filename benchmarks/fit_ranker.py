"""Fit the two linear models of the ranker, and say how they do on sets that they were not fitted on.

    python benchmarks/fit_ranker.py DATA_FOLDER [--also minilm] [--write]

Every set is used three times: as it is, without titles, and in chunks of 60 words; with `--also`, once more with that
embedding. So that the balance of words and graph is not that of three sets, there are also questions that `written.py`
makes of their passages. `held out` fits on the other sets only, and on what is written about their passages; `fitted`
is the model of all. --write replaces `ranker.json` in the package, which was made with `--also minilm`: the weights are
to hold for embeddings weak and strong.
"""

from __future__ import annotations

import argparse
import json
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from beir import DataSet, Query, in_chunks, perfect, read_sets, recall, without_titles
from embedders import EMBEDDERS, embedder_named
from hybridmem_plugins import HybridMemory
from hybridmem_plugins.retrieval.engine import all_features, strongest
from hybridmem_plugins.retrieval.features import BASE_FEATURES, Evidence
from hybridmem_plugins.retrieval.linking import read_question
from hybridmem_plugins.retrieval.ranker import FEATURES, Ranker
from hybridmem_plugins.retrieval.tiers import BoundTiers
from hybridmem_plugins.retrieval.walk import walk
from written import Writer

# What a step back is worth by itself was fitted below zero on every set; its two products carry what it says.
LEFT_OUT = ["backward"]
RANKER = Path(__file__).parent.parent / "src/hybridmem_plugins/retrieval/ranker.json"
VARIANT_WEIGHT = 0.5  # of a varied set or another embedding, against 1 for the set as it is
WRITTEN_WEIGHT = 0.25  # of the written questions of a set
WRITTEN = 150  # questions, about
PENALTY = 0.5  # of the squared weights
HARD = 40  # wrong passages of a question that a first fit ranks highest, which the second fit is about
BLANK = Ranker(0.0, np.zeros(len(BASE_FEATURES), np.float32), 0.0, np.zeros(len(FEATURES), np.float32))


class Case:
    """A filled memory with the evidence for every question of a data set."""

    def __init__(self, data: DataSet, embedder: str = "bundled") -> None:
        self.data = data if embedder == "bundled" else replace(data, name=f"{data.name} {embedder}")
        self.root = data.name.split(" ")[0]
        self.weight = (1.0 if self.data.name == self.root else VARIANT_WEIGHT) * 100 / len(data.queries)
        self.memory = HybridMemory(embedder_named(embedder))
        for start in range(0, len(data.passages), 1000):
            self.memory.add(data.passages[start : start + 1000])
        store = self.memory.store
        self.tiers = BoundTiers(store.vectors, store.lexical, store.graph)
        self._ask(data.queries)

    def written(self, titled: DataSet) -> Case:
        """Return the same memory with questions written about its passages, whose titles the given set has."""
        case = copy(self)
        queries = Writer(titled).questions(WRITTEN)
        case.data = replace(self.data, name=f"{self.data.name} written", queries=queries)
        case.weight = WRITTEN_WEIGHT * (1.0 if self.data.name == self.root else VARIANT_WEIGHT) * 100 / len(queries)
        case._ask(queries)
        return case

    def _ask(self, queries: list[Query]) -> None:
        self.evidence = []
        for query in queries:
            question = read_question(query.text, self.memory.store.graph)
            self.evidence.append(Evidence(question, *self.memory._embed(question), self.tiers, None))

    def labels(self, index: int, rows: list[int]) -> np.ndarray:
        gold = self.data.queries[index].gold
        return np.array([DataSet.document(i) in gold for i in self.memory.store.ids(rows)])

    def base(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return base features and labels of every pool."""
        out = []
        for index, evidence in enumerate(self.evidence):
            features, _ = evidence.base(evidence.pool)
            out.append((features, self.labels(index, evidence.pool)))
        return out

    def walks(self, ranker: Ranker) -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
        """Return all features, labels and rows of every walk."""
        out = []
        for index, evidence in enumerate(self.evidence):
            base, covered = evidence.base(evidence.pool)
            strength = ranker.seed_strength(base)
            walked = walk(evidence, self.tiers.relational, base, covered, strength, None)
            features = all_features(evidence, walked, strongest(evidence, strength))
            out.append((features, self.labels(index, walked.rows), walked.rows))
        return out


def fit_seeds(cases: list[Case], bases: dict[str, list]) -> Ranker:
    """Fit the first model: logistic regression of being gold."""
    features = np.vstack([f for case in cases for f, _ in bases[case.data.name]]).astype(np.float64)
    labels = np.concatenate([y for case in cases for _, y in bases[case.data.name]])
    weights = np.concatenate([np.full(len(y), case.weight) for case in cases for _, y in bases[case.data.name]])
    x = np.hstack([features, np.ones((len(features), 1))])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w
        p = 1 / (1 + np.exp(-z))
        value = (weights * (np.logaddexp(0, z) - labels * z)).sum() + PENALTY / 2 * (w[:-1] @ w[:-1])
        return value, x.T @ (weights * (p - labels)) + PENALTY * np.append(w[:-1], 0)

    w = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return Ranker(float(w[-1]), w[:-1].astype(np.float32), 0.0, BLANK.weights)


Rows = list[tuple[np.ndarray, np.ndarray, float]]


def fit_rank(rows: Rows) -> np.ndarray:
    """Fit the second model twice, the second time to tell gold passages from those that the first takes for gold."""
    rows = [(x, y, w) for x, y, w in rows if y.any() and not y.all()]
    first = _fit_rank(rows, steps=50)
    return _fit_rank([_hard(x, y, w, first) for x, y, w in rows], steps=500)


def _hard(x: np.ndarray, gold: np.ndarray, weight: float, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    kept = gold.copy()
    kept[np.argsort(-(x @ weights), kind="stable")[:HARD]] = True
    return x[kept], gold[kept], weight


def _fit_rank(rows: Rows, steps: int) -> np.ndarray:
    """Fit each gold passage against all others of its question, by their softmax."""
    x = np.vstack([x for x, _, _ in rows]).astype(np.float64)
    gold = np.concatenate([y for _, y, _ in rows])
    starts = np.cumsum([0, *(len(y) for _, y, _ in rows[:-1])])
    owner = np.repeat(np.arange(len(rows)), [len(y) for _, y, _ in rows])
    share = np.array([weight / y.sum() for _, y, weight in rows])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w
        z -= np.maximum.reduceat(z, starts)[owner]
        e = np.exp(z)
        total = e + np.add.reduceat(np.where(gold, 0, e), starts)[owner]  # of a gold passage and all that are not
        p = e / total
        slopes = np.add.reduceat(np.where(gold, share[owner] / total, 0), starts)[owner] * e
        slopes[gold] = -(1 - p[gold]) * share[owner[gold]]
        value = PENALTY / 2 * (w @ w) - (share[owner[gold]] * np.log(p[gold])).sum()
        return value, PENALTY * w + x.T @ slopes

    return minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": steps}).x


def calibrate(weights: np.ndarray, rows: Rows) -> float:
    """Return the intercept at which the mean score is the share of gold passages."""
    z = np.concatenate([x @ weights for x, _, _ in rows])
    share = np.concatenate([y for _, y, _ in rows]).mean()
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(z + middle)))).mean() < share else (low, middle)
    return low


def evaluate(case: Case, walks: list, weights: np.ndarray) -> tuple[float, float]:
    """Return recall@5 and perfect@8 of one set."""
    scores = []
    for query, (x, _, rows) in zip(case.data.queries, walks, strict=True):
        found = case.memory.store.ids([rows[i] for i in np.argsort(-(x @ weights), kind="stable")[:8]])
        scores.append((recall(found, query.gold, 5), perfect(found, query.gold, 8)))
    return tuple(np.mean(scores, axis=0))


def read_cases(sets: list[DataSet]) -> list[Case]:
    """Return each set in its three forms, and what is written about its passages with and without titles."""
    cases = []
    for data in sets:
        plain, untitled, chunks = (Case(varied) for varied in (data, without_titles(data), in_chunks(data)))
        cases += [plain, untitled, chunks, plain.written(data), untitled.written(data)]
    return cases


def main() -> None:
    """Fit, report and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--also", nargs="*", default=[], choices=sorted(EMBEDDERS), help="embeddings to fit on as well")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--drop", nargs="*", default=LEFT_OUT, help="features to leave out")
    parser.add_argument("--no-holdout", action="store_true")
    args = parser.parse_args()
    sets = read_sets(args.folder)
    cases = read_cases(sets)
    cases += [Case(data, embedder) for embedder in args.also for data in sets]
    bases = {case.data.name: case.base() for case in cases}
    names = FEATURES
    kept = np.array([name not in args.drop for name in names])
    for held_out in [None] if args.no_holdout else [*dict.fromkeys(case.root for case in cases), None]:
        train = [case for case in cases if case.root != held_out]
        base_kept = kept[: len(BASE_FEATURES)]
        ranker = fit_seeds(train, {n: [(x * base_kept, y) for x, y in b] for n, b in bases.items()})
        walks = {c.data.name: [(x * kept, y, r) for x, y, r in c.walks(ranker)] for c in cases}
        rows = [(x, y, case.weight) for case in train for x, y, _ in walks[case.data.name]]
        weights = fit_rank(rows) * kept
        for case in cases:
            if held_out in (None, case.root):
                r5, p8 = evaluate(case, walks[case.data.name], weights)
                label = "fitted" if held_out is None else "held out"
                print(f"{label:9} {case.data.name:32} recall@5 {r5:.3f} perfect@8 {p8:.3f}", flush=True)
    model = {
        "seed": {"bias": ranker.seed_bias, "weights": named(BASE_FEATURES, ranker.seed_weights)},
        "rank": {"bias": calibrate(weights, rows), "weights": named(names, weights)},
    }
    text = json.dumps(model, indent=2) + "\n"
    print(text)
    if args.write:
        RANKER.write_text(text, encoding="utf-8")


def named(names: tuple[str, ...], weights: np.ndarray) -> dict[str, float]:
    return {name: round(float(w), 4) for name, w in zip(names, weights, strict=True) if abs(w) > 1e-6}


if __name__ == "__main__":
    main()
