"""Compile every Triton kernel for every card without one at hand, and refuse bad machine code. Run by `make gate`.

    make gate                                        # every card; writes the table in docs/gpu.md
    python scripts/compile_kernels.py                # three cards, and for the others what changed
    python scripts/compile_kernels.py --targets sm_87 --match decode --json

Each kernel in `vlapack.ops.triton` lists its specimens: a choice of tile and what the code must show. It is compiled to
a cubin or an hsaco by Triton's own tools, and the code is read: products and attention must use the tensor cores that
the card is bought for, nothing may spill or use local memory, shared memory must fit, unpacking may take only so many
bit operations, and a division that decides an integer must be exact. A refusal names kernel, card, rule, found value
and allowed value.

Exit code: 0 if all is good, 1 if a kernel is refused, 2 if an option or the environment is wrong.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from gate import table
from gate.targets import EVERY_RUN, TARGETS

from vlapack.commands.spelling import with_flags
from vlapack.console import emit_json, exit_code, say, stdout
from vlapack.errors import InputError


def main(
    *,
    all_targets: Annotated[bool, tyro.conf.arg(name="all")] = False,
    targets: tuple[str, ...] = (),
    match: str = "",
    workers: int = 2,
    cache: Path = Path(".gate/cache"),
    json: bool = False,
) -> int:
    """Compile kernels ahead of time and judge their machine code.

    Without options: three cards (sm_89, sm_90, sm_120), and on every other card the kernels that differ from the table
    in docs/gpu.md. What did not change since an earlier run is read from the cache.

    Args:
        all_targets: Every card; if nothing is refused, write benchmarks/results/gate.json and docs/gpu.md's tables.
        targets: These cards only, as sm_89 sm_110-tcgen05 gfx942.
        match: Only kernels whose name contains this.
        workers: Processes that compile.
        cache: Folder for what was compiled; it can be deleted at any time.
        json: Write one JSON document to stdout instead of text.
    """
    _require_triton()
    from gate.run import cases, changed, outcomes

    chosen = _chosen(targets)
    found = cases(chosen, match)
    if not found:
        raise InputError(f"`match={match}`: no kernel for {', '.join(chosen)} has this in its name")
    recorded = table.recorded_sources()
    old = changed(found, recorded)
    if not (all_targets or targets):
        found = [case for case in found if case.target in EVERY_RUN or case in old]
    judged = outcomes(found, cache, workers)
    refused = [refusal for outcome in judged for refusal in outcome.refused]
    document = table.document(judged)
    if json:
        emit_json(document)
    else:
        for refusal in refused:
            stdout.print(str(refusal), markup=False, soft_wrap=True)
        stdout.print(_summary(document), markup=False, soft_wrap=True)
    if all_targets and not (targets or match):
        if refused:
            say(f"docs/gpu.md keeps its table: {len(refused)} demands are not met")
        else:
            table.write(document)
    elif old:
        say(f"docs/gpu.md's table is older than {len(old)} of these kernels; make gate writes it again")
    return int(bool(refused))


def _chosen(targets: tuple[str, ...]) -> tuple[str, ...]:
    for name in targets:
        if name not in TARGETS:
            raise InputError(f"`targets={name}`: there is no such card; cards: {', '.join(TARGETS)}")
    return targets or tuple(TARGETS)


def _require_triton() -> None:
    try:
        import triton
    except ImportError:
        raise InputError("Triton is not installed, which compiles the kernels; `make gate` installs it") from None
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        raise InputError(f"Triton {triton.__version__} lacks a part of the cards; 3.9 has all: `make gate` installs it")


def _summary(document: dict[str, Any]) -> str:
    rows = document["rows"]
    targets = {row["target"] for row in rows}
    refused = sum(1 for row in rows if row["refused"])
    return f"{len(rows)} kernels for {len(targets)} cards, {refused} refused"


if __name__ == "__main__":
    sys.exit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
