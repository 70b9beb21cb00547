"""Write the README into the package's metadata with links that lead somewhere.

On the page of a package index there is no docs/ beside it: links into the repository get its address, which
`Repository` in `[project.urls]` gives; where there is none, their text alone is left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Makes `readme`, which `pyproject.toml` names as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        repository = metadata.get("urls", {}).get("Repository")
        link = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1"
        text = _RELATIVE_LINK.sub(link, Path(self.root, "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
