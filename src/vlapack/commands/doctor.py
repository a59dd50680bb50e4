"""`vlapack doctor`: is everything there, and if not, what to type; and is a policy the user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tyro

from vlapack.commands.shared_flags import CheckpointFlags, Flat
from vlapack.console import emit_json, emit_text, spelled
from vlapack.errors import InputError


def doctor(
    policy: tyro.conf.Positional[str | None] = None,
    *,
    against: Path | None = None,
    json: bool = False,
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Check this machine, this installation and, if given, a policy, and say how to fix what is wrong.

    Exit code 0 if nothing is wrong, 1 if something is. Optional parts that are absent (the simulator, a GPU) are not
    wrong.

        vlapack doctor
        vlapack doctor packs/tiny-full
        vlapack doctor CKPT --config pi05_libero --against openpi/.venv/bin/python

    Args:
        policy: A pack, a checkpoint folder, or tiny-libero.
        against: Python interpreter of an environment with openpi, or with LeRobot for its folders. Instead of the
            checks, act once there and once here, on the same observation and noise, and compare each stage. Exit code 0
            if all are equal, 1 if one differs, 2 if it cannot be run.
        json: Write one JSON document to stdout instead of text.
        flags: What the checkpoint does not say itself.
    """
    if against is not None:
        return _against(policy, against, flags, json=json)
    from vlapack.doctor import examine

    findings = []
    for found in examine(policy, **flags.checkpoint_options()):
        finding = found if found.remedy is None else replace(found, remedy=spelled(found.remedy))
        findings.append(finding)
        if not json:
            line = f"{'good ' if finding.ok else 'WRONG'}  {finding.name}: {finding.value}"
            emit_text(line)
            if finding.remedy is not None:
                emit_text(f"       -> {finding.remedy}")
    ok = all(finding.ok for finding in findings)
    if json:
        emit_json({"ok": ok, "findings": [finding.to_dict() for finding in findings]})
    return 0 if ok else 1


def _against(policy: str | None, python: Path, flags: CheckpointFlags, *, json: bool) -> int:
    """Compare with another runtime, and show every stage."""
    if policy is None:
        raise InputError("`against` compares a policy: give its folder")
    from vlapack.doctor.against import hold_against

    found = hold_against(policy, python, **flags.checkpoint_options())
    stages = tuple(replace(stage, cause=spelled(stage.cause)) for stage in found.stages)
    found = replace(found, stages=stages)
    first = found.first
    if json:
        emit_json(found.to_dict())
        return 0 if first is None else 1
    lines = [f"against {found.reference}, both in float32"]
    for stage in stages:
        apart = "not comparable" if stage.difference is None else f"{stage.difference:.2g} {stage.measure}"
        line = f"{'equal' if stage.ok else 'OTHER'}  {stage.name}: {apart} (up to {stage.tolerance:g})"
        lines.append(line if stage.note is None else f"{line}: {stage.note}")
    lines.append(
        "it is your policy: no stage differs" if first is None else f"first difference: {first.name} -> {first.cause}"
    )
    for line in lines:
        emit_text(line)
    return 0 if first is None else 1
