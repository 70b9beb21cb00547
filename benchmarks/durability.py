"""What a memory survives: kills at random instants, random changes beside a model, and the strangest input.

Usage: python benchmarks/durability.py [--kills 300] [--steps 2000] [--seed 0]

One child after the other goes on writing into the same folder (adding, replacing, deleting, saving caches, compacting)
and is killed with SIGKILL. After each kill, everything acknowledged must be there, the change under way must be there
as a whole or not at all, and every tier must equal one rebuilt from the journal. Then the suite's state machine takes
random steps (add, replace, delete, filter, search, compact, reopen), each compared with a dictionary, and its tests of
any Unicode, control characters, huge passages and names of files run once more.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from results import write_section

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "memory"))

from killing import run_and_kill, verify
from test_machine import Machine

TESTS = Path(__file__).parent.parent / "tests" / "memory"


class Counted(Machine):
    """Counts its steps."""

    steps = 0

    @invariant()
    def count(self) -> None:
        Counted.steps += 1


def kill_often(kills: int, seed: int) -> int:
    """Return how many acknowledged changes were all there after every kill; fail where one was not."""
    choice = random.Random(seed)
    acknowledged, begun = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "m"
        for kill in range(kills):
            # Short delays hit opening and the first changes, long ones saving and compacting.
            run_and_kill(folder, seed + kill, delay=choice.choice([0.02, 0.1, 0.5]) * choice.random())
            acknowledged += verify(folder) - (kill > 0)  # which counts what the kill before left as one change
            if (kill + 1) % 25 == 0:
                seconds = time.monotonic() - begun
                print(f"{kill + 1} kills, {acknowledged} acknowledged changes, {seconds:.0f} s", flush=True)
    return acknowledged


def step_beside_the_model(steps: int) -> int:
    """Return how many random steps all ended as in the model; fail where one did not."""
    while Counted.steps < steps:
        run_state_machine_as_test(
            Counted, settings=settings(max_examples=10, stateful_step_count=50, deadline=None, database=None)
        )
    return Counted.steps


def fuzz() -> str:
    """Return what pytest says at the end of the fuzz tests; fail where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / "test_fuzz.py")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Run all three and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    options = parser.parse_args()
    lines = [
        f"`python benchmarks/durability.py --kills {options.kills} --steps {options.steps} --seed {options.seed}`",
        "",
        f"- {options.kills} kills at random instants of a process that writes: of "
        f"{kill_often(options.kills, options.seed):,} acknowledged changes none was lost at any of them, none was half "
        "done, and every tier equalled one rebuilt from the journal.",
        f"- {step_beside_the_model(options.steps):,} random steps of the state machine: no difference from the model.",
        f"- Fuzzed input (`pytest tests/memory/test_fuzz.py`): {fuzz()}.",
    ]
    print("\n".join(lines))
    write_section(options.results, "Durability", lines)


if __name__ == "__main__":
    main()
