"""Nodes to passages and hits to nodes, with nothing lost on the way."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeWithScore,
    ObjectType,
    TextNode,
)
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc

from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.model import Hit

logger = logging.getLogger(__name__)

PROVENANCE = "hybridmem"
# Metadata of the package's own: the node without its text and metadata, and the document that it is a part of.
NODE = "_hybridmem_node"
REF_DOC = "_hybridmem_ref_doc"
REF_HASH = "_hybridmem_ref_hash"
OWN = frozenset({NODE, REF_DOC, REF_HASH})


def to_passages(nodes: Iterable[BaseNode], title_key: str | None = "title") -> list[Passage]:
    """Return nodes as passages under their ids; the nodes stay as they are.

    Args:
        nodes: Nodes with text.
        title_key: Key of the metadata that holds the title.

    Raises:
        TypeError: Something is no node.
    """
    if isinstance(nodes, BaseNode | str):
        msg = f"nodes must be a list of nodes, not one {type(nodes).__name__}"
        raise TypeError(msg)
    passages = []
    for position, node in enumerate(nodes):
        if not isinstance(node, BaseNode):
            msg = f"node {position} is a {type(node).__name__}, not a LlamaIndex node"
            raise TypeError(msg)
        passages.append(_to_passage(node, title_key))
    return passages


def with_text(nodes: Iterable[BaseNode]) -> list[BaseNode]:
    """Return the nodes that have text, and log how many have none, as an empty file or an image has none."""
    given = list(nodes)
    kept = [n for n in given if not isinstance(n, BaseNode) or n.get_content(metadata_mode=MetadataMode.NONE).strip()]
    if len(kept) < len(given):
        logger.warning("%d of %d nodes have no text and are left out", len(given) - len(kept), len(given))
    return kept


def to_node(passage: Passage, title_key: str | None = "title") -> BaseNode:
    """Return a stored passage as a node of its own, of the class that it came in."""
    metadata = {key: value for key, value in passage.metadata.items() if key not in OWN}
    stored = passage.metadata.get(NODE)
    if stored is None:  # It came in by another way than LlamaIndex.
        if title_key is not None and passage.title is not None:
            metadata.setdefault(title_key, passage.title)
        return TextNode(id_=str(passage.id), text=passage.text, metadata=metadata)
    described = json.loads(stored)
    data = described["data"]
    data["metadata"] = {key: metadata[key] for key in described.get("keys", metadata)}
    data["id_"] = passage.id
    if described["type"] == ObjectType.DOCUMENT.value or data.get("class_name") == Node.class_name():
        data["text_resource"] = {**(data.get("text_resource") or {}), "text": passage.text}
    else:
        data["text"] = passage.text
    return json_to_doc({"__type__": described["type"], "__data__": data})


def hit_to_node(hit: Hit, title_key: str | None = "title") -> NodeWithScore:
    """Return a hit as a node with a score, and in its metadata, hidden from models, why it was found."""
    node = _explained(to_node(hit.passage, title_key))
    node.metadata[PROVENANCE] = {"score": hit.score, **hit.provenance}
    node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, PROVENANCE]
    node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, PROVENANCE]
    return NodeWithScore(node=node, score=hit.score)


def _to_passage(node: BaseNode, title_key: str | None) -> Passage:
    metadata = {key: value for key, value in _without_reasons(node.metadata).items() if key not in OWN}
    title = metadata.get(title_key) if title_key is not None else None
    title = str(title) if isinstance(title, str | int | float) and str(title).strip() else None
    described: dict[str, Any] = {"type": _type(node), "data": _data(node)}
    if list(metadata) != sorted(metadata, key=str):  # A node's hash depends on the order, which the memory loses.
        described["keys"] = list(metadata)
    own: dict[str, Any] = {NODE: json.dumps(described, separators=(",", ":"), ensure_ascii=False)}
    source = node.source_node
    if source is not None:
        own[REF_DOC] = source.node_id
        own[REF_HASH] = source.hash
    elif isinstance(node, Document):
        own[REF_DOC] = node.node_id
        own[REF_HASH] = _plain_hash(node, Document)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return Passage(text=text, title=title, id=node.node_id, metadata={**metadata, **own})


def _type(node: BaseNode) -> str:
    """Return LlamaIndex's number of a node's class."""
    return str(ObjectType(node.get_type()).value)


def _data(node: BaseNode) -> dict[str, Any]:
    """Return a node's fields, without those that the passage holds and those that say nothing."""
    if isinstance(node, IndexNode) and node.obj is not None:
        node = node.model_copy(update={"obj": None})  # Objects live in the retriever's `object_map`.
    data: dict[str, Any] = doc_to_json(node)["__data__"]
    for key in ("id_", "metadata", "embedding", "text"):
        data.pop(key, None)
    if data.get("text_resource"):
        data["text_resource"] = {key: value for key, value in data["text_resource"].items() if key != "text"}
    for key in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        data[key] = [name for name in data.get(key) or [] if name != PROVENANCE]
    return {key: value for key, value in data.items() if value is not None or key == "obj"}


# LlamaIndex takes nodes of one hash for the same node (fusion of retrievers, caches). The hash covers the metadata, so
# what was found says why without changing its hash.


def _plain_hash(node: BaseNode, kind: Any) -> str:
    plain: str = kind.hash.fget(node.model_copy(update={"metadata": _without_reasons(node.metadata)}))
    return plain


def _without_reasons(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without why a node was found; something of the user's own under that key stays."""
    why = metadata.get(PROVENANCE)
    found = isinstance(why, Mapping) and ("routes" in why or "cited" in why)
    return {key: value for key, value in metadata.items() if not (found and key == PROVENANCE)}


class FoundTextNode(TextNode):
    """A `TextNode` that was found; its hash is the stored node's."""

    @property
    def hash(self) -> str:
        """Hash of the text and the stored metadata."""
        return _plain_hash(self, TextNode)


class FoundNode(Node):
    """A `Node` that was found; its hash is the stored node's."""

    @property
    def hash(self) -> str:
        """Hash of the content and the stored metadata."""
        return _plain_hash(self, Node)


class FoundDocument(Document):
    """A `Document` that was found; its hash is the stored one's."""

    @property
    def hash(self) -> str:
        """Hash of the text and the stored metadata."""
        return _plain_hash(self, Document)


class FoundIndexNode(IndexNode):
    """An `IndexNode` that was found; its hash is the stored one's."""

    @property
    def hash(self) -> str:
        """Hash of the text and the stored metadata."""
        return _plain_hash(self, IndexNode)


class FoundImageNode(ImageNode):
    """An `ImageNode` that was found; its hash is the stored one's."""

    @property
    def hash(self) -> str:
        """Hash of the text and the stored metadata."""
        return _plain_hash(self, ImageNode)


_FOUND: dict[type[BaseNode], type[BaseNode]] = {
    Node: FoundNode,
    TextNode: FoundTextNode,
    Document: FoundDocument,
    IndexNode: FoundIndexNode,
    ImageNode: FoundImageNode,
}


def _explained(node: BaseNode) -> BaseNode:
    """Return the node as one whose hash leaves out why it was found; it is taken over, not copied."""
    kind = _FOUND.get(type(node))
    if kind is not None:
        object.__setattr__(node, "__class__", kind)
    return node
