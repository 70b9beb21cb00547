"""Writing measured tables into one file, a section each."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = "# Measured results\n\nEach section is written by the command at its head; none is edited by hand.\n"


def write_section(file: Path, title: str, lines: list[str]) -> None:
    """Replace the section of this title, or add it at the end."""
    text = file.read_text(encoding="utf-8") if file.exists() else HEAD
    sections = re.split(r"(?m)^(?=## )", text)
    section = f"## {title}\n\n" + "\n".join(lines).rstrip() + "\n\n"
    kept = [section if part.startswith(f"## {title}\n") else part for part in sections]
    if section not in kept:
        kept[-1] = kept[-1].rstrip() + "\n\n"
        kept.append(section)
    file.write_text("".join(kept).rstrip() + "\n", encoding="utf-8")


def write_marked(file: Path, name: str, lines: list[str]) -> None:
    """Replace what stands between the marks `<!-- name -->` and `<!-- end of name -->` of a page."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = file.read_text(encoding="utf-8").split(start, 1)
    after = rest.split(end, 1)[1]
    file.write_text(f"{before}{start}\n\n" + "\n".join(lines).strip() + f"\n\n{end}{after}", encoding="utf-8")
