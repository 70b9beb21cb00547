"""What retrieval counts on in a graph store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.passage import Passage

_PASSAGES = {
    1: Passage("She wrote to Charles Babbage about the Analytical Engine.", "Ada Lovelace", "1"),
    2: Passage("He designed the Analytical Engine in London.", "Charles Babbage", "2"),
    3: Passage("the analytical engine was never built.", None, "3"),
    4: Passage("A machine of brass.", "Analytical Engine", "4"),
}


class GraphStoreSuite:
    """Tests of a relational tier (`GraphTier` and `RelationalTier`); override `make`."""

    def make(self) -> Any:
        """Return an empty graph store, whose `find_phrases` may be set."""
        raise NotImplementedError

    def test_steps_lead_over_names(self) -> None:
        """Forward to what defines a name, backward to what mentions it, across to what shares it."""
        graph = self._filled([1, 2, 3, 4])
        assert 2 in graph.neighbourhood([1], ["forward"]).target.tolist()
        assert set(graph.neighbourhood([4], ["backward"]).target.tolist()) == {1, 2, 3}
        assert 2 in graph.neighbourhood([1], ["shared"]).target.tolist()
        steps = graph.neighbourhood([1, 999])
        assert not (steps.source == steps.target).any()
        assert len(steps.source) == len(steps.target) == len(steps.link) == len(steps)

    def test_order_of_adding_does_not_count(self) -> None:
        """A title finds who said it before it was one."""
        for order in ([1, 2, 3, 4], [4, 3, 2, 1], [3, 4, 1, 2]):
            graph = self._filled(order)
            assert set(graph.neighbourhood([4], ["backward"]).target.tolist()) == {1, 2, 3}, order
            assert graph.names(["analytical engine"])["analytical engine"].definers == (4,)

    def test_a_mask_hides(self) -> None:
        """What is not allowed is neither reached, nor counted, nor known."""
        graph = self._filled([1, 2, 3, 4])
        allowed = np.array([False, True, False, True, True])
        assert set(graph.neighbourhood([4], ["backward"], allowed).target.tolist()) == {1, 3}
        assert graph.names(["analytical engine"], allowed)["analytical engine"].mentions == 2
        assert "london" not in graph.names(["london"], allowed)
        assert graph.similar("charles babage", allowed) is None
        assert graph.similar("charles babage") == "charles babbage"

    def test_what_nobody_supports_goes(self) -> None:
        """Names live as long as one passage says them."""
        graph = self._filled([1, 2, 3, 4])
        graph.remove([2])
        assert "london" not in graph.names(["london"])
        assert graph.names(["charles babbage"])["charles babbage"].definers == ()
        graph.remove([1, 3, 4])
        assert not graph.names(["charles babbage", "analytical engine", "ada lovelace"])
        assert len(graph.neighbourhood([1, 2, 3, 4])) == 0

    def _filled(self, order: Sequence[int]) -> Any:
        tokens: dict[int, list[str]] = {}

        def find(phrases: Sequence[Sequence[str]]) -> list[list[int]]:
            return [
                [row for row, said in tokens.items() if f" {' '.join(phrase)} " in f" {' '.join(said)} "]
                for phrase in phrases
            ]

        graph = self.make()
        graph.find_phrases = find
        for row in order:
            passage = _PASSAGES[row]
            tokens[row] = words(f"{passage.title}\n{passage.text}" if passage.title else passage.text)
            graph.add([row], [passage], BuiltinExtractor().extract([passage]), [tokens[row]])
        return graph
