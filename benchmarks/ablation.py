"""What each part of retrieval is worth: switch it off, fit both models again, and see what is lost.

    python benchmarks/ablation.py DATA_FOLDER [--only PART ...] [--questions N] [--write docs/retrieval.md]

As in `fit_ranker.py`, every set is used as it is, without titles and in chunks of 60 words, and there are questions
written about its passages, to fit on only. `held out` is fitted on the other sets only, `fitted` on all. A part that is
off has its features at zero, proposes no passages and takes no steps. Figures are recall@5 and perfect@8. --write puts
the tables into a page that has marks for them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beir import DataSet, perfect, read_sets, recall
from fit_ranker import LEFT_OUT, Case, evaluate, fit_rank, fit_seeds, read_cases
from hybridmem_plugins.memory.graph import ALL_KINDS
from hybridmem_plugins.retrieval import features as comparing
from hybridmem_plugins.retrieval import walk as walking
from hybridmem_plugins.retrieval.engine import all_features, strongest
from hybridmem_plugins.retrieval.features import BASE_FEATURES, BEYOND_FEATURES, NAMED_FEATURES, POOL, SURE_FEATURES
from hybridmem_plugins.retrieval.ranker import FEATURES, Ranker
from hybridmem_plugins.retrieval.walk import WALK_FEATURES, no_walk, walk
from results import write_marked

_CASED = BASE_FEATURES.index("link_cased")


@dataclass(frozen=True)
class Part:
    """A part of retrieval, and what to do without it.

    Attributes:
        name: What the table calls it.
        features: Those set to zero.
        proposers: Ways to a first candidate that are left.
        kinds: Kinds of steps that are left.
        seeds: Passages that the walk starts from.
        onward: Passages that it goes on from.
        strength: How seeds are weighed.
        crowded: Whether passages that one name leads to count less the more of them there are.
        written: Whether written questions are fitted on.
        left_out: Features that the shipped ranker does without.
    """

    name: str
    features: frozenset[str] = frozenset()
    proposers: frozenset[str] = frozenset({"vectors", "words", "names"})
    kinds: frozenset[str] = frozenset(ALL_KINDS)
    seeds: int = walking.SEEDS
    onward: int = walking.SECOND_HOP_SEEDS
    strength: str = "shipped"
    crowded: bool = True
    written: bool = True
    left_out: frozenset[str] = frozenset(LEFT_OUT)


def _ending(*endings: str) -> frozenset[str]:
    return frozenset(name for name in WALK_FEATURES if name.endswith(endings))


def _kind(kind: str) -> frozenset[str]:
    return frozenset(name for name in WALK_FEATURES if name.startswith(kind))


_ALL = frozenset({"vectors", "words", "names"})
_RANKS = {"similarity_rank", "similarity_rank_named", *SURE_FEATURES}
_VECTORS = {"similarity", "similarity_rest", "beyond_similarity", *_RANKS, *_ending("_rest")}
_WORDS = {"words", "words_rank", "words_rank_named", "coverage", "beyond_words", *_ending("_new")}
PARTS = [
    Part("(everything on)"),
    Part("vectors", frozenset(_VECTORS), _ALL - {"vectors"}),
    Part("words (BM25)", frozenset(_WORDS), _ALL - {"words"}),
    Part("names in the question", frozenset({"link", "link_cased", *NAMED_FEATURES}), _ALL - {"names"}),
    Part("named passages as sure seeds", strength="likelihood"),
    Part("question without its names", frozenset({"similarity_rest", *_ending("_rest")})),
    Part("the graph", frozenset(WALK_FEATURES), kinds=frozenset()),
    Part("steps forward", _kind("forward"), kinds=frozenset({"backward", "shared"})),
    Part("steps backward", _kind("backward"), kinds=frozenset({"forward", "shared"})),
    Part("steps over shared names", _kind("shared"), kinds=frozenset({"forward", "backward"})),
    Part("the second hop", onward=0),
    Part("what a step adds (`_new`)", _ending("_new")),
    Part("what the best leaves open", frozenset(BEYOND_FEATURES)),
    Part("ranks that count less beside a name", frozenset(NAMED_FEATURES)),
    Part("trust where the nearest stand out", frozenset(SURE_FEATURES)),
    Part("passages of one name that count less by rank", crowded=False),
    Part("written questions in the fit", written=False),
]
TRIED = [
    Part("seeds by probability alone", strength="absolute"),
    Part("seeds relative to the best alone", strength="relative"),
    Part("5 seeds instead of 8", seeds=5),
    Part("a weight for a bare step back as well", left_out=frozenset()),
]


def strength_of(part: Part, ranker: Ranker, base: np.ndarray) -> np.ndarray:
    """Return how strong each seed is, as the package does or as the part has it."""
    if part.strength == "shipped":
        return ranker.seed_strength(base)
    likelihood = np.sqrt(ranker.seed_likelihood(base))
    if part.strength == "absolute":
        return np.maximum(likelihood, base[:, _CASED])
    if part.strength == "relative":
        return np.maximum(likelihood / likelihood.max(), base[:, _CASED])
    return likelihood / likelihood.max() ** 0.5


class _Steps:
    """A graph of which only some kinds of steps are taken; remembers them."""

    def __init__(self, graph: Any, kinds: Collection[str], known: dict[Any, Any]) -> None:
        self._graph, self._kinds, self._known = graph, kinds, known

    def neighbourhood(self, rows: Sequence[int], kinds: Collection[Any] = ALL_KINDS, allowed: Any = None) -> Any:
        left = tuple(kind for kind in kinds if kind in self._kinds)
        key = (tuple(rows), left)
        if key not in self._known:
            self._known[key] = self._graph.neighbourhood(rows, left, allowed)
        return self._known[key]


class _Known:
    """Evidence that remembers what it said of a row, since every fit asks for the same rows again."""

    def __init__(self, evidence: Any) -> None:
        self._evidence = evidence
        self._rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evidence, name)

    def link(self) -> None:
        """Weigh anew the names that the question says."""
        links = self._evidence._link_weights()
        if links != self._evidence._links:
            self._evidence._links = links
            self._rows.clear()

    def restrict(self, pool: list[int]) -> None:
        """Start from another pool, which sets the scale anew."""
        if pool != self._evidence.pool:
            self._evidence.pool, self._evidence._top_rest = pool, None
            self._rows.clear()

    def base(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        if not self._rows:  # The pool has to be asked for first.
            rows, asked = list(dict.fromkeys([*self._evidence.pool, *rows])), rows
        else:
            asked = rows
        new = [row for row in rows if row not in self._rows]
        if new:
            self._rows.update(zip(new, zip(*self._evidence.base(new), strict=True), strict=True))
        features, covered = zip(*(self._rows[row] for row in asked), strict=True)
        return np.stack(features), np.stack(covered)


@contextmanager
def _sizes(part: Part) -> Iterator[None]:
    before = walking.SEEDS, walking.SECOND_HOP_SEEDS
    walking.SEEDS, walking.SECOND_HOP_SEEDS = part.seeds, part.onward
    if not part.crowded:
        comparing.crowding = walking.crowding = _not_crowded
    try:
        yield
    finally:
        walking.SEEDS, walking.SECOND_HOP_SEEDS = before
        comparing.crowding = walking.crowding = _crowding


_crowding = comparing.crowding


def _not_crowded(ranks: np.ndarray) -> np.ndarray:
    return np.ones(len(ranks))


def pools(case: Case, part: Part) -> None:
    """Leave in each pool what the part's ways propose."""
    for evidence in case.evidence:
        with _sizes(part):
            evidence.link()
        ways = {
            "vectors": evidence.semantic.rows[:POOL].tolist(),
            "words": evidence.lexical.rows[:POOL].tolist(),
            "names": list(evidence._links),
        }
        evidence.restrict(list(dict.fromkeys(row for way in ways if way in part.proposers for row in ways[way])))


def walks(case: Case, part: Part, ranker: Ranker, kept: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Return all features, labels and rows of every question, without the part."""
    graph, out = _Steps(case.tiers.relational, part.kinds, case.steps), []
    on = kept[: len(BASE_FEATURES)].astype(np.float32)
    for index, evidence in enumerate(case.evidence):
        if not evidence.pool:
            out.append((np.zeros((0, len(FEATURES))), np.zeros(0, dtype=bool), []))
            continue
        base, covered = evidence.base(evidence.pool)
        strength = strength_of(part, ranker, base * on)
        with _sizes(part):
            walked = walk(evidence, graph, base, covered, strength, None) if part.kinds else no_walk(
                evidence, base, covered
            )  # fmt: skip
        features = all_features(evidence, walked, strongest(evidence, strength)) * kept
        out.append((features, case.labels(index, walked.rows), walked.rows))
    return out


def pool_features(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return base features and labels of every pool that is not empty."""
    return [
        (evidence.base(evidence.pool)[0], case.labels(index, evidence.pool))
        for index, evidence in enumerate(case.evidence)
        if evidence.pool
    ]


Scores = dict[tuple[str, str], tuple[float, float]]


def without(part: Part, cases: list[Case]) -> Scores:
    """Fit without a part; return recall@5 and perfect@8 by set and by `held out` or `fitted`."""
    off = part.features | part.left_out
    kept = np.array([name not in off for name in FEATURES])
    on = kept[: len(BASE_FEATURES)]
    for case in cases:
        pools(case, part)
    bases = {case.data.name: [(x * on, y) for x, y in pool_features(case)] for case in cases}
    scores: Scores = {}
    for held_out in [*dict.fromkeys(case.root for case in cases), None]:
        train = [case for case in cases if case.root != held_out and (part.written or not is_written(case))]
        ranker = fit_seeds(train, bases)
        found = {case.data.name: walks(case, part, ranker, kept) for case in cases}
        weights = fit_rank([(x, y, case.weight) for case in train for x, y, _ in found[case.data.name]]) * kept
        for case in cases:
            if held_out in (None, case.root):
                label = "fitted" if held_out is None else "held out"
                scores[case.data.name, label] = evaluate(case, found[case.data.name], weights)
    return scores


def is_written(case: Case) -> bool:
    return case.data.name.endswith(" written")


def equal_votes(cases: list[Case], rankers: dict[str, Any]) -> Scores:
    """Fuse vectors, words and the graph by reciprocal rank (k = 60), an equal vote each; nothing is fitted."""
    scores: Scores = {}
    for case in cases:
        pools(case, PARTS[0])
        values = []
        for index, (features, _, rows) in enumerate(walks(case, PARTS[0], rankers["all"], np.ones(len(FEATURES)))):
            evidence = case.evidence[index]
            graph = features[:, -len(WALK_FEATURES) :][:, [0, 3, 6]].max(axis=1)
            reached = [rows[i] for i in np.argsort(-graph, kind="stable") if graph[i] > 0]
            votes: dict[int, float] = {}
            for ranking in (evidence.semantic.rows.tolist(), evidence.lexical.rows.tolist(), reached):
                for rank, row in enumerate(ranking):
                    votes[row] = votes.get(row, 0.0) + 1 / (61 + rank)
            best = case.memory.store.ids(sorted(votes, key=lambda row: (-votes[row], row))[:8])
            gold = case.data.queries[index].gold
            values.append((recall(best, gold, 5), perfect(best, gold, 8)))
        mean = np.mean(values, axis=0)
        scores[case.data.name, "held out"] = scores[case.data.name, "fitted"] = (float(mean[0]), float(mean[1]))
    return scores


def evenly(data: DataSet, count: int | None) -> DataSet:
    """Keep so many questions, evenly spaced; the passages stay."""
    if count is None or count >= len(data.queries):
        return data
    kept = np.linspace(0, len(data.queries) - 1, count).round().astype(int)
    return replace(data, queries=[data.queries[i] for i in kept])


# --- the tables -------------------------------------------------------------------------------------------------------


def table(rows: dict[str, Scores], first: str, names: list[str], label: str, metric: int) -> list[str]:
    """Write a table of one metric: the figures of everything on, then what each row changes."""
    base = rows[first]
    short = [name.replace("2wikimultihopqa-51", "2Wiki").replace("hotpotqa-100", "Hotpot") for name in names]
    short = [name.replace("nq-oracle-500", "NQ") for name in short]
    lines = ["| | " + " | ".join(short) + " | mean |", "|---|" + "--:|" * (len(names) + 1)]
    for name, scores in rows.items():
        values = [scores[data, label][metric] for data in names]
        if name == first:
            cells = [f"{value:.3f}" for value in [*values, float(np.mean(values))]]
        else:
            gains = [value - base[data, label][metric] for value, data in zip(values, names, strict=True)]
            cells = [f"{gain:+.3f}" for gain in [*gains, float(np.mean(gains))]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def report(rows: dict[str, Scores], first: str, names: list[str]) -> list[str]:
    parts = {name: scores for name, scores in rows.items() if name in {part.name for part in PARTS}}
    tried = {first: rows[first]} | {name: scores for name, scores in rows.items() if name not in parts}
    lines = []
    for label, what in (("held out", "Fitted on the other sets"), ("fitted", "Fitted on all sets, as shipped")):
        for metric, title in ((0, "recall@5"), (1, "perfect@8")):
            if (label, metric) != ("fitted", 1):
                lines += [f"**{what}: {title} without …**", "", *table(parts, first, names, label, metric)]
    for metric, title in ((0, "recall@5"), (1, "perfect@8")):
        lines += [f"**Tried instead, fitted on the other sets: {title}**", ""]
        lines += table(tried, first, names, "held out", metric)
    return lines


def main() -> None:
    """Fit without each part and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="parts to leave out in turn; all when not given")
    parser.add_argument("--questions", type=int, help="at most so many of each set, evenly spaced; all when not given")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    sets = [evenly(data, args.questions) for data in read_sets(args.folder)]
    cases = read_cases(sets)
    for case in cases:
        case.evidence = [_Known(evidence) for evidence in case.evidence]
        case.steps = {}
    names = [case.data.name for case in cases if not is_written(case)]
    rows: dict[str, Scores] = {}
    for part in [*PARTS, *TRIED]:
        if args.only and part is not PARTS[0] and part.name not in args.only:
            continue
        start = time.perf_counter()
        rows[part.name] = without(part, cases)
        means = [np.mean([rows[part.name][n, label][0] for n in names]) for label in ("held out", "fitted")]
        took = time.perf_counter() - start
        print(f"{part.name:48} recall@5 held out {means[0]:.4f} fitted {means[1]:.4f} ({took:.0f} s)", flush=True)
    for case in cases:
        pools(case, PARTS[0])
    shipped = fit_seeds(cases, {case.data.name: pool_features(case) for case in cases})
    rows["equal votes (RRF) of vectors, words and graph"] = equal_votes(cases, {"all": shipped})
    lines = report(rows, PARTS[0].name, names)
    print("\n".join(lines))
    if args.write:
        write_marked(args.write, "ablation", lines)


if __name__ == "__main__":
    main()
