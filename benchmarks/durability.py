"""Kill a writing process at random instants and check what it leaves behind.

Usage: python benchmarks/durability.py [--kills 300] [--seed 0]

One child after the other goes on writing into the same folder (adding, replacing, deleting, saving caches, compacting)
and is killed with SIGKILL. After each kill, everything acknowledged must be there, the change under way must be there
as a whole or not at all, and every tier must equal one rebuilt from the journal.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "memory"))

from killing import run_and_kill, verify


def main() -> None:
    """Run the kills and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choice = random.Random(options.seed)
    acknowledged, begun = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "m"
        for kill in range(options.kills):
            # Short delays hit opening and the first changes, long ones saving and compacting.
            run_and_kill(folder, options.seed + kill, delay=choice.choice([0.02, 0.1, 0.5]) * choice.random())
            acknowledged += verify(folder)
            if (kill + 1) % 25 == 0:
                print(
                    f"{kill + 1} kills, {acknowledged} acknowledged changes, {time.monotonic() - begun:.0f} s",
                    flush=True,
                )
    print(f"{options.kills} kills: nothing acknowledged was lost, nothing was half done")


if __name__ == "__main__":
    main()
