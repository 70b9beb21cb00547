"""Small corpora, each hard in one way that the known sets are not, and questions whose passages are known.

    python benchmarks/challenges.py [--embedder minilm] [--write benchmarks/RESULTS.md]

A made-up country with people, firms, towns and rivers is told in several forms: as articles, without titles, in chunks
that share a title, with namesakes, with a country and a year that everything says, in four other languages, as Markdown
with headings and links, as code documentation and as notes. Three articles in four are distractors. Nobody's data is
in it, and the ranker was fitted on none of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from beir import DataSet, Query
from hybridmem_plugins import Passage
from hybridmem_plugins.extraction.files import read_passages

_FIRST = (
    "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karla Lukas Marta Nils Olga Paul Quentin Rosa Simon "
    "Tilda Ulrich Vera Willem Xenia Yann Zoe Albin Berta Casper Dora"
).split()
_LAST = (
    "Abeling Brandvold Corvin Dreyfeld Estermann Falkner Grunwick Halvard Iversen Jorgin Kestrel Lindqvor Marlowe "
    "Nordal Ostrava Pellander Quist Rosenkvist Sandoval Thornby Ulvang Varga Westerlo Yarrow Zellner "
    "Ambrosch Bellweg Cardun"
).split()
_PLACES = (
    "Tarsk Orvale Mirren Caldersby Venholm Lusk Ardmoor Pellworth Struan Kivik Dunmarsh Hollin Brask Eskelund Farrow "
    "Gildersee Hartmoor Inverlow Jelling Korsby Lowick Marn Nesby Oldermark Perrin Rask Skarde Tolm Uppark Vestby"
).split()
_RIVERS = "Aule Brend Corro Dravel Emme Fosk Garn Hesper Isk Jarl Kelde Loom".split()
_SEAS = "Amber Gulf|Cold Sound|Bay of Herons|Grey Strait|Lake Orm|Sea of Salt".split("|")
_TRADES = "chemist engineer botanist architect physician printer glassmaker surveyor clockmaker composer".split()
_THINGS = (
    "folding kayak|fog-free window glass|self-winding tower clock|paper drinking straw|steam-powered loom|"
    "salt-proof concrete|portable darkroom|two-way postage stamp|silent typewriter|inflatable bridge|"
    "spring-loaded umbrella|magnetic chess set|rust-free nail|collapsible ladder|braille wristwatch|solar bread oven|"
    "waxed canvas tent|hand-cranked radio|double-sided mirror|cork life jacket|tidal flour mill|pocket barometer|"
    "ceramic bearing|floating greenhouse|seamless boot|sliding skylight|musical doorbell|wooden bicycle|"
    "wind-driven pump|detachable collar"
).split("|")
_GOODS = "lenses pumps ropes clocks paints pianos saws tiles bicycles kettles".split()
_KNOWN = (
    "its covered market|a leaning lighthouse|the oldest paper mill of the land|a festival of kites|its salt cellars|"
    "terraced orchards|a museum of keys|its brass bands|a school for divers|hot springs"
).split("|")
_FILLERS = (
    "Little else is recorded of those years.|The archive keeps several letters about it.|"
    "A plaque was put up long afterwards.|Newspapers of the day wrote about it at length.|"
    "The reasons were disputed for a generation.|A second edition of the catalogue corrects the date.|"
    "Visitors are few outside of the summer months.|The figures were revised twice."
).split("|")


@dataclass(frozen=True)
class Person:
    name: str
    born: int
    town: int
    trade: str
    thing: str
    teacher: int


@dataclass(frozen=True)
class Firm:
    name: str
    founder: int
    town: int
    year: int
    goods: str


@dataclass(frozen=True)
class Town:
    name: str
    river: int
    known: str
    people: int


class World:
    """People, firms, towns and rivers that refer to each other.

    Args:
        seed: Same seed, same world.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = rng = np.random.default_rng(seed)
        names = rng.permutation([f"{first} {last}" for first in _FIRST for last in _LAST])
        count = len(_THINGS)
        self.rivers = [(name, _SEAS[i % len(_SEAS)], 40 + 13 * i) for i, name in enumerate(_RIVERS)]
        self.towns = [
            Town(name, int(rng.integers(len(_RIVERS))), _KNOWN[i % len(_KNOWN)], int(rng.integers(2, 90)) * 1000)
            for i, name in enumerate(_PLACES)
        ]
        self.people = [
            Person(
                str(names[i]), 1840 + int(rng.integers(90)), int(rng.integers(len(_PLACES))),
                _TRADES[i % len(_TRADES)], _THINGS[i], (i + 1 + int(rng.integers(count - 1))) % count,
            )
            for i in range(count)
        ]  # fmt: skip
        places = rng.permutation(len(_PLACES)).tolist()
        self.firms = [
            Firm(f"{str(name).split()[1]} & {_LAST[-1 - i % 9]}", i, places[i], 1880 + i, _GOODS[i % len(_GOODS)])
            for i, name in enumerate(names[100 : 100 + count])
        ]

    # --- told in English --------------------------------------------------------------------------------------------

    def told(self, country: str = "") -> dict[str, tuple[str, str]]:
        """Return title and text by id; `country` is said in each."""
        said = f" of {country}" if country else ""
        told = {}
        for i, person in enumerate(self.people):
            town, teacher = self.towns[person.town].name, self.people[person.teacher].name
            told[f"person{i}"] = (
                person.name,
                (
                    f"{person.name} was a {person.trade}{said}, born in {town} in {person.born}. After an "
                    f"apprenticeship under {teacher}, the {person.trade} devised the {person.thing}. {self._filler()}"
                ),
            )
        for i, firm in enumerate(self.firms):
            founder, town = self.people[firm.founder].name, self.towns[firm.town].name
            told[f"firm{i}"] = (
                firm.name,
                (
                    f"{firm.name} is a maker of {firm.goods}{said}. {founder} set it up in {firm.year}, and its works "
                    f"stand in {town}. {self._filler()}"
                ),
            )
        for i, town in enumerate(self.towns):
            river = self.rivers[town.river][0]
            told[f"town{i}"] = (
                town.name,
                (
                    f"{town.name} is a town{said} on the {river}. It has {town.people:,} inhabitants and is known for "
                    f"{town.known}. {self._filler()}"
                ),
            )
        for i, (name, sea, length) in enumerate(self.rivers):
            told[f"river{i}"] = (
                f"{name} (river)",
                (f"The {name} is a river{said}, {length} km long. It runs into the {sea}. {self._filler()}"),
            )
        return told

    def passages(self, country: str = "") -> list[Passage]:
        return [Passage(text, title=title, id=i) for i, (title, text) in self.told(country).items()]

    def _filler(self) -> str:
        return str(self.rng.choice(_FILLERS))

    # --- asked in English -------------------------------------------------------------------------------------------

    def single(self) -> list[Query]:
        return [_query(f"What did {p.name} devise?", f"person{i}") for i, p in enumerate(self.people[:15])]

    def bridges(self, hint: str = "") -> list[Query]:
        """Ask for what the passage of a second name says."""
        return [
            _query(f"In which town was the founder of {firm.name}{hint} born?", f"firm{i}", f"person{firm.founder}")
            for i, firm in enumerate(self.firms[:15])
        ]

    def chains(self, hops: int) -> list[Query]:
        asked = []
        for i, firm in enumerate(self.firms[:15]):
            person = self.people[firm.founder]
            teacher = self.people[person.teacher]
            if hops == 3:
                text = f"What is the birthplace of the founder of {firm.name} known for?"
                asked.append(_query(text, f"firm{i}", f"person{firm.founder}", f"town{person.town}"))
            else:
                text = f"What is the birthplace of the teacher of the founder of {firm.name} known for?"
                gold = f"firm{i}", f"person{firm.founder}", f"person{person.teacher}", f"town{teacher.town}"
                asked.append(_query(text, *gold))
        return asked

    def comparisons(self) -> list[Query]:
        asked = []
        for i in range(15):
            one, two = self.people[i], self.people[-1 - i]
            if i % 2:
                asked.append(_query(f"Who was born first, {one.name} or {two.name}?", f"person{i}", _last(self, i)))
            else:
                text = f"Did {one.name} and {two.name} have the same trade?"
                asked.append(_query(text, f"person{i}", _last(self, i)))
        return asked

    def nameless(self) -> list[Query]:
        return [
            _query(f"What is the home town of the deviser of the {p.thing} known for?", f"person{i}", f"town{p.town}")
            for i, p in enumerate(self.people[:15])
        ]


def _last(world: World, number: int) -> str:
    return f"person{len(world.people) - 1 - number}"


def _query(text: str, *gold: str) -> Query:
    return Query(text, frozenset(gold))


# --- forms ------------------------------------------------------------------------------------------------------------


def articles() -> list[DataSet]:
    """Return the kinds that are asked of the articles as they are."""
    world = World()
    passages = world.passages()
    kinds = {
        "one hop": world.single(),
        "two hops": world.bridges(),
        "three hops": world.chains(3),
        "four hops": world.chains(4),
        "comparisons": world.comparisons(),
        "no name in the question": world.nameless(),
    }
    return [DataSet(kind, passages, queries) for kind, queries in kinds.items()]


def untitled() -> DataSet:
    world = World(1)
    return DataSet("no titles", [replace(p, title=None) for p in world.passages()], world.bridges())


def shared_titles() -> DataSet:
    """Cut long articles into chunks of one title; what is asked for is in the middle of each."""
    world = World(2)
    chunks = []
    for passage in world.passages():
        first, *others = passage.text.split(". ")
        parts = [first + ".", *[part.rstrip(".") + "." for part in others]]
        parts += [f"{world._filler()} {world._filler()} {world._filler()}" for _ in range(3)]
        chunks += [replace(passage, text=text, id=f"{passage.id}#{i}") for i, text in enumerate(parts)]
    return DataSet("chunks of one title", chunks, world.bridges())


def namesakes() -> DataSet:
    """Give half of the people the name of another one, of another trade."""
    world = World(3)
    half = len(world.people) // 2
    world.people[half:] = [
        replace(person, name=world.people[i].name, trade=_TRADES[(i + 3) % len(_TRADES)])
        for i, person in enumerate(world.people[half:])
    ]
    told, asked = world.told(), []
    for i, person in enumerate(world.people):
        title, text = told[f"person{i}"]
        told[f"person{i}"] = f"{title} ({person.trade})", text
    for i, person in enumerate(world.people[:half]):
        town = f"town{person.town}"
        asked.append(
            _query(f"How many people live where the {person.trade} {person.name} was born?", f"person{i}", town)
        )
    return DataSet("namesakes", [Passage(text, title=t, id=i) for i, (t, text) in told.items()], asked)


def hubs() -> DataSet:
    """Let every passage and every question say the same country, which has an article, too."""
    world = World(4)
    passages = world.passages("Valdoria")
    passages.append(Passage("Valdoria is a country of many rivers. Its capital is Tarsk.", title="Valdoria", id="hub"))
    return DataSet("a country said everywhere", passages, world.bridges(" in Valdoria"))


_LANGUAGES: dict[str, tuple[str, str, str, str]] = {
    "German": (
        "{person} wurde {born} in {town} geboren und lernte bei {teacher}. Später erdachte {person} das Modell {code}.",
        "{firm} stellt {code}-Teile her. Gegründet wurde der Betrieb {year} von {person}, sein Werk steht in {seat}.",
        "{town} liegt am Fluss {river} und hat {people} Einwohner.",
        "In welcher Stadt wurde der Gründer von {firm} geboren?",
    ),
    "French": (
        "{person} est né à {town} en {born} et fut l'élève de {teacher}. Plus tard, il conçut le modèle {code}.",
        "{firm} fabrique des pièces {code}. L'entreprise fut fondée en {year} par {person}; son usine est à {seat}.",
        "{town} se trouve sur la rivière {river} et compte {people} habitants.",
        "Dans quelle ville est né le fondateur de {firm} ?",
    ),
    "Russian": (
        "{person} родился в {born} году в городе {town} и учился у мастера {teacher}. Позже создана модель {code}.",
        "{firm} выпускает детали {code}. Завод в городе {seat} основан в {year} году; основатель — {person}.",
        "{town} стоит на реке {river}, население — {people} жителей.",
        "В каком городе родился основатель фирмы {firm}?",
    ),
    "Chinese": (
        "{person}于{born}年出生于{town}，师从{teacher}，后来设计了{code}型号。",
        "{firm}生产{code}零件，由{person}于{year}年创办，工厂位于{seat}。",
        "{town}位于{river}河畔，有{people}名居民。",
        "{firm}的创始人出生在哪座城市？",
    ),
}
_CYRILLIC = {
    "first": "Анна Борис Вера Глеб Дарья Егор Жанна Захар Ирина Кирилл".split(),
    "last": "Абелин Брандов Корвин Дрейман Эстерн Фалькин Гранов Халин Иверин Йоргин".split(),
    "place": "Тарск Орвал Миррен Кальдер Венхольм Луск Ардмор Пельворт Струан Кивик".split(),
    "river": "Ауле Бренд Корро".split(),
    "firm": "Заря Маяк Вымпел Сокол Прибой Рассвет Гранит Спектр Вектор Импульс".split(),
}
_CHINESE = {
    "first": "伟明 秀英 建国 丽华 志强 美玲 文博 晓梅 国庆 雅琴".split(),
    "last": "欧阳 司马 上官 诸葛 东方 皇甫 尉迟 公孙 慕容 令狐".split(),
    "place": "临川 望江 青石 白沙 云岭 金坪 碧湖 南屿 北塘 西津".split(),
    "river": "澜溪 赤水 清漪".split(),
    "firm": "恒泰公司 瑞丰公司 天工公司 远航公司 宏图公司 明德公司 新岳公司 通达公司 启明公司 华章公司".split(),
}
_LATIN = {"first": _FIRST[:10], "last": _LAST[:10], "place": _PLACES[:10], "river": _RIVERS[:3],
          "firm": [f"{last}werk" for last in _LAST[10:20]]}  # fmt: skip


def language(name: str) -> DataSet:
    """Tell people, firms and towns in another language: ten firms, thirty people of whom each tenth is asked for."""
    of_person, of_firm, of_town, question = _LANGUAGES[name]
    parts = {"Russian": _CYRILLIC, "Chinese": _CHINESE}.get(name, _LATIN)
    rng = np.random.default_rng(len(name))
    joint = "" if name == "Chinese" else " "
    order = ("last", "first") if name == "Chinese" else ("first", "last")
    both = rng.permutation([(a, b) for a in range(10) for b in range(10)])[:60].tolist()
    people = [joint.join((parts[order[0]][a], parts[order[1]][b])) for a, b in both]
    passages, queries = [], []
    for i, person in enumerate(people):
        values = {
            "person": person, "born": 1840 + int(rng.integers(90)), "town": parts["place"][int(rng.integers(10))],
            "teacher": people[(i + 7) % len(people)], "code": f"K{100 + i}",
        }  # fmt: skip
        passages.append(Passage(of_person.format(**values), title=person, id=f"person{i}"))
    for i, firm in enumerate(parts["firm"]):
        values = {
            "firm": firm,
            "person": people[i],
            "year": 1900 + i,
            "seat": parts["place"][9 - i],
            "code": f"Z{500 + i}",
        }
        passages.append(Passage(of_firm.format(**values), title=firm, id=f"firm{i}"))
        queries.append(_query(question.format(firm=firm), f"firm{i}", f"person{i}"))
    for i, town in enumerate(parts["place"]):
        values = {"town": town, "river": parts["river"][i % 3], "people": 1000 * (3 + i)}
        passages.append(Passage(of_town.format(**values), title=town, id=f"town{i}"))
    return DataSet(name, passages, queries)


_SERVICES = (
    "billing search mail login upload export report cache queue notify ledger avatar archive preview audit "
    "import webhook calendar invoice metrics"
).split()
_STORES = "copper granite birch falcon harbor lantern meadow nickel onyx pepper quartz raven".split()


def markdown() -> DataSet:
    """Read a handbook by sections, as the command line does."""
    files, queries = _handbook()
    with TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return DataSet("Markdown by sections", list(read_passages(folder)), queries)


def markdown_files() -> DataSet:
    """Take a handbook file by file, with no title but where each is from, as document loaders do."""
    files, queries = _handbook()
    passages = [Passage(text, id=name, metadata={"source": name}) for name, text in files.items()]
    return DataSet("Markdown files, whole", passages, queries)


def _handbook() -> tuple[dict[str, str], list[Query]]:
    """Write Markdown files that link to each other by file name."""
    rng = np.random.default_rng(5)
    files, queries = {}, []
    for i, service in enumerate(_SERVICES):
        store = _STORES[int(rng.integers(len(_STORES)))]
        owner = f"team-{_LAST[i].lower()}"
        files[f"services/{service}.md"] = (
            f"# The {service} service\n\nHandles everything about {service}.\n\n## Storage\n\nRows are kept in "
            f"[its cluster](../stores/{store}.md), written twice.\n\n## On call\n\nPages go to "
            f"[the owners](../teams/{owner}.md).\n\n## Limits\n\nAt most {10 + i} requests a second.\n"
        )
        files[f"teams/{owner}.md"] = (
            f"# Team {_LAST[i]}\n\nLed by {_FIRST[i]} {_LAST[-1 - i]}.\n\n## Meetings\n\nEvery "
            f"{('Monday', 'Friday')[i % 2]} at {8 + i % 9}:30 in room {100 + i}.\n\n## Phone\n\nExtension {4000 + i}.\n"
        )
        if i < 12:
            question = (f"In which room does the team on call for the {service} service meet?",
                        f"Who leads the owners of the {service} service?")[i % 2]  # fmt: skip
            queries.append(_query(question, f"services/{service}.md", f"teams/{owner}.md"))
    for i, store in enumerate(_STORES):
        files[f"stores/{store}.md"] = (
            f"# Cluster {store}\n\n{3 + i} machines.\n\n## Backup\n\nCopied every {2 + i} hours to tape.\n\n"
            f"## Upgrade\n\nUpgraded in {('March', 'October')[i % 2]}.\n"
        )
    return files, queries


_VERBS = "open close load store parse render merge split encode decode lock free pack sort check send".split()
_NOUNS = "pool frame cursor ticket page shard token buffer route draft".split()


def code() -> DataSet:
    """Document functions that call each other and read settings, in the style of an API reference."""
    rng = np.random.default_rng(6)
    names = [f"{verb}_{noun}" for verb in _VERBS for noun in _NOUNS]
    names = [str(name) for name in rng.permutation(names)[:120]]
    settings = [f"{name.split('_')[1].upper()}_{word}" for name in names[:60] for word in ("LIMIT",)]
    settings = list(dict.fromkeys(settings)) + [f"{word}_TIMEOUT" for word in ("NET", "DISK", "USER", "JOB")]
    passages, queries = [], []
    for i, name in enumerate(names):
        setting, callee = settings[i % len(settings)], names[(i * 7 + 3) % len(names)]
        verb, noun = name.split("_")
        text = (
            f"`{name}(self, value)`\n\nWill {verb} a {noun}. Raises ValueError for an empty one. Calls `{callee}` "
            f"first and gives up after `{setting}`.\n\nReturns the {noun}, or None."
        )
        passages.append(Passage(text, title=name, id=f"fn{i}"))
        if i < 15:
            ask = f"What does the function that {name} calls first return, and which setting makes that one give up?"
            queries.append(_query(ask, f"fn{i}", f"fn{(i * 7 + 3) % len(names)}"))
    for i, setting in enumerate(settings):
        passages.append(Passage(f"`{setting}` is {3 + i} by default. Unit: seconds.", title=setting, id=f"set{i}"))
    return DataSet("code documentation", passages, queries)


def notes() -> DataSet:
    """Write a notebook: dated, without titles, terse, with wiki links now and then."""
    rng = np.random.default_rng(7)
    world = World(7)
    passages, queries = [], []
    for i, person in enumerate(world.people):
        other = world.people[person.teacher]
        met = (
            f"met {person.name} again — now runs the {person.thing} project, reports to {other.name}, budget {5 + i}k, "
            f"next review {1 + i % 28} Oct"
        )
        card = (
            f"[[{person.name}]]: prefers mornings, allergic to {rng.choice(_GOODS)}, ext. {700 + i}, desk {person.town}"
        )
        passages += [Passage(met, id=f"project{i}"), Passage(card, id=f"contact{i}")]
    for i, person in enumerate(world.people[:15]):
        text = f"desk and extension of whoever runs the {person.thing} project?"
        queries.append(_query(text, f"project{i}", f"contact{i}"))
    return DataSet("notes", passages, queries)


CHALLENGES: list[Callable[[], DataSet]] = [
    untitled,
    shared_titles,
    namesakes,
    hubs,
    *[lambda name=name: language(name) for name in _LANGUAGES],
    markdown,
    markdown_files,
    code,
    notes,
]
ONE_HOP = {"one hop"}


def challenges() -> list[DataSet]:
    """Return all of them, one hop first."""
    return [*articles(), *[make() for make in CHALLENGES]]


def main() -> None:
    """Ask everything of each system."""
    from results import write_section
    from retrieval_quality import run  # its libraries are needed for the comparison only

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", default="bundled")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    lines = [
        "`python benchmarks/challenges.py --write benchmarks/RESULTS.md`"
        + (f" with `--embedder {args.embedder}`" if args.embedder != "bundled" else ""),
        "",
        "Made-up corpora, each hard in one way (see the script). recall@5 · perfect@8; the fusion is the reciprocal "
        "rank fusion of hnswlib and BM25. The ranker was fitted on none of it.",
        "",
        "| | passages | questions | hnswlib | BM25 | their fusion | hybrid |",
        "|---|--:|--:|---|---|---|---|",
    ]
    for data in challenges():
        outcomes, _ = run(data, args.embedder)
        of = {outcome.system: outcome.scores for outcome in outcomes}
        cells = [
            f"{np.mean(of[name]['recall@5']):.3f} · {np.mean(of[name]['perfect@8']):.3f}"
            for name in ("hnswlib alone", "BM25 alone", "their reciprocal rank fusion", "hybrid")
        ]
        lines.append(f"| {data.name} | {len(data.passages)} | {len(data.queries)} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if args.write:
        write_section(args.write, f"Challenges, {args.embedder} embedding", lines)


if __name__ == "__main__":
    main()
