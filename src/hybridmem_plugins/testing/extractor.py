"""What a memory counts on in an extractor."""

from __future__ import annotations

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.extraction.tokens import name_key

_PASSAGES = [
    Passage("She wrote notes with Charles Babbage. They met in London.", title="Ada Lovelace", id="a"),
    Passage("no name in here", id="b"),
    Passage("東京は首都。\n\n\x00 “Quote” [[Link|text]] \U0001f9e0 1843", title="東京 (city)", id="c"),
    Passage("( [ < \" ' \\ " * 50, title="", id="d"),
]


class ExtractorSuite:
    """Tests of an extractor; override `make`."""

    def make(self) -> Extractor:
        """Return the extractor under test."""
        raise NotImplementedError

    def test_one_extraction_a_passage(self) -> None:
        """As many as asked for, none for none."""
        assert self.make().extract([]) == []
        found = self.make().extract(_PASSAGES)
        assert len(found) == len(_PASSAGES)
        assert all(isinstance(extraction, Extraction) for extraction in found)

    def test_sentences_lie_in_the_text_in_order(self) -> None:
        """Offsets ascend and do not overlap; mentions and facts point at sentences that exist."""
        for passage, extraction in zip(_PASSAGES, self.make().extract(_PASSAGES), strict=True):
            last = 0
            for start, end in extraction.sentences:
                assert last <= start < end <= len(passage.text)
                last = end
            for sentence in [item.sentence for items in (extraction.mentions, extraction.facts) for item in items]:
                assert 0 <= sentence < max(1, len(extraction.sentences))

    def test_names_are_normalised_and_mentioned_once(self) -> None:
        """Spellings of one name meet under one form."""
        for extraction in self.make().extract(_PASSAGES):
            mentioned = [mention.name for mention in extraction.mentions]
            assert len(set(mentioned)) == len(mentioned)
            assert not set(mentioned) & set(extraction.defines)
            ends = [end for fact in extraction.facts for end in (fact.subject, fact.object)]
            for name in [*mentioned, *extraction.defines, *ends]:
                assert name
                assert name == name_key(name)

    def test_the_same_again_whatever_stands_beside_it(self) -> None:
        """A passage's extraction depends on nothing else."""
        alone = [self.make().extract([passage])[0] for passage in _PASSAGES]
        assert self.make().extract(_PASSAGES) == alone

    def test_extractions_survive_the_journal(self) -> None:
        """What is stored comes back equal."""
        for extraction in self.make().extract(_PASSAGES):
            assert Extraction.from_json(extraction.to_json()) == extraction

    def test_a_memory_takes_and_forgets_it(self) -> None:
        """Nothing is left in the graph when the passages are gone."""
        with HybridMemory(extractor=self.make()) as memory:
            memory.add(_PASSAGES)
            memory.delete([str(passage.id) for passage in _PASSAGES])
            assert memory.graph.number_of_nodes() == 0
