"""Hand-written texts that give every operator something to do."""

import re

from hybridmem_plugins import Passage

PROSE = (
    "Ada Lovelace wrote the first program in 1843. She \u201coften\u201d met Charles Babbage in London — it's said the "
    "café offered a fine, efficient office. The Analytical Engine of Babbage was never finished; its store held 1,000 "
    "numbers. Ada Lovelace died in 1852. Her notes were translated, published and largely forgotten for a century."
)
MARKDOWN = """# Report

Revenue **grew** in *all* regions, see [the note](https://example.org/note) and [another](x.html).

## Figures

| Region | 2018 | 2019 |
|---|---|---|
| North | 10.5 | 11.2 |
| South | 20.1 | 19.8 |
| East | 7.7 | 8.4 |

- first point
- second point
1. step

```python
print("hello")
```

The energy is $E = mc^2$ and the share \\frac{a}{b} with $x_{1}$.
"""
JSON = '{"name": "engine", "year": 1843, "parts": ["mill", "store"], "note": "it\'s & was"}'
TEXTS = (PROSE, MARKDOWN, JSON)

PASSAGES = [
    Passage(
        PROSE,
        "Ada Lovelace",
        "p1",
        {"source": "ada.pdf", "author": "Menabrea", "page": 3, "date": "2019-05-06", "score": 0.83},
    ),
    Passage(MARKDOWN, "Report", "p2", {"source": "report.md", "page": 7, "date": "2020-01-05", "score": 0.4}),
    Passage(JSON, "Engine", "p3", {"source": "engine.json", "author": "Babbage"}),
    Passage("The loom was punched. It wove patterns in Lyon.", "Jacquard", "p4", {}),
]
OTHERS = [
    Passage(f"Distractor number {number} speaks of trains. It has two sentences.", f"Train {number}", f"d{number}")
    for number in range(40)
]


def break_like_a_parser(text, rng):
    """Break a text at the rates of the research note, without the package's own operators."""
    text = "".join("\u00a0" if c == " " and rng.random() < 1 / 16 else c for c in text)
    if rng.random() < 0.976:
        text = re.sub(r"^\|[-|: ]+\|$\n?", "", text, flags=re.MULTILINE)
        text = re.sub(r"^\|(.*)\|$", lambda row: " ".join(row[1].replace("|", " ").split()), text, flags=re.MULTILINE)
    sentences = re.split(r"(?<=[.!?]) ", text)
    chosen = rng.randrange(len(sentences))
    if len(text) > 200 and rng.random() < min(1.0, len(text) * 9865 / 12_800_000 * 1.0):
        sentences[chosen] = f"\n# {sentences[chosen].strip()}\n"
    return " ".join(sentences)
