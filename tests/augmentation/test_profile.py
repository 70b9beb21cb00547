"""Noise learnt from retrievals, and made again."""

import json
import random

import data
import pytest
from samples import PASSAGES, PROSE, TEXTS, break_like_a_parser
from test_dataset import CHUNKS, EXAMPLES

from hybridmem_plugins import Passage
from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.detectors import DETECTED_TEXT, detect
from hybridmem_plugins.augmentation.edits import apply_changes
from hybridmem_plugins.augmentation.examples import read_beir, read_rows
from hybridmem_plugins.augmentation.labels import check_row
from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.pools import WordIndex
from hybridmem_plugins.augmentation.profile import NoiseProfile, record
from hybridmem_plugins.augmentation.traces import Trace, TraceLog, read_trace, read_traces


@pytest.mark.parametrize("name", DETECTED_TEXT)
def test_detector_sees_its_operator_and_not_clean_prose(name):
    assert detect(Passage(PROSE, "Title")) == {}
    more = 0
    for text in TEXTS:
        severity = 1.0 if OPERATORS[name].typical == 1 else 0.3
        changes = OPERATORS[name].run(text, severity, random.Random(4))
        noisy = Passage(apply_changes(text, changes), "Title")
        more += detect(noisy).get(name, 0.0) > detect(Passage(text, "Title")).get(name, 0.0)
    assert more


def test_detected_severity_is_the_applied_one():
    text = " ".join(TEXTS[:1] * 6)
    for name in ("nbsp", "zero_width", "ligatures", "line_break_hyphens", "heading_spam"):
        for severity in (0.1, 0.4):
            noisy = apply_changes(text, OPERATORS[name].run(text, severity, random.Random(0)))
            assert detect(Passage(noisy, "t"))[name] == pytest.approx(severity, abs=0.07), name


def test_profile_holds_no_text_and_comes_back_the_same(tmp_path):
    traces = record(WordIndex(CHUNKS), {e["id"]: e["question"] for e in EXAMPLES}, {e["id"]: ["c1"] for e in EXAMPLES})
    profile = NoiseProfile.from_traces(traces)
    profile.save(tmp_path / "p.json")
    assert NoiseProfile.load(tmp_path / "p.json") == profile
    stored = (tmp_path / "p.json").read_text()
    assert "mill" not in stored
    assert "Avon" not in stored
    assert max(profile.distance(profile).values()) == 0.0


def test_profile_of_another_version_or_kind_is_refused(tmp_path):
    path = tmp_path / "p.json"
    for content, message in (
        ({"kind": "hybridmem noise profile", "format": 99}, "p.json has profile format 99"),
        ({"other": 1}, "p.json is no noise profile"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            NoiseProfile.load(path)
    path.write_text("no json")
    with pytest.raises(ValueError, match=r"p\.json is no noise profile"):
        NoiseProfile.load(path)


def test_distance_is_total_variation():
    def profile(*ranks):
        return NoiseProfile.from_traces(
            Trace("q", tuple(PASSAGES[:3]), frozenset({f"p{rank}"} if rank else {"none"})) for rank in ranks
        )

    distance = profile(1, 1, 2, 0).distance(profile(1, 2, 2, 2))
    assert distance["gold_rank"] == pytest.approx(0.5)
    assert distance["results"] == 0.0


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="questions is empty"):
        NoiseProfile.from_retriever(WordIndex(CHUNKS), [])
    with pytest.raises(ValueError, match="gold has 1 entries for 2"):
        NoiseProfile.from_retriever(WordIndex(CHUNKS), ["a", "b"], gold=[["c1"]])
    with pytest.raises(ValueError, match="no retrieval found"):
        NoiseProfile.from_traces([{"run_type": "llm"}])
    profile = NoiseProfile.from_retriever(WordIndex(CHUNKS), ["mill"])
    with pytest.raises(ValueError, match="either a profile or rates"):
        NoisyContextAugmenter(profile=profile, rates={"typos": 0.1})


def test_trace_forms():
    langchain = {"run_type": "retriever", "inputs": {"query": "q"},
                 "outputs": {"documents": [{"page_content": "t", "metadata": {"title": "T"}}]}}  # fmt: skip
    llama = {"class_name": "RetrievalEndEvent", "str_or_query_bundle": {"query_str": "q"},
             "nodes": [{"node": {"id_": "n", "text": "t", "metadata": {"title": "T"}}, "score": 0.5}]}  # fmt: skip
    flat = {"attributes": {"openinference.span.kind": "RETRIEVER", "input.value": "q",
                           "retrieval.documents.0.document.content": "t",
                           "retrieval.documents.0.document.metadata": '{"title": "T"}'}}  # fmt: skip
    nested = {"attributes": {"openinference": {"span": {"kind": "RETRIEVER"}}, "input": {"value": "q"},
              "retrieval": {"documents": [{"document": {"content": "t", "metadata": {"title": "T"}}}]}}}  # fmt: skip
    for form in (langchain, llama, flat, nested):
        trace = read_trace(form)
        assert (trace.question, trace.passages[0].text, trace.passages[0].title) == ("q", "t", "T")
    assert read_trace({"attributes": {"openinference.span.kind": "LLM"}}) is None
    assert read_trace({"run_type": "chain"}) is None
    assert [read_trace(line) for line in (3, "text", [1], None)] == [None] * 4
    for cut_off in ('{"title": "T', '["T"]'):
        flat["attributes"]["retrieval.documents.0.document.metadata"] = cut_off
        assert read_trace(flat).passages[0] == Passage("t", None, read_trace(flat).passages[0].id)


def test_trace_log_round_trip(tmp_path):
    log = TraceLog(tmp_path / "traces.jsonl")
    log.add("Where?", PASSAGES)
    log.add("Who?", [])
    first, second = read_traces(tmp_path / "traces.jsonl")
    assert [p.text for p in first.passages] == [p.text for p in PASSAGES]
    assert second.passages == ()
    assert first.gold is None


def test_a_node_without_a_text_field_is_logged(tmp_path):
    schema = pytest.importorskip("llama_index.core.schema")
    node = schema.Node(id_="n", text_resource=schema.MediaResource(text="It was Ada."))
    log = TraceLog(tmp_path / "traces.jsonl")
    log.add("Who?", [schema.NodeWithScore(node=node, score=1.0), schema.Node(id_="empty")])
    (trace,) = read_traces(tmp_path / "traces.jsonl")
    assert [(passage.id, passage.text) for passage in trace.passages] == [("n", "It was Ada.")]


def test_what_a_kill_left_of_a_line_spoils_neither_log_nor_next_line(tmp_path):
    file = tmp_path / "traces.jsonl"
    log = TraceLog(file)
    for question in ("Où?", "Quand?"):
        log.add(question, PASSAGES)
        file.write_bytes(file.read_bytes() + '{"question": "é'.encode()[:-1])
        assert [trace.question for trace in read_traces(file)] == ["Où?", "Quand?"][: 1 + (question == "Quand?")]
    file.write_text("oops\n" + file.read_text(errors="replace"))
    with pytest.raises(ValueError, match="line 1: not JSON"):
        list(read_traces(file))


def worst(made, heldout):
    distances = made.distance(heldout)
    print(sorted(((round(v, 3), n) for n, v in distances.items()), reverse=True)[:8])
    assert {"results", "together"} <= distances.keys()
    return max((value, name) for name, value in distances.items())


def test_contexts_match_heldout_retrievals_of_nq():
    examples, chunks = read_beir(data.folder("retrieval", "nq-oracle-500"))
    index = WordIndex(chunks)
    order = random.Random(0).sample(range(len(examples)), len(examples))
    asked = [examples[number] for number in order]
    traces = record(lambda q: index(q)[:8], [e["question"] for e in asked], [e["gold_ids"] for e in asked])
    cut = len(traces) * 4 // 5
    profile, heldout = NoiseProfile.from_traces(traces[:cut]), NoiseProfile.from_traces(traces[cut:])
    # A few NQ golds hold the answer in other words only.
    dataset = NoisyContextAugmenter(seed=0, profile=profile).build_dataset(
        asked[:cut], chunks, retriever=index, copies=2, on_bad_row="skip"
    )
    rows = list(dataset)
    assert [found for row in rows if (found := check_row(row, dataset.lookup))] == []
    value, name = worst(NoiseProfile.from_rows(rows), heldout)
    assert value <= 0.10, name


def test_contexts_match_a_broken_parser():
    rows = list(read_rows(data.folder("qa", "train", "tatqa-dev-span.jsonl.gz")))
    texts = list(dict.fromkeys(row["context"] for row in rows))
    clean = {text: Passage(text, f"Report {number}", f"t{number}") for number, text in enumerate(texts)}
    rng = random.Random(1)
    traces = []
    for row in rows[:800]:
        found = [clean[row["context"]], *rng.sample(list(clean.values()), 4)]
        broken = tuple(Passage(break_like_a_parser(p.text, rng), p.title, p.id) for p in found)
        traces.append(Trace(row["question"], tuple(rng.sample(broken, 5)), frozenset({found[0].id})))
    rng.shuffle(traces)
    cut = len(traces) * 4 // 5
    profile, heldout = NoiseProfile.from_traces(traces[:cut]), NoiseProfile.from_traces(traces[cut:])
    made = NoisyContextAugmenter(seed=0, profile=profile).build_dataset(rows[:640], clean.values())
    value, name = worst(NoiseProfile.from_rows(made), heldout)
    assert value <= 0.10, name
    assert profile.shares("operator:nbsp")["light"] > 0.9


def test_a_learnt_truncation_leaves_most_of_the_text():
    cut = PROSE[: len(PROSE) * 3 // 4].rstrip(" .,;")
    profile = NoiseProfile.from_traces([Trace("q", (Passage(cut, "Title", "1"),))] * 5)
    assert profile.shares("operator:cut_mid_word") == {"medium": 1.0}
    noisy = NoisyContextAugmenter(profile=profile).noise_passages([Passage(PROSE, "Title", "1")])
    assert len(PROSE) * 0.6 < len(noisy[0].text) < len(PROSE)


def test_several_golds_stand_where_they_were_seen_or_are_missing():
    chunks = [Passage(f"The mill of town {n} has {n} wheels.", f"Town {n}", f"c{n}") for n in range(30)]
    both, one = frozenset({"c0", "c1"}), frozenset({"c0"})
    seen = (chunks[2], chunks[0], chunks[3], chunks[1])
    traces = [
        Trace("mill?", seen, both),
        Trace("mill?", (*chunks[4:7], chunks[0]), both),
        Trace("mill?", seen[:2], one),
    ]
    profile = NoiseProfile.from_traces(traces)
    assert profile.features["gold_found"] == {"all": 2, "some": 1}
    example = {"question": "How many wheels has the mill?", "answers": ["7 wheels"], "context": [chunks[7], chunks[8]]}
    rows = list(NoisyContextAugmenter(profile=profile).build_dataset([example], chunks, copies=40))
    slots = [tuple(n for n, p in enumerate(row["passages"], 1) if p["id"] in ("c7", "c8")) for row in rows]
    assert set(slots) == {(2, 4), (4,)}
    assert all(row["labels"]["abstain"] for row, found in zip(rows, slots, strict=True) if found == (4,))


@pytest.mark.parametrize("name", [7, 0])
def test_gold_can_be_told_to_logs_that_do_not_know_it(name):
    run = {
        "run_type": "retriever",
        "inputs": {"query": "q"},
        "outputs": {"documents": [{"page_content": "t", "id": name}]},
    }
    assert "gold_rank" not in NoiseProfile.from_traces([run]).features
    assert NoiseProfile.from_traces([run], gold={"q": [str(name)]}).features["gold_rank"] == {"1": 1}
