"""Components that refuse settings which they do not have."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, model_validator


class KnownFields(BaseModel):
    """Refuses settings that are misspelt; LlamaIndex's components ignore them, and another model is loaded, say."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        known = [*cls.model_fields, "class_name"]  # the latter stands in what LlamaIndex serialises
        unknown = [name for name in given if name not in known] if isinstance(given, dict) else []
        if unknown:
            msg = f"{cls.__name__} has no setting {unknown[0]!r}. It has: {', '.join(sorted(cls.model_fields))}."
            raise ValueError(msg)
        return given
