"""Which layers deserve more than 4 bits, by their names alone: the mixes that a preset could be, on several networks.

    python benchmarks/presets.py --observations DIR [--policy FOLDER] [--language FOLDER] [--targets …] [--only …]

DIR holds observations of other episodes than those that calibrate (`scripts/record_observations.py`). Every row is one
mix on one target from one calibration seed; what a mix costs is counted for π0.5 (pi05_libero), in bytes held. A row
that is there is measured again only if weights or data changed. The result goes to benchmarks/results/presets.json and,
as a table, into benchmarks/results/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro
from common import short_tables
from common.mixing import ModuleMixes, PolicyMixes, chosen
from common.results import ROOT, Rows, origin, read_rows, write_between, write_result
from common.targets import targets as networks

from vlapack.commands.inspect_network import open_network
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, stdout
from vlapack.fingerprint import digest
from vlapack.observations.folder import SHIPPED_OBSERVATIONS
from vlapack.progress import progress
from vlapack.recipe.choice import Choice, as_choice
from vlapack.recipe.presets import PRESETS, preset

RESULT = ROOT / "benchmarks" / "results" / "presets.json"
DOCS = RESULT.with_name("README.md")
KEPT = ROOT / "outputs" / "presets.jsonl"
FULL_SIZE = "pi05_libero"
SEEDS = (0, 1, 2)
Overrides = Sequence[tuple[str, int | Choice]]

LLM, EXPERT, VISION = r"language_model\.", r"gemma_expert\.", r"vision_tower\."
LLM_ATTENTION, LLM_KV, LLM_QKV = (LLM + r".*self_attn\.", LLM + r".*[kv]_proj$", LLM + r".*[qkv]_proj$")
EXPERT_ATTENTION, EXPERT_KV, EXPERT_DOWN = (
    EXPERT + r".*self_attn\.",
    EXPERT + r".*[kv]_proj$",
    EXPERT + r".*down_proj",
)
FIRST = LLM + r"layers\.0\."
G128 = Choice(4, 128)

POLICY_MIXES: Mapping[str, Overrides] = {
    "W4": (),
    "W8": ((".", 8),),
    "full": PRESETS["full"].overrides,
    "W4g128": ((".", G128),),
    "vision": ((VISION, 8),),
    "expert": ((EXPERT, 8),),
    "expert last layer": ((EXPERT + r".*layers\.-1\.", 8),),
    "language model": ((LLM, 8),),
    "llm attention": ((LLM_ATTENTION, 8),),
    "llm k, v": ((LLM_KV, 8),),
    "llm q, k, v": ((LLM_QKV, 8),),
    "llm first layer": ((FIRST, 8),),
    "llm k, v and first layer": ((FIRST, 8), (LLM_KV, 8)),
    "expert attention": ((EXPERT_ATTENTION, 8),),
    "k, v": ((LLM_KV, 8), (EXPERT_KV, 8)),
    "llm k, v, expert attention": ((LLM_KV, 8), (EXPERT_ATTENTION, 8)),
    "llm k, v, expert attention and down": ((LLM_KV, 8), (EXPERT_ATTENTION, 8), (EXPERT_DOWN, 8)),
    "llm q, k, v, expert attention": ((LLM_QKV, 8), (EXPERT_ATTENTION, 8)),
    "llm attention, expert k, v": ((LLM_ATTENTION, 8), (EXPERT_KV, 8)),
    "llm attention, expert g128": ((LLM_ATTENTION, 8), (EXPERT, G128)),
    "llm attention, llm down g128": ((LLM_ATTENTION, 8), (LLM + r".*down_proj$", G128)),
    "llm q, k, v, llm mlp g128": ((LLM_QKV, 8), (LLM + r".*mlp\.", G128)),
    "llm q, k, v and first layer": ((FIRST, 8), (LLM + r"layers\.(\d|1[0-4])\.self_attn\.[qkv]_proj$", 8)),
    "llm k, v, first layer, early q, o": ((FIRST, 8), (LLM_KV, 8), (LLM + r"layers\.[1-6]\..*self_attn\.", 8)),
    "llm k, v, first layer, second q, o": ((FIRST, 8), (LLM_KV, 8), (LLM + r"layers\.1\..*self_attn\.", 8)),
    "llm k, v, first mlp": ((FIRST + "mlp", 8), (LLM_KV, 8)),
    "llm k, v, first down": ((FIRST + r"mlp\.down_proj", 8), (LLM_KV, 8)),
    "llm k, v, first gate, up": ((FIRST + r"mlp\.(gate|up)_proj", 8), (LLM_KV, 8)),
    "llm k, v, second layer": ((LLM + r"layers\.1\.", 8), (LLM_KV, 8)),
    "llm k, v, third layer": ((LLM + r"layers\.2\.", 8), (LLM_KV, 8)),
    "llm attention, first mlp": ((FIRST + "mlp", 8), (LLM_ATTENTION, 8)),
    "llm attention, first down": ((FIRST + r"mlp\.down_proj", 8), (LLM_ATTENTION, 8)),
    "llm q, k, v, first gate, up": ((FIRST + r"mlp\.(gate|up)_proj", 8), (LLM_QKV, 8)),
    "llm q, k, v, first down": ((FIRST + r"mlp\.down_proj", 8), (LLM_QKV, 8)),
    "k, v and first layer": ((FIRST, 8), (LLM_KV, 8), (EXPERT_KV, 8)),
    "llm k, v, first layer, llm mlp g128": ((FIRST, 8), (LLM_KV, 8), (LLM + r".*mlp\.", G128)),
    "llm k, v, first layer, other projections g128": ((FIRST, 8), (LLM_KV, 8), (LLM, G128)),
}
"""Of π0's layers; what no pattern matches has 4 bits and one scale per row."""

OTHER_MIXES: Mapping[str, Overrides] = {
    "W4": (),
    "W8": ((".", 8),),
    "W4g128": ((".", G128),),
    "attention": ((r"self_attn\.|\.(query|key|value|out)$", 8),),
    "k, v": ((r"key|value|[kv]_proj", 8),),
    "mlp": ((r"mlp\.|\.(up|down)$", 8),),
    "first layer": ((r"layers?\.0\.", 8),),
    "second layer": ((r"layers?\.1\.", 8),),
    "fourth and last layer": ((r"layers?\.(3|5)\.", 8),),
    "first layer and k, v": ((r"layers?\.0\.", 8), (r"key|value|[kv]_proj", 8)),
}
"""Of other transformers, under both spellings of their layers."""


def main(
    observations: Path,
    *,
    policy: str = "tiny-libero",
    calibration: Path = SHIPPED_OBSERVATIONS,
    language: Path = ROOT / "outputs" / "language",
    targets: str = "policy",
    only: str = "",
    seeds: int = len(SEEDS),
    every: int = 1,
    result: Path = RESULT,
    kept: Path = KEPT,
) -> int:
    """Measure what is missing.

    Args:
        observations: What policies are compared on.
        policy: The policy's folder, for the target `policy`; its folder's name is the target's in the result.
        calibration: What policies are calibrated on: other episodes.
        language: The folder where benchmarks/common/language.py has trained its model.
        targets: Comma list of policy, synthetic, minilm, language.
        only: A regular expression that a mix's name must match.
        seeds: How many calibration seeds.
        every: Compare on every so many-th of the observations, for a first look.
        result: The JSON file.
        kept: The file of rows that are finished and not in the result yet.
    """
    done = Rows(result, kept)
    for target in networks(
        targets, policy=policy, calibration=calibration, observations=observations, language=language, every=every
    ):
        measure(target, re.compile(only), seeds, done)
    rows = [*last(done).values()]
    write_result(result, rows, counted_for=FULL_SIZE)
    stdout.print(table(rows), markup=False, soft_wrap=True)
    if result == RESULT:
        write_tables()
        short_tables.write_tables()
    return 0


def write_tables() -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, "presets: mixes", table(read_rows(RESULT)))


def measure(target: PolicyMixes | ModuleMixes, only: re.Pattern[str], seeds: int, done: Rows) -> None:
    """Add every row of a target that is wanted and not there yet."""
    mixes = POLICY_MIXES if isinstance(target, PolicyMixes) else OTHER_MIXES
    there = last(done)
    wanted = {}
    for seed in range(seeds):
        for name, overrides in mixes.items():
            made_of = digest({"target": target.identity, "mix": written(overrides), "method": target.recipe.digest()})
            if only.search(name) and there.get((target.name, name, seed), {}).get("made_of") != made_of:
                wanted[name, seed] = made_of
    here = origin()
    with progress(target.name, len(wanted)) as advance:
        for (name, seed), made_of in wanted.items():
            found = target.measure(chosen(target.layers, mixes[name]), seed)
            cost = held(written(mixes[name])) if isinstance(target, PolicyMixes) else None
            row = {"target": target.name, "mix": name, "seed": seed, **found, "full_size_bytes_held": cost}
            done.add({**row, "overrides": written(mixes[name]), **here, "made_of": made_of})
            advance(f"{name}, seed {seed}: {found['error']:.4g}")


def written(overrides: Overrides) -> list[list[Any]]:
    """Return overrides as a recipe's JSON holds them."""
    return [[pattern, as_choice(choice).to_json()] for pattern, choice in overrides]


def held(overrides: list[list[Any]]) -> int:
    """Return what π0.5 holds in memory with this mix in `full`."""
    return _held(tuple((pattern, Choice.from_json(choice)) for pattern, choice in overrides))


@cache
def _held(overrides: tuple[tuple[str, Choice], ...]) -> int:
    return _full_size().pack(replace(preset("full"), overrides=overrides)).held


@cache
def _full_size() -> Any:
    return open_network(FULL_SIZE, None)


def last(done: Rows) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last finished row of every target, mix and seed."""
    return {(row["target"], row["mix"], row["seed"]): row for row in done.read()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows in Markdown, target by target; error and flips also against uniform 4 bits."""
    lines = ["| target | mix | bytes held, π0.5 | median | error | × W4 | flips | × W4 |", "|---" * 8 + "|"]
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        plain = [row for row in of_target if row["mix"] == "W4"]
        for mix in dict.fromkeys(row["mix"] for row in of_target):
            lines.append(_line(target, mix, [row for row in of_target if row["mix"] == mix], plain))
    return "\n".join(lines)


def _line(target: str, mix: str, rows: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> str:
    def mean(of: Sequence[Mapping[str, Any]], field: str) -> float | None:
        values = [row[field] for row in of if row.get(field) is not None]
        return fmean(values) if values else None

    def ratio(field: str) -> str:
        one, other = mean(rows, field), mean(plain, field)
        return f"{one / other:.2f}" if one is not None and other else ""

    cost, plain_cost = mean(rows, "full_size_bytes_held"), mean(plain, "full_size_bytes_held")
    median, flips = mean(rows, "median"), mean(rows, "flips")
    error = mean(rows, "error")
    assert error is not None
    cells = [
        "" if cost is None or plain_cost is None else f"{100 * (cost / plain_cost - 1):+.1f} %",
        "" if median is None else f"{100 * median:.2f} %",
        f"{100 * error:.3g} %",
        ratio("error"),
        "" if flips is None else f"{flips:.1f}",
        ratio("flips"),
    ]
    return f"| {target} | {mix} | {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
