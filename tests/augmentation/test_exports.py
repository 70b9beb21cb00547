import json
from dataclasses import replace
from unittest.mock import Mock

import pytest
from test_dataset import CHUNKS, EXAMPLES, build

from hybridmem_plugins import Passage
from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.exports import LINES


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_forms(tmp_path):
    rows = list(build(copies=2))
    for form in LINES:
        build(copies=2).export(tmp_path / form, form)
        assert len(lines(tmp_path / form)) == len(rows), form
    assert set(lines(tmp_path / "prompt_completion")[0]) == {"prompt", "completion"}
    assert [m["role"] for m in lines(tmp_path / "conversational")[0]["prompt"]] == ["system", "user"]
    assert [m["role"] for m in lines(tmp_path / "chat")[0]["messages"]] == ["system", "user", "assistant"]
    assert lines(tmp_path / "rows") == json.loads(json.dumps(rows))
    for row, made in zip(rows, lines(tmp_path / "raft"), strict=True):
        assert set(made) == {"id", "type", "question", "context", "oracle_context", "cot_answer", "instruction"}
        assert made["cot_answer"].endswith(f"<ANSWER>: {row['completion']}")
        assert ("##begin_quote##" in made["cot_answer"]) != row["labels"]["abstain"]


def test_embedding_qa_form(tmp_path):
    path = tmp_path / "pairs.json"
    build().export(path, "embedding_qa")
    made = json.loads(path.read_text())
    assert set(made) == {"queries", "corpus", "relevant_docs", "mode"}
    assert made["queries"].keys() == made["relevant_docs"].keys()
    assert all(made["corpus"][doc] for docs in made["relevant_docs"].values() for doc in docs)
    assert list(tmp_path.glob("*.part")) == []


def test_datasheet_counts_and_hashes(tmp_path):
    sheet = build(licences={"mills": "CC0"}).export(tmp_path / "a.jsonl").as_dict()
    assert json.loads((tmp_path / "a.jsonl.datasheet.json").read_text()) == sheet
    assert sheet["rows"] == sum(sheet["counts"]["kind"].values()) == 40
    assert len(sheet["rows_sha256"]) == len(sheet["chunks_sha256"]) == 64
    assert sheet["licences"] == {"mills": "CC0"}
    assert sum(sheet["severities"]["order"].values()) <= sheet["operators"]["order"]["rows"] + 40


def test_cut_off_run_is_taken_up_and_gives_the_same_bytes(tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    expected = build(copies=3).export(whole, "rows")
    build(copies=3).export(parts, "rows", limit=50)
    assert not parts.exists()
    with (tmp_path / "parts.jsonl.part").open("ab") as file:
        file.write(b'{"half a row')
    resumed = build(copies=3).export(parts, "rows")
    assert parts.read_bytes() == whole.read_bytes()
    assert resumed == expected
    assert sorted(p.name for p in tmp_path.glob("parts*")) == ["parts.jsonl", "parts.jsonl.datasheet.json"]


def test_resuming_with_other_settings_is_refused(tmp_path):
    build(copies=3).export(tmp_path / "x.jsonl", limit=50)
    with pytest.raises(ValueError, match=r"x\.jsonl\.part was begun with other settings"):
        build(copies=2).export(tmp_path / "x.jsonl")
    assert build(copies=2).export(tmp_path / "x.jsonl", resume=False).rows == 80


def test_a_run_begun_anew_leaves_nothing_of_the_one_before(tmp_path):
    path, part = tmp_path / "x.jsonl", tmp_path / "x.jsonl.part"
    build(copies=3).export(path, "rows", limit=50)
    other = build(copies=2)
    other.batches = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        other.export(path, "rows", resume=False)
    build(copies=3).export(path, "rows", limit=50)
    part.write_bytes(part.read_bytes()[:100])
    build(copies=3).export(path, "rows")
    assert lines(path) == list(build(copies=3))


def test_splits_are_exported_apart(tmp_path):
    for split in ("train", "validation"):
        build(validation=0.4).export(tmp_path / split, "rows", split=split)
        assert {row["split"] for row in lines(tmp_path / split)} == {split}


def test_unknown_form_and_split(tmp_path):
    with pytest.raises(ValueError, match="Unknown form 'csv'"):
        build().export(tmp_path / "x", "csv")
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        build().export(tmp_path / "x", split="test")


def test_to_datasets():
    datasets = pytest.importorskip("datasets")
    made = build().to_datasets()
    assert isinstance(made, datasets.Dataset)
    assert json.loads(made[0]["labels"])["kind"] in ("noisy", "clean", "no_gold", "empty")


def read(answer, examples=list, retriever=None):
    example = {"id": "a", "question": "When?", "answers": [answer], "context": "Built in 1843, rebuilt in 1850."}
    return build(NoisyContextAugmenter(mix={"clean": 1.0}), examples([example]), retriever=retriever)


@pytest.mark.parametrize("kind", ["list", "datasets.Dataset", "stream", "retriever"])
def test_a_corrected_answer_is_not_read_from_the_cache(kind, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    examples = {"datasets.Dataset": datasets.Dataset.from_list, "stream": iter}.get(kind, list)
    retriever = (lambda question: []) if kind == "retriever" else None
    for answer in ("1843", "1850"):
        assert read(answer, examples, retriever).to_datasets()["completion"][:] == [answer]


def test_the_fingerprint_is_of_everything_that_makes_the_rows(tmp_path):
    chunk = Passage("one more", "its title", "x", {"page": 1})
    others = [replace(chunk, title="other"), replace(chunk, metadata={"page": 2}), replace(chunk, text="no more")]
    sets = [build(chunks=[*CHUNKS, other]) for other in (chunk, *others)]
    sets += [read("1843"), read("1850"), read("1843", retriever=lambda question: [])]
    assert len({dataset.fingerprint for dataset in sets}) == len(sets)
    assert build().fingerprint == build().fingerprint
    build(copies=3).export(tmp_path / "x.jsonl", limit=50)
    corrected = [*EXAMPLES[:-1], {**EXAMPLES[-1], "completion": "In 1973, as its books say."}]
    with pytest.raises(ValueError, match="begun with other settings, chunks or examples"):
        build(examples=corrected, copies=3).export(tmp_path / "x.jsonl")


def test_the_datasheet_counts_what_was_written(tmp_path):
    sheet = build(validation=0.5).export(tmp_path / "train.jsonl", split="train")
    written = lines(tmp_path / "train.jsonl")
    assert 0 < sheet.rows == len(written) < len(EXAMPLES)
    assert sheet.counts["split"] == {"train": len(written)}
