"""Do packs cost two points of success? Thousands of pairs of one policy, with the noise floor beside them.

    python benchmarks/closed_loop_large.py [--minutes 150]
    python benchmarks/closed_loop_large.py --policy FOLDER --calib OBSERVATIONS

A pack, the float policy and the noise floor (the float policy with other noise) play each start with the same noise,
one after the other, before the next start. All starts are played with one noise seed before the next. So a run that is
stopped at any time leaves complete pairs, and the same command goes on, on another day and another machine. Packs are
made again where they are not there; what another CPU makes of a recipe is a build of its own (`common/episodes.py`).

Episodes and the result are in benchmarks/results/closed_loop_large, to be committed after each session; the table goes
into docs/fidelity.md, and the floor beside the shipped policy.
"""

from __future__ import annotations

import vlapack  # noqa: F401  before torch, whose waiting threads then leave their cores to the simulators

# isort: split
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from common import short_tables
from common.episodes import BASELINE, Episodes, pairs
from common.floor import write_floor
from common.grid import GUIDE_FULL
from common.results import ROOT, stamp, write_between, write_result

from vlapack import Recipe, make_pack, open_checkpoint
from vlapack.checkpoints import SHIPPED
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say
from vlapack.errors import InputError
from vlapack.evaluate.capacity import require_memory
from vlapack.evaluate.contender import Acting, Contender, contender
from vlapack.evaluate.floor import floor_of_pairs
from vlapack.evaluate.local import Actor, play
from vlapack.evaluate.plan import FLOORS, NOISE_FLOOR, Plan, choose_replan
from vlapack.evaluate.statistics import Paired, drop_upper95, wilson
from vlapack.evaluate.tasks import choose_tasks, listed_tasks
from vlapack.evaluate.worker import Factory, Job, libero
from vlapack.fingerprint import digest_weights
from vlapack.libero.suites import num_tasks, simulator
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, open_source
from vlapack.ops.arithmetic import arithmetic, on_threads
from vlapack.progress import progress
from vlapack.recipe.choice import as_choice
from vlapack.recipe.presets import PRESETS

PARENT = "tiny-libero"
RESULT = ROOT / "benchmarks" / "results" / "closed_loop_large.json"
EPISODES = RESULT.with_suffix("")
DOCS = ROOT / "docs" / "fidelity.md"
MARKER = "closed loop, large"
MANY, SOME, FEWEST_SEEDS = 2000, 500, 10
"""Pairs asked for: of what is to be told from a loss of two points, and of the rest; noise seeds of the former."""
THREADS = 1
"""Of the policies; the simulators have the other cores, and so results do not depend on how many there are."""


@dataclass(frozen=True)
class Player:
    """A pack in the run: its recipe, and how many pairs are asked for."""

    recipe: Recipe
    pairs: int


W8A8 = replace(PRESETS["full"], weight_bits=8, overrides=())
PLAYERS = {
    "full": Player(PRESETS["full"], MANY),
    "w8a8": Player(W8A8, MANY),
    "full-w4": Player(PRESETS["full-w4"], SOME),
    "quantvla": Player(PRESETS["quantvla"], SOME),
    "guide-full": Player(GUIDE_FULL, SOME),
}


def main(
    *,
    policy: str = PARENT,
    calib: Path | None = None,
    policies: tuple[str, ...] = tuple(PLAYERS),
    minutes: float = math.inf,
    trials: int = 20,
    most_seeds: int | None = None,
    workers: int = 2,
    out: Path = EPISODES,
    work: Path = ROOT / "outputs" / "closed_loop_large",
) -> int:
    """Play what is missing.

    Args:
        policy: The float policy, a folder or tiny-libero.
        calib: Observations that calibrate the packs. Default: the folder `observations` beside the policy's weights,
            else those that come with tiny-libero.
        policies: The packs that play; the float policy and its noise floor always do.
        minutes: Stop after so many; the episodes under way are lost.
        trials: Starts per task, from initial states 0 to trials-1.
        most_seeds: At most so many noise seeds, to try something out.
        workers: Simulators at a time.
        out: Folder of the episodes; the result is written beside it.
        work: Folder of the packs.
    """
    end = time.monotonic() + 60 * minutes
    if unknown := set(policies) - set(PLAYERS):
        raise InputError(f"`policies` has {', '.join(sorted(unknown))}; there are {', '.join(PLAYERS)}")
    scenes = simulator()
    baseline, metadata = contender(BASELINE, policy)
    entries = {BASELINE: baseline, NOISE_FLOOR: replace(baseline, role=NOISE_FLOOR)}
    packs = {}
    with on_threads(THREADS):
        for name, pack in make_packs(policy, calib, policies, work).items():
            entries[name], _ = contender(name, str(pack))
            checkpoint = open_checkpoint(pack)
            packs[name] = digest_weights(checkpoint.names(), checkpoint.read)
        computing = arithmetic()
    plan = Plan(
        tasks=choose_tasks(None, None, listed_tasks(metadata), num_tasks),
        init_states=tuple(range(trials)),
        policies={},
        replan=choose_replan(None, metadata),
    )
    seeds = noise_seeds(len(plan.cases()), entries, most_seeds)
    plan = replace(plan, noise_seeds=max(seeds.values()))
    run = {
        **{f"policy.{key}": value for key, value in baseline.identity.items() if key != "name"},
        **{"tasks": plan.tasks, "init_states": plan.init_states, "seed": plan.seed, "replan": plan.replan},
        "simulator": scenes,
    }
    fingerprints = {role: entry.identity["weights"] for role, entry in entries.items()}
    build = {"arithmetic": computing, "packs": packs, **{key: stamp()[key] for key in ("commit", "date")}}
    with Episodes(out, run, fingerprints, build) as episodes, on_threads(THREADS):
        held = play_all(plan, entries, seeds, episodes, workers=workers, end=end)
        found = rows(episodes, held)
        write_result(out.with_suffix(".json"), found, policy=policy, builds=episodes.builds)
    if out == EPISODES:
        write_tables()
        short_tables.write_tables()
        if policy in SHIPPED:
            write_floor(SHIPPED[policy], baseline.identity["weights"], found[0]["noise_floor"])
    return 0


def make_packs(policy: str, calib: Path | None, names: Sequence[str], work: Path) -> dict[str, Path]:
    """Return the packs' folders, name by name; those that are there are left alone."""
    checkpoint = open_checkpoint(policy)
    if calib is None:
        beside = SHIPPED.get(policy, Path(policy)) / "observations"
        calib = beside if beside.is_dir() else SHIPPED_OBSERVATIONS
    source = open_source(calib)
    found = {}
    for name in names:
        recipe = PLAYERS[name].recipe
        calibration = [frame.observation for frame in source.take(min(recipe.calib_steps, len(source)))]
        found[name] = make_pack(checkpoint, recipe, work / "packs" / name, calibration).pack
    return found


def noise_seeds(starts: int, roles: Sequence[str] | Mapping[str, Any], most: int | None) -> dict[str, int]:
    """Return how many noise seeds each role plays: enough for its pairs, and the float policy for all of them."""
    wanted = {role: PLAYERS[role].pairs if role in PLAYERS else MANY for role in roles}
    seeds = {
        role: max(math.ceil(count / starts), FEWEST_SEEDS if count >= MANY else 1) for role, count in wanted.items()
    }
    return seeds if most is None else {role: min(count, most) for role, count in seeds.items()}


def play_all(
    plan: Plan,
    entries: Mapping[str, Contender],
    seeds: Mapping[str, int],
    episodes: Episodes,
    *,
    workers: int,
    end: float,
    factory: Factory = libero,
) -> dict[str, int]:
    """Play until everything is there or the time is over; return the bytes that each policy holds."""
    require_memory({"all policies": sum(entry.needed_bytes for entry in entries.values())}, workers)
    acting = {role: entry.load() for role, entry in entries.items() if role != NOISE_FLOOR}
    acting[NOISE_FLOOR] = acting[BASELINE]

    def begin(job: Job) -> Actor:
        generator = torch.Generator().manual_seed(plan.noise_seed(job.case, job.role))
        return _actor(acting[job.role], generator)

    rounds: list[list[Job]] = [[] for _ in range(plan.noise_seeds)]
    for case in plan.cases():
        for role in episodes.missing(case, [role for role in entries if case.noise < seeds[role]]):
            rounds[case.noise].append(Job(case, plan.seed, plan.hard_reset, plan.replan, None, role))
    total = sum(seeds.values()) * len(plan.cases()) // plan.noise_seeds
    left = sum(map(len, rounds))
    say(f"{left} of {total} episodes are missing: noise seeds {dict(seeds)}")
    with progress("episodes", total, done=total - left) as advance:
        for jobs in filter(None, rounds):
            with closing(play(jobs, begin, factory=factory, workers=workers)) as outcomes:
                for outcome in outcomes:
                    job = outcome.job
                    if outcome.success is not None:
                        episodes.add(job.role, job.case, success=outcome.success, steps=outcome.steps)
                    advance(f"{job.role}, {job.case}")
                    if time.monotonic() > end:
                        say("the time is over; the same command goes on here")
                        return {role: policy.held_bytes() for role, policy in acting.items()}
    return {role: policy.held_bytes() for role, policy in acting.items()}


def _actor(policy: Acting, generator: torch.Generator) -> Callable[[dict[str, Any]], np.ndarray]:
    return lambda observation: np.asarray(policy.infer(observation, generator=generator)["actions"])


def rows(episodes: Episodes, held: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the float policy, its noise floor and every pack: each pack against the float in the pairs they have."""
    against = {
        role: [
            (policy.place[:2], policy.success, parent.success)
            for policy, parent in pairs(played, episodes.played[BASELINE])
        ]
        for role, played in episodes.played.items()
    }
    source = f"benchmarks/results/{RESULT.name}"
    floor = floor_of_pairs(against[NOISE_FLOOR], kind=FLOORS[NOISE_FLOOR], source=source)
    found = []
    for role, compared in against.items():
        paired = Paired.of((policy, parent) for _, policy, parent in compared)
        won, own = paired.both + paired.only_policy, role != BASELINE
        low, high = paired.difference_interval()
        found.append(
            {
                "policy": "float" if role == BASELINE else role,
                "bits": bits(PLAYERS[role].recipe) if role in PLAYERS else "float",
                "episodes": paired.episodes,
                "success_rate": won / paired.episodes if paired.episodes else None,
                "ci95": list(wilson(won, paired.episodes)),
                "discordant": paired.only_policy + paired.only_baseline if own else None,
                "p_value": paired.p_value if own else None,
                "drop": 0.0 - paired.difference if own else None,
                "drop_ci95": [-high, -low] if own else None,
                "drop_upper95": drop_upper95(compared) if own else None,
                "noise_floor": floor,
                "bytes": held[role],
            }
        )
    return found


def bits(recipe: Recipe) -> str:
    """Name the bits of weights and activations, such as W4A8, or W4/8A8 where layers differ."""
    weights = sorted({recipe.weight_bits, *(as_choice(each).weight_bits for _, each in recipe.overrides)})
    return f"W{'/'.join(map(str, weights))}A{recipe.act_bits}"


def write_tables() -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, MARKER, short_tables.of_result(RESULT.name, table))


def table(document: Mapping[str, Any]) -> str:
    """Return the result in Markdown."""
    lines = [
        "Success in pairs with the float policy, from the same starts with the same noise; *p*: McNemar's exact test. "
        "*Drop at most*: one-sided 95 %, bootstrap over starts. `noise-floor` is the float policy with other noise; it "
        "is not subtracted.",
        "",
        "| policy | bits | pairs | success | 95 % interval | disagree | *p* | drop, points | drop at most | MB held |",
        "|" + "---|" * 10,
    ]
    for row in document["rows"]:
        low, high = row["ci95"]
        own = row["drop"] is not None
        cells = (
            f"`{row['policy']}`",
            row["bits"],
            str(row["episodes"]),
            "" if row["success_rate"] is None else f"{100 * row['success_rate']:.1f} %",
            f"{100 * low:.1f}-{100 * high:.1f} %",
            f"{row['discordant']}" if own else "",
            f"{row['p_value']:.3f}" if own else "",
            f"{100 * row['drop']:+.1f}" if own else "",
            f"{100 * row['drop_upper95']:.1f}" if own else "",
            f"{row['bytes'] / 1e6:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
