"""The rules of the house: who may import whom, what is loaded when, and what is never used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "hybridmem_plugins"
FRAMEWORKS = ("langchain", "llama_index")
# Never imported where a module is loaded.
HEAVY = (
    "torch", "transformers", "trl", "peft", "spacy", "datasets", "accelerate", "matplotlib", "gliner",
    "sentence_transformers", "langchain_community",
)  # fmt: skip
FRAMEWORK_PACKAGES = (
    "langchain", "langchain_core", "langchain_classic", "langgraph",
    "llama_index", "llama_index_instrumentation", "workflows",
)  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))


def room(file: Path) -> str:
    parts = file.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported module and whether it is imported when the file is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ["hybridmem_plugins", *file.relative_to(SOURCE).parts[:-1]]

    def visit(node: ast.AST, loaded: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, loaded) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                yield module, loaded
                yield from ((f"{module}.{alias.name}", loaded) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for one in child.body:
                    yield from visit(ast.Module([one], []), False)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, loaded and not inside)

    yield from visit(tree, True)


def top(module: str) -> str:
    return module.split(".", 1)[0]


def test_the_files_are_found() -> None:
    assert len(FILES) > 30
    assert ("langchain_core.retrievers", True) in set(imports(SOURCE / "langchain" / "retriever.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports(file: Path) -> None:
    own = room(file)
    for module, loaded in imports(file):
        if own not in FRAMEWORKS:
            assert top(module) not in FRAMEWORK_PACKAGES, f"a stage imports a framework: {module}"
            assert not module.startswith(tuple(f"hybridmem_plugins.{name}" for name in FRAMEWORKS)), module
        else:
            other = FRAMEWORKS[1 - FRAMEWORKS.index(own)]
            assert not module.startswith(f"hybridmem_plugins.{other}"), f"{own} imports {other}"
            assert not top(module).startswith(other), f"{own} imports {module}"
        assert not (loaded and top(module) in HEAVY), f"{module} is loaded with the file; import it where it is used"
        assert top(module) not in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"), module


def test_only_what_draws_the_page_knows_its_library() -> None:
    known = [file for file in FILES if any(top(module) == "nicegui" for module, _ in imports(file))]
    assert [str(file.relative_to(SOURCE)) for file in known] == ["page/app.py", "page/views.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_pickle_and_no_loop_of_ones_own(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("asyncio.run", "nest_asyncio.apply"), f"line {node.lineno}"
        assert not called.endswith("run_until_complete"), f"line {node.lineno}"
        if called.endswith((".load", ".save")):
            for keyword in node.keywords:
                assert not (keyword.arg == "allow_pickle" and ast.unparse(keyword.value) == "True")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    code = """
import sys, time
before = time.perf_counter()
import hybridmem_plugins, hybridmem_plugins.langchain, hybridmem_plugins.llama_index
print(time.perf_counter() - before)
print(*{name.split(".")[0] for name in sys.modules})
"""
    seconds, modules = min((run(code).split("\n") for _ in range(3)), key=lambda lines: float(lines[0]))
    assert float(seconds) < 0.3
    assert not set(modules.split()) & {*HEAVY, *FRAMEWORK_PACKAGES, "networkx", "numpy", "hnswlib", "wordllama"}


def test_the_core_works_without_any_framework() -> None:
    code = """
import sys
from hybridmem_plugins import HybridMemory, Passage
memory = HybridMemory()
memory.add([Passage("Helium is a gas.", id="1")])
assert memory.search("helium")[0].passage.id == "1"
memory.close()
print(*{name.split(".")[0] for name in sys.modules})
"""
    loaded = set(run(code).split("\n")[-1].split())
    assert "networkx" in loaded
    assert not loaded & {*HEAVY, *FRAMEWORK_PACKAGES}


@pytest.mark.parametrize(
    ("blocked", "module", "extra"),
    [("langchain_core", "langchain", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_a_missing_framework_is_an_import_error_that_names_the_extra(blocked: str, module: str, extra: str) -> None:
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == {blocked!r} or name.startswith({blocked + "."!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
import hybridmem_plugins.{module}
try:
    from hybridmem_plugins.{module} import HybridRetriever
except ImportError as error:
    print(error)
"""
    assert f"pip install 'hybridmem-plugins[{extra}]'" in run(code)


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_unknown_names_are_attribute_errors(module: str) -> None:
    code = f"""
import hybridmem_plugins.{module} as room
try:
    room.Unknown
except AttributeError as error:
    print(error)
assert "HybridRetriever" in dir(room)
assert all(getattr(room, name) for name in room.__all__)
"""
    assert "Unknown" in run(code)


@pytest.mark.parametrize("example", ["langchain_chain.py", "llama_index_query_engine.py"])
def test_examples_run_as_they_stand(example: str) -> None:
    code = f"import runpy; runpy.run_path({str(ROOT / 'examples' / example)!r}, run_name='__main__')"
    printed = run(code)
    assert "Charles Babbage" in printed
    assert "Analytical Engine  found by" in printed


def test_the_source_archive_holds_what_its_tests_and_makefile_need() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("says nothing outside of a checkout")
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    kept = {name.split("/")[0] for name in listed if not name.startswith(".")} - {"pyproject.toml"}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert kept == set(settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
