"""Answers that say the same in other words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmem_plugins.generation.forms import form_words, is_numeric_date, is_within


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Nov. 17, 2019", "17 November 2019"),
        ("Sunday, November 17th", "November 17"),
        ("on March 03", "3 March"),
        ("10/27/2017", "October 27, 2017"),
        ("27.10.2017", "October 27, 2017"),
        ("5.10.2017", "5 October 2017"),
        ("5/10/2017", "May 10, 2017"),
        ("2017.10.05", "5 October 2017"),
        ("2017-10-27", "27 Oct 2017"),
        ("Chloe Zhao", "Chloé Zhao"),
        ("in June 2020", "June 2020"),
        ("the Nintendo Switch", "on the Nintendo Switch"),
    ],
)
def test_forms_of_one_answer_have_the_same_words(one, other) -> None:
    assert form_words(one) == form_words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("November 17", "November 18"),
        ("May", "March"),
        ("13/13/2017", "January 13, 2017"),
        ("1.2.3", "February 3"),
        ("192.168.1.20", "January 20"),
        ("が", "か"),
        ("January", "June"),
    ],
)
def test_other_answers_have_other_words(one, other) -> None:
    assert form_words(one) != form_words(other)


def test_a_fuller_form_holds_a_shorter_one_and_not_the_other_way() -> None:
    for shorter, fuller in [
        ("2015", "December 2015"),
        ("Nov 17", "17 November 2019"),
        ("R. Nadal", "Rafael Nadal"),
        ("Cristophe Gans", "the director Christophe Gans"),
    ]:
        assert is_within(form_words(shorter), form_words(fuller)), shorter
        assert not is_within(form_words(fuller), form_words(shorter)), shorter


def test_what_only_looks_alike_is_not_within() -> None:
    for one, other in [
        ("Paul", "Saul"),  # short words differ by their one letter
        ("1998", "1999"),
        ("Anna Anna Smith", "Mr Smith"),
        ("A1", "A2 road"),
    ]:
        assert not is_within(form_words(one), form_words(other)), one
    assert not is_within(form_words(""), form_words("London")), "nothing says nothing"


def test_numeric_dates_are_told_from_numbers_and_versions() -> None:
    assert is_numeric_date("Release: 6/19/2020")
    assert is_numeric_date("2020-06-19")
    for other in ("June 19, 2020", "1.2.3", "3/4", "10.0.0.1", "99/99/2020", "555-12-3456"):
        assert not is_numeric_date(other), other


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_has_a_form_and_holds_itself(one, other) -> None:
    words = form_words(one)
    assert is_within(words, words) == bool(words)
    if is_within(words, form_words(other)):
        assert len(words) <= len(form_words(other))
