"""Optional last stages of a retriever: postprocessors, and what rerankers gave back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore

from hybridmem_plugins.llama_index.nodes import PROVENANCE


def as_postprocessors(reranker: Any) -> list[BaseNodePostprocessor]:
    """Return postprocessors as a list.

    Raises:
        TypeError: Something is no `BaseNodePostprocessor`.
    """
    if reranker is None:
        return []
    listed = [reranker] if isinstance(reranker, BaseNodePostprocessor) else list(reranker)
    for one in listed:
        if not isinstance(one, BaseNodePostprocessor):
            msg = f"reranker must be a BaseNodePostprocessor or a list of them, not {type(one).__name__}"
            raise TypeError(msg)
    return listed


def merge_reranked(candidates: Sequence[NodeWithScore], ranked: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """Give nodes that come from rerankers back the metadata that these dropped, and note their new rank and score.

    Args:
        candidates: What the rerankers were given.
        ranked: What they returned; nodes that they made up stay as they are.
    """
    by_id = {candidate.node.node_id: candidate.node for candidate in candidates}
    merged = []
    for rank, found in enumerate(ranked, 1):
        original = by_id.get(found.node.node_id)
        if original is None:
            merged.append(found)
            continue
        note: dict[str, Any] = {"rank": rank}
        if found.score is not None:
            note["score"] = float(found.score)
        metadata = {**original.metadata, **found.node.metadata}
        metadata[PROVENANCE] = {**original.metadata.get(PROVENANCE, {}), "rerank": note}
        same = found.node.get_content(MetadataMode.NONE) == original.get_content(MetadataMode.NONE)
        node = (original if same else found.node).model_copy(update={"metadata": metadata})
        merged.append(NodeWithScore(node=node, score=note.get("score")))
    return merged
