"""Bring the measured results, which live beside the code that makes them, into the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def on_files(files: Files, *, config: Any) -> Files:
    """Add the results and their pictures under `benchmarks/`."""
    for path in [BENCHMARKS / "RESULTS.md", *sorted(BENCHMARKS.glob("*.png"))]:
        files.append(File.generated(config, f"benchmarks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point what leaves docs/ in the repository to its place in the site."""
    return markdown.replace("](../benchmarks/", "](benchmarks/")
