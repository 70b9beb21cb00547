"""What LlamaIndex does to any component: settings by name, copies, pickles, dicts."""

from __future__ import annotations

import pickle
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.graph_stores.types import EntityNode, Relation
from llama_index.core.schema import ImageNode, MediaResource, Node, NodeWithScore, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from hybridmem_plugins.llama_index import (
    FinetunedLLM,
    HnswVectorStore,
    NetworkXPropertyGraphStore,
    NoisyContextAugmenter,
    NoisyContextPostprocessor,
)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FinetunedLLM, {"model_name": "another/model"}),  # before a model is loaded
        (HnswVectorStore, {"persist_dir": "folder"}),
        (NoisyContextAugmenter, {"sed": 1}),
        (NoisyContextPostprocessor, {"rate": 1}),
    ],
)
def test_settings_that_a_component_does_not_have_are_refused(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} has no setting '{next(iter(wrong))}'. It has: "):
        kind(**wrong)


def test_what_is_serialised_can_be_read() -> None:
    for made in (NoisyContextAugmenter(seed=3), NoisyContextPostprocessor(seed=3), HnswVectorStore()):
        kind = type(made)
        assert kind.from_dict(made.to_dict()).to_dict() == made.to_dict()
        assert kind.model_validate(made.model_dump()).to_dict() == made.to_dict()


def test_a_pickled_vector_store_holds_what_it_held(tmp_path: Path) -> None:
    for path in (None, tmp_path):
        store = HnswVectorStore(path, is_embedding_query=False)
        store.add([TextNode(id_="n", text="A text.", metadata={"b": 1, "a": 2}, embedding=[0.6, 0.8])])
        again = pickle.loads(pickle.dumps(store))  # noqa: S301
        assert again.get_nodes() == store.get_nodes()
        assert again.is_embedding_query is False
        assert again.query(VectorStoreQuery(query_embedding=[0.6, 0.8])).similarities == pytest.approx([1.0])
        again.delete_nodes(["n"])
        assert len(again) == 0
        assert len(store) == (path is None)  # a folder is the same one
        store.close()
        again.close()


@pytest.mark.parametrize("copied", [deepcopy, lambda store: pickle.loads(pickle.dumps(store))])  # noqa: S301
def test_a_copied_graph_store_is_one_of_its_own(copied: Any) -> None:
    store = NetworkXPropertyGraphStore()
    store.upsert_nodes([EntityNode(name="a", embedding=[1.0, 0.0], properties={"on": date(2026, 1, 1)})])
    store.upsert_relations([Relation(label="r", source_id="a", target_id="b")])
    again = copied(store)
    assert again.get() == store.get()
    assert again.to_dict() == store.to_dict()
    assert [n.id for n in again.vector_query(VectorStoreQuery(query_embedding=[0.0, 1.0]))[0]] == ["a"]
    again.delete(entity_names=["a"])
    assert len(store.get()) == 2


def test_a_mode_that_needs_no_vector_is_named() -> None:
    with pytest.raises(ValueError, match="has the modes 'default' and 'mmr', not 'text_search'"):
        HnswVectorStore().query(VectorStoreQuery(query_str="text", mode=VectorStoreQueryMode.TEXT_SEARCH))


def test_noise_reaches_every_kind_of_node_with_text_and_leaves_the_others() -> None:
    loud = {"rates": {"lost_case": 1.0}, "severity": 1.0}
    given = [
        ImageNode(id_="image", image_path="a.png"),
        Node(id_="plain", text_resource=MediaResource(text="A Plain Node")),
        TextNode(id_="text", text="A Text"),
    ]
    noisy = NoisyContextAugmenter(**loud)(given)
    assert [node.get_content() for node in noisy] == ["", "a plain node", "a text"]
    found = [NodeWithScore(node=node, score=score) for score, node in enumerate(given)]
    read = NoisyContextPostprocessor(**loud, mix={"noisy": 1.0}).postprocess_nodes(found, query_str="q")
    assert [(one.node_id, one.score, one.node.get_content()) for one in read] == [
        ("plain", 1, "a plain node"),
        ("text", 2, "a text"),
        ("image", 0, ""),
    ]
