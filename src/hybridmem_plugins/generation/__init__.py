"""Generation: an adapter and a context become an answer, with a local transformers model.

Nothing heavy is imported before the first model is loaded.
"""

from __future__ import annotations

from hybridmem_plugins.generation.chat import ParsedReply, ToolCall, parse_tool_calls
from hybridmem_plugins.generation.decoding import GenerationSettings
from hybridmem_plugins.generation.loading import AdapterMismatchError
from hybridmem_plugins.generation.local_model import Generation, LocalModel

__all__ = [
    "AdapterMismatchError",
    "Generation",
    "GenerationSettings",
    "LocalModel",
    "ParsedReply",
    "ToolCall",
    "parse_tool_calls",
]
