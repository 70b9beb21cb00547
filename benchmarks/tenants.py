"""Search random graphs over three tenants and report whatever one tenant sees of another: nothing, ever.

python benchmarks/tenants.py [--searches 10000] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "retrieval"))

from results import write_section
from tenants import check

ROUND = 500


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    args = parser.parse_args()
    start = time.monotonic()
    found: list[str] = []
    for number in range(0, args.searches, ROUND):
        found += check(ROUND, args.seed + number)
        print(f"{number + ROUND:,} searches, {len(found)} leaks, {time.monotonic() - start:.0f} s", flush=True)
    print("\n".join(found[:20]))
    lines = [
        f"`python benchmarks/tenants.py --searches {args.searches}`",
        "",
        f"{args.searches:,} searches with filters of seven forms, over {args.searches // ROUND * 4} random graphs that "
        "change meanwhile and whose tenants share names: "
        f"{len(found)} times a passage, name, fact, path or reason of another tenant was seen.",
    ]
    write_section(args.results, "Tenants", lines)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
