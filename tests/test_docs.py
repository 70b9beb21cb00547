"""The code in the documentation runs as it stands, and the site builds with every link checked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "concepts.md", *sorted((DOCS / "how-to").glob("*.md"))]
BLOCK = re.compile(r"```(python|bash)\n(.*?)```", re.DOTALL)


def run(command: list[str], folder: Path, **more: str) -> str:
    """Run a command and return what it printed; fails with its errors where it does."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path, **more}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tiny_model(folder: Path) -> str:
    """Save a two-layer model with random weights, to train for two steps."""
    for module in ("torch", "transformers", "peft", "trl", "datasets"):
        pytest.importorskip(module, reason="needs the extra [train]")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    inner.add_special_tokens(special)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_all_pages_with_code_are_found() -> None:
    assert len(PAGES) >= 9
    assert sum(len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 18


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_in_order(page: Path, tmp_path: Path) -> None:
    """All Python of a page is one program; the commands run after it, in the same folder."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    python = "\n".join(code for language, code in blocks if language == "python")
    commands = "\n".join(code for language, code in blocks if language == "bash")
    if python:
        assert run([sys.executable, "-c", python], tmp_path) or "assert" in python
    if commands:
        model = tiny_model(tmp_path / "model") if "$MODEL" in commands else ""
        assert run(["bash", "-euc", commands], tmp_path, MODEL=model)


def test_the_training_example_trains_and_answers(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    printed = run([sys.executable, str(ROOT / "examples" / "train_on_noise.py"), model], tmp_path)
    assert "\n2 steps\n" in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(r"`(examples/[^`]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    "package",
    ["", ".langchain", ".llama_index", ".testing", ".finetuning", ".generation", ".system", ".filling", ".comparison"],
)
def test_every_public_class_and_function_is_on_a_page_of_the_api(package: str) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    public = import_module("hybridmem_plugins" + package)
    for name in public.__all__:
        home = getattr(getattr(public, name), "__module__", None)  # constants have none
        assert home is None or home in shown or f"{home}.{name}" in shown, f"{home}.{name}"


def test_the_site_builds_without_a_broken_link_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: pip install --group docs")
    site = tmp_path / "site"
    run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)], ROOT, NO_MKDOCS_2_WARNING="1")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?([^\"'\s>]+)|<link(?![^>]*rel=[\"']?canonical)[^>]*\shref=[\"']?([^\"'\s>]+)",
            page.read_text(encoding="utf-8"),
        )
        assert not [one for pair in loaded for one in pair if re.match(r"(?:https?:)?//", one)], page.name
    assert "HybridMemorySystem" in (site / "api" / "core.html").read_text(encoding="utf-8")
