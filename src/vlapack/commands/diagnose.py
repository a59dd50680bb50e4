"""`vlapack diagnose`: why a pack does not act like its parent, and what helps at the least cost."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vlapack.commands.diagnose_shown import show
from vlapack.commands.measuring import MOST_OBSERVATIONS, parse_error
from vlapack.commands.quantize import quantize
from vlapack.commands.shared_flags import (
    CalibFlag,
    CheckpointFlags,
    Flat,
    RenameMapFlag,
    WorkDeviceFlag,
    shipped_observations,
)
from vlapack.commands.spelling import line
from vlapack.console import emit_json, say, spelled
from vlapack.errors import InputError

if TYPE_CHECKING:
    from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint


def diagnose(
    pack: tyro.conf.Positional[str],
    *,
    baseline: str,
    data: Path,
    calib: CalibFlag = None,
    rename_map: RenameMapFlag = None,
    max_error: str | None = None,
    frames: int | None = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    work: Path | None = None,
    seed: int = 0,
    json: bool = False,
    device: WorkDeviceFlag = "cpu",
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Say why a pack does not act like its float parent, and what helps at the least cost.

    Checks whether pack and parent belong together, compares every layer with its float original on recorded
    observations, follows the error along the denoise steps, and looks at what calibration did not see. If the actions
    are off by more than the target, remedies are tried on the same data; the cheapest one that suffices is written as
    a recipe, with the command that makes the pack (docs/diagnose.md).

    Exit code 0 if the pack is sound, 1 if it is not, 2 if the input cannot be used. An interrupted run continues with
    the same command.

        vlapack diagnose packs/tiny-full --baseline tiny-libero --data OBSERVATIONS --max-error 1%
        vlapack diagnose PACK --baseline CHECKPOINT --config pi05_libero --data LEROBOT_DATASET --calib OBSERVATIONS

    Args:
        pack: The pack's folder.
        baseline: Its float parent, a folder or tiny-libero.
        data: Observations to measure on: a folder that the simulator or a policy server recorded, or a LeRobotDataset
            v3. Those that calibrated the pack are left out.
        max_error: Upper limit for the median error of a chunk, as `vlapack compare` prints it (`1%` or `0.01`).
            Default: what the pack was tuned for, else 5%.
        frames: How many observations of the data to use, evenly spaced. Default: all, up to 64.
        out: The recipe file to write if something helps. Default: PACK.remedy.json next to the pack.
        work: Folder that keeps the measurements. Default: a `.partial` folder next to the recipe, removed at the end.
        seed: Seed of noise and directions.
        json: Write one JSON document to stdout instead of text.
        flags: What the baseline does not say.
    """
    from vlapack.policy.placing import usable

    start, place = time.monotonic(), usable(device)
    wanted = None if max_error is None else parse_error(max_error)

    from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
    from vlapack.checkpoints.pack.writer import partial_path
    from vlapack.diagnose.examine import examine
    from vlapack.diagnose.given import target_of
    from vlapack.files import require_writable, sweep, write_json
    from vlapack.packing.parent import Parent
    from vlapack.quantize.room import shortage_explained

    opened = flags.open(pack)
    if not isinstance(opened, PackedCheckpoint):
        raise InputError(f"{pack} is not a pack; diagnose what `vlapack quantize` made")
    recipe_file = out or opened.path.with_name(f"{opened.path.name}.remedy.json")
    if recipe_file.exists():
        raise InputError(f"{recipe_file} exists; choose another `out`, or remove it")
    folder = work or partial_path(recipe_file)
    require_writable(folder)
    parent = Parent(flags.open_parent(baseline, "give as `baseline`"))
    observations = _observations(data, opened, frames, rename_map)
    calibrating, calibrated_by = _calibrating(opened, calib or shipped_observations(opened), rename_map)
    with shortage_explained(place):
        found = examine(
            opened,
            parent,
            data=observations,
            calibrating=calibrating,
            target=target_of(opened, wanted),
            folder=folder,
            seed=seed,
            device=place,
        )
    found = replace(found, findings=[replace(one, remedy=spelled(one.remedy)) for one in found.findings])
    document: dict[str, Any] = {"pack": pack, "baseline": baseline, "data": str(data), "seed": seed, **found.to_dict()}
    document |= {"recipe": None, "command": None}
    if found.chosen is not None:
        recipe_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(recipe_file, found.chosen.recipe.to_dict())
        document["recipe"] = str(recipe_file)
        calibrates = data if found.chosen.recalibrates or calibrated_by is None else calibrated_by
        settings = {**flags.checkpoint_options(), "recipe": recipe_file, "calib": calibrates, "rename_map": rename_map}
        settings["out"] = opened.path.with_name(f"{opened.path.name}-remedied")
        document["command"] = line(quantize, [baseline], settings)
    if work is None:
        sweep(folder)
    document["seconds"] = time.monotonic() - start
    if json:
        emit_json(document)
    else:
        show(found, document)
    return 0 if found.verdict == "sound" else 1


def _observations(
    data: Path, pack: PackedCheckpoint, frames: int | None, rename_map: str | None
) -> list[dict[str, Any]]:
    from vlapack.observations.folder import load_observations, open_source

    there = len(open_source(data, pack.config, rename_map=rename_map))
    if frames is not None and frames < 1:
        raise InputError(f"`frames={frames}`: give 1 or more")
    count = min(there, frames or MOST_OBSERVATIONS)
    return load_observations(data, count, config=pack.config, rename_map=rename_map)


def _calibrating(
    pack: PackedCheckpoint, folder: Path | None, rename_map: str | None
) -> tuple[list[dict[str, Any]], Path | None]:
    """Return the observations that calibrated the pack, and their folder; nothing where that is not `folder`."""
    from vlapack.diagnose.given import calibrated_on, is_calibrated, recipe_of
    from vlapack.observations.folder import open_source

    if not is_calibrated(pack):
        say("the pack was made without calibration")
        return [], None
    steps, tried = recipe_of(pack).calib_steps, ""
    if folder is not None:
        tried = f": it is not {steps} observations of {folder}"
        source = open_source(folder, pack.config, rename_map=rename_map)
        found = [frame.observation for frame in source.take(min(steps, len(source)))]
        if calibrated_on(pack, found):
            say(f"the pack was calibrated on {len(found)} observations of {folder}")
            return found, folder
    say(f"which observations calibrated the pack is not known{tried}; give `calib=DIR` to see what calibration missed")
    return [], None
