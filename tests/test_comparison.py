"""The comparison: what it reads, keeps, counts and writes.

`Fixed` is a fake model that answers by a rule; no figure of the project comes from it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template
from hybridmem_plugins.comparison import WAYS, compare, load_benchmark
from hybridmem_plugins.comparison.costs import Costs, Footprint, footprint, training_of
from hybridmem_plugins.comparison.figures import difference, mean, quality_table, unanswerable, verdicts
from hybridmem_plugins.comparison.report import write_report
from hybridmem_plugins.comparison.ways import Settings
from hybridmem_plugins.generation.local_model import Generation

CORPUS = [
    {"_id": "engine", "title": "Analytical Engine", "text": "It was designed by Charles Babbage."},
    {"_id": "babbage", "title": "Charles Babbage", "text": "He was born in London."},
    {"_id": "bread", "title": "Bread", "text": "Bread is baked from flour."},
]
QUERIES = [
    {
        "_id": "1",
        "text": "Who designed the Analytical Engine?",
        "metadata": {"answer": "Charles Babbage", "type": "one"},
    },
    {"_id": "2", "text": "What is bread baked from?", "metadata": {"answers": ["flour"], "type": "two"}},
    {"_id": "3", "text": "Who baked the first bread?", "metadata": {"answer": None}},
]
GOLD = "query-id\tcorpus-id\tscore\n1\tengine\t1\n2\tbread\t1\n"


class Fixed:
    """Stands in for `LocalModel`: the tuned adapter reads what it is given, the base knows nothing."""

    name = "fixed"
    context_window = 4096

    def __init__(self, *, reading_each: bool = False) -> None:
        self.asked, self.reading_each = 0, reading_each

    def tokenizer(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": self.tokens(text)}

    def tokens(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def caution_bias(self, adapter: str) -> dict[int, float]:
        return {}

    def reads(self, reading: str | None, adapter: str) -> str:
        return "each" if self.reading_each and adapter == "tuned" else "together"

    def answer_each(self, asked: Any, *, adapter: str, **_: Any) -> list[Generation]:
        form = get_template("numbered")
        return self.generate([form.messages(*one) for one in asked], adapter=adapter)

    def generate(self, chats: Any, *, adapter: str, **_: Any) -> list[Generation]:
        self.asked += len(chats)
        return [Generation(self._say(chat[-1]["content"], adapter), "stop", 10, 3, adapter) for chat in chats]

    def _say(self, prompt: str, adapter: str) -> str:
        for asked, answer in (("designed", "Charles Babbage"), ("baked from", "flour")):
            if adapter == "tuned" and asked in prompt.rpartition("Question:")[2] and answer in prompt:
                return answer
        return "Konrad Zuse" if adapter == "base" else ABSTENTION


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    (made / "qrels").mkdir(parents=True)
    for name, records in (("corpus.jsonl", CORPUS), ("queries.jsonl", QUERIES)):
        (made / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    (made / "qrels" / "test.tsv").write_text(GOLD)
    return made


def run(folder: Path, output: Path, local: Any = None) -> Any:
    benchmark = load_benchmark(folder)
    return compare(
        benchmark, output, local=local or Fixed(), settings=Settings(k=2, absent=2), adapter="someone/reader"
    )


def test_ones_own_folder_is_read(folder: Path) -> None:
    benchmark = load_benchmark(folder)
    assert [passage.id for passage in benchmark.passages] == ["engine", "babbage", "bread"]
    first, _, third = benchmark.questions
    assert (first.answers, first.type, first.gold) == (("Charles Babbage",), "one", ("engine",))
    assert third.answers == ()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tengine\t1.0\n1\tbread\t0.0\n\n")
    assert load_benchmark(folder).questions[0].gold == ("engine",)
    squad = {"_id": "1", "text": "?", "metadata": {"answers": {"text": ["Ada", 1843], "answer_start": [0, 9]}}}
    (folder / "queries.jsonl").write_text(json.dumps(squad))
    assert load_benchmark(folder).questions[0].answers == ("Ada", "1843")


def test_yes_and_no_are_not_asked_without_their_passages(folder: Path, tmp_path: Path) -> None:
    (folder / "queries.jsonl").write_text(json.dumps({**QUERIES[0], "metadata": {"answer": "Yes"}}))
    assert run(folder, tmp_path / "out").of("hybrid_tuned", absent=True) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "queries.jsonl").unlink(), FileNotFoundError, "no queries.jsonl"),
        (lambda f: (f / "queries.jsonl").write_text('{"_id": "1", "text": "?"}\n'), ValueError, "has no answer"),
        (lambda f: (f / "corpus.jsonl").write_text("{oops\n"), ValueError, "line 1: not JSON"),
        (lambda f: (f / "corpus.jsonl").write_text('{"_id": "1"}\n'), ValueError, "line 1: no text"),
        (lambda f: (f / "corpus.jsonl").write_text(""), ValueError, "0 passages"),
        (lambda f: (f / "qrels" / "test.tsv").write_text(f"{GOLD}3 bread 1\n"), ValueError, "line 4: expected query"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder: Path, change: Any, error: Any, message: str) -> None:
    change(folder)
    with pytest.raises(error, match=message):
        load_benchmark(folder)


def test_each_way_is_scored_by_what_it_answered(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "out")
    tuned, base = done.of("hybrid_tuned"), done.of("hybrid_base")
    assert [record["exact"] for record in tuned[:2]] == [True, True]
    assert [record["cited"] for record in tuned[:2]] == [["engine", "babbage"], ["bread"]]
    assert all(record["abstained"] and record["raw_abstained"] is False for record in base)
    assert [record["abstained"] for record in done.of("closed_book")] == [True] * 3
    assert tuned[2]["abstained"]
    absent = unanswerable(done, "hybrid_tuned")
    assert {record["id"] for record in absent} >= {"2", "3"}
    assert all("engine" not in r["shown"] for r in done.of("hybrid_tuned", absent=True) if r["id"] == "1")
    found = difference(done, "hybrid_tuned", "hybrid_base", "exact")
    assert found is not None
    assert found.mean == 1.0
    average = mean(tuned, "exact")
    assert average is not None
    assert average.mean == pytest.approx(2 / 3)
    assert mean([], "exact") is None


def test_passages_read_one_by_one_are_kept_like_chats(folder: Path, tmp_path: Path) -> None:
    local = Fixed(reading_each=True)
    each, together = run(folder, tmp_path / "each", local), run(folder, tmp_path / "together")
    assert each.of("hybrid_tuned")[0]["exact"]
    assert [record["answer"] for record in each.records] == [record["answer"] for record in together.records]
    asked = local.asked
    assert run(folder, tmp_path / "each", local).records
    assert local.asked == asked


def test_a_second_run_asks_nothing_again(folder: Path, tmp_path: Path) -> None:
    first, second = Fixed(), Fixed()
    before = run(folder, tmp_path / "out", first)
    after = run(folder, tmp_path / "out", second)
    assert first.asked > 10
    kept = [json.loads(line) for line in (tmp_path / "out" / "replies.jsonl").read_text().splitlines()]
    assert all(record["processor_seconds"] >= 0 for record in kept)
    assert second.asked == 0
    for one, other in zip(before.records, after.records, strict=True):
        assert (one["reply"], one["timings"]["generation"]) == (other["reply"], other["timings"]["generation"])
    half = (tmp_path / "out" / "replies.jsonl").read_text()[:-20]
    (tmp_path / "out" / "replies.jsonl").write_text(half + "\n")
    third = Fixed()
    run(folder, tmp_path / "out", third)
    assert third.asked >= 1


def test_a_record_after_half_a_line_is_kept(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", Fixed())
    file = tmp_path / "out" / "replies.jsonl"
    for torn in (b'{"key": "a"', '"é'.encode()[:-1]):
        file.write_bytes(file.read_bytes().rsplit(b"\n", 2)[0] + b"\n" + torn)
        again, last = Fixed(), Fixed()
        run(folder, tmp_path / "out", again)
        run(folder, tmp_path / "out", last)
        assert (again.asked, last.asked) == (1, 0)


def test_the_report_says_what_was_measured(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run(folder, tmp_path / "out")
    costs = Costs(Footprint(0.1, 2.0), Footprint(0.5, 7.0), 0.2, 10, 20, 0.004, 0.001, 512.0, "once <4> min", {})
    written = write_report(done, costs, tmp_path / "report", "hybridmem compare")
    files = {file.name: file.read_text() for file in written}
    assert {"report.md", "report.html"} <= set(files)
    table = quality_table(done)
    assert len(table.heads) == len(WAYS) + 1
    for row in table.rows:
        assert f"| {' | '.join(row)} |" in files["report.md"]
    page = files["report.html"]
    assert "once &lt;4&gt; min" in page
    assert "0.40 s more to build" in page
    assert not re.search(r"""(src|href)=["']?http""", re.sub("xlink:", "", page))
    assert any("fine-tuned model answers more than the base" in said and "**holds**" in said for said in verdicts(done))


def test_footprints_come_from_processes_of_their_own(folder: Path) -> None:
    vectors, hybrid = footprint(folder, "vectors"), footprint(folder, "hybrid")
    assert vectors["seconds"] > 0
    assert hybrid["seconds"] > 0
    assert hybrid["nodes"] >= 3
    with pytest.raises(RuntimeError, match="could not measure"):
        footprint(folder / "missing", "vectors")


def test_the_shipped_adapters_training_is_read_from_its_card() -> None:
    assert "hybridmem train" in training_of("smollm2-135m")
    assert training_of("base") == ""


def test_the_command_passes_its_options_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from hybridmem_plugins.comparison import command, ways

    seen: dict[str, Any] = {}

    def stop(*_: Any, settings: Settings, **__: Any) -> None:
        seen["settings"] = settings
        raise InterruptedError

    monkeypatch.setattr(ways, "load_model", lambda *_: Fixed())
    monkeypatch.setattr(ways, "compare", stop)
    with pytest.raises(InterruptedError):
        command.compare(str(folder), tmp_path, k=3, budget=99, absent=0, max_new_tokens=7)
    assert seen["settings"] == Settings(k=3, budget=99, max_new_tokens=7, absent=0)
