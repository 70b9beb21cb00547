"""The real fine-tuned model in the system."""

from __future__ import annotations

import pytest

from hybridmem_plugins import HybridMemory, HybridMemorySystem, Passage
from hybridmem_plugins.augmentation.templates import ABSTENTION

pytestmark = pytest.mark.slow


def test_the_shipped_model_answers_and_cites(memory: HybridMemory, tuned) -> None:
    system = HybridMemorySystem(memory, tuned, k=3)
    answer = system.query("Where was Charles Babbage born?")
    assert "London" in answer.text
    assert answer.cited[0].passage.id == "babbage"
    assert answer.output_tokens > 0
    assert answer.input_tokens > 50
    assert answer.timings["retrieval"] < 0.1 * answer.timings["total"]
    *pieces, last = list(system.stream("Where was Charles Babbage born?"))
    assert "".join(str(piece) for piece in pieces) == answer.reply
    assert last.text == answer.text


def test_the_answer_follows_the_passage_and_is_gone_with_it(memory: HybridMemory, tuned) -> None:
    system = HybridMemorySystem(memory, tuned, k=1, max_facts=0)
    question = "Where was Charles Babbage born?"
    assert "London" in system.query(question).text
    system.ingest(Passage("Charles Babbage was born in Lisbon in 1791.", title="Charles Babbage", id="babbage"))
    moved = system.query(question)
    assert "Lisbon" in moved.text
    assert moved.cited[0].passage.id == "babbage"
    system.delete(["babbage"])
    gone = system.query(question)
    assert gone.abstained
    assert gone.text == ABSTENTION
    assert gone.reason
