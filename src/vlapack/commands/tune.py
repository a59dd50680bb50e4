"""`vlapack tune`: which layers deserve how many bits, measured on the chunk; the frontier, and a recipe on it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vlapack.commands.measuring import MeasuringFlags, document, observations_for, show, tuned_as_asked
from vlapack.commands.shared_flags import (
    CalibFlag,
    CheckpointFlags,
    Flat,
    RenameMapFlag,
    WorkDeviceFlag,
    calibration_folder,
)
from vlapack.console import emit_json, emit_text
from vlapack.errors import InputError
from vlapack.progress import duration
from vlapack.recipe.presets import preset as named_preset

if TYPE_CHECKING:
    from vlapack.tune.results import Tuned
    from vlapack.tune.tuning import Workshop


def tune(
    policy: tyro.conf.Positional[str],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    calib: CalibFlag = None,
    rename_map: RenameMapFlag = None,
    preset: str = "everything",
    seed: int = 0,
    device: WorkDeviceFlag = "cpu",
    json: bool = False,
    wanted: Flat[MeasuringFlags] = MeasuringFlags(),  # noqa: B008  (frozen)
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Choose 4, 8 or 16 bits for every layer by their effect on the actions, and write the recipe.

    The effect of each choice on the action chunk is measured for all layers at once (docs/tune.md), an exact solver
    allocates the bits, and the result is tried on observations kept back. A table and a picture of the frontier are
    written next to the recipe: bytes, errors and milliseconds of allocations, presets and uniform recipes. An
    interrupted run continues with the same command. `vlapack quantize` takes the same three targets and writes the pack
    at once.

        vlapack tune CHECKPOINT --config pi05_libero --max-error 1% --calib OBSERVATIONS --out recipe.json
        vlapack tune CHECKPOINT --config pi05_libero --budget 1.5GB --calib OBSERVATIONS --out recipe.json

    Args:
        policy: A float policy's folder, or `tiny-libero`, the policy that comes with vlapack.
        out: The recipe file to write.
        preset: Which layers to decide about, and how they are quantized.
        seed: Seed of noise, directions, and what is random in a method.
        json: Write one JSON document to stdout instead of text.
        wanted: Give one of the first three.
        flags: What the checkpoint does not say itself.
    """
    from vlapack.policy.placing import usable

    computes = usable(device)
    start = time.monotonic()
    target, packed = wanted.target(), wanted.packed()
    if out.exists():
        raise InputError(f"{out} exists; choose another `out`, or remove it")
    base = replace(named_preset(preset), seed=seed)

    from vlapack.checkpoints.pack.writer import partial_path
    from vlapack.files import require_writable, sweep
    from vlapack.packing.parent import Parent
    from vlapack.quantize.room import peak_bytes
    from vlapack.tune.record import note_of, request, write_frontier, write_recipe

    partial = partial_path(out)
    for place in (wanted.work or partial, out.parent):
        require_writable(place)
    parent = Parent(flags.open_parent(policy, "tune"))
    found = observations_for(parent, wanted, calibration_folder(parent.checkpoint, calib), rename_map)

    written: list[Path] = []

    def write(tuned: Tuned, workshop: Workshop) -> None:
        if out.exists():  # another process was faster
            raise InputError(f"{out} exists; choose another `out`, or remove it")
        written.extend(write_frontier(tuned, out))
        write_recipe(tuned, note_of(tuned, request(parent, base, target, packed, found)), out)

    try:
        tuned = tuned_as_asked(parent, base, wanted, found, partial, done=write, device=computes)
    finally:
        if wanted.work is None and out.exists():
            sweep(partial)
    if json:
        outcome = document(tuned, time.monotonic() - start) | {"peak_device_bytes": peak_bytes(computes)}
        emit_json({"recipe": str(out), "frontier": [str(path) for path in written], **outcome})
        return 0
    show(tuned, written)
    emit_text(f"{out}: {duration(time.monotonic() - start)}")
    return 0
