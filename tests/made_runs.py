"""Runs as `vlapack eval` leaves them, made without a simulator or a policy: every outcome is known in advance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlapack.diagnose.diagnosis import Diagnosis, LayerReport
from vlapack.diagnose.finding import Finding
from vlapack.diagnose.remedies import Tried
from vlapack.evaluate.clock import CONTROL_HZ, PlanClock
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import conclude, video_path
from vlapack.evaluate.worker import filming
from vlapack.libero.clock import Timing
from vlapack.recipe.presets import PRESETS
from vlapack.tune.results import Measured

HOSTILE = "`</script><img src=x onerror=alert(1)>\"'&amp;<b>"
"""A name that is none of a task, a policy or a folder, and would be markup if it were let."""
PARTING_STEP = 15
"""From this step on, the packed policy's video shows something else where the outcomes differ."""

FLOAT = (True, True, True, True, False, True)
PACKED = (True, True, False, True, True, False)
"""Outcomes of three init states of each of two tasks."""


def write_run(
    folder: Path,
    *,
    float_wins: Sequence[bool | None] | None = FLOAT,
    packed_wins: Sequence[bool | None] = PACKED,
    suite: str = "libero_spatial",
    tasks: int = 2,
    noise_seeds: int = 1,
    name: str = "packs/tiny-full",
    baseline: str = "tiny-libero",
    videos: bool = False,
    film_every: int = 1,
    finished: int | None = None,
    clock: PlanClock = PlanClock(),  # noqa: B008  (frozen)
    drift: float = 0.0,
) -> Path:
    """Write a run.

    Args:
        float_wins, packed_wins: outcomes in the plan's order; None: the simulator failed. No `float_wins`: no baseline.
        videos, film_every: write videos, with a picture of every so many steps.
        finished: how many of the packed policy's episodes were played; None: all, and the summary is there.
        drift: how fast the target moves.
        clock: how time goes on; where it does, every episode was held for two steps and has one seam.
    """
    policies = {"policy": {"name": name, "weights": "a" * 64, "policy": "b" * 64}}
    outcomes = {"policy": packed_wins}
    if float_wins is not None:
        policies = {"baseline": {"name": baseline, "weights": "c" * 64, "policy": "b" * 64}, **policies}
        outcomes = {"baseline": float_wins, **outcomes}
    states = len(packed_wins) // tasks // noise_seeds
    plan = Plan(
        tasks=tuple((suite, task) for task in range(tasks)),
        init_states=tuple(range(states)),
        policies=policies,
        noise_seeds=noise_seeds,
        engine="cpu",
        simulator="fake 1",
        arithmetic={"threads": 2, "torch": "2.9"},
        clock=clock,
        drift=drift,
    )
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    records: dict[str, list[Record]] = {}
    for role, wins in outcomes.items():
        for case, won in list(zip(plan.cases(), wins, strict=True))[: finished if role == "policy" else None]:
            path = video_path(role, case)
            parts = role == "policy" and float_wins is not None and won != float_wins[plan.cases().index(case)]
            steps = 30 if won else 50
            if videos and won is not None:
                with filming(folder / path, CONTROL_HZ / film_every) as film:
                    for step in range(0, steps + 1, film_every):
                        film(picture(step, apart=parts and step >= PARTING_STEP))
            record = Record(
                role=role,
                suite=case.suite,
                task_id=case.task_id,
                init_state=case.init_state,
                success=won,
                steps=0 if won is None else steps,
                infer_ms=(40.0, 42.0) if role == "policy" else (60.0, 64.0),
                seconds=2.0,
                held_bytes=5_000_000 if role == "policy" else 9_000_000,
                mapped_bytes=200_000,
                video=str(path) if videos and won is not None else None,
                error="the physics exploded" if won is None else None,
                noise=case.noise,
                timing=None if clock.stands_still else Timing(7, 2, 0, (0.25,), (0.5,)),
                prompt=f"do task {case.task_id} of {suite}",
            )
            records.setdefault(role, []).append(record)
    lines = [json.dumps(record.to_dict()) + "\n" for played in records.values() for record in played]
    (folder / "episodes.jsonl").write_text("".join(lines))
    if finished is None:
        conclude(plan, records, folder, names=(name, baseline if float_wins is not None else None))
    return folder


def picture(step: int, *, apart: bool) -> np.ndarray:
    """A bright square that moves right; the policy that is apart has it lower."""
    found = np.full((64, 128, 3), 60, dtype=np.uint8)
    top, left = 36 if apart else 8, 4 + 8 * step // 5
    found[top : top + 20, left : left + 20] = (230, 160, 40)
    return found


def compared() -> dict[str, Any]:
    """What `vlapack compare --json` writes."""
    quantiles = {"p50": 0.1, "p95": 0.3, "max": 0.9}
    dimensions = [
        {"name": name, "scale": 0.5, "absolute": quantiles, "relative": quantiles, "spread": {**quantiles, "p95": 0.8}}
        for name in ("x", "y", "z")
    ]
    still = {"name": "still", "scale": 0.0, "absolute": quantiles, "relative": None, "spread": quantiles}
    return {
        "policy": "packs/tiny-full",
        "baseline": "tiny-libero",
        "data": "observations",
        "source": "32 observations",
        "seed": 0,
        "engine": "cpu",
        "dtype": "float32",
        "frames": 32,
        "horizon": 10,
        "noise_seeds": 8,
        "dimensions": [*dimensions, still],
        "deviation": {"p50": 0.12, "p95": 0.3, "max": 0.6},
        "deviation_spread": {"p50": 0.48, "p95": 0.9, "max": 1.4},
        "gripper": {"flips": 3, "actions": 320, "rate": 0.0094, "spread_rate": 0.031},
        "worst": [{"frame": "00031", "deviation": 0.6, "spread": 0.5, "dimension": "x"}],
        "cosine": {"mean": 0.998, "min": 0.98},
    }


def benched() -> dict[str, Any]:
    """What `vlapack bench --json` writes."""

    def policy(name: str, scale: float) -> Mapping[str, Any]:
        return {
            "name": name,
            "ms_per_chunk": {"median": 50.0 * scale, "min": 48.0 * scale, "max": 55.0 * scale},
            "parts": {"vision": 20.0 * scale, "prefix": 15.0 * scale, "denoise": 12.0 * scale},
            "how": "eager",
            "first_chunk_ms": 80.0,
            "load_seconds": 0.3,
            "rss_bytes": 400_000_000,
            "peak_rss_bytes": 500_000_000,
            "weight_bytes": round(5e6 * scale),
            "mapped_bytes": 200_000,
            "bytes_by_part": {"vision": round(2e6 * scale), "llm": round(2e6 * scale), "expert": round(1e6 * scale)},
        }

    return {
        "cpu": "A CPU",
        "isa": "avx2",
        "engine": "cpu",
        "threads": 2,
        "tokens": {"cameras": 2, "prompt_tokens": 36, "prefix_tokens": 164},
        "policy": policy("packs/tiny-full", 1.0),
        "baseline": policy("tiny-libero", 1.6),
        "ratio": 1.6,
        "floor": {"ops": 1, "peak_ops_per_s": 1.0, "peak_of": "int8 products", "seconds": 0.01, "times_floor": 5.0},
    }


def diagnosed(*, helps: bool = True) -> dict[str, Any]:
    """What `vlapack diagnose --json` writes of a pack with one bad layer; `helps`: whether a remedy does."""
    bad, good = (f"paligemma_with_expert.gemma_expert.model.layers.{number}.mlp.down_proj" for number in (0, 1))

    def tried(name: str, kind: str, median: float, held: int, *, enough: bool) -> Tried:
        recipe = PRESETS["full-w4"]
        return Tried(kind, name, recipe, False, median, 2 * median, 1.1 * median, held, enough, np.full(16, median))

    def layer(name: str, share: float) -> LayerReport:
        numbers = {"error": 0.2, "weights": 0.1, "share": share, "weight_error": 0.1, "clipped_weights": 0.0}
        rest = {"clipped": None, "outlier": 3.0, "crest_before": 9.0, "crest_after": 4.0, "reach": 1.1, "by_step": ()}
        return LayerReport(name=name, part="expert", bits="W4A8", **numbers, **rest)

    remedies = [
        tried("8 bits for the worst layer", "bits", 0.008 if helps else 0.03, 5_400_000, enough=helps),
        tried("expert left float", "without_expert", 0.007 if helps else 0.02, 6_500_000, enough=helps),
    ]
    found = Diagnosis(
        target=0.01,
        target_from="as given",
        findings=[
            Finding("minor", "calibration", "calibration did not see what the data shows", "2 of 5 prompts", "`calib`"),
            Finding("major", "worst_layers", f"one layer makes 80% of the error: {bad}", "it is off", "more bits"),
        ],
        error=Measured(0.06, 0.12, 16),
        spread=Measured(0.5, 0.9, 16),
        held=5_000_000,
        observations={"calibrating": 32, "kept": 16, "given": 16},
        layers=[layer(good, 0.2), layer(bad, 0.8)],
        tried=remedies,
        chosen=remedies[0] if helps else None,
    )
    written = {"recipe": "tiny.remedy.json", "command": "vlapack quantize tiny-libero --recipe 'tiny remedy.json'"}
    return {
        **{"pack": "packs/tiny-full", "baseline": "tiny-libero", "data": "observations", "seed": 0},
        **found.to_dict(),
        **(written if helps else {"recipe": None, "command": None}),
        "seconds": 60.0,
    }
