"""What a search finds, and what it says about it."""

import asyncio
import json
import math
import time

import numpy as np
import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.retrieval.model import ROUTES
from hybridmem_plugins.retrieval.router import Choice, Situation
from hybridmem_plugins.samples import load_corpus, load_questions


@pytest.fixture(scope="module")
def memory() -> HybridMemory:
    memory = HybridMemory()
    memory.add(load_corpus())
    return memory


def ids(hits: list) -> list[str]:
    return [hit.passage.id for hit in hits]


@pytest.mark.parametrize("question", [q for q in load_questions() if q.gold], ids=lambda q: q.id)
def test_every_needed_passage_is_among_the_first_five(memory: HybridMemory, question) -> None:
    assert set(question.gold) <= set(ids(memory.search(question.question, k=5)))


def test_the_graph_finds_what_vectors_miss(memory: HybridMemory) -> None:
    def found(route: str) -> int:
        asked = [q for q in load_questions() if q.gold]
        return sum(set(q.gold) <= set(ids(memory.search(q.question, k=4, route=route))) for q in asked)

    assert found("auto") > found("vector")


def test_scores_are_finite_floats_that_never_rise(memory: HybridMemory) -> None:
    for route in ROUTES:
        scores = [hit.score for hit in memory.search("Who invented DRAM at IBM?", k=45, route=route)]
        assert all(isinstance(score, float) and math.isfinite(score) for score in scores)
        if route != "relational":
            assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("k", [1, 3, 20, 45])
def test_exactly_k_passages_each_once(memory: HybridMemory, route: str, k: int) -> None:
    found = ids(memory.search("energy efficiency of memory", k=k, route=route))
    assert len(found) == k == len(set(found))


def test_a_count_may_be_numpys(memory: HybridMemory) -> None:
    question, k = "Who invented DRAM at IBM?", np.int64(2)
    assert memory.search(question, k=k) == memory.search(question, k=2)
    assert memory.facts(question, k=k) == memory.facts(question, k=2)
    assert memory.explain(question, k=k) == memory.explain(question, k=2)


def test_k_beyond_the_size_gives_everything(memory: HybridMemory) -> None:
    assert len(memory.search("memory", k=10_000)) == len(memory)


def test_provenance_is_plain_json_and_names_the_way(memory: HybridMemory) -> None:
    hits = memory.search("Where was the inventor of the one-transistor DRAM cell born?", k=8)
    assert json.loads(json.dumps([hit.provenance for hit in hits])) == [hit.provenance for hit in hits]
    dennard = next(hit for hit in hits if hit.passage.id == "robert-dennard")
    graph = dennard.provenance["routes"]["graph"]
    assert graph["rank"] >= 1
    assert dennard.provenance["hops"] == len(dennard.provenance["path"]) >= 1
    last = dennard.provenance["path"][-1]
    assert last["to"] == "robert-dennard"
    assert last["name"]
    assert last["sentence"] in next(
        p.text for p in load_corpus() if p.id in (last["from"], last["to"]) and last["sentence"] in p.text
    )


def test_the_same_search_gives_the_same_answer_in_any_order_of_adding() -> None:
    question = "Where was the inventor of the one-transistor DRAM cell born?"
    answers = []
    for order in (1, -1):
        with HybridMemory() as memory:
            for passage in load_corpus()[::order]:
                memory.add([passage])
            answers.append([(hit.passage.id, round(hit.score, 5)) for hit in memory.search(question)])
    assert answers[0] == answers[1]


def test_reopening_gives_the_same_answers(tmp_path) -> None:
    questions = [q.question for q in load_questions()]
    with HybridMemory(path=tmp_path / "m") as memory:
        memory.add(load_corpus())
        before = [[(h.passage, h.score, h.provenance) for h in memory.search(q)] for q in questions]
    with HybridMemory(path=tmp_path / "m") as memory:
        assert [[(h.passage, h.score, h.provenance) for h in memory.search(q)] for q in questions] == before


def test_a_filter_holds_on_the_way() -> None:
    with HybridMemory() as memory:
        memory.add(
            [
                Passage("She married Bo Hidden.", "Ada Open", "a", {"tenant": "x"}),
                Passage("He was born in Secret Town.", "Bo Hidden", "b", {"tenant": "y"}),
                Passage("A town by the sea.", "Secret Town", "c", {"tenant": "x"}),
            ]
        )
        question = "Where was the husband of Ada Open born?"
        assert ids(memory.search(question, k=3))[:2] in (["a", "b"], ["b", "a"])
        hits = memory.search(question, k=3, filter={"tenant": "x"})
        assert set(ids(hits)) == {"a", "c"}
        assert '"b"' not in json.dumps([hit.provenance for hit in hits])
        assert all(fact.passage_id != "b" for fact in memory.facts(question, filter={"tenant": "x"}))


def test_a_deleted_passage_is_on_no_way() -> None:
    with HybridMemory() as memory:
        memory.add(load_corpus())
        memory.delete(["robert-dennard"])
        assert "passage:robert-dennard" not in memory.graph
        for question in load_questions():
            hits = memory.search(question.question, k=44)
            assert "robert-dennard" not in json.dumps([(hit.passage.id, hit.provenance) for hit in hits])


def test_facts_are_sentences_of_their_passages(memory: HybridMemory) -> None:
    facts = memory.facts("Robert Dennard", k=8)
    assert 0 < len(facts) <= 8
    texts = {passage.id: passage.text for passage in load_corpus()}
    for fact in facts:
        assert fact.sentence in texts[fact.passage_id]
        assert fact.subject
        assert fact.relation
        assert fact.object


def test_names_with_initials_hyphens_and_apostrophes_stand_in_facts_and_paths_as_written() -> None:
    text = "It began in 1950. Then J. R. O'Brien met Jean-Luc Moreau at Gen-Z."
    with HybridMemory() as memory:
        memory.add(
            [Passage(text, title="Meeting", id="m"), Passage("He was born in Oslo.", title="J. R. O'Brien", id="o")]
        )
        facts = {fact.object: fact for fact in memory.facts("Meeting", k=20) if fact.passage_id == "m"}
        assert {"J. R. O'Brien", "Jean-Luc Moreau", "Gen-Z"} <= set(facts)
        assert facts["Jean-Luc Moreau"].relation == "Then J. R. O'Brien met"
        hits = memory.search("Where was the man of the Meeting born?", k=2, route="relational")
        (path,) = [hit.provenance["path"] for hit in hits if hit.passage.id == "o"]
        assert path[0]["sentence"] == "Then J. R. O'Brien met Jean-Luc Moreau at Gen-Z."


def test_the_subject_of_a_fact_is_no_part_of_its_relation() -> None:
    with HybridMemory() as memory:
        memory.add([Passage("The Analytical Engine was designed by Charles Babbage.", title="Analytical Engine")])
        [fact] = memory.facts("Who designed the Analytical Engine?")
        assert (fact.subject, fact.relation, fact.object) == ("Analytical Engine", "was designed by", "Charles Babbage")


def test_facts_of_a_passage_of_many_names_take_linear_time() -> None:
    names = [f"Xy{index}" for index in range(4000)]
    for text in (" was in town. ".join(names), f"They met {' and then '.join(names)}."):
        with HybridMemory() as memory:
            memory.add([Passage(text, title="Town", id="a")])
            started = time.process_time()
            assert len(memory.facts("Town", k=3)) > 0
            assert time.process_time() - started < 4


def test_a_question_of_many_names_takes_linear_time() -> None:
    names = "".join(f"Xy{index} was in town. The Zz{index}. " for index in range(5000))
    with HybridMemory() as memory:
        memory.add([Passage("Written by Ada.", title="Ada Lovelace", id="a")])
        started = time.process_time()
        assert [entity.name for entity in memory.explain(names + "Ada Lovelase").entities] == ["ada lovelace"]
        assert time.process_time() - started < 8


def test_misspelt_names_are_linked() -> None:
    with HybridMemory() as memory:
        memory.add([Passage("A king.", "Lothair II", "a"), Passage("A queen.", "Teutberga", "b")])
        assert memory.search("Who was Lothar II?", k=1)[0].passage.id == "a"
        assert memory.search("Who was Lothar II?", k=1)[0].provenance["entities"] == ["lothair ii"]


def test_aliases_link() -> None:
    with HybridMemory(aliases={"NVM": "Non-volatile memory"}) as memory:
        memory.add(
            [Passage("It keeps data without power.", "Non-volatile memory", "a"), Passage("Volatile.", "DRAM", "b")]
        )
        assert memory.search("What does NVM keep?", k=1)[0].provenance["entities"] == ["non volatile memory"]


def test_titles_in_scripts_without_case_are_linked() -> None:
    with HybridMemory() as memory:
        memory.add(
            [
                Passage("東京タワーは港区にある電波塔である。", "東京タワー", "tower"),
                Passage("港区は東京都の区である。", "港区", "ward"),
                Passage("大阪城は大阪市にある城である。", "大阪城", "castle"),
                Passage("برج القاهرة يقع في القاهرة.", "برج القاهرة", "cairo"),
            ]
        )
        hits = memory.search("東京タワーがある区は?", k=2)
        assert set(ids(hits)) == {"tower", "ward"}
        ward = next(hit for hit in hits if hit.passage.id == "ward")
        assert ward.provenance["path"][0]["name"] == "港 区"


def test_names_of_two_things_are_told_apart_by_the_question() -> None:
    with HybridMemory() as memory:
        memory.add(
            [
                Passage("It is the planet nearest to the sun and orbits it in 88 days.", "Mercury (planet)", "planet"),
                Passage("It is a metal that is liquid at room temperature.", "Mercury (element)", "metal"),
                Passage("It is hot there.", "Sun", "sun"),
            ]
        )
        assert memory.search("How many days does Mercury orbit the sun?", k=1)[0].passage.id == "planet"
        assert memory.search("Is Mercury a liquid metal?", k=1)[0].passage.id == "metal"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"question": ""}, ValueError, "empty"),
        ({"question": "  \n"}, ValueError, "empty"),
        ({"question": "half \ud83d"}, ValueError, "surrogate"),
        ({"question": 7}, TypeError, "string"),
        ({"question": "x", "k": 0}, ValueError, "at least 1"),
        ({"question": "x", "k": 2.0}, TypeError, "integer"),
        ({"question": "x", "k": True}, TypeError, "integer"),
        ({"question": "x", "route": "psychic"}, ValueError, "psychic"),
        ({"question": "x", "filter": {"a": {"$near": 1}}}, ValueError, r"\$near"),
    ],
)
def test_bad_questions_get_a_clear_error(memory: HybridMemory, arguments: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        memory.search(**arguments)


def test_an_empty_memory_answers_nothing_but_still_checks() -> None:
    with HybridMemory() as memory:
        assert memory.search("anything") == []
        assert memory.facts("anything") == []
        with pytest.raises(ValueError, match="empty"):
            memory.search(" ")


def test_a_question_without_words_finds_something(memory: HybridMemory) -> None:
    assert len(memory.search("???", k=3)) == 3


def test_a_router_of_the_user_is_asked_and_checked() -> None:
    seen: list[Situation] = []

    def router(situation: Situation) -> Choice:
        seen.append(situation)
        return Choice("semantic", "because")

    with HybridMemory(router=router) as memory:
        memory.add([Passage("A king.", "Lothair II")])
        hit = memory.search("Who was Lothair II?")[0]
        assert hit.provenance["route"] == {"chosen": "semantic", "reason": "because"}
        assert seen[0].names == ("lothair ii",)
    with HybridMemory(router=lambda situation: "sideways") as memory:
        memory.add([Passage("A king.", "Lothair II")])
        with pytest.raises(ValueError, match="sideways"):
            memory.search("Who?")


class FakeEmbedder:
    """Named a fake: gives vectors that the test controls."""

    def __init__(self, query: list[float]) -> None:
        self.query = query

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, float(len(text)), 0.5] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.query


@pytest.mark.parametrize("query", [[math.nan, 0, 0], [math.inf, 0, 0], [1, 2], [1, 2, 3, 4]])
def test_a_broken_question_vector_gets_a_clear_error(query: list[float]) -> None:
    with HybridMemory(FakeEmbedder(query)) as memory:
        memory.add([Passage("A king.", "Lothair II")])
        with pytest.raises(ValueError, match=r"vector|dimension|shape"):
            memory.search("Who?")


def test_an_awaitable_for_a_vector_names_the_embedder() -> None:
    async def later() -> list[float]:
        return [1.0, 2.0, 3.0]

    awaitable = later()
    with HybridMemory(FakeEmbedder(awaitable)) as memory:
        memory.add([Passage("A king.", "Lothair II")])
        with pytest.raises(ValueError, match="the embedder gave no vector for the question, but a coroutine"):
            memory.search("Who?")
    awaitable.close()


def test_a_zero_question_vector_still_answers_by_words() -> None:
    with HybridMemory(FakeEmbedder([0.0, 0.0, 0.0])) as memory:
        memory.add([Passage("A king.", "Lothair II", "a"), Passage("A queen of old times.", "Teutberga", "b")])
        assert memory.search("Teutberga", k=1)[0].passage.id == "b"


async def test_async_equals_sync_while_the_loop_ticks(memory: HybridMemory) -> None:
    questions = [q.question for q in load_questions()] * 9
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    found = await asyncio.gather(*(memory.asearch(q, k=5) for q in questions))
    ticking.cancel()
    assert [ids(hits) for hits in found] == [ids(memory.search(q, k=5)) for q in questions]
    assert ticks > 10


def test_equal_passages_come_in_the_order_of_their_ids() -> None:
    with HybridMemory() as memory:
        memory.add([Passage("The same words.", id=i) for i in ("c", "a", "b")])
        assert ids(memory.search("same words", k=3)) == ["a", "b", "c"]


def test_the_strongest_passage_stands_before_those_it_beats_in_everything() -> None:
    told = {v: f"In version {v}: The default timeout is {i + 3} seconds." for i, v in enumerate(("1.0", "2.0", "2.1"))}
    with HybridMemory() as memory:
        memory.add([Passage(text, id=version) for version, text in told.items()])
        hits = memory.search("What is the timeout in version 1.0 of the client?")
        ranks = [[route["rank"] for route in hit.provenance["routes"].values()] for hit in hits]
        assert (hits[0].passage.id, ranks[0]) == ("1.0", [1, 1])


@pytest.mark.parametrize("title", ["doc_{:03}.txt", "{}"])
def test_titles_that_are_file_names_or_numbers_hide_no_way(title: str) -> None:
    told = [
        "The one-transistor DRAM cell was invented by Robert Dennard.",
        "Robert Dennard was born in Terrell, Texas.",
    ]
    told += [f"Somebody was born in town number {i}." for i in range(40)]
    with HybridMemory() as memory:
        memory.add([Passage(text, title.format(i), str(i)) for i, text in enumerate(told, 100)])
        hits = memory.search("Where was the inventor of the one-transistor DRAM cell born?", k=2)
        (born,) = (hit for hit in hits if hit.passage.id == "101")
        assert [(step["kind"], step["name"]) for step in born.provenance["path"]] == [("forward", "robert dennard")]


def test_closed_memory_says_so() -> None:
    memory = HybridMemory()
    memory.close()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        memory.search("x")
    for call in (memory.asearch("x"), memory.afacts("x"), memory.aadd([Passage("x")]), memory.adelete(["x"])):
        with pytest.raises(ValueError, match="closed"):
            asyncio.run(call)


def test_vectors_of_ones_own_are_used() -> None:
    with HybridMemory(FakeEmbedder([1.0, 0.0, 0.0])) as memory:
        memory.add([Passage("x", id="a"), Passage("y", id="b")], vectors=np.array([[0, 1, 0], [1, 0, 0]]))
        assert memory.search("z", k=1, route="vector")[0].passage.id == "b"
