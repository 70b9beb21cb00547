"""The research data beside the project; tests that need it skip where it is absent."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("HYBRIDMEM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def folder(*parts):
    path = FOLDER.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"research data not found: {path}; set HYBRIDMEM_DATA")
    return path
