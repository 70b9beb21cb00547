"""Every operator keeps the same promises."""

import json
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import JSON, MARKDOWN, OTHERS, PASSAGES, PROSE, TEXTS

from hybridmem_plugins import Passage
from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.edits import Draft, apply_changes, random_for, replay
from hybridmem_plugins.augmentation.operators import LEVELS, OPERATORS, get_operator
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE
from hybridmem_plugins.augmentation.operators.context import Sources
from hybridmem_plugins.augmentation.operators.markdown import structures, tables
from hybridmem_plugins.augmentation.operators.registry import pick
from hybridmem_plugins.augmentation.operators.swaps import substitute

TEXT_OPERATORS = [name for name, operator in OPERATORS.items() if operator.kind in ("text", "neighbour")]
METADATA_OPERATORS = [name for name, operator in OPERATORS.items() if operator.kind == "metadata"]
CONTEXT_OPERATORS = [name for name, operator in OPERATORS.items() if operator.kind == "context"]
NEIGHBOUR = "The next chunk begins here and goes on for a while, about engines and mills."


class Pools:
    def pool(self, operator, rng):
        return rng.sample(OTHERS, len(OTHERS))


SOURCES = Sources(Pools(), size=8, answers=("1843",))
LOOKUP = {passage.id: passage for passage in OTHERS}.__getitem__


def propose(name, text, severity, rng):
    operator = OPERATORS[name]
    extra = (NEIGHBOUR,) if operator.kind == "neighbour" else ()
    return operator.run(text, severity, rng, *extra)


def noised(name, severity, rng):
    """Run any operator on the sample context and return the draft."""
    draft = Draft(list(PASSAGES), ["gold", "gold", "gold", "gold"])
    operator = OPERATORS[name]
    if operator.kind == "context":
        operator.run(draft, severity, rng, SOURCES)
    elif operator.kind == "metadata":
        for index, passage in enumerate(PASSAGES):
            for change in operator.run(passage, severity, rng, PASSAGES):
                draft.set_field(index, name, *change)
    else:
        for index, passage in enumerate(PASSAGES):
            draft.change_text(index, name, propose(name, passage.text, severity, rng))
    return draft


def test_all_levels_are_there():
    assert {operator.level for operator in OPERATORS.values()} == set(LEVELS)
    assert all(operator.about.endswith(".") for operator in OPERATORS.values())


@pytest.mark.parametrize("name", OPERATORS)
def test_severity_zero_is_identity(name):
    draft = noised(name, 0.0, random.Random(1))
    assert draft.passages == PASSAGES
    assert draft.edits == []


@pytest.mark.parametrize("name", OPERATORS)
def test_does_something_and_replays_exactly(name):
    draft = noised(name, 1.0, random.Random(3))
    assert draft.edits, "the samples should give every operator something to do"
    assert {edit.operator for edit in draft.edits} == {name}
    logged = json.loads(json.dumps([edit.as_dict() for edit in draft.edits]))
    assert replay(PASSAGES, logged, LOOKUP) == draft.passages
    assert len(draft.roles) == len(draft.passages)


@pytest.mark.parametrize("name", OPERATORS)
def test_same_seed_and_id_same_noise(name):
    for identity in ("a", "b", 7):
        runs = [noised(name, 0.5, random_for(11, identity, name)) for _ in range(2)]
        assert runs[0].passages == runs[1].passages
        assert runs[0].edits == runs[1].edits


def test_another_process_makes_the_same_noise():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_operators as t; from hashlib import sha256;"
        "noisy = [t.noised(name, 0.5, t.random_for(5, 'x', name)).passages for name in t.OPERATORS];"
        "print(sha256(repr(noisy).encode()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1


def _amount(operator, changes, text):
    if operator.of_length:
        return sum(abs(len(change.after) - (change.end - change.start)) for change in changes)
    return len(changes)


@pytest.mark.parametrize("name", TEXT_OPERATORS)
@pytest.mark.parametrize("severity", [0.1, 0.5])
def test_edit_rate_follows_severity(name, severity):
    """Over many texts, the share of units changed is the severity, within five points."""
    operator, done, possible = OPERATORS[name], 0, 0
    for number in range(1500):
        if possible > 1500 and number > 20:
            break
        for text in TEXTS:
            possible += _amount(operator, propose(name, text, 1.0, random_for(number)), text)
            done += _amount(operator, propose(name, text, severity, random_for(number, "rate")), text)
    assert possible > 0
    assert done / possible == pytest.approx(severity, abs=0.05)


@pytest.mark.parametrize("name", METADATA_OPERATORS + CONTEXT_OPERATORS)
def test_edit_count_follows_severity_for_lists_and_metadata(name):
    def count(draft):
        if name == "order":
            return sum(a is not b for a, b in zip(draft.passages, PASSAGES, strict=True))
        if name in ("random_irrelevant", "same_topic", "hard_negatives", "low_ranked"):
            return len(draft.passages) - len(PASSAGES)
        return len(draft.edits)

    if name in ("contradiction", "outdated_version", "off_entity", "empty_retrieval", "swapped_ids"):
        tolerance, rounds = 0.08, 600
    else:
        tolerance, rounds = 0.08, 300
    most = sum(count(noised(name, 1.0, random_for(n))) for n in range(rounds))
    half = sum(count(noised(name, 0.5, random_for(n, "half"))) for n in range(rounds))
    # `order` permutes the chosen ones: of n, one stays in place on average.
    expected = (2 - 1) / (4 - 1) if name == "order" else 0.5
    assert half / most == pytest.approx(expected, abs=tolerance)


UNICODE_TEXT = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from([*PROSE.split(), *MARKDOWN.splitlines(True), "\u00a0", "’", "|", "\r\n", "\x00", JSON])
    ).map(" ".join),
)


@pytest.mark.parametrize("name", TEXT_OPERATORS)
@settings(max_examples=40, deadline=None)
@given(text=UNICODE_TEXT, severity=st.floats(0, 1), seed=st.integers(0, 9))
def test_any_text_stays_valid_and_replays(name, text, severity, seed):
    changes = propose(name, text, severity, random.Random(seed))
    spans = [(change.start, change.end) for change in changes]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    apply_changes(text, changes).encode("utf-8")
    draft = Draft([Passage(text, id="x")], ["gold"])
    draft.change_text(0, name, changes)
    assert replay([Passage(text, id="x")], draft.edits) == draft.passages
    if text.strip():
        assert draft.passages[0].text.strip()


def test_structures_are_found_where_they_are():
    found = structures(MARKDOWN)
    (table,) = found.tables
    assert MARKDOWN[slice(*table.header)].startswith("| Region")
    assert [MARKDOWN[slice(*row)].split()[1] for row in table.rows] == ["North", "South", "East"]
    assert MARKDOWN[slice(*found.fences[0])].startswith("```python")
    assert [MARKDOWN[slice(*heading)] for heading in found.headings] == ["# Report\n", "## Figures\n"]
    assert tables("a | b but no table") == ()
    assert tables("```\n| a |\n|---|\n| 1 |\n```\n") == (), "a table inside a code block is code"


def test_crlf_offsets():
    text = "intro\r\n\r\n| a | b |\r\n|---|---|\r\n| 1 | 2 |\r\n"
    (table,) = tables(text)
    assert text[slice(*table.rows[0])] == "| 1 | 2 |\r\n"


def test_mojibake_is_what_windows_makes_of_utf8():
    changed = apply_changes("café’s", OPERATORS["mojibake"].run("café’s", 1.0, random.Random(0)))
    assert changed == "cafÃ©â€™s"
    assert changed.encode("cp1252").decode("utf-8") == "café’s"


def test_flattened_table_keeps_cells_and_loses_pipes():
    changed = apply_changes(MARKDOWN, OPERATORS["flattened_tables"].run(MARKDOWN, 1.0, random.Random(0)))
    assert "|" not in changed
    assert "North 10.5 11.2\nSouth 20.1 19.8" in changed


def test_false_copies_hold_another_answer():
    for name in ("contradiction", "outdated_version", "off_entity"):
        draft = noised(name, 1.0, random.Random(2))
        false = [p for p, role in zip(draft.passages, draft.roles, strict=True) if role == name]
        assert false, name
        assert not any(contains_answer(passage.text, SOURCES.answers) for passage in false)
        assert PASSAGES[0] in draft.passages
    assert int(noised("outdated_version", 1.0, random.Random(0)).planted["planted"]) < 1843


@pytest.mark.parametrize(
    ("value", "before", "kept"),
    [
        ("May 29, 2018", "", r"[A-Z][a-z]+ ([1-9]|1\d|2[0-8]), (19|20)\d\d"),
        ("2018-05-06", "", r"(19|20)\d\d-0\d-0\d"),
        ("the 1980s", "", r"the (19|20)\d0s"),
        ("$1,250.5 million", "", r"\$\d,\d\d0?\d?\.5 million"),
        ("Ada Lovelace", "written by ", r"[A-Z][a-z]+ [A-Z][a-z]+"),
        ("New Haven", "a house in ", r"[A-Z][a-z]+"),
        ("Yale University", "at ", r"[A-Z][a-z]+ University"),
    ],
)
def test_a_false_value_is_of_the_same_kind(value, before, kept):
    for seed in range(30):
        other = substitute(value, random.Random(seed), before=before)
        assert re.fullmatch(kept, other), other
        assert other != value


def test_what_is_neither_number_nor_name_has_no_false_value():
    assert substitute("the vascular cambium", random.Random(0)) is None
    assert substitute("The vascular cambium", random.Random(0)) is None


def test_pick_keeps_order_and_number():
    assert list(pick(range(10), 0.5, random.Random(0))) == sorted(pick(range(10), 0.5, random.Random(0)))
    assert {len(pick(range(10), 0.25, random.Random(n))) for n in range(50)} == {2, 3}


def test_unknown_operator_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'typos'"):
        get_operator("typo")


def test_a_log_that_does_not_fit_says_so():
    draft = noised("nbsp", 1.0, random.Random(0))
    with pytest.raises(ValueError, match="does not fit: 'nbsp'"):
        replay(OTHERS, draft.edits)


@pytest.mark.parametrize(
    "text",
    ["長江很長。它流入海！誰知道？", "富士山は高い。「白い」。", "गांधी वकील थे। वे चले गए।", "ولد في القاهرة؟ نعم."],
)
def test_sentences_of_other_scripts_are_sentences(text):
    found = [match[0] for match in SENTENCE.finditer(text)]
    assert len(found) > 1
    assert "".join(found) == text.replace(" ", "") or " ".join(found) == text


def test_only_alphabets_that_hyphenate_are_hyphenated():
    run = OPERATORS["line_break_hyphens"].run
    assert run("長江是中國最長的河流之一", 1.0, random.Random(0)) == []
    assert run("Вычислительная", 1.0, random.Random(0)) != []
