"""spaCy, GLiNER and LLM extractors, aliases and resolvers, and the typed facts that come of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.gliner_extractor import GLiNERExtractor
from hybridmem_plugins.extraction.llm_extractor import LLMExtractor
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.extraction.resolving import NameResolver, ResolvingExtractor
from hybridmem_plugins.extraction.spacy_extractor import SpacyExtractor

CURIE = Passage(
    id="curie", title="Marie Curie", text="She was born in Warsaw. She discovered radium with Pierre Curie."
)
RADIUM = Passage(id="radium", text="The element radium glows.")


class FakePipeline:
    """What the extractor uses of a spaCy pipeline: every given word is an entity."""

    max_length = 1000

    def __init__(self, **labels: str) -> None:
        self.labels = labels

    def pipe(self, texts: Sequence[str], batch_size: int) -> list[Any]:
        return [
            SimpleNamespace(
                ents=[
                    SimpleNamespace(text=word, start_char=text.index(word), label_=label)
                    for word, label in self.labels.items()
                    if word in text
                ]
            )
            for text in texts
        ]


def names(extraction: Extraction) -> dict[str, tuple[str, int]]:
    return {m.name: (m.kind, m.sentence) for m in extraction.mentions}


def test_spacy_adds_entities_and_keeps_the_others() -> None:
    extractor = SpacyExtractor(FakePipeline(radium="CHEMICAL", born="DATE", Warsaw="GPE"))
    found, long = extractor.extract([CURIE, Passage("radium " * 200, id="long")])
    assert names(found) == {"warsaw": ("name", 0), "pierre curie": ("name", 1), "radium": ("entity", 1)}
    assert names(long) == {}  # longer than the pipeline takes: left to the built-in one


def test_a_missing_spacy_names_its_extra() -> None:
    try:
        import spacy  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"hybridmem-plugins\[spacy\]"):
            SpacyExtractor("en_core_web_sm")


def test_a_blank_spacy_pipeline_with_a_ruler() -> None:
    spacy = pytest.importorskip("spacy")
    assert names(SpacyExtractor(spacy.blank("en")).extract([CURIE])[0]) == names(BuiltinExtractor().extract([CURIE])[0])
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "CHEMICAL", "pattern": "radium"}])
    assert names(SpacyExtractor(pipeline).extract([CURIE])[0])["radium"] == ("entity", 1)


class FakeGLiNER:
    def predict_entities(self, text: str, labels: list[str]) -> list[dict[str, Any]]:
        assert labels == ["element"]
        return [{"text": "radium", "start": text.index("radium"), "score": 0.9}] if "radium" in text else [
            {"text": "born", "start": 0, "score": 0.1}
        ]  # fmt: skip


def test_gliner_by_its_method() -> None:
    found = GLiNERExtractor(FakeGLiNER(), ["element"]).extract([CURIE])[0]
    assert names(found)["radium"] == ("entity", 1)
    assert "born" not in names(found)
    with pytest.raises(TypeError, match="predict_entities"):
        GLiNERExtractor(object())  # type: ignore[arg-type]


FACT = {"subject": "Marie Curie", "relation": "Discovered", "object": "radium"}


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps([FACT]),
        "Here you are:\n```json\n" + json.dumps({"facts": [FACT]}) + "\n```\nAnything else?",
        json.dumps(FACT) + "\n" + json.dumps(FACT),
        json.dumps([["Marie Curie", "discovered", "radium"]]),
        json.dumps([FACT])[:-1] + ', {"subject": "Marie',
        json.dumps({"1": [FACT]}),
    ],
)
def test_a_model_may_answer_in_many_shapes(answer: str) -> None:
    extractor = LLMExtractor(lambda _: answer)
    facts = extractor.extract([CURIE])[0].facts
    assert [(f.subject, f.relation, f.object, f.sentence) for f in facts] == [
        ("marie curie", "discovered", "radium", 1)
    ]
    assert (extractor.report.passages, extractor.report.facts, extractor.report.calls) == (1, 1, 1)
    assert not extractor.report.skipped


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I cannot help with that.", "the answer holds no JSON"),
        ("", "the answer holds no JSON"),
        (None, "calls failed (TypeError)"),
        ("[" * 5000, "the answer holds no JSON"),
        ('[{"subject": "Marie Curie", "relation": "born in"}]', "lacking a subject, relation or object"),
        ('[{"subject": "Marie Curie", "relation": "", "object": "Warsaw"}]', "with an empty name or relation"),
        ('[{"subject": "Marie Curie", "relation": "met", "object": "Einstein"}]', "naming what the passage does not"),
        ('[{"subject": "Marie Curie", "relation": "%s", "object": "Warsaw"}]' % ("x" * 300), "too long"),
        ('["Warsaw"]', "no object with subject, relation and object"),
        ('[{"subject": ["Marie"], "relation": "r", "object": "Warsaw"}]', "lacking a subject, relation or object"),
    ],
)
def test_bad_answers_are_skipped_counted_and_told(answer: Any, reason: str) -> None:
    extractor = LLMExtractor(lambda _: answer)
    found = extractor.extract([CURIE])[0]
    assert found == BuiltinExtractor().extract([CURIE])[0]
    assert dict(extractor.report.skipped) == {reason: 1}
    assert extractor.report.examples == [("curie", reason)]
    assert reason in str(extractor.report)


def test_an_empty_list_is_a_good_answer() -> None:
    extractor = LLMExtractor(lambda _: "[]", on_error="raise")
    assert extractor.extract([CURIE])[0].facts == ()
    assert not extractor.report.skipped


def test_errors_raise_only_when_asked_for() -> None:
    def fail(_: str) -> str:
        msg = "down"
        raise ConnectionError(msg)

    extractor = LLMExtractor(fail)
    assert extractor.extract([CURIE, RADIUM])[0].facts == ()
    assert extractor.report.skipped == {"calls failed (ConnectionError)": 2}
    with pytest.raises(ConnectionError, match="down"):
        LLMExtractor(fail, on_error="raise").extract([CURIE])
    with pytest.raises(ValueError, match="no JSON"):
        LLMExtractor(lambda _: "no", on_error="raise").extract([CURIE])


def test_batches_and_one_by_one_after_a_bad_answer() -> None:
    prompts: list[str] = []

    def complete(prompt: str) -> str:
        prompts.append(prompt)
        if "[2]" not in prompt:
            return json.dumps([FACT]) if "Warsaw" in prompt else "[]"
        if len(prompts) == 1:
            return json.dumps([{**FACT, "passage": 1}, {**FACT, "passage": 9}])
        return "???"

    extractor = LLMExtractor(complete, batch_size=2)
    assert [len(e.facts) for e in extractor.extract([CURIE, RADIUM])] == [1, 0]
    assert extractor.report.skipped == {"of no passage that was asked about": 1}
    assert [len(e.facts) for e in extractor.extract([RADIUM, CURIE])] == [0, 1]
    assert extractor.report.calls == 4


@pytest.mark.parametrize("options", [{"prompt": "no place"}, {"batch_size": 0}, {"on_error": "ignore"}])
def test_bad_settings(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LLMExtractor(str, **options)


# --- typed facts in a memory -----------------------------------------------------------------------------------------


def teller(prompt: str) -> str:
    """Says one fact about every passage of a tenant."""
    return json.dumps([FACT]) if "discovered radium" in prompt else "[]"


def test_typed_facts_come_first_and_vanish_with_their_last_passage() -> None:
    other = Passage(id="other", title="Nobel Prize", text="It honoured Marie Curie, who discovered radium.")
    with HybridMemory(extractor=LLMExtractor(teller)) as memory:
        memory.add([CURIE, other])
        first = memory.facts("Who discovered radium?")[0]
        assert (first.subject, first.relation, first.object) == ("Marie Curie", "discovered", "radium")
        assert first.sentence == "She discovered radium with Pierre Curie."
        assert memory.graph.edges["marie curie", "radium", "discovered"]["passages"] == {1, 2}
        scores = [fact.score for fact in memory.facts("Who discovered radium?")]
        assert scores == sorted(scores, reverse=True)
        assert 0 < min(scores) <= max(scores) <= 1
        memory.delete(["curie"])
        assert memory.facts("radium")[0].passage_id == "other"
        memory.add([Passage(id="other", text="Nothing of the kind.")])
        assert not memory.graph.has_edge("marie curie", "radium")
        assert "radium" not in memory.graph
        assert all(fact.relation != "discovered" for fact in memory.facts("radium"))


def test_typed_facts_survive_reopening_without_the_model(tmp_path: Any) -> None:
    with HybridMemory(path=tmp_path / "m", extractor=LLMExtractor(teller)) as memory:
        memory.add([CURIE])
        told = memory.facts("radium")
    with HybridMemory(path=tmp_path / "m") as memory:
        assert memory.facts("radium") == told


def test_a_filter_holds_for_typed_facts() -> None:
    secret = Passage(id="s", text="Marie Curie discovered radium.", metadata={"tenant": "a"})
    public = Passage(id="p", title="Radium", text="It glows.", metadata={"tenant": "b"})
    with HybridMemory(extractor=LLMExtractor(teller)) as memory:
        memory.add([secret, public])
        assert memory.facts("Who discovered radium?", filter={"tenant": "a"})[0].relation == "discovered"
        assert all(f.passage_id == "p" for f in memory.facts("Who discovered radium?", filter={"tenant": "b"}))


def test_relations_called_like_the_graphs_own_edges() -> None:
    """`mentions` and `defines` are words that a model may choose."""
    fact = '[["Marie Curie", "mentions", "radium"], ["radium", "defines", "Warsaw"], ["radium", "is", "radium"]]'
    with HybridMemory(extractor=LLMExtractor(lambda _: fact, grounded=False)) as memory:
        memory.add([CURIE, RADIUM, Passage(id="w", title="Warsaw", text="A city.", metadata={"t": 1})])
        for allowed in (None, {"t": 1}):
            assert memory.search("radium and Warsaw", filter=allowed)
            assert memory.facts("radium and Warsaw", filter=allowed)
        memory.delete(["curie", "radium", "w"])
        assert memory.graph.number_of_nodes() == memory.graph.number_of_edges() == 0


# --- aliases and resolvers -------------------------------------------------------------------------------------------

NVM = {"NVM": "Non-Volatile Memory"}


def test_aliases_act_on_passages_and_titles_are_found_both_ways() -> None:
    with HybridMemory(aliases=NVM) as memory:
        memory.add(
            [
                Passage(id="def", title="Non-volatile memory", text="It keeps data without power."),
                Passage(id="use", title="Phone", text="It stores photos in nvm of two kinds."),
                Passage(id="short", title="NVM", text="An abbreviation."),
            ]
        )
        mentions = set(memory.graph.predecessors("non volatile memory"))
        assert mentions == {"passage:def", "passage:use", "passage:short"}
        assert "passage:short" in memory.graph.predecessors("nvm")
        for question in ("What is NVM?", "What is non-volatile memory?"):
            linked = {h.passage.id for h in memory.search(question) if h.provenance["entities"]}
            assert linked == {"def", "short"}, question


def test_an_alias_given_later_still_finds_the_title() -> None:
    memory = HybridMemory()
    memory.add([Passage(id="short", title="NVM", text="An abbreviation.")])
    memory._resolve = NameResolver(NVM)
    assert memory.search("What is NVM?")[0].provenance["entities"] == ["nvm"]


def test_a_resolver_joins_names() -> None:
    calls: list[str] = []

    def resolve(name: str) -> str:
        calls.append(name)
        return {"big blue": "IBM", "???": ""}.get(name, name)

    with HybridMemory(resolver=resolve) as memory:
        memory.add(
            [Passage(id="1", text="We bought it from Big Blue."), Passage(id="2", title="IBM", text="A company.")]
        )
        assert memory.graph.has_edge("passage:1", "ibm")
        hit = next(h for h in memory.search("Who leads Big Blue?") if h.passage.id == "2")
        assert hit.provenance["entities"] == ["ibm"]
    assert len(calls) == len(set(calls))  # each name is asked about once


def test_a_resolver_that_gives_no_string_is_told() -> None:
    resolve = NameResolver(resolver=lambda name: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="must return a string"):
        ResolvingExtractor(BuiltinExtractor(), resolve).extract([CURIE])
    with pytest.raises(ValueError, match="no letter"):
        NameResolver({"!": "x"})
