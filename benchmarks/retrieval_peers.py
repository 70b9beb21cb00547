"""What a user would pick instead, on the same passages and the same vectors.

    python benchmarks/retrieval_peers.py DATA_FOLDER [--embedder minilm] [--only NAME ...] [--results FILE]

    pip install hybridmem-plugins langchain-classic langchain-community rank-bm25 faiss-cpu langchain-graph-retriever \
        llama-index-core llama-index-retrievers-bm25

Each peer runs in a process of its own, so that its memory can be told. All get the same texts (title and text) with
vectors made beforehand; a question is embedded when it is asked, and that is in its time. Every peer may give eight
results. Those that only rank what others found start from twenty candidates a branch. A peer that is not installed is
named and skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beir import METRICS, DataSet, interval, read_sets
from embedders import EMBEDDERS, embedder_named
from hybridmem_plugins import __version__
from hybridmem_plugins.extraction.tokens import name_key, words
from results import write_section

K = 8
CANDIDATES = 20
Search = Callable[[str], list[str]]


class Ready:
    """An embedder whose passages were embedded beforehand."""

    def __init__(self, name: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        self._inner = embedder_named(name)
        self._known = dict(zip(texts, vectors, strict=True))

    def embed_documents(self, texts: list[str]) -> np.ndarray:
        return np.array([self._known[t] if t in self._known else self._inner.embed_query(t) for t in texts])

    def embed_query(self, text: str) -> np.ndarray:
        return np.asarray(self._inner.embed_query(text))


def text_of(passage: Any) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else str(passage.text)


def titles_in(data: DataSet) -> dict[str, list[str]]:
    """Find, for each passage, the titles of others that its text says; peers that take edges get these."""
    titles = {name_key(p.title) for p in data.passages if p.title}
    longest = max((title.count(" ") + 1 for title in titles), default=0)
    found = {}
    for passage in data.passages:
        tokens = words(passage.text)
        spans = {" ".join(tokens[i : i + n]) for i in range(len(tokens)) for n in range(1, longest + 1)}
        found[str(passage.id)] = sorted((spans & titles) - {name_key(passage.title or "")})
    return found


# --- the systems: each takes a data set and an embedder, and returns a search ----------------------------------------


def hybridmem(data: DataSet, embedder: Ready) -> Search:
    from hybridmem_plugins import HybridMemory

    memory = HybridMemory(embedder)
    for first in range(0, len(data.passages), 1000):
        memory.add(data.passages[first : first + 1000])
    return lambda question: [str(hit.passage.id) for hit in memory.search(question, K)]


def _langchain(data: DataSet, embedder: Ready) -> tuple[Any, list[Any]]:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings

    class Adapter(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embedder.embed_documents(texts).tolist()

        def embed_query(self, text: str) -> list[float]:
            return embedder.embed_query(text).tolist()

    return Adapter(), [Document(text_of(p), id=str(p.id), metadata={"id": str(p.id)}) for p in data.passages]


def ensemble(data: DataSet, embedder: Ready) -> Search:
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_community.retrievers import BM25Retriever
    from langchain_community.vectorstores import FAISS

    adapter, documents = _langchain(data, embedder)
    vectors = FAISS.from_documents(documents, adapter).as_retriever(search_kwargs={"k": CANDIDATES})
    # Its own default splits at spaces and keeps case; it is given our words.
    bm25 = BM25Retriever.from_documents(documents, k=CANDIDATES, preprocess_func=words)
    retriever = EnsembleRetriever(retrievers=[bm25, vectors], weights=[0.5, 0.5])
    return lambda question: [d.metadata["id"] for d in retriever.invoke(question)][:K]


def graph_retriever(data: DataSet, embedder: Ready) -> Search:
    from graph_retriever.strategies import Eager
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_graph_retriever import GraphRetriever

    adapter, documents = _langchain(data, embedder)
    says = titles_in(data)
    for passage, document in zip(data.passages, documents, strict=True):
        document.metadata |= {"title": name_key(passage.title or ""), "says": says[str(passage.id)]}
    store = InMemoryVectorStore.from_documents(documents, adapter)
    retriever = GraphRetriever(store=store, edges=[("says", "title")], strategy=Eager(select_k=K))

    def search(question: str) -> list[str]:
        found = [d.metadata["id"] for d in retriever.invoke(question)]
        more = [d.metadata["id"] for d in store.similarity_search(question, K)] if len(found) < K else []
        return list(dict.fromkeys(found + more))[:K]

    return search


def _llama_index(data: DataSet, embedder: Ready) -> tuple[Any, list[Any]]:
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.schema import TextNode

    class Adapter(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embedder.embed_documents(texts).tolist()

        def _get_query_embedding(self, query: str) -> list[float]:
            return embedder.embed_query(query).tolist()

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    return Adapter(), [TextNode(text=text_of(p), id_=str(p.id)) for p in data.passages]


def query_fusion(data: DataSet, embedder: Ready) -> Search:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.retrievers.bm25 import BM25Retriever

    adapter, nodes = _llama_index(data, embedder)
    vectors = VectorStoreIndex(nodes, embed_model=adapter).as_retriever(similarity_top_k=CANDIDATES)
    bm25 = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=CANDIDATES)
    retriever = QueryFusionRetriever(
        [vectors, bm25], llm=MockLLM(), similarity_top_k=K, num_queries=1, mode="reciprocal_rerank", use_async=False
    )
    return lambda question: [node.node.node_id for node in retriever.retrieve(question)]


def property_graph(data: DataSet, embedder: Ready) -> Search:
    from llama_index.core import PropertyGraphIndex
    from llama_index.core.indices.property_graph import ImplicitPathExtractor, VectorContextRetriever
    from llama_index.core.llms import MockLLM
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo
    from llama_index.core.vector_stores import SimpleVectorStore
    from llama_index.core.vector_stores.types import VectorStoreQuery

    adapter, nodes = _llama_index(data, embedder)
    # Its extractor turns the relations of nodes into edges; passages have none, so they are given the titles they say.
    holders: dict[str, list[str]] = {}
    for passage in data.passages:
        holders.setdefault(name_key(passage.title or ""), []).append(str(passage.id))
    for node, names in zip(nodes, titles_in(data).values(), strict=True):
        targets = [target for name in names for target in holders[name] if target != node.node_id]
        node.relationships[NodeRelationship.CHILD] = [RelatedNodeInfo(node_id=target) for target in targets]
    index = PropertyGraphIndex(
        nodes, llm=MockLLM(), kg_extractors=[ImplicitPathExtractor()], embed_model=adapter, use_async=False
    )
    # Its default graph store keeps no vectors of passages, so that nothing would be found.
    store = SimpleVectorStore()
    for node in nodes:
        node.embedding = embedder.embed_documents([node.text])[0].tolist()
    store.add(nodes)
    retriever = VectorContextRetriever(
        index.property_graph_store, vector_store=store, embed_model=adapter, similarity_top_k=K, path_depth=1
    )

    def search(question: str) -> list[str]:
        # It gives edges ("p1 -> CHILD -> p2") and cannot tell their passages; both ends are taken, in its order.
        found = [end for node in retriever.retrieve(question) for end in node.node.text.split(" -> ")[::2]]
        query = VectorStoreQuery(query_embedding=adapter.get_query_embedding(question), similarity_top_k=K)
        more = store.query(query).ids if len(set(found)) < K else []
        return list(dict.fromkeys([*found, *(more or [])]))[:K]

    return search


SYSTEMS: dict[str, tuple[str, str, Callable[[DataSet, Ready], Search]]] = {
    "hybridmem": ("hybridmem-plugins", "", hybridmem),
    "ensemble": ("LangChain EnsembleRetriever (BM25 + FAISS)", "langchain-classic", ensemble),
    "graph-retriever": ("langchain-graph-retriever (eager)", "langchain-graph-retriever", graph_retriever),
    "query-fusion": ("LlamaIndex QueryFusionRetriever (BM25 + vector)", "llama-index-retrievers-bm25", query_fusion),
    "property-graph": ("LlamaIndex PropertyGraphIndex (implicit paths)", "llama-index-core", property_graph),
}  # fmt: skip


# --- one system, in a process of its own ------------------------------------------------------------------------------


def peak_megabytes(start_anew: bool = False) -> float:
    """Return the most memory that this process has held since the last time it was asked to start anew (Linux)."""
    if start_anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def measure(system: str, folder: Path, embedder_name: str, vectors_file: Path) -> None:
    """Run one system on one data set, and print what it did as JSON."""
    data = read_sets(folder)[0]
    embedder = Ready(embedder_name, [text_of(p) for p in data.passages], np.load(vectors_file))
    embedder.embed_query("warm up")
    before, start = peak_megabytes(start_anew=True), time.perf_counter()
    try:
        search = SYSTEMS[system][2](data, embedder)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    indexing = time.perf_counter() - start
    search(data.queries[0].text)
    found, milliseconds = [], []
    for query in data.queries:
        start = time.perf_counter()
        found.append(search(query.text))
        milliseconds.append((time.perf_counter() - start) * 1000)
    scores = {
        name: [metric(f, q.gold) for f, q in zip(found, data.queries, strict=True)] for name, metric in METRICS.items()
    }
    used = {"indexing": indexing, "milliseconds": milliseconds, "memory": peak_megabytes() - before, "before": before}
    print(json.dumps({"scores": scores, **used}))


def run(system: str, folder: Path, embedder_name: str, vectors_file: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder), "--embedder", embedder_name, "--one", system, str(vectors_file)]
    # One thread: on shared cores, the threads of a small model wait for each other longer than they work.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"missing": f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# --- all of them ------------------------------------------------------------------------------------------------------


def row(label: str, result: dict[str, Any]) -> str:
    cells = []
    for name in ("recall@5", "perfect@8"):
        low, high = interval(result["scores"][name])
        cells.append(f"{np.mean(result['scores'][name]):.3f} [{low:.2f}, {high:.2f}]")
    p50, p95 = np.percentile(result["milliseconds"], [50, 95])
    return (
        f"| {label} | {cells[0]} | {cells[1]} | {p50:.1f} · {p95:.1f} | {result['indexing']:.1f} "
        f"| {result['memory']:.0f} |"
    )


def compare(data: DataSet, folder: Path, embedder_name: str, systems: Sequence[str]) -> list[str]:
    """Run the systems on one data set and write its table."""
    lines = [
        f"### {data.name}", "", f"{len(data.passages):,} passages, {len(data.queries)} questions.", "",
        "| system | recall@5 | perfect@8 | ms a question (p50 · p95) | indexing, s | memory, MiB |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    skipped = []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "vectors.npy"
        np.save(file, embedder_named(embedder_name).embed_documents([text_of(p) for p in data.passages]))
        for system in systems:
            label, package, _ = SYSTEMS[system]
            result = run(system, folder, embedder_name, file)
            if "missing" in result:
                skipped.append(f"Skipped: {label} ({result['missing']}; pip install {package}).")
            else:
                lines.append(row(label, result))
            print(skipped[-1] if "missing" in result else lines[-1], flush=True)
    return [*lines, "", *(line for note in skipped for line in (note, ""))]


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embedder", choices=sorted(EMBEDDERS), default="bundled")
    parser.add_argument("--only", nargs="*", choices=sorted(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], args.folder, args.embedder, Path(args.one[1]))
        return
    option = f" --embedder {args.embedder}" if args.embedder != "bundled" else ""
    lines = [
        f"`python benchmarks/retrieval_peers.py {args.folder}{option}`",
        "",
        f"hybridmem-plugins {__version__}, {versions()}, Python {platform.python_version()}. Same texts and vectors, "
        "eight results each, default settings but for these: BM25Retriever gets our words instead of its split at "
        "spaces; both graph systems get the edges (titles that a passage's text says) and are filled to eight from the "
        "vectors. Brackets: 95% bootstrap intervals over questions. Times include embedding the question; indexing "
        "leaves out embedding the passages. Memory: what the process grew by at its peak, with the system's libraries.",
        "",
    ]
    for data in read_sets(args.folder):
        own = args.folder if (args.folder / "corpus.jsonl").exists() else args.folder / data.name
        lines += compare(data, own, args.embedder, args.only)
    write_section(args.results, f"Peers, {args.embedder} embedding", lines)


def versions() -> str:
    """Name the installed peers with their versions."""
    from importlib import metadata

    known = []
    for package in dict.fromkeys(package for _, package, _ in SYSTEMS.values() if package):
        try:
            known.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(known) or "no peer installed"


if __name__ == "__main__":
    main()
