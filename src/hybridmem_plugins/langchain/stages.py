"""Optional last stages of a retriever: what a reranker gave back, and children turned into their parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document


def merge_reranked(
    candidates: Sequence[Document], ranked: Sequence[Document], provenance_key: str | None
) -> list[Document]:
    """Give documents that come from a reranker their ids and metadata back.

    Rerankers return the documents that they got, or others with the same text and less metadata. What they added is
    kept; `relevance_score` becomes a plain float, and the provenance says their rank.

    Args:
        candidates: What the reranker was given.
        ranked: What it returned.
        provenance_key: Key of the provenance in the metadata.
    """
    by_id = {document.id: document for document in candidates if document.id is not None}
    by_text: dict[str, list[Document]] = {}
    for document in candidates:
        by_text.setdefault(document.page_content, []).append(document)
    merged = []
    for rank, document in enumerate(ranked, 1):
        same_text = by_text.get(document.page_content, [])
        original = by_id.get(document.id or "") or (same_text.pop(0) if same_text else None)
        if original is None:
            merged.append(document)
            continue
        metadata = {**original.metadata, **document.metadata}
        note: dict[str, Any] = {"rank": rank}
        if "relevance_score" in metadata:
            note["score"] = metadata["relevance_score"] = float(metadata["relevance_score"])
        if provenance_key is not None:
            metadata[provenance_key] = {**original.metadata.get(provenance_key, {}), "rerank": note}
        merged.append(Document(id=original.id, page_content=document.page_content, metadata=metadata))
    return merged


def parent_ids(children: Sequence[Document], parent_id_key: str) -> list[str]:
    """Return the ids of the children's parents, each once, in order."""
    found = (child.metadata.get(parent_id_key) for child in children)
    return list(dict.fromkeys(str(identity) for identity in found if identity is not None))


def to_parents(
    children: Sequence[Document],
    parents: Mapping[str, Document | None],
    k: int,
    *,
    parent_id_key: str,
    score_key: str | None,
    provenance_key: str | None,
) -> list[Document]:
    """Return the parents of ranked children, each once, at the place and with the score of its best child.

    A child without a parent, or whose parent is not stored, stands for itself. The provenance names the child.

    Args:
        children: Best first.
        parents: Documents by id; None where there is none.
        k: How many documents to return.
        parent_id_key: Key of a child's metadata that holds the id of its parent.
        score_key: Key of the score, which moves to the parent unless it has its own.
        provenance_key: Key of the provenance, which moves to the parent.
    """
    returned: list[Document] = []
    seen: set[str] = set()
    for child in children:
        identity = child.metadata.get(parent_id_key)
        parent = None if identity is None else parents.get(str(identity))
        if parent is None:
            returned.append(child)
            continue
        if str(identity) in seen:
            continue
        seen.add(str(identity))
        metadata = dict(parent.metadata)
        for key in (score_key, "relevance_score"):
            if key is not None and key in child.metadata:
                metadata.setdefault(key, child.metadata[key])
        if provenance_key is not None:
            metadata[provenance_key] = {**child.metadata.get(provenance_key, {}), "child": child.id}
        returned.append(Document(id=str(identity), page_content=parent.page_content, metadata=metadata))
    return returned[:k]
