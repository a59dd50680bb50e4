"""`vlapack compare`: a policy and its float parent on the same recorded observations, without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from vlapack.commands.shared_flags import Flat, PolicyFlags, RenameMapFlag
from vlapack.console import emit_json, emit_table, emit_text, say
from vlapack.errors import InputError


def compare(
    policy: tyro.conf.Positional[str],
    *,
    baseline: str,
    data: Path,
    rename_map: RenameMapFlag = None,
    frames: int = 32,
    seed: int = 0,
    json: bool = False,
    flags: Flat[PolicyFlags] = PolicyFlags(),  # noqa: B008  (frozen)
) -> int:
    """Compare a pack's actions with its float parent's on recorded observations.

    Both see the same frames and start from the same noise. The table shows each dimension's differences next to the
    float policy's own spread over eight noises: a pack that differs much less than that acts like its parent
    (docs/compare.md).

        vlapack compare packs/tiny-full --baseline tiny-libero --data OBSERVATIONS
        vlapack compare PACK --baseline CHECKPOINT --config pi05_libero --data LEROBOT_DATASET --frames 64

    Args:
        policy: A pack, a checkpoint folder, or tiny-libero.
        baseline: The float parent, a folder or tiny-libero.
        data: Observations: a folder recorded by the simulator or a policy server, or a LeRobotDataset v3.
        frames: How many frames to compare, evenly spread; all, if there are fewer.
        seed: Seed of the noise.
        json: Write one JSON document to stdout instead of tables.
        flags: What the checkpoint does not say itself, and how the policy computes.
    """
    if frames < 1:
        raise InputError(f"--frames {frames}: give 1 or more")

    import torch

    from vlapack.evaluate.compare import compare as compare_policies
    from vlapack.machine.gpu import parse_device
    from vlapack.observations.folder import open_source
    from vlapack.ops.engine import described
    from vlapack.policy.policy import Policy

    computing = flags.policy_options()
    options = {**computing, "dtype": getattr(torch, computing["dtype"])}
    parent, ours = flags.open(baseline), flags.open(policy)
    source = open_source(data, parent.config, rename_map=rename_map)
    taken = min(frames, len(source))
    engine = described(parse_device(computing["device"]))
    say(f"{data}: {source.description}; {taken} taken; engine {engine}")
    measured = compare_policies(
        lambda: Policy.from_checkpoint(parent, **options),
        lambda: Policy.from_checkpoint(ours, **options),
        source.take(taken),
        seed=seed,
    )
    document: dict[str, Any] = {"policy": policy, "baseline": baseline, "data": str(data), "source": source.description}
    document |= {"seed": seed, "engine": engine, "dtype": computing["dtype"], **measured}
    if json:
        emit_json(document)
    else:
        _print(document)
    return 0


def _print(found: Mapping[str, Any]) -> None:
    table = Table(
        title=f"{found['policy']} against {found['baseline']}, {found['frames']} frames × {found['horizon']} actions",
    )
    table.add_column("dimension", no_wrap=True)
    for group in ("error", "relative", "spread"):
        for column in (f"{group} p50", "p95", "max"):
            table.add_column(column, justify="right", no_wrap=True)
    for row in found["dimensions"]:
        cells = [*_numbers(row["absolute"]), *_numbers(row["relative"]), *_numbers(row["spread"])]
        table.add_row(row["name"], *cells)
    emit_table(table)
    for line in _sentences(found):
        emit_text(line)


def _numbers(values: Mapping[str, float] | None) -> list[str]:
    return ["-"] * 3 if values is None else [f"{value:.3g}" for value in values.values()]


def _sentences(found: Mapping[str, Any]) -> list[str]:
    deviation, spread = found["deviation"], found["deviation_spread"]
    ratio = f": {deviation['p50'] / spread['p50']:.2f} of it" if spread["p50"] > 0 else ""
    lines = [
        f"a chunk deviates by {deviation['p50']:.3g} standard deviations (median; p95 {deviation['p95']:.3g}); the "
        f"float policy's own, under another noise, by {spread['p50']:.3g} (p95 {spread['p95']:.3g}){ratio}",
        f"cosine of the chunks: mean {found['cosine']['mean']:.5f}, minimum {found['cosine']['min']:.5f}",
    ]
    if (gripper := found["gripper"]) is not None:
        lines.append(
            f"the gripper's sign is another in {gripper['flips']} of {gripper['actions']} actions "
            f"({100 * gripper['rate']:.1f} %); under another noise in {100 * gripper['spread_rate']:.1f} %"
        )
    worst = (
        f"{row['frame']} ({row['deviation']:.3g}, most in {row['dimension']}; spread there {row['spread']:.3g})"
        for row in found["worst"]
    )
    lines.append(f"worst frames: {'; '.join(worst)}")
    return lines
