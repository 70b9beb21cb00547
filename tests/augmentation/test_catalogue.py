from pathlib import Path

from hybridmem_plugins.augmentation.catalogue import catalogue
from hybridmem_plugins.augmentation.operators import OPERATORS


def test_docs_are_what_the_code_makes():
    page = Path(__file__).parents[2] / "docs" / "noise.md"
    assert page.read_text(encoding="utf-8") == catalogue() + "\n", (
        "remake it: python -m hybridmem_plugins.augmentation.catalogue > docs/noise.md"
    )
    assert all(f"#### `{name}`" in catalogue() for name in OPERATORS)
