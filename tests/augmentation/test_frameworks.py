"""The frameworks' layers: no mutation, sync equals async, any number of workers."""

import asyncio

import pytest
from test_dataset import CHUNKS, EXAMPLES

from hybridmem_plugins.augmentation.profile import NoiseProfile

RATES = {"typos": 0.8, "nbsp": 0.8, "missing_metadata": 0.5, "order": 1.0, "near_duplicate": 0.5, "swapped_ids": 0.5}
NOISY = {"noisy": 1.0}


class TestLangChain:
    @pytest.fixture(autouse=True)
    def _framework(self):
        pytest.importorskip("langchain_core")
        from langchain_core.documents import Document

        from hybridmem_plugins.langchain.augmenter import NoisyContextAugmenter

        self.documents = [
            Document(c.text, id=c.id, metadata={**c.metadata, "title": c.title, "tags": ["x"]}) for c in CHUNKS
        ]
        self.augmenter = NoisyContextAugmenter(seed=5, rates=RATES, mix=NOISY)

    def test_transform(self):
        before = [document.model_copy(deep=True) for document in self.documents]
        noisy = self.augmenter.transform_documents(self.documents)
        assert self.documents == before
        assert [document.id for document in noisy] == [document.id for document in before]
        assert sum(a.page_content != b.page_content for a, b in zip(noisy, before, strict=True)) > 20
        assert noisy == asyncio.run(self.augmenter.atransform_documents(self.documents))
        assert noisy[::-1] == self.augmenter.transform_documents(self.documents[::-1])

    def test_runnable_after_a_retriever(self):
        from langchain_core.runnables import RunnableLambda

        chain = RunnableLambda(lambda question: self.documents[:6]) | self.augmenter.as_runnable()
        noisy = chain.invoke("Which mill?")
        assert noisy == asyncio.run(chain.ainvoke("Which mill?"))
        assert noisy != self.documents[:6]

    def test_dataset_from_documents(self):
        golds = [
            document.model_copy(
                update={"metadata": {**document.metadata, **{k: e[k] for k in ("question", "answers")}}}
            )
            for document, e in zip(self.documents, EXAMPLES, strict=True)
        ]
        rows = list(self.augmenter.build_dataset(golds, self.documents))
        assert [row["gold_ids"] for row in rows] == [[c.id] for c in CHUNKS]

    def test_traces(self, tmp_path):
        from langchain_core.retrievers import BaseRetriever

        from hybridmem_plugins.langchain.tracing import RetrievalTraceHandler

        documents = self.documents

        class Fixed(BaseRetriever):
            def _get_relevant_documents(self, query, *, run_manager):
                if query == "fail":
                    raise RuntimeError
                return documents[:3]

        handler = RetrievalTraceHandler(tmp_path / "traces.jsonl")
        Fixed().invoke("one", config={"callbacks": [handler]})
        asyncio.run(Fixed().ainvoke("two", config={"callbacks": [handler]}))
        with pytest.raises(RuntimeError):
            Fixed().invoke("fail", config={"callbacks": [handler]})
        profile = NoiseProfile.from_traces(tmp_path / "traces.jsonl")
        assert (profile.contexts, profile.features["results"]) == (2, {"3": 2})
        assert handler._questions == {}


class TestLlamaIndex:
    @pytest.fixture(autouse=True)
    def _framework(self):
        pytest.importorskip("llama_index.core")
        from llama_index.core.schema import TextNode

        self.nodes = [
            TextNode(id_=c.id, text=c.text, metadata={**c.metadata, "title": c.title}, embedding=[0.5]) for c in CHUNKS
        ]

    def augmenter(self, **settings):
        from hybridmem_plugins.llama_index.augmenter import NoisyContextAugmenter

        return NoisyContextAugmenter(**{"seed": 5, "rates": RATES, **settings})

    def test_transformation(self):
        before = [node.model_copy(deep=True) for node in self.nodes]
        noisy = self.augmenter()(self.nodes)
        assert self.nodes == before
        assert [node.node_id for node in noisy] == [node.node_id for node in before]
        assert sum(a.text != b.text for a, b in zip(noisy, before, strict=True)) > 20
        assert asyncio.run(self.augmenter().acall(self.nodes)) == noisy
        assert all(node.embedding is None for node in noisy)

    def test_cache_key_holds_the_settings(self):
        keys = {
            str(self.augmenter(**s).to_dict()) for s in ({}, {"seed": 6}, {"rates": {"typos": 0.1}}, {"severity": 0.3})
        }
        assert len(keys) == 4
        assert str(self.augmenter().to_dict()) == str(self.augmenter().to_dict())

    def test_worker_processes_agree(self):
        from llama_index.core.ingestion import IngestionPipeline

        pipeline = IngestionPipeline(transformations=[self.augmenter()], disable_cache=True)
        alone = {node.node_id: node.text for node in pipeline.run(nodes=self.nodes)}
        shared = {node.node_id: node.text for node in pipeline.run(nodes=self.nodes, num_workers=2)}
        assert alone == shared

    def test_bad_rates_are_refused_at_once(self):
        with pytest.raises(ValueError, match="did you mean 'typos'"):
            self.augmenter(rates={"typo": 0.1})

    def test_postprocessor(self):
        from llama_index.core.schema import NodeWithScore

        from hybridmem_plugins.llama_index.augmenter import NoisyContextPostprocessor

        scored = [NodeWithScore(node=node, score=1 / (1 + n)) for n, node in enumerate(self.nodes[:6])]
        before = [node.model_copy(deep=True) for node in scored]
        postprocessor = NoisyContextPostprocessor(seed=5, rates=RATES, mix=NOISY)
        noisy = postprocessor.postprocess_nodes(scored, query_str="Which mill?")
        assert scored == before
        assert noisy == asyncio.run(postprocessor.apostprocess_nodes(scored, query_str="Which mill?"))
        assert [n.node.text for n in noisy] != [n.node.text for n in scored]
        assert {n.score for n in noisy} <= {n.score for n in scored}

    def test_scores_stay_with_passages_whose_ids_are_swapped(self):
        from llama_index.core.schema import NodeWithScore

        from hybridmem_plugins.llama_index.augmenter import NoisyContextPostprocessor

        scored = [NodeWithScore(node=node, score=float(n)) for n, node in enumerate(self.nodes[:6])]
        swapping = NoisyContextPostprocessor(rates={"swapped_ids": 1.0}, severity=1.0, mix=NOISY)
        noisy = swapping.postprocess_nodes(scored, query_str="Which mill?")
        assert [(n.node.text, n.score) for n in noisy] == [(n.node.text, n.score) for n in scored]
        assert all(a.node.node_id != b.node.node_id for a, b in zip(noisy, scored, strict=True))

    def test_dataset_from_nodes(self):
        from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter

        rows = list(NoisyContextAugmenter().build_dataset(EXAMPLES, self.nodes))
        assert len(rows) == 40

    def test_traces(self, tmp_path):
        from llama_index.core.instrumentation import get_dispatcher
        from llama_index.core.retrievers import BaseRetriever
        from llama_index.core.schema import NodeWithScore

        from hybridmem_plugins.llama_index.tracing import RetrievalTraceHandler

        nodes = self.nodes

        class Fixed(BaseRetriever):
            def _retrieve(self, query_bundle):
                return [NodeWithScore(node=node, score=1.0) for node in nodes[:4]]

        handler = RetrievalTraceHandler(tmp_path / "traces.jsonl")
        root = get_dispatcher()
        root.add_event_handler(handler)
        try:
            Fixed().retrieve("one")
        finally:
            root.event_handlers.remove(handler)
        assert NoiseProfile.from_traces(tmp_path / "traces.jsonl").features["results"] == {"4": 1}
