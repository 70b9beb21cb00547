"""Documents to passages and hits to documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langchain_core.documents import Document

from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.model import Hit

# Metadata under such keys is the package's own (what the LlamaIndex side needs to give a node back).
RESERVED = "_hybridmem"


def to_passages(
    documents: Iterable[Document],
    ids: Iterable[str | None] | None = None,
    *,
    title_key: str | None = "title",
    score_key: str | None = None,
    provenance_key: str | None = None,
) -> list[Passage]:
    """Return documents as passages; the documents stay as they are.

    Args:
        documents: What to store.
        ids: One a document; None takes each document's own. The memory derives one from the content where there is
            none, so that adding the same document again changes nothing.
        title_key: Key of the metadata that holds the title.
        score_key: Key under which a retriever wrote its score, which is not stored again.
        provenance_key: Key under which a retriever wrote why it found the document, which is not stored again.

    Raises:
        TypeError: Something is no `Document`.
        ValueError: Not as many ids as documents.
    """
    if isinstance(documents, Document | str):
        msg = f"documents must be a list of Document, not one {type(documents).__name__}"
        raise TypeError(msg)
    listed = list(documents)
    if isinstance(ids, str):
        msg = "ids must be a list of strings, not one string"
        raise TypeError(msg)
    given = [None] * len(listed) if ids is None else list(ids)
    if len(given) != len(listed):
        msg = f"{len(given)} ids for {len(listed)} documents: give one id a document"
        raise ValueError(msg)
    passages = []
    for position, (document, own) in enumerate(zip(listed, given, strict=True)):
        if not isinstance(document, Document):
            msg = f"document {position} is a {type(document).__name__}, not a Document"
            raise TypeError(msg)
        metadata = _stored_metadata(document.metadata, score_key, provenance_key)
        identity = document.id if own is None else own
        title = metadata.get(title_key) if title_key is not None else None
        title = str(title) if isinstance(title, str | int | float) and str(title).strip() else None
        passages.append(Passage(document.page_content, title=title, id=identity, metadata=metadata))
    return passages


def to_document(passage: Passage, title_key: str | None = None) -> Document:
    """Return a stored passage as a document of its own."""
    metadata = {key: value for key, value in passage.metadata.items() if not key.startswith(RESERVED)}
    if title_key is not None and passage.title is not None:
        metadata.setdefault(title_key, passage.title)
    return Document(id=passage.id, page_content=passage.text, metadata=metadata)


def texts_to_documents(
    texts: Iterable[str], metadatas: Iterable[dict[str, Any] | None] | None = None
) -> list[Document]:
    """Return texts as documents.

    Raises:
        TypeError: The texts are one string, or one of them is no string.
        ValueError: Not as many metadatas as texts.
    """
    if isinstance(texts, str):
        msg = "texts must be a list of strings, not one string"
        raise TypeError(msg)
    listed = list(texts)
    given = [None] * len(listed) if metadatas is None else list(metadatas)
    if len(given) != len(listed):
        msg = f"{len(given)} metadatas for {len(listed)} texts: give one a text"
        raise ValueError(msg)
    documents = []
    for position, (text, metadata) in enumerate(zip(listed, given, strict=True)):
        if not isinstance(text, str):
            msg = f"text {position} is a {type(text).__name__}, not a string"
            raise TypeError(msg)
        documents.append(Document(page_content=text, metadata=dict(metadata or {})))
    return documents


def hit_to_document(
    hit: Hit, *, title_key: str | None = "title", score_key: str | None = "score", provenance_key: str | None = None
) -> Document:
    """Return a hit as a document whose metadata says its score and why it was found, in plain JSON.

    A score of the user's own under the same key is kept; the hit's is then in the provenance only.
    """
    document = to_document(hit.passage, title_key)
    if score_key is not None:
        document.metadata.setdefault(score_key, hit.score)
    if provenance_key is not None:
        document.metadata[provenance_key] = {"score": hit.score, **hit.provenance}
    return document


def _stored_metadata(metadata: dict[str, Any], score_key: str | None, provenance_key: str | None) -> dict[str, Any]:
    found = metadata.get(provenance_key) if provenance_key is not None else None
    if not (isinstance(found, dict) and "score" in found and "routes" in found):
        return dict(metadata)
    ours = {provenance_key} | ({score_key} if metadata.get(str(score_key)) == found["score"] else set())
    return {key: value for key, value in metadata.items() if key not in ours}
