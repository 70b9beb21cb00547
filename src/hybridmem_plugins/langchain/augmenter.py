"""`NoisyContextAugmenter` as a LangChain document transformer, and as a Runnable to put after a retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.runnables import Runnable, RunnableLambda

from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter as CoreAugmenter
from hybridmem_plugins.augmentation.examples import as_passage

if TYPE_CHECKING:
    from hybridmem_plugins.augmentation.profile import NoiseProfile
    from hybridmem_plugins.passage import Passage


class NoisyContextAugmenter(BaseDocumentTransformer):
    """Noise documents, by (seed, document id) alone: the same sync or async, in any order, on any worker.

    >>> augmenter = NoisyContextAugmenter(seed=0, rates={"lost_case": 1.0}, severity=1.0)
    >>> augmenter.transform_documents([Document("A Cat", id="1")])[0].page_content
    'a cat'
    """

    def __init__(
        self,
        seed: int = 0,
        rates: Mapping[str, float] | None = None,
        severity: float | Mapping[str, float] | None = None,
        mix: Mapping[str, float] | None = None,
        profile: NoiseProfile | None = None,
        title_key: str = "title",
    ) -> None:
        """Choose the noise; see the core class for the arguments.

        Args:
            seed: Of all randomness.
            rates: Operator to chance.
            severity: Share of units that an operator changes.
            mix: Shares of noisy, clean and empty contexts, for `as_runnable`.
            profile: What a real retriever was seen to do.
            title_key: Metadata key that holds a document's title.
        """
        self.core = CoreAugmenter(seed, rates, severity, mix, profile=profile)
        self.title_key = title_key

    def transform_documents(self, documents: Sequence[Document], **kwargs: Any) -> Sequence[Document]:
        """Noise each document by itself; the given ones stay as they are."""
        return [
            self._document(passage, document)
            for document in documents
            for passage in self.core.noise_passages([self._passage(document)])
        ]

    async def atransform_documents(self, documents: Sequence[Document], **kwargs: Any) -> Sequence[Document]:
        """Do as `transform_documents`, off the event loop."""
        return await asyncio.to_thread(self.transform_documents, documents, **kwargs)

    def as_runnable(self) -> Runnable[Sequence[Document], list[Document]]:
        """Make a Runnable to put after a retriever for stress tests: `retriever | augmenter.as_runnable()`.

        It noises the list too: order, duplicates, splits, emptiness. The noise depends on the seed and on what was
        retrieved.
        """
        return RunnableLambda(self._stressed, afunc=self._astressed, name="NoisyContextAugmenter")

    def build_dataset(self, *arguments: Any, **options: Any) -> Any:
        """Make a training set; see the core class."""
        return self.core.build_dataset(*arguments, **options)

    def _stressed(self, documents: Sequence[Document]) -> list[Document]:
        clean = [self._passage(document) for document in documents]
        noisy, _ = self.core.noise_context(clean, "\n".join(str(passage.id) for passage in clean))
        return [self._document(passage) for passage in noisy]

    async def _astressed(self, documents: Sequence[Document]) -> list[Document]:
        return await asyncio.to_thread(self._stressed, documents)

    def _passage(self, document: Document) -> Passage:
        return as_passage(document, title_key=self.title_key)

    def _document(self, passage: Passage, original: Document | None = None) -> Document:
        metadata = {key: value for key, value in passage.metadata.items() if key != self.title_key}
        if passage.title is not None:
            metadata[self.title_key] = passage.title
        # A document that came without an id goes without one; the derived id only chose its noise.
        return Document(passage.text, id=passage.id if original is None else original.id, metadata=metadata)
