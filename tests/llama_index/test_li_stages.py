"""Rerankers and diversity behind the LlamaIndex retriever."""

from __future__ import annotations

from typing import Any

import pytest
from li_helpers import nodes
from llama_index.core import Document, StorageContext
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from hybridmem_plugins.llama_index import HybridRetriever

QUESTION = "Who designed the machine that Ada Lovelace wrote for?"


class Longest(BaseNodePostprocessor):
    """Puts long texts first and forgets metadata."""

    seen: list[int] = []  # noqa: RUF012

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        assert query_bundle is not None
        assert query_bundle.query_str == QUESTION
        self.seen.append(len(nodes))
        ranked = sorted(nodes, key=lambda n: -len(n.get_content()))
        return [NodeWithScore(node=TextNode(id_=n.node_id, text=n.text), score=float(len(n.text))) for n in ranked]


async def test_a_reranker_orders_and_metadata_is_kept(retriever: HybridRetriever) -> None:
    reranker = Longest()
    ranked = HybridRetriever(retriever.memory, similarity_top_k=2, reranker=reranker)
    found = ranked.retrieve(QUESTION)
    originals = {node.node_id: node for node in nodes()}
    longest = sorted(originals.values(), key=lambda node: -len(node.text))[:2]
    assert [n.node_id for n in found] == [node.node_id for node in longest]
    assert [n.node.relationships for n in found] == [node.relationships for node in longest]
    assert reranker.seen == [6]
    for rank, one in enumerate(found, 1):
        assert one.node.metadata["title"] == originals[one.node_id].metadata["title"]
        note: dict[str, Any] = one.node.metadata["hybridmem"]
        assert note["rerank"] == {"rank": rank, "score": one.score}
        assert 0 <= note["score"] <= 1
    assert await ranked.aretrieve(QUESTION) == found


def test_postprocessors_run_in_a_row_and_any_of_llamaindex_fit(retriever: HybridRetriever) -> None:
    cutoff = SimilarityPostprocessor(similarity_cutoff=0.5)
    good = [n for n in retriever.retrieve(QUESTION) if n.score >= 0.5]
    assert 0 < len(good) < 6
    for chain in (cutoff, [cutoff], [cutoff, cutoff]):
        found = HybridRetriever(retriever.memory, reranker=chain).retrieve(QUESTION)
        assert [n.node_id for n in found] == [n.node_id for n in good]
    reranker = Longest()
    HybridRetriever(retriever.memory, reranker=[cutoff, reranker]).retrieve(QUESTION)
    assert reranker.seen == [len(good)]
    with pytest.raises(TypeError, match="BaseNodePostprocessor"):
        HybridRetriever(retriever.memory, reranker="cohere")


async def test_mmr_chooses_among_more() -> None:
    same = [TextNode(id_=f"s{n}", text=f"Helium is a light gas number {n}.") for n in range(4)]
    other = TextNode(id_="other", text="Balloons are filled with helium, which is costly.")
    plain = HybridRetriever.from_nodes([*same, other], similarity_top_k=2)
    assert "other" not in {n.node_id for n in plain.retrieve("helium light gas")}
    diverse = HybridRetriever(plain.memory, 2, search_type="mmr", lambda_mult=0.1)
    found = diverse.retrieve("helium light gas")
    assert "other" in {n.node_id for n in found}
    assert await diverse.aretrieve("helium light gas") == found


def test_parts_are_merged_into_their_parents_by_the_frameworks_own_retriever() -> None:
    text = " ".join(f"Pump {number} of Springfield was built in {1900 + number} by Ada Brown." for number in range(60))
    documents = [Document(text=text, id_="pumps"), Document(text="Cats sleep. " * 80, id_="cats")]
    whole = HierarchicalNodeParser.from_defaults(chunk_sizes=[512, 128]).get_nodes_from_documents(documents)
    store = SimpleDocumentStore()
    store.add_documents(whole)
    leaves = get_leaf_nodes(whole)
    retriever = HybridRetriever.from_nodes(leaves, similarity_top_k=6)
    context = StorageContext.from_defaults(docstore=store)
    merged = AutoMergingRetriever(retriever, context, simple_ratio_thresh=0.3).retrieve("Who built the pumps?")
    parents = {node.node_id for node in whole} - {node.node_id for node in leaves}
    assert {found.node.node_id for found in merged} & parents
    assert all("pump" in found.node.get_content().lower() for found in merged)
