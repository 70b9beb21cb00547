"""No tenant ever sees anything of another; 10,000 searches are in benchmarks/tenants.py."""

from __future__ import annotations

import random

import tenants
from hybridmem_plugins import HybridMemory, Passage


def test_no_search_shows_anything_of_another_tenant() -> None:
    assert tenants.check(searches=400, seed=1) == []


def test_the_check_itself_finds_leaks(monkeypatch) -> None:
    monkeypatch.setattr(tenants, "filters", lambda choice, tenant: None)
    assert len(tenants.check(searches=40, seed=1)) > 10


def test_a_tenants_answer_does_not_depend_on_what_others_link() -> None:
    """The walk goes over a name that is a hub for all tenants together, and rare in one."""
    choice = random.Random(0)
    with HybridMemory() as memory:
        memory.add([tenants.passage(choice, number) for number in range(120)])
        others = [Passage(f"others say Rare Thing {n}.", None, f"o{n}", {"tenant": "beta"}) for n in range(100)]
        mine = [
            Passage("Ida owned a Rare Thing.", "Ida", "m1", {"tenant": "mine"}),
            Passage("Otto sold the Rare Thing to a museum.", "Otto", "m2", {"tenant": "mine"}),
        ]
        memory.add([*others, *mine])
        hits = memory.search("What did Ida own?", filter={"tenant": "mine"})
        path = next(hit.provenance["path"] for hit in hits if hit.passage.id == "m2")
        assert [step["name"] for step in path] == ["rare thing"]
