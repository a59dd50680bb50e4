"""`vlapack doctor`: is everything there, and if not, what to type."""

from __future__ import annotations

from dataclasses import replace

import tyro

from vlapack.commands.shared_flags import CheckpointFlags, Flat
from vlapack.console import emit_json, spelled, stdout


def doctor(
    policy: tyro.conf.Positional[str | None] = None,
    *,
    json: bool = False,
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Look at this machine, this installation and, if one is given, a policy; say what is wrong and what helps.

    Exit code 0 if nothing is wrong, 1 if something is. What is merely absent (the simulator, a GPU) is not wrong.

        vlapack doctor
        vlapack doctor packs/tiny-full

    Args:
        policy: A pack, a checkpoint folder, or tiny-libero.
        json: Write one JSON document to stdout instead of text.
        flags: What the checkpoint does not say.
    """
    from vlapack.doctor import examine

    findings = []
    for found in examine(policy, **flags.checkpoint_options()):
        finding = found if found.remedy is None else replace(found, remedy=spelled(found.remedy))
        findings.append(finding)
        if not json:
            line = f"{'good ' if finding.ok else 'WRONG'}  {finding.name}: {finding.value}"
            stdout.print(line, markup=False, soft_wrap=True)
            if finding.remedy is not None:
                stdout.print(f"       -> {finding.remedy}", markup=False, soft_wrap=True)
    ok = all(finding.ok for finding in findings)
    if json:
        emit_json({"ok": ok, "findings": [finding.to_dict() for finding in findings]})
    return 0 if ok else 1
