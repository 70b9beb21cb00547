"""`NoisyContextAugmenter` as a LlamaIndex transformation and node postprocessor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode, TransformComponent

from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter as CoreAugmenter
from hybridmem_plugins.augmentation.examples import as_passage
from hybridmem_plugins.augmentation.profile import NoiseProfile
from hybridmem_plugins.llama_index.fields import KnownFields
from hybridmem_plugins.passage import Passage


def _core_of(settings: Any, mix: dict[str, float] | None = None) -> CoreAugmenter:
    profile = NoiseProfile.from_dict(settings.profile) if settings.profile else None
    return CoreAugmenter(settings.seed, settings.rates, settings.severity, mix, profile=profile)


def _node(passage: Passage, original: BaseNode | None, title_key: str, keep_id: bool = True) -> BaseNode:
    """Copy a node with the passage's text and metadata; relationships stay."""
    metadata = {key: value for key, value in passage.metadata.items() if key != title_key}
    if passage.title is not None:
        metadata[title_key] = passage.title
    if original is None:
        return TextNode(id_=str(passage.id), text=passage.text, metadata=metadata)
    node = original.model_copy(deep=True)
    node.metadata = metadata
    node.set_content(passage.text)
    # An embedding of the clean text would hide the noise from an index.
    node.embedding = None
    if not keep_id:
        node.id_ = str(passage.id)
    return node


def _has_text(node: BaseNode) -> bool:
    return bool(node.get_content(metadata_mode=MetadataMode.NONE).strip())


class NoisyContextAugmenter(KnownFields, TransformComponent):
    """Noise nodes in an ingestion pipeline, by (seed, node id) alone, so that worker processes agree.

    >>> augmenter = NoisyContextAugmenter(seed=0, rates={"lost_case": 1.0}, severity=1.0)
    >>> augmenter([TextNode(id_="1", text="A Cat")])[0].text
    'a cat'
    """

    # Public fields, because a pipeline's cache keys on them.
    seed: int = Field(default=0, description="Of all randomness.")
    rates: dict[str, float] | None = Field(default=None, description="Operator to chance.")
    severity: float | dict[str, float] | None = Field(default=None, description="Share of units that are changed.")
    profile: dict[str, Any] | None = Field(default=None, description="`NoiseProfile.as_dict()` of a real retriever.")
    title_key: str = Field(default="title", description="Metadata key that holds a node's title.")

    def model_post_init(self, context: Any, /) -> None:
        """Check the settings at once."""
        super().model_post_init(context)
        _core_of(self)

    @classmethod
    def class_name(cls) -> str:
        """Name the component in caches and traces."""
        return "NoisyContextAugmenter"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Noise each node by itself; the given ones stay as they are, and nodes without text pass through."""
        core = _core_of(self)
        noisy: list[BaseNode] = []
        for node in nodes:
            if not _has_text(node):
                noisy.append(node)
                continue
            (passage,) = core.noise_passages([as_passage(node, title_key=self.title_key)])
            noisy.append(_node(passage, node, self.title_key))
        return noisy


class NoisyContextPostprocessor(KnownFields, BaseNodePostprocessor):
    """Noise what a retriever returned, to stress-test a query engine: `node_postprocessors=[...]`.

    It noises the list too: order, duplicates, splits, emptiness. Scores stay with the passages they belong to. Nodes
    without text, such as images, come last, as they are.
    """

    seed: int = Field(default=0, description="Of all randomness.")
    rates: dict[str, float] | None = Field(default=None, description="Operator to chance.")
    severity: float | dict[str, float] | None = Field(default=None, description="Share of units that are changed.")
    mix: dict[str, float] | None = Field(default=None, description="Shares of noisy, clean and empty contexts.")
    profile: dict[str, Any] | None = Field(default=None, description="`NoiseProfile.as_dict()` of a real retriever.")
    title_key: str = Field(default="title", description="Metadata key that holds a node's title.")

    def model_post_init(self, context: Any, /) -> None:
        """Check the settings at once."""
        super().model_post_init(context)
        _core_of(self, self.mix)

    @classmethod
    def class_name(cls) -> str:
        """Name the component in traces."""
        return "NoisyContextPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        texts = [node for node in nodes if _has_text(node.node)]
        clean = [as_passage(node.node, title_key=self.title_key) for node in texts]
        by_id = {str(passage.id): node for passage, node in zip(clean, texts, strict=True)}
        key = query_bundle.query_str if query_bundle else "\n".join(by_id)
        noisy, edits = _core_of(self, self.mix).noise_context(clean, key)
        # A passage that carries another one's id is still itself.
        former = {edit.after: edit.before for edit in edits if edit.field == "id"}
        results = []
        for passage in noisy:
            origin = by_id.get(str(former.get(passage.id, passage.id)).partition("#copy")[0])
            node = _node(passage, origin.node if origin else None, self.title_key, keep_id=False)
            results.append(NodeWithScore(node=node, score=origin.score if origin else None))
        return results + [node for node in nodes if not _has_text(node.node)]
