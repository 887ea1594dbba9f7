"""Command of the campaign: `make fuzz`, or `PYTHONPATH=tests:tests/support python -m fuzz --inputs 2000 squad study`."""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fuzz.campaign import HEAD
from fuzz.targets import TARGETS, run_named


def main() -> int:
    """Run the campaign, print its table, and return 1 if there are findings."""
    parser = argparse.ArgumentParser(description="Give mutated files to everything that reads files.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"Default: all of {', '.join(TARGETS)}.")
    parser.add_argument("--inputs", type=int, default=20_000, help="Inputs per target; slow ones get fewer.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="Processes.")
    parser.add_argument("--keep", type=Path, help="Folder for the smallest input of each finding.")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    found = 0
    print(HEAD, flush=True)
    with ProcessPoolExecutor(given.jobs, max_tasks_per_child=1) as pool:
        futures = [pool.submit(run_named, name, given.inputs, given.seed) for name in names]
        tallies = []
        for future in futures:
            tally, seconds = future.result()
            print(f"{tally.row()} {seconds:.0f} s", flush=True)
            tallies.append(tally)
    for tally in tallies:
        for line in tally.details(given.keep):
            print(line)
            found += 1
    total = sum(tally.inputs for tally in tallies)
    print(f"{total:,} inputs, {found} kinds of findings")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
