import json

import pytest
from samples import MARKDOWN
from test_dataset import CHUNKS, EXAMPLES, build
from typer import Typer
from typer.testing import CliRunner

from hybridmem_plugins import Passage
from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.command import augment
from hybridmem_plugins.augmentation.marks import marked
from hybridmem_plugins.augmentation.preview import page


@pytest.fixture
def run(tmp_path):
    app = Typer()
    app.command()(augment)
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    return lambda *arguments: CliRunner().invoke(app, [str(examples), *map(str, arguments)])


def test_builds_a_set(run, tmp_path):
    result = run(tmp_path / "out.jsonl", "--form", "chat", "--copies", "2")
    assert result.exit_code == 0, result.output
    assert "made 80 rows" in result.output
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 80
    assert json.loads((tmp_path / "out.jsonl.datasheet.json").read_text())["rows"] == 80


@pytest.mark.parametrize("in_list", [False, True])
def test_contexts_with_titles_are_the_chunks(run, tmp_path, in_list):
    contexts = [{"text": chunk.text, "title": chunk.title} for chunk in CHUNKS]
    examples = [{**e, "context": [c] if in_list else c} for e, c in zip(EXAMPLES, contexts, strict=True)]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    result = run(tmp_path / "out.jsonl", "--form", "rows", "--rate", "order=0")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {(p["text"], p["title"]) for row in rows for p in row["passages"]} <= {(c.text, c.title) for c in CHUNKS}


def test_preview(run, tmp_path):
    result = run(tmp_path / "look.html", "--preview", "--rows", "3", "--rate", "typos=1", "--severity", "0.5")
    assert result.exit_code == 0, result.output
    assert '<mark class="characters" title="typos' in (tmp_path / "look.html").read_text()
    assert "clean" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rate", "typo=1"], "did you mean 'typos'"), (["--rate", "typos"], "OPERATOR=CHANCE"),
     (["--form", "csv"], "Unknown form"), (["--profile", "none.json"], "none.json")],
)  # fmt: skip
def test_errors_are_said_in_one_line(run, tmp_path, arguments, message):
    result = run(tmp_path / "x.jsonl", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_marks_say_which_operator_wrote_what():
    dataset = build(NoisyContextAugmenter(seed=4), copies=20)
    for row in dataset:
        pieces = marked(row, dataset.lookup)
        assert ["".join(piece.text for piece in parts) for parts in pieces] == [p["text"] for p in row["passages"]]
        named = {piece.operator for parts in pieces for piece in parts if piece.operator}
        assert named <= set(row["labels"]["operators"])


def test_page_escapes_passages():
    chunks = [*CHUNKS, Passage(f"<script>alert(1)</script> {MARKDOWN}", "x<y")]
    example = {"id": "x", "question": "<b>?", "answers": ["10.5"], "context": [chunks[-1]]}
    dataset = build(NoisyContextAugmenter(mix={"clean": 1.0}), [example], chunks)
    made = page(list(dataset), dataset.lookup)
    assert "<script>" not in made
    assert "&lt;b&gt;?" in made
