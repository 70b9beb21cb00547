"""LangChain's standard tests of chat models, against the real 135M model."""

from __future__ import annotations

import pytest

pytest.importorskip("langchain_tests", reason="needs langchain-tests")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from hybridmem_plugins.langchain.chat_model import FinetunedChatModel


class _Settings:
    @pytest.fixture(autouse=True)
    def _loaded(self, real_model):
        type(self).local_model = real_model

    @property
    def chat_model_class(self):
        return FinetunedChatModel

    @property
    def chat_model_params(self):
        return {"local_model": type(self).local_model}

    # The chat template of SmolLM2-135M-Instruct shows no tools; tests/generation/test_tools.py has one that does.
    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False


class TestUnit(_Settings, ChatModelUnitTests):
    pass


class TestIntegration(_Settings, ChatModelIntegrationTests):
    pass
