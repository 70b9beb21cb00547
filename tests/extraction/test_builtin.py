"""What the built-in extractor reads in a passage."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins import Passage
from hybridmem_plugins.extraction.builtin import BuiltinExtractor, _names, capitalised_names, defined_names
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.extraction.sentences import sentence_spans


def extract(text: str, title: str | None = None) -> Extraction:
    return BuiltinExtractor().extract([Passage(text=text, title=title)])[0]


def names(text: str, title: str | None = None) -> dict[str, str]:
    return {mention.name: mention.kind for mention in extract(text, title).mentions}


def test_it_is_an_extractor() -> None:
    assert isinstance(BuiltinExtractor(), Extractor)


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        ("He studied at the University of Paris in 1950.", "university of paris", "name"),
        ("In May, Charles de Gaulle spoke.", "charles de gaulle", "name"),
        ("It was written by J. R. R. Tolkien.", "j r r tolkien", "name"),
        ("Он читал Фёдора Достоевского.", "федора достоевского", "name"),
        ("Η πόλη Ναύπλιο είναι παλιά.", "ναυπλιο", "name"),
        ("Founded in 1984 by nobody.", "1984", "year"),
        ("They sang “let it be” again.", "let it be", "quote"),
        ("彼は「羅生門」を見た。", "羅 生 門", "quote"),
        ("See [the guide](docs/Ion_trap.md#use) first.", "ion trap", "link"),
        ("See [[Ion trap|this page]] first.", "this page", "link"),
        ('See <a href="/wiki/Ion_trap">traps</a> first.', "ion trap", "link"),
    ],
)
def test_a_name_is_found_with_its_kind(text: str, name: str, kind: str) -> None:
    assert names(text)[name] == kind


def test_words_that_only_open_a_sentence_are_no_names() -> None:
    assert names("However, it rained. The rain stopped. When it stopped, we left.", "Rain") == {}


def test_numbers_that_are_no_years_are_left_alone() -> None:
    assert names("It cost 1,984 or 3.1984 or 1984-85 or 21984.", "Cost") == {}


def test_mentions_know_their_sentence() -> None:
    extraction = extract("She was a queen. She married Lothair II.", "Teutberga")
    (mention,) = extraction.mentions
    start, end = extraction.sentences[mention.sentence]
    assert "She was a queen. She married Lothair II."[start:end] == "She married Lothair II."


def test_titles_and_headings_define_names_and_are_not_mentioned() -> None:
    extraction = extract("# Install\nUse pip.\n## Upgrade ##\nMercury is fine.", "Mercury (planet)")
    assert extraction.defines == ("mercury planet", "mercury", "install", "upgrade")
    assert "mercury" not in {mention.name for mention in extraction.mentions}


def test_an_untitled_passage_defines_the_name_it_opens_with() -> None:
    assert extract("Teutberga (died 875) was a queen.").defines == ("teutberga",)
    assert extract("it was raining when Ada came.").defines == ()


def test_a_title_without_letters_defines_nothing() -> None:
    assert defined_names("***") == []


def test_abbreviations_and_initials_end_no_sentence() -> None:
    text = "Dr. Ada met J. R. Smith at St. Mary's. They spoke for approx. 3.5 hours! Did they?"
    assert [text[a:b] for a, b in sentence_spans(text)] == [
        "Dr. Ada met J. R. Smith at St. Mary's.",
        "They spoke for approx. 3.5 hours!",
        "Did they?",
    ]


WRITTEN = st.one_of(
    st.sampled_from(["Ada", " Lovelace", "the ", "of ", "J. R.", "New York", "'s", "1999", " 2001", "St.", " of the "]),
    st.sampled_from(["12 ", "a'b", "A_B", "Mr. ", "de la ", " 7", "iPhone ", "é", "東京。", "(x)", '".', "...", ". "]),
    st.sampled_from([" ", "\n", "\t", "! ", "-", "_", "&"]),
)


@given(text=st.lists(WRITTEN, max_size=25).map("".join))
@settings(max_examples=500, deadline=None)
def test_names_read_in_one_go_are_those_of_each_sentence(text: str) -> None:
    sentences = sentence_spans(text)
    one_by_one = [
        (surface, number, start + offset)
        for number, (start, end) in enumerate(sentences)
        for surface, _, offset in _names(text[start:end], [(0, end - start)])
    ]
    assert list(_names(text, sentences)) == one_by_one


def test_capitalised_names_of_a_question() -> None:
    assert capitalised_names("When did Lothair II's mother die?") == ["Lothair II's"]


@given(st.text(min_size=1), st.none() | st.text())
def test_any_text_is_read_and_round_trips(text: str, title: str | None) -> None:
    extraction = extract(text, title)
    stored = extraction.to_json()
    json.loads(stored)
    assert Extraction.from_json(stored) == extraction
    ends = [offset for span in extraction.sentences for offset in span]
    assert ends == sorted(ends)
    assert all(0 <= m.sentence < max(1, len(extraction.sentences)) for m in extraction.mentions)
    assert not {m.name for m in extraction.mentions} & set(extraction.defines)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_passages_are_read_one_by_one(texts: list[str]) -> None:
    together = BuiltinExtractor().extract([Passage(text=text) for text in texts])
    assert together == [extract(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "Net cash rose in 2019. The net result fell.",
        "Published reports differ from each other.",
        "Deferred tax assets are shown at cost.",
    ],
)
def test_a_word_that_only_opens_a_text_is_not_what_it_is_about(text: str) -> None:
    assert BuiltinExtractor().extract([Passage(text)])[0].defines == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Berlin is the capital of Germany.", "berlin"),
        ("Teutberga, a queen, married Lothair II.", "teutberga"),
        ("Acme makes anvils. They say that Acme never sleeps.", "acme"),
        ("DRAM stores charge.", "dram"),
        ("Robert Dennard invented it.", "robert dennard"),
        ("Jean-Luc paints.", "jean luc"),
        ("Conchobar mac Nessa (son of Ness) is the king of Ulster.", "conchobar mac nessa"),
        ("Deferred tax assets are the taxes paid too early.", "deferred tax assets"),
        ("Паровоз — машина.", "паровоз"),
    ],
)
def test_a_name_that_opens_a_text_is_what_it_is_about(text: str, name: str) -> None:
    assert BuiltinExtractor().extract([Passage(text)])[0].defines == (name,)


@pytest.mark.parametrize(
    ("title", "metadata", "expected"),
    [
        ("doc_00017.txt", {}, ("doc 00017 txt", "robert dennard", "doc 00017")),
        ("17", {}, ("17", "robert dennard")),
        ("—", {}, ("robert dennard",)),
        (None, {"source": "data/doc_00017.txt"}, ("robert dennard", "doc 00017")),
        ("robert-dennard.html", {}, ("robert dennard html", "robert dennard")),
        ("Introduction", {}, ("introduction",)),
        ("Node.js", {}, ("node js",)),
    ],
)
def test_the_name_of_a_file_and_a_number_do_not_stand_for_the_subject(
    title: str | None, metadata: dict, expected: tuple[str, ...]
) -> None:
    passage = Passage("Robert Dennard invented the DRAM cell.", title=title, metadata=metadata)
    assert BuiltinExtractor().extract([passage])[0].defines == expected


def test_a_number_that_a_text_says_is_its_title() -> None:
    passage = Passage("Sam Mendes directed 1917, a film.", title="1917")
    assert BuiltinExtractor().extract([passage])[0].defines == ("1917",)
