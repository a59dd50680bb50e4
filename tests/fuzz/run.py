"""`make fuzz`: so many hostile inputs of every kind, and what they did. Exit code 1 if anything was found.

    PYTHONPATH=tests python -m fuzz.run --cases 20000 --seed 0

What is found is shrunk and put into `tests/fuzz/corpus`, which the tests run ever after.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from fuzz.harness import Tally, explore, keep, kept, watched
from fuzz.kinds import kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kind", action="append", help="only this one; may stand several times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="fuzz-base-"))
    tally = Tally()
    try:
        every = {kind.name: kind for kind in kinds(root)}
        for case in kept():
            outcome = watched(every[case["kind"]], case)
            tally.add(case, outcome)
            if outcome.problem:
                tally.found[outcome.place] = (case, outcome)
        chosen = [every[name] for name in options.kind or every]
        print(f"seed {options.seed}; {tally.cases.total()} cases of the corpus, {options.cases} new ones", flush=True)
        for kind in chosen:
            explore(kind, -(-options.cases // len(chosen)), options.seed, tally)
            print(f"{kind.name}: {tally.cases[kind.name]} cases, {len(tally.found)} problems so far", flush=True)
        for kind in every.values():
            kind.close()
    finally:
        shutil.rmtree(root)
    print(tally.report())
    for case, outcome in tally.found.values():
        print(f"{keep(case)}: {outcome.problem}")
    return bool(tally.found)


if __name__ == "__main__":
    sys.exit(main())
