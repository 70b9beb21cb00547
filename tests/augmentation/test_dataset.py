"""Rows: labels, mix, splits, exports, errors."""

import copy
import json
import pickle
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from hybridmem_plugins import Passage
from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.examples import read_rows
from hybridmem_plugins.augmentation.labels import check_row
from hybridmem_plugins.augmentation.questions import cloze_examples, llm_examples
from hybridmem_plugins.augmentation.templates import ABSTENTION

NAMES = ("Avon", "Brill", "Corby", "Derwent", "Esk", "Fowey", "Garth", "Holme", "Irwell", "Jarrow")
CHUNKS = [
    Passage(
        f"The mill of {name} was built in {1700 + 7 * number} by the river. It ground {100 + number} tons "
        f"of corn a year. The miller of {name} lived beside it and kept the books with care.",
        f"{name} mill",
        f"c{number}",
        {"source": f"{name}.pdf", "page": number, "date": f"2019-0{1 + number % 9}-01"},
    )
    for number, name in enumerate(f"{name}{suffix}" for suffix in ("", "ton", "ham", "by") for name in NAMES)
]
EXAMPLES = [
    {"id": f"q{number}", "question": f"When was the mill of {chunk.title[:-5]} built?",
     "answers": [str(1700 + 7 * number)], "context": chunk.text}
    for number, chunk in enumerate(CHUNKS)
]  # fmt: skip


def build(augmenter=None, examples=EXAMPLES, chunks=CHUNKS, **options):
    return (augmenter or NoisyContextAugmenter(seed=1)).build_dataset(examples, chunks, **options)


def test_every_row_passes_the_label_check_and_replays():
    dataset = build(copies=30)
    rows = list(dataset)
    assert len(rows) == len(dataset) == 1200
    assert [(row["id"], found) for row in rows if (found := check_row(row, dataset.lookup))] == []
    assert dataset.datasheet.rows == 1200
    assert {row["labels"]["kind"] for row in rows} == {"noisy", "clean", "no_gold", "empty"}
    json.dumps(rows)


def test_the_check_can_fail():
    dataset = build(NoisyContextAugmenter(seed=1, mix={"clean": 1.0}))
    row = next(iter(dataset))
    assert check_row(row, dataset.lookup) == []
    assert check_row({**row, "completion": "1066"}) == ["the target lacks the answer"]
    assert check_row({**row, "completion": ABSTENTION}) != []
    empty = {**row, "passages": []}
    assert "labelled as present, but the answer is not in a gold passage" in check_row(empty)
    assert "the log does not lead from the clean to the noisy context" in check_row(empty, dataset.lookup)
    planted = {**row, "passages": [*row["passages"], {**row["passages"][0], "role": "same_topic"}]}
    assert "a wrong passage holds the answer" in check_row(planted)
    titled = {**row["passages"][0], "role": "same_topic", "text": "Rain.", "title": "Of 1700"}
    assert check_row({**row, "passages": [*row["passages"], titled]}) == ["a title or metadata alone hold the answer"]


@pytest.mark.parametrize(("operator", "text"), [("fake_citations", "1700)"), ("merged_chunks", "in 1700")])
def test_the_check_knows_what_a_passage_says_itself(operator, text):
    dataset = build(NoisyContextAugmenter(seed=1, mix={"clean": 1.0}))
    row = next(iter(dataset))
    gold = row["passages"][0]
    end = len(gold["text"])
    lost = {
        "operator": "truncate_head",
        "passage": 0,
        "field": "text",
        "start": 0,
        "end": 40,
        "before": gold["text"][:40],
        "after": "",
    }
    edits = [
        lost,
        {**lost, "operator": operator, "start": end - 40, "end": end - 40, "before": "", "after": f" ({text}"},
    ]
    given = {**row, "edits": edits, "passages": [{**gold, "text": f"{gold['text'][40:]} ({text}"}]}
    assert check_row(given) == []
    assert check_row(given, dataset.lookup) == ["labelled as present, but the answer is in inserted text alone"]


def test_what_is_inserted_makes_no_answer_with_what_stands_beside_it():
    gold = Passage("Born in Terrell, Texas, he moved. The crew sailed on to the port of Terrell", "Ship", "g")
    chunks = [gold, Passage("Texas is large, and so on it goes for long.", "Ship", "next"), *CHUNKS]
    noise = {"truncate_head": 1.0, "merged_chunks": 1.0}
    harsh = NoisyContextAugmenter(
        rates=noise, severity={"truncate_head": 0.4, "merged_chunks": 0.5}, mix={"noisy": 1.0}
    )
    example = {"id": "q", "question": "Where?", "answers": ["Terrell, Texas"], "context": gold}
    rows = list(build(harsh, [example], chunks, copies=10))
    assert [row["id"] for row in rows if row["labels"]["answerable"]] == []


def test_an_answer_without_the_steps_to_it_is_said_to_be_there():
    steps = [
        Passage("The mill was built by Ada Brook, a miller of note.", "Mill", "m"),
        Passage("Born in 1733, she liked tea.", "Ada Brook", "a"),
    ]
    example = {"id": "h", "question": "When was the builder of the mill born?", "answers": ["1733"], "context": steps}
    harsh = NoisyContextAugmenter(rates={"truncate_head": 0.5}, severity=0.7, mix={"noisy": 1.0})
    dataset = build(harsh, [example], [*CHUNKS, *steps], copies=60)
    labels = {(row["labels"]["answer_present"], row["labels"]["answerable"]) for row in dataset}
    assert labels == {(True, True), (True, False), (False, False)}
    assert [found for row in dataset if (found := check_row(row, dataset.lookup))] == []


def test_rows_depend_on_seed_and_id_only():
    rows = {row["id"]: row for row in build()}
    backwards = {row["id"]: row for row in build(examples=list(reversed(EXAMPLES)))}
    assert rows == backwards
    assert rows != {row["id"]: row for row in build(NoisyContextAugmenter(seed=2))}
    dataset = build()
    assert list(dataset) == list(dataset)


def test_mix_is_kept():
    mix = {"noisy": 0.4, "clean": 0.3, "no_gold": 0.2, "empty": 0.1}
    kinds = Counter(row["labels"]["kind"] for row in build(NoisyContextAugmenter(seed=3, mix=mix), copies=50))
    for kind, share in mix.items():
        assert kinds[kind] / 2000 == pytest.approx(share, abs=0.04)


def test_kinds_are_what_they_say():
    for row in build(copies=5):
        kind, passages, labels = row["labels"]["kind"], row["passages"], row["labels"]
        if kind == "clean":
            assert [p["text"] for p in passages] == [p["text"] for p in row["clean"]]
            assert not labels["abstain"]
        elif kind == "empty":
            assert passages == []
        elif kind == "no_gold":
            assert not any(contains_answer(p["text"], row["answers"]) for p in passages)
        if kind in ("empty", "no_gold"):
            assert row["completion"] == ABSTENTION == row["messages"][-1]["content"]
        assert row["prompt"].endswith("Answer:")
        assert row["question"] in row["prompt"]


def test_destroyed_answer_becomes_an_abstention():
    cut = NoisyContextAugmenter(seed=0, rates={"truncate_head": 1.0}, severity=0.9, mix={"noisy": 1.0})
    for row in build(cut):
        assert row["labels"]["abstain"]
        assert row["completion"] == ABSTENTION


def test_contradictions_are_reported_with_both_values():
    augmenter = NoisyContextAugmenter(
        seed=0, rates={"contradiction": 1.0, "order": 1.0}, severity=1.0, mix={"noisy": 1.0}
    )
    for row in build(augmenter):
        planted = row["labels"]["contradiction"]
        assert planted["planted"] in row["completion"]
        assert row["answers"][0] in row["completion"]
        assert planted["planted"] in row["passages"][planted["passage"]]["text"]


def test_planted_instructions_are_not_obeyed():
    augmenter = NoisyContextAugmenter(
        seed=0, rates={"planted_instruction": 1.0}, severity=1.0, mix={"noisy": 0.5, "no_gold": 0.5}
    )
    for row in build(augmenter):
        assert row["labels"]["planted_instruction"]
        assert row["completion"] in (row["answers"][0], ABSTENTION)


def test_two_hop_rows_need_both_steps():
    example = {"id": "hop", "question": "When was the mill by which the Brill miller's cousin lived built?",
               "answers": ["1700"], "context": [CHUNKS[0], CHUNKS[1]]}  # fmt: skip
    augmenter = NoisyContextAugmenter(rates={"missing_gold": 1.0}, severity=0.5, mix={"noisy": 1.0})
    for row in build(augmenter, [example], copies=20):
        assert row["labels"]["abstain"]


def test_joined_answers_need_all_parts():
    example = {"id": "j", "question": "Built when, ground what?", "answers": ["1700, 100 tons"], "context": CHUNKS[0]}
    assert all(check_row(row) == [] for row in build(examples=[example], copies=100))


def test_no_wrong_passage_holds_an_alias_that_the_gold_does_not_say():
    told = Passage("The mill of Avon and its river, told anew: it was built under Queen Anne.", "Mills", "told")
    example = {**EXAMPLES[0], "question": "When was the mill of Avon by the river built?",
               "answers": ["1700", "under Queen Anne", "MDCC"]}  # fmt: skip
    dataset = build(NoisyContextAugmenter(size=8), [example], [*CHUNKS, told], copies=100)
    rows = list(dataset)
    assert not any("told" in {passage["id"] for passage in row["passages"]} for row in rows)
    assert {(*row["answers"], *row["aliases"]) for row in rows} == {("1700", "under Queen Anne", "MDCC")}
    row = next(row for row in rows if row["labels"]["kind"] == "no_gold")
    assert check_row(row, dataset.lookup) == []
    shown = {
        **row,
        "passages": [{"id": "told", "title": None, "text": told.text, "metadata": {}, "role": "low_ranked"}],
    }
    assert check_row(shown) == ["a wrong passage holds the answer"]
    assert check_row({name: value for name, value in shown.items() if name != "aliases"}) == [], "an old row"


def test_splits_are_by_document():
    rows = list(build(copies=3, validation=0.3))
    homes = {}
    for row in rows:
        homes.setdefault(row["clean"][0]["title"], set()).add(row["split"])
    assert all(len(found) == 1 for found in homes.values())
    assert {"train", "validation"} == {row["split"] for row in rows}


def test_hard_negatives_come_from_the_retriever():
    asked = []

    def retriever(question):
        asked.append(question)
        return [CHUNKS[20], CHUNKS[21], Passage("A text of the retriever's own.", id="foreign")]

    augmenter = NoisyContextAugmenter(rates={"hard_negatives": 1.0}, mix={"no_gold": 1.0}, size=3)
    dataset = build(augmenter, EXAMPLES[:2], retriever=retriever, copies=4)
    rows = list(dataset)
    assert {p["id"] for p in rows[0]["passages"]} == {"c20", "c21", "foreign"}
    assert len(asked) == 2, "asked once for each question"
    assert check_row(rows[0], dataset.lookup) == []


def test_decontamination(tmp_path):
    heldout = tmp_path / "eval.jsonl"
    heldout.write_text(
        json.dumps({"question": EXAMPLES[0]["question"].upper()}) + "\n"
        + json.dumps({"query": "Other?", "positive": ["x " + CHUNKS[3].text]}) + "\n"
    )  # fmt: skip
    dataset = build(decontaminate=[heldout])
    ids = {row["id"] for row in dataset}
    assert not {"q0", "q3"} & ids
    assert len(ids) == 38
    assert dataset.datasheet.counts["left_out"] == {
        "contaminated: question in eval.jsonl": 1, "contaminated: passage in eval.jsonl": 1,
    }  # fmt: skip


def test_questions_from_chunks_alone():
    rows = list(build(examples=None))
    assert len(rows) > 30
    assert all(check_row(row) == [] for row in rows)
    assert all("____" in example["question"] for example in cloze_examples(CHUNKS))

    def llm(prompt):
        return 'Sure: {"question": "When?", "answer": "1700"}'

    assert len(list(llm_examples(CHUNKS, llm))) == 1, "the others do not hold the answer"


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"id": "bad-1", "question": "Q?", "answers": [], "context": "text"}, "'bad-1' has no answers"),
        ({"id": "bad-2", "question": "Q?", "answers": ["zebra"], "context": "text"}, "'bad-2': none of its answers"),
        ({"id": "bad-3", "answers": ["text"], "context": "text"}, "'bad-3' has no question"),
        ({"id": "bad-4", "question": "Q?", "answers": ["a"]}, "'bad-4': no 'context'"),
        ({"id": "bad-5", "question": "Q?", "answers": ["a"], "context": " "}, "'bad-5': its context"),
        ({"id": "bad-6", "question": "Q?", "answers": ["a"], "gold_ids": ["nowhere"]}, "'bad-6': gold ids"),
        ({"question": "Q?", "answers": ["zebra"], "context": "text"}, "'row-40': none"),
    ],
)
def test_bad_rows_are_named(example, message):
    with pytest.raises(ValueError, match=message):
        build(examples=[*EXAMPLES, example])
    with pytest.raises(ValueError, match=message):
        list(build(examples=iter([*EXAMPLES, example])))
    skipping = build(examples=[*EXAMPLES, example], on_bad_row="skip")
    assert len(list(skipping)) == 40
    assert skipping.datasheet.counts["left_out"] == {"bad row": 1}


MILL = {"text": "The mill was built in 1066.", "title": "Mill", "id": 0}


@pytest.mark.parametrize(
    "fields",
    [
        {"answers": {"text": ["1066"], "answer_start": [22]}},
        {"answers": [{"text": "1066", "answer_start": 22}]},
        {"answers": 1066},
        {"answers": None, "answer": "1066"},
        {"answers": ["1066", None], "id": None},
        {"answers": ["1066"], "context": None, "contexts": [MILL]},
        {"answers": ["1066"], "context": None, "gold_ids": [0]},
        {"answers": ["1066"], "context": None, "gold_ids": 0},
        {"answers": ["1066"], "context": {**MILL, "id": None, "_id": "0"}},
    ],
)
def test_common_forms_of_rows(fields):
    examples = [{"id": "x", "question": "When?", "context": MILL, **fields}, EXAMPLES[0], {**EXAMPLES[1], "id": None}]
    row, *others = build(NoisyContextAugmenter(mix={"clean": 1.0}), examples, [MILL, *CHUNKS])
    assert (row["completion"], row["answers"], row["gold_ids"]) == ("1066", ["1066"], ["0"])
    assert row["id"] == ("x" if "id" not in fields else "row-0")
    assert [other["id"] for other in others] == ["q0", "row-2"]


@pytest.mark.parametrize(
    "fields",
    [{"answers": {"value": "1066"}}, {"gold_ids": None, "context": None}, {"context": []}, {"context": 7},
     {"context": {"title": ["x"], "sentences": []}}, {"context": {**MILL, "metadata": "p. 3"}}, {"question": ["Q?"]}],
)  # fmt: skip
def test_unknown_forms_of_rows_are_named_and_skipped(fields):
    example = {"id": "odd", "question": "When?", "answers": ["1066"], "context": MILL, **fields}
    with pytest.raises(ValueError, match="Row 'odd'"):
        build(examples=[example])
    assert len(list(build(examples=[example, EXAMPLES[0]], on_bad_row="skip"))) == 1


@pytest.mark.parametrize(
    ("chunks", "message"),
    [([], "chunk list is empty"), (["only one"], "one chunk only"), ([" ", "b"], "number 0")],
)
def test_bad_chunks_are_named(chunks, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(chunks=chunks)
    with pytest.raises(ValueError, match="number 1: id 'x'"):
        build(chunks=[Passage("a", id="x"), Passage("b", id="x")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates": {"typo": 0.1}}, "did you mean 'typos'"),
        ({"rates": {"typos": 1.1}}, r"rates\['typos'\] is 1.1"),
        ({"rates": {"typos": -0.1}}, r"rates\['typos'\]"),
        ({"severity": 2.0}, "severity"),
        ({"severity": {"typos": 2.0}}, r"severity\['typos'\]"),
        ({"mix": {"noisy": 0.5}}, "sum to 1"),
        ({"mix": {"loud": 1.0}}, "name only noisy"),
        ({"size": 0}, "size is 0"),
        ({"templates": ["nope"]}, "Unknown prompt template"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        NoisyContextAugmenter(**settings)


def test_inputs_are_not_mutated():
    before = json.dumps([EXAMPLES, [[c.text, c.title, dict(c.metadata)] for c in CHUNKS]])
    list(build(copies=3))
    assert json.dumps([EXAMPLES, [[c.text, c.title, dict(c.metadata)] for c in CHUNKS]]) == before


def test_beir_folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    rows = [{"_id": c.id, "title": c.title, "text": c.text} for c in CHUNKS]
    queries = [{"_id": e["id"], "text": e["question"], "metadata": {"answer": e["answers"][0]}} for e in EXAMPLES]
    for name, lines in (("corpus", rows), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\tc{n}\t1\n" for n in range(40))
    (tmp_path / "qrels" / "test.tsv").write_text(qrels)
    rows = list(NoisyContextAugmenter().build_dataset(tmp_path))
    assert [row["gold_ids"] for row in rows[:2]] == [["c0"], ["c1"]]


def test_the_same_id_twice_is_refused():
    with pytest.raises(ValueError, match="Row 'q0' comes twice"):
        build(examples=[EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]])
    copied = [EXAMPLES[0], {**EXAMPLES[1], "id": "q0#1"}]
    assert len({row["id"] for row in build(examples=copied)}) == 2
    with pytest.raises(ValueError, match="Row 'q0#1' comes twice"):
        build(examples=copied, copies=2)
    with pytest.raises(TypeError, match="examples is one dict"):
        build(examples=EXAMPLES[0])


@pytest.mark.parametrize("one", ["chunks.jsonl", Path("chunks.jsonl"), {"id": "c1", "text": "a text"}, b"bytes"])
def test_one_text_is_not_taken_for_many(one):
    name = type(one).__name__
    with pytest.raises(TypeError, match=f"chunks is one {name}"):
        build(chunks=one)
    for method in (NoisyContextAugmenter().noise_passages, lambda it: NoisyContextAugmenter().noise_context(it, "q")):
        with pytest.raises(TypeError, match=f"passages is one {name}"):
            method(one)


@pytest.mark.parametrize("found", [None, "a text", {"text": "a text"}])
def test_a_retriever_that_returns_no_list_is_told(found):
    with pytest.raises(TypeError, match="the retriever returned"):
        list(build(retriever=lambda question: found))


def test_chunks_without_titles_are_split_by_the_examples_documents():
    examples = [{**example, "title": f"book {number % 4}"} for number, example in enumerate(EXAMPLES)]
    rows = list(build(examples=examples, chunks=[chunk.text for chunk in CHUNKS], validation=0.5))
    book = {example["id"]: example["title"] for example in examples}
    splits = {(book[row["example_id"]], row["split"]) for row in rows}
    assert len(splits) == 4
    assert {split for _, split in splits} == {"train", "validation"}
    # Only the gold would have a title, which would give it away.
    assert all(passage["title"] is None for row in rows for passage in row["passages"] if passage["role"] == "gold")


def test_metadata_of_any_type_becomes_plain_json():
    given = {"date": date(2020, 1, 2), "page": np.int64(3), "score": float("nan"), "tags": {"b", "a"}, "nested": (1,)}
    chunks = [Passage(chunk.text, chunk.title, chunk.id, given) for chunk in CHUNKS]
    rates = {"wrong_metadata": 0.5, "missing_metadata": 0.5, "random_irrelevant": 1.0}
    rows = list(build(NoisyContextAugmenter(rates=rates, severity=1.0), EXAMPLES, chunks))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    plain = {"date": "2020-01-02", "page": 3, "score": None, "tags": ["a", "b"], "nested": [1]}
    assert rows[0]["clean"][0]["metadata"] == plain
    assert given["page"] is chunks[0].metadata["page"]


def test_halves_of_surrogate_pairs_are_named_before_anything_is_written():
    with pytest.raises(ValueError, match=r"Chunk number 1: .*surrogate"):
        build(chunks=[CHUNKS[0], Passage("broken \ud83d", id="x")])
    for change in ({"question": "Who \ud83d?"}, {"context": f"{EXAMPLES[0]['context']} \udcff"}):
        with pytest.raises(ValueError, match=r"Row 'q0': .*surrogate"):
            build(examples=[{**EXAMPLES[0], **change}])
        assert not list(build(examples=[{**EXAMPLES[0], **change}], on_bad_row="skip"))


def test_an_iterator_of_examples_gives_its_rows_once_and_says_so():
    dataset = build(examples=iter(EXAMPLES[:3]))
    assert len(list(dataset)) == 3
    with pytest.raises(ValueError, match="give a list"):
        list(dataset)


def test_a_data_set_is_pickled_for_other_processes():
    dataset = build()
    rows = list(dataset)
    assert list(pickle.loads(pickle.dumps(dataset))) == rows  # noqa: S301
    assert list(copy.deepcopy(dataset)) == rows


@pytest.mark.parametrize("written", ["\ufeff{}\n{}", "\ufeff[{}, {}]", "\n  [{}, {}]", "{}\r\n\r\n{}\r\n"])
def test_files_of_rows_may_begin_with_a_mark_or_space(written, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(written.format('{"id": "é"}', '{"id": "b"}').encode())
    assert list(read_rows(file)) == [{"id": "é"}, {"id": "b"}]


def test_a_file_in_another_encoding_is_named_with_the_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"id": "a"}\n{"id": "é"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: not JSON in UTF-8"):
        list(read_rows(file))


@pytest.mark.parametrize("inserting", ["fake_citations", "page_furniture", "html_boilerplate"])
def test_inserted_text_is_no_evidence(inserting):
    said = [str(year) for year in range(1985, 2005)] if inserting != "html_boilerplate" else ["Facebook"] * 20
    chunks = [Passage(f"It was the year {answer}. Rain fell.", None, f"y{n}") for n, answer in enumerate(said)]
    dull = "The crew sailed on. " * 6
    examples = [
        {"id": f"q{n}", "question": "What?", "answers": [answer],
         "context": {"text": f"It is {answer}. {dull}", "title": "Ship", "id": f"g{n}"}}
        for n, answer in enumerate(said)
    ]  # fmt: skip
    noise = {"truncate_head": 1.0, inserting: 1.0}
    harsh = NoisyContextAugmenter(rates=noise, severity={"truncate_head": 0.4, inserting: 1.0}, mix={"noisy": 1.0})
    rows = list(build(harsh, examples, chunks, copies=20))
    assert [row["id"] for row in rows if row["labels"]["answerable"] or check_row(row)] == []
    assert any(inserting in row["labels"]["operators"] for row in rows)
