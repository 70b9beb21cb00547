import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer, whole_words


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("in NEW\u00a0YORK City", "New York"),
        ("the con\u00adtract", "contract"),
        ("for 1912–13 only", "1912"),
        ("John's house", "john"),
        ("\ufb01rst prize", "first"),
        ("an exam-\nple here", "example"),
        ("worth 7,731,004 SEK", "7731004"),
        ("首都は東京です", "東京"),
        ("a ** b", "**"),
        ("उसने दिन में लिखा।", "दिन"),
        ("မြန်မာနိုင်ငံ၏မြို့တော်", "နိုင်ငံ"),
        ("New \u2764\ufe0f York, No. 1\ufe0f\u20e3", "New York, No. 1"),
    ],
)
def test_found(text, answer):
    assert contains_answer(text, [answer])


@pytest.mark.parametrize(
    ("text", "answer"),
    [("category", "cat"), ("19123", "1912"), ("3.5%", "5"), ("", "x"), ("anything", ""), ("York New", "New York"),
     ("दान दिया गया", "दिन"), ("ကား", "ကီး")],
)  # fmt: skip
def test_not_found(text, answer):
    assert not contains_answer(text, [answer])


def test_any_alias_is_enough():
    assert contains_answer("by the Bard", ["Shakespeare", "the bard"])
    assert not contains_answer("by the Bard", [])


def test_normalised_text_is_stable():
    text = "The  U.S.\u200b economy — “quoted”"
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


def test_answer_cut_inside_a_word_grows_to_whole_words():
    assert whole_words("nfluenza viru", "of influenza viruses.") == "influenza viruses"
    assert whole_words("influenza", "of influenza viruses.") == "influenza"
    assert whole_words("cat", "no such thing") is None


PIECES = st.sampled_from(["New", "York", "new", "the", " ", " ", "-", "\n", ", ", "yorker", "a", "x" * 30, "…", "é"])


@given(text=st.lists(PIECES, max_size=25).map("".join), answer=st.lists(PIECES, min_size=1, max_size=5).map("".join))
def test_found_exactly_where_the_tokens_follow_one_another(text, answer):
    wanted = normalise_answer(answer)
    if wanted:
        assert contains_answer(text, [answer]) == (f" {wanted} " in f" {normalise_answer(text)} ")
