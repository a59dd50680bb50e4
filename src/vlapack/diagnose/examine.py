"""The diagnosis of a pack, from the two folders to the document: do they belong together, and if so, what is wrong."""

from __future__ import annotations

from pathlib import Path

import torch

from vlapack import __version__
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.diagnose.belonging import belonging, foreign_network
from vlapack.diagnose.diagnosis import Diagnosis
from vlapack.diagnose.examination import LOOKED, Examination
from vlapack.diagnose.given import Observations, Parts, Target, recipe_of
from vlapack.diagnose.unfolded import UnfoldedPack
from vlapack.diagnose.workbench import Workbench
from vlapack.fingerprint import THREADS, digest_observations
from vlapack.machine.gpu import CPU
from vlapack.ops.arithmetic import arithmetic, on_threads
from vlapack.packing.parent import Parent
from vlapack.tune.folder import TuningFolder


def examine(
    pack: PackedCheckpoint,
    parent: Parent,
    *,
    data: Observations,
    calibrating: Observations,
    target: Target,
    folder: Path,
    seed: int = 0,
    device: torch.device = CPU,
) -> Diagnosis:
    """Diagnose a pack.

    Args:
        pack: what does not act as it should.
        parent: what is said to be its float parent.
        data: observations to measure on, in the layout's keys.
        calibrating: those that calibrated the pack (`calibrated_on`), empty where they are not known.
        target: for the median error of a chunk.
        folder: for the work; see `TuningFolder`.
        seed: of noise and directions.
        device: where everything runs.

    Raises:
        InputError: too few observations, or one that the policy cannot use.
        WorkError: the disk is full.
    """
    recipe = recipe_of(pack)
    foreign = foreign_network(pack, parent)
    findings = belonging(pack, parent, recipe) if foreign is None else [foreign]
    if any(one.severity == "critical" for one in findings):
        return Diagnosis(target.value, target.source, findings)
    parts = Parts.of(data, calibrating)
    plan = {
        "diagnosed": pack.fingerprint,
        "observations": digest_observations([*parts.kept, *parts.calibrating, *parts.given]),
        "seed": seed,
        "vlapack": __version__,
        **arithmetic(device),
        "device": device.type,
    }
    with TuningFolder(folder, plan) as work, on_threads(work.plan[THREADS]):
        unfolded = UnfoldedPack(pack, parent, recipe, device)
        looked = [*parts.kept, *parts.calibrating[:LOOKED]]
        bench = Workbench(unfolded, looked, parts.calibrating or parts.given, work, seed=seed, device=device)
        return Examination(unfolded, bench, parts=parts, target=target, findings=findings, device=device).run()
