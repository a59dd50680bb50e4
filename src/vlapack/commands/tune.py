"""`vlapack tune`: which layers deserve how many bits, measured on the action chunk, under a budget of bytes."""

from __future__ import annotations

import json as json_module
import re
import resource
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.table import Table

from vlapack.commands.quantize import calibration_folder
from vlapack.commands.shared_flags import CalibFlag, CheckpointFlags, Flat, RenameMapFlag, WorkDeviceFlag
from vlapack.console import emit_json, emit_table, stdout
from vlapack.errors import InputError
from vlapack.recipe.presets import preset as named_preset

if TYPE_CHECKING:
    from vlapack.tune.tuning import Tuned

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def tune(
    policy: tyro.conf.Positional[str],
    *,
    budget: str,
    out: Path,
    calib: CalibFlag = None,
    rename_map: RenameMapFlag = None,
    observations: int = 8,
    preset: str = "everything",
    seed: int = 0,
    work: Path | None = None,
    json: bool = False,
    device: WorkDeviceFlag = "cpu",
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Choose 4, 8 or 16 bits for every layer so that the pack fits a budget and the actions change least.

    What each choice does to the final action chunk is measured for all layers at once (docs/tune.md), the bits are
    allocated by an exact solver, and the result is compared with presets and uniform recipes within the budget. It is a
    recipe file. A run that was interrupted goes on with the same command.

        vlapack tune CHECKPOINT --config pi05_libero --budget 2.4GB --calib OBSERVATIONS --out recipe.json
        vlapack quantize CHECKPOINT --config pi05_libero --recipe recipe.json --calib OBSERVATIONS --out packs/tuned

    Args:
        policy: A float policy's folder, or `tiny-libero`, the policy that comes with the package.
        budget: Bytes of the pack's tensors, such as `2.4GB` or `950MB` (10^9 and 10^6 bytes).
        out: The recipe file to write.
        observations: How many of them, evenly from the folder; every fourth is kept for the comparison.
        preset: The layers about which is decided, and how they are quantized.
        seed: Of noise, directions, and what is random in a method.
        work: A folder for what is measured, which stays: another budget then takes seconds. Without it, OUT.partial,
            which goes when the recipe is written.
        json: Write one JSON document to stdout instead of text.
        flags: What the checkpoint does not say.
    """
    from vlapack.policy.placing import usable

    computes = usable(device)
    start = time.monotonic()
    limit = parse_bytes(budget)
    if out.exists():
        raise InputError(f"{out} exists; choose another `out`, or remove it")
    base = replace(named_preset(preset), seed=seed)

    from vlapack.checkpoints.pack.writer import partial_path
    from vlapack.files import require_writable, sweep, write_atomically
    from vlapack.observations.folder import load_observations
    from vlapack.packing.parent import Parent
    from vlapack.quantize.room import peak_bytes, shortage_explained
    from vlapack.tune.tuning import tune as run

    folder = work or partial_path(out)
    for place in (folder, out.parent):
        require_writable(place)

    def write(tuned: Tuned) -> None:
        if out.exists():  # another process was faster
            raise InputError(f"{out} exists; choose another `out`, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        recipe = json_module.dumps(tuned.recipe.to_dict(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(out, recipe.encode())

    checkpoint = flags.open_parent(policy, "tune")
    calibrates = calibration_folder(checkpoint, calib)
    found = load_observations(calibrates, observations, config=checkpoint.config, rename_map=rename_map)
    try:
        with shortage_explained(computes):
            tuned = run(Parent(checkpoint), base, limit, found, folder, done=write, device=computes)
    finally:
        if work is None and out.exists():
            sweep(folder)
    document = _document(tuned, out, limit, time.monotonic() - start) | {"peak_device_bytes": peak_bytes(computes)}
    if json:
        emit_json(document)
    else:
        _print(document)
    return 0


def parse_bytes(text: str) -> int:
    """Return the bytes of `2.4GB`, `950MB`, `10 kB`; a unit is 10^9, 10^6 or 10^3 bytes.

    Raises:
        InputError: it does not parse, or is nothing.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([KMG]B)\s*", text.upper())
    if not match or not (size := int(float(match[1]) * UNITS[match[2]])):
        raise InputError(f"--budget {text!r} is no size: write a number and GB, MB or KB, such as 2.4GB or 950MB")
    return size


def _document(tuned: Tuned, out: Path, budget: int, seconds: float) -> dict[str, Any]:
    counts = Counter(tuned.chosen.bits.values())
    return {
        "recipe": str(out),
        "budget": budget,
        "bytes": tuned.chosen.nbytes,
        "chosen": tuned.chosen.name,
        "error": {"predicted": tuned.chosen.predicted, "measured": tuned.chosen.measured},
        "layers": {str(bits): counts[bits] for bits in (4, 8, 16)},
        "candidates": [candidate.to_dict() for candidate in tuned.candidates],
        "sensitivity": {
            name: {str(bits): error for bits, error in of.items()} for name, of in tuned.sensitivity.items()
        },
        "seconds": seconds,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _print(document: dict[str, Any]) -> None:
    table = Table(title="relative error of the action chunk, on observations that were not tuned on")
    for column in ("recipe", "MB", "predicted", "measured"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in document["candidates"]:
        measured = "" if row["measured"] is None else f"{row['measured']:.4f}"
        table.add_row(row["name"], f"{row['bytes'] / 1e6:.2f}", f"{row['predicted']:.4f}", measured)
    emit_table(table)
    counts = ", ".join(f"{count} at {bits}" for bits, count in document["layers"].items())
    stdout.print(
        f"{document['recipe']}: {document['chosen']}, {document['bytes'] / 1e6:.2f} MB of "
        f"{document['budget'] / 1e6:.2f}; bits: {counts}; {document['seconds']:.0f} s",
        markup=False,
        soft_wrap=True,
    )
