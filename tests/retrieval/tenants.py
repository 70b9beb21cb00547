"""Random graphs over three tenants that share names, and a check that no search of one sees another."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction, TypedFact
from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.retrieval.model import ROUTES

TENANTS = ("alpha", "beta", "gamma")
SHARED = [f"Shared{number} Name" for number in range(25)]
FIRST = ["Kilo", "Lima", "Mike", "Oscar", "Papa", "Quebec", "Romeo", "Sierra", "Tango", "Victor"]


class Stating:
    """Adds facts, some of them between names that other tenants say, too."""

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        return [
            self._stated(passage, e) for passage, e in zip(passages, BuiltinExtractor().extract(passages), strict=True)
        ]

    def _stated(self, passage: Passage, e: Extraction) -> Extraction:
        names = [*e.defines[:1], *(mention.name for mention in e.mentions[:3])]
        relation = f"known to {passage.metadata['tenant']}"
        facts = tuple(TypedFact(names[0], relation, name, 0) for name in names[1:])
        return Extraction(e.sentences, e.defines, e.mentions, facts)


def own_names(tenant: str) -> list[str]:
    """Names that only one tenant says."""
    return [f"{tenant.title()}{first} {tenant.title()}ville" for first in FIRST]


def passage(choice: random.Random, number: int) -> Passage:
    """Return a passage of a random tenant, with its mark in every sentence."""
    tenant = choice.choice(TENANTS)
    names = own_names(tenant)
    said = [choice.choice(SHARED if choice.random() < 0.6 else names) for _ in range(choice.randint(1, 5))]
    title = choice.choice([None, choice.choice(SHARED), choice.choice(names)])
    text = " ".join(f"The {tenant}mark knows {name} of old." for name in said)
    return Passage(text, title, f"{tenant}/{number}", {"tenant": tenant, "deep": {"tenant": tenant}})


def filters(choice: random.Random, tenant: str) -> Any:
    """Return one of many ways to allow one tenant."""
    others = [other for other in TENANTS if other != tenant]
    return choice.choice(
        [
            {"tenant": tenant},
            {"tenant": {"$in": [tenant]}},
            {"tenant": {"$nin": others}},
            {"$not": {"tenant": {"$in": others}}},
            {"$and": [{"tenant": {"$ne": other}} for other in others]},
            {"deep.tenant": tenant},
            lambda metadata: metadata["tenant"] == tenant,
        ]
    )


def question(choice: random.Random) -> str:
    """Ask about names of any tenant."""
    names = [choice.choice([*SHARED, *own_names(choice.choice(TENANTS))]) for _ in range(choice.randint(0, 3))]
    return choice.choice(["What does {} know?", "Who knows {} of old?", "{} mark"]).format(" and ".join(names) or "one")


def leaks(memory: HybridMemory, choice: random.Random) -> list[str]:
    """Search once for one tenant and return everything of another that came to light."""
    tenant = choice.choice(TENANTS)
    asked, allowed = question(choice), filters(choice, tenant)
    hits = memory.search(asked, choice.choice([1, 4, 30]), filter=allowed, route=choice.choice(ROUTES))  # type: ignore[arg-type]
    facts = memory.facts(asked, 30, filter=allowed) if choice.random() < 0.4 else []
    told = [json.dumps([hit.passage.id, hit.passage.text, hit.passage.title, hit.provenance]) for hit in hits]
    told += [json.dumps([fact.subject, fact.relation, fact.object, fact.passage_id, fact.sentence]) for fact in facts]
    found = []
    for text in told:
        foreign = [other for other in TENANTS if other != tenant and other in name_key(text)]
        if foreign:
            found.append(f"{tenant} saw {foreign} asking {asked!r}: {text}")
    return found


def check(
    searches: int,
    seed: int,
    *,
    graphs: int = 4,
    size: int = 150,
    make: Callable[[Any], HybridMemory] = lambda extractor: HybridMemory(extractor=extractor),
) -> list[str]:
    """Search in random graphs that change now and then, in memories that `make` makes; return all leaks."""
    choice = random.Random(seed)
    found: list[str] = []
    for _ in range(graphs):
        with make(Stating()) as memory:
            memory.add([passage(choice, number) for number in range(size)])
            for number in range(searches // graphs):
                if number % 25 == 24:
                    memory.delete([p for t in TENANTS for p in [f"{t}/{choice.randrange(size)}"]])
                    memory.add([passage(choice, choice.randrange(size)) for _ in range(1)])
                found += leaks(memory, choice)
    return found
