"""HnswVectorStore in LlamaIndex: searching, deleting, filters, files, composition."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from li_helpers import WordEmbedding, nodes
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import Document, ImageNode, TextNode
from llama_index.core.vector_stores import (
    FilterCondition,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.llama_index import HnswVectorStore

MODEL = WordEmbedding()


def embedded() -> list[TextNode]:
    made = nodes()
    for node in made:
        node.embedding = MODEL._get_text_embedding(node.text)
    return made


def query(text: str = "yellow fruit", k: int = 6, **settings: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=MODEL._get_text_embedding(text), similarity_top_k=k, **settings)


@pytest.fixture
def store() -> HnswVectorStore:
    made = HnswVectorStore()
    assert made.add(embedded()) == [f"n{n}" for n in range(6)]
    return made


async def test_higher_is_better_and_k_may_be_any(store: HnswVectorStore) -> None:
    result = store.query(query(k=100))
    assert len(result.ids) == 6
    assert result.ids[0] == "n3"
    assert result.similarities == sorted(result.similarities, reverse=True)
    for node, similarity in zip(result.nodes, result.similarities, strict=True):
        first, second = np.array(query().query_embedding), np.array(MODEL._get_text_embedding(node.text))
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert similarity == pytest.approx(cosine, abs=1e-5)
    assert (await store.aquery(query(k=100))).ids == result.ids
    originals = {node.node_id: node for node in nodes()}
    assert all(node == originals[node.node_id] for node in result.nodes)
    assert HnswVectorStore().query(query()).ids == []


async def test_delete(store: HnswVectorStore) -> None:
    store.delete("unknown")
    store.delete("doc0")
    await store.adelete("doc1")
    assert sorted(store.query(query()).ids) == ["n4", "n5"]
    store.delete_nodes([])
    assert len(store) == 2
    store.delete_nodes(["n4", "unknown"])
    assert [node.node_id for node in store.get_nodes()] == ["n5"]
    with pytest.raises(ValueError, match="clear"):
        store.delete_nodes()
    store.add(embedded())
    only = MetadataFilters(filters=[MetadataFilter(key="tenant", value="a")])
    await store.adelete_nodes(filters=only)
    assert sorted(store.query(query()).ids) == ["n1", "n3", "n5"]
    store.delete_nodes(["n1", "n3"], filters=MetadataFilters(filters=[MetadataFilter(key="number", value=3)]))
    assert sorted(store.query(query()).ids) == ["n1", "n5"]
    await store.aclear()
    assert store.query(query()).ids == []
    store.clear()


def test_filters_ids_and_documents(store: HnswVectorStore) -> None:
    either = MetadataFilters(
        filters=[MetadataFilter(key="number", value=0), MetadataFilter(key="number", value=3)],
        condition=FilterCondition.OR,
    )
    nested = MetadataFilters(filters=[either, MetadataFilter(key="tenant", value="b")])
    assert store.query(query(filters=nested)).ids == ["n3"]
    assert sorted(store.query(query(node_ids=["n1", "n5", "unknown"])).ids) == ["n1", "n5"]
    assert len(store.query(query(node_ids=[], doc_ids=[])).ids) == 6
    assert store.get_nodes([]) == []
    assert sorted(store.query(query(doc_ids=["doc1"])).ids) == ["n2", "n3"]
    assert store.query(query(doc_ids=["doc1"], filters=either)).ids == ["n3"]
    assert store.query(query(node_ids=["n0", "n1"], filters=either)).ids == ["n0"]
    insensitive = MetadataFilters(filters=[MetadataFilter(key="title", value="BAN", operator="text_match_insensitive")])
    assert store.query(query(doc_ids=["doc1"], filters=insensitive)).ids == ["n3"]
    assert [node.node_id for node in store.get_nodes(["n3", "n0", "n1"], either)] == ["n3", "n0"]
    document = MetadataFilters(filters=[MetadataFilter(key="ref_doc_id", value="doc1")])
    assert sorted(store.query(query(filters=document)).ids) == ["n2", "n3"]
    store.delete_nodes(filters=document)
    assert sorted(store.query(query()).ids) == ["n0", "n1", "n4", "n5"]


def test_mmr_and_other_modes(store: HnswVectorStore) -> None:
    store.add([
        TextNode(id_=f"s{n}", text=t, embedding=MODEL._get_text_embedding(t))
        for n, t in enumerate([f"Helium is a light gas number {n}." for n in range(4)])
    ])  # fmt: skip
    asked = query("helium is a light gas number", 3, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.1)
    assert not set(store.query(asked).ids) <= {f"s{n}" for n in range(4)}
    assert set(store.query(asked, mmr_threshold=1.0).ids) <= {f"s{n}" for n in range(4)}
    with pytest.raises(ValueError, match="'sparse'"):
        store.query(query(mode=VectorStoreQueryMode.SPARSE))
    with pytest.raises(ValueError, match="no embedding"):
        store.query(VectorStoreQuery(query_str="x"))
    with pytest.raises(ValueError, match="k must"):
        store.query(query(k=0))


def test_bad_nodes_store_nothing(store: HnswVectorStore) -> None:
    good = TextNode(text="fine", embedding=MODEL._get_text_embedding("fine"))
    for bad in (
        TextNode(text="no embedding"),
        TextNode(text="short", embedding=[1.0, 2.0]),
        TextNode(text="nan", embedding=[float("nan")] * 32),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            store.add([good, bad])
    assert len(store) == 6
    assert store.add([]) == []
    twice = [TextNode(id_="x", text=t, embedding=[1.0] * 32) for t in ("one", "two")]
    store.add(twice)
    assert [node.text for node in store.get_nodes(["x"])] == ["two"]


def test_a_storage_context_keeps_it(store: HnswVectorStore, tmp_path: Path) -> None:
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex([], storage_context=context, embed_model=MODEL)
    index.insert_nodes([TextNode(id_="neon", text="Neon glows red.")])
    context.persist(str(tmp_path))
    loaded = HnswVectorStore.from_persist_dir(str(tmp_path))
    assert loaded.query(query()).ids == store.query(query()).ids
    assert loaded.query(query()).nodes == store.query(query()).nodes
    again = StorageContext.from_defaults(vector_store=loaded, persist_dir=str(tmp_path))
    reopened = load_index_from_storage(again, embed_model=MODEL)
    assert [n.node_id for n in reopened.as_retriever(similarity_top_k=1).retrieve("Neon glows red.")] == ["neon"]
    plain = StorageContext.from_defaults(persist_dir=str(tmp_path))  # does not stumble over the file
    assert isinstance(plain.vector_store, SimpleVectorStore)
    assert plain.vector_store.query(query(k=3)).ids == store.query(query(k=3)).ids
    SimpleVectorStore().persist(str(tmp_path / "simple.json"))
    with pytest.raises(MemoryFormatError, match=r"simple\.json"):
        HnswVectorStore.from_persist_path(str(tmp_path / "simple.json"))
    with pytest.raises(FileNotFoundError):
        HnswVectorStore.from_persist_dir(str(tmp_path / "nowhere"))


def test_threads_that_write_one_file_do_not_disturb_each_other(store: HnswVectorStore, tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(store.persist, str(path)) for _ in range(24)]:
            written.result()
    assert len(HnswVectorStore.from_persist_path(str(path))) == len(store)
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]


def test_nodes_without_text_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    store = HnswVectorStore()
    given = [Document(id_="d", text="Helium is a gas."), Document(id_="e", text="", metadata={"file_name": "e.md"})]
    IngestionPipeline(transformations=[SentenceSplitter(), MODEL], vector_store=store).run(documents=given)
    assert [node.ref_doc_id for node in store.get_nodes()] == ["d"]
    assert "no text" in caplog.text
    store.add([TextNode(id_="x", text="said", embedding=[1.0] * 32)])
    assert store.add([TextNode(id_="x", text=" "), ImageNode(image_path="a.png")])[0] == "x"
    assert store.get_nodes(["x"]) == []


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    empty = HnswVectorStore(tmp_path / "memory")
    storage_context = StorageContext.from_defaults(vector_store=empty)
    VectorStoreIndex(nodes(), storage_context=storage_context, embed_model=MODEL)
    storage_context.persist(str(tmp_path / "storage"))
    empty.close()
    assert len(HnswVectorStore(tmp_path / "memory")) == len(HnswVectorStore.from_persist_dir(tmp_path / "storage")) == 6


def test_a_folder_keeps_every_change(tmp_path: Path) -> None:
    first = HnswVectorStore(tmp_path / "memory")
    first.add(embedded())
    first.delete("doc0")
    first.close()
    second = HnswVectorStore(tmp_path / "memory")
    assert sorted(second.query(query()).ids) == ["n2", "n3", "n4", "n5"]
    second.close()


def test_in_an_index_and_a_pipeline() -> None:
    store = HnswVectorStore()
    pipeline = IngestionPipeline(transformations=[MODEL], vector_store=store)
    pipeline.run(documents=[Document(id_="d", text="Helium is a gas."), Document(id_="e", text="Bread is food.")])
    index = VectorStoreIndex.from_vector_store(store, embed_model=MODEL)
    best = index.as_retriever(similarity_top_k=2).retrieve("Helium is a gas.")
    assert best[0].node.node_id == "d"
    cut = SimilarityPostprocessor(similarity_cutoff=0.9).postprocess_nodes(best)
    assert [n.node.node_id for n in cut] == ["d"]  # the best is kept, not the worst
    index.delete_ref_doc("d")
    assert [n.node.node_id for n in index.as_retriever().retrieve("Helium is a gas.")] == ["e"]
    index.insert(Document(id_="f", text="Neon is a gas."))
    assert index.as_retriever(similarity_top_k=1).retrieve("Neon is a gas.")[0].node.ref_doc_id == "f"


def test_reading_while_writing(store: HnswVectorStore) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert "n3" in store.query(query()).ids
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(20):
        store.add([TextNode(id_=f"x{n}", text=f"Text {n}.", embedding=MODEL._get_text_embedding(f"text {n}"))])
        store.delete_nodes([f"x{n}"])
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_copy_is_the_same_store() -> None:
    store = HnswVectorStore()
    copied = copy.deepcopy(store)
    store.add(embedded())
    assert copied.query(query()).ids == store.query(query()).ids
