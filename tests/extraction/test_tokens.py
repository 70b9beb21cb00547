"""Spellings of one word meet; different words stay apart."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hybridmem_plugins.extraction.tokens import name_key, normalise, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Beyoncé's", "beyonce"),
        ("STRASSE", "straße"),
        ("ﬁle", "FILE"),
        ("Ｆｕｌｌ", "full"),
        ("Ναύπλιο", "ναυπλιο"),
        ("Достоевский’s", "достоевский"),
    ],
)
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(("one", "other"), [("हिन्दी", "हनद"), ("resume", "resumes"), ("東京", "京都")])
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


def test_scripts_without_spaces_give_one_token_a_character() -> None:
    assert words("東京タワーは333m") == ["東", "京", "タ", "ワ", "ー", "は", "333m"]
    assert words("ประเทศไทย")[:3] == ["ป", "ร", "ะ"]


def test_marks_of_indic_scripts_stay_with_their_letters() -> None:
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


@given(st.text())
def test_any_text_is_tokenised_and_keys_are_stable(text: str) -> None:
    key = name_key(text)
    assert name_key(key) == key
    assert " ".join(words(text)) == key
    assert all(token.strip() == token and token for token in words(text))


@given(st.text())
@example("0''0")
def test_normalising_twice_changes_nothing_that_tokens_see(text: str) -> None:
    assert words(normalise(text)) == words(text)
