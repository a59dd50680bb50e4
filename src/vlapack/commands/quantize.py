"""`vlapack quantize`: checkpoint + recipe + observations → one self-contained pack folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vlapack.commands.measuring import MeasuringFlags
from vlapack.commands.quantize_measured import (
    base_recipe,
    frames_to_check,
    quantize_measured,
    require_unmeasured,
    verdict_on,
)
from vlapack.commands.shared_flags import (
    CalibFlag,
    CheckpointFlags,
    Flat,
    PresetFlag,
    RecipeFlag,
    RenameMapFlag,
    WorkDeviceFlag,
    calibration_folder,
)
from vlapack.console import emit_json, emit_text, say, size
from vlapack.errors import InputError
from vlapack.progress import duration
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags, resolve

if TYPE_CHECKING:
    from vlapack.checkpoints.base import Checkpoint
    from vlapack.observations.frame import Frame
    from vlapack.plan.selected import Selected
    from vlapack.quantize.groups import QuantizedGroup


def quantize(
    checkpoint: tyro.conf.Positional[str],
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PACK")] = None,
    preset: PresetFlag = None,
    recipe: RecipeFlag = None,
    calib: CalibFlag = None,
    rename_map: RenameMapFlag = None,
    weights_only: bool = False,
    check: bool = False,
    device: WorkDeviceFlag = "cpu",
    json: bool = False,
    wanted: Flat[MeasuringFlags] = MeasuringFlags(),  # noqa: B008  (frozen)
    fields: Flat[RecipeFlags] = RecipeFlags(),  # noqa: B008  (frozen)
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Quantize a policy into a pack: a folder that loads without its parent.

    With --max-error, --budget or --budget-file, vlapack measures how many bits each layer needs (docs/tune.md), and
    writes the frontier next to the pack. Otherwise the recipe comes from --preset, --recipe or the OPENPI_DUQUANT_*
    variables (docs/configuration.md), and `vlapack inspect` shows it first. An interrupted run continues with the same
    command.

        vlapack quantize tiny-libero --max-error 1% --out packs/tiny-1
        vlapack quantize tiny-libero --preset full --out packs/tiny-full
        vlapack quantize CHECKPOINT --config pi05_libero --preset llm --calib OBSERVATIONS --out packs/pi05-llm

    Args:
        checkpoint: A float policy's folder, or `tiny-libero`, the policy that comes with vlapack.
        out: The pack's folder. Default: OPENPI_DUQUANT_PACKDIR. Another pack in it is never overwritten.
        weights_only: Use no observations: channels are ordered by their weights.
        check: With a tuned --recipe: compare the pack with its float parent, and say whether the recipe still holds for
            this checkpoint (exit code 0) or has to be tuned again (1).
        json: Write one JSON document to stdout instead of text.
        wanted: Choose the bits by measuring: give one of the first three.
        fields: Single fields of the recipe; they override preset and variables.
        flags: What the checkpoint does not say itself.
    """
    from vlapack.policy.placing import usable

    place = usable(device)
    if wanted.given:
        base = base_recipe(preset, fields, {"recipe": recipe, "weights_only": weights_only, "check": check})
        return quantize_measured(
            checkpoint, base, wanted, flags, out=out, calib=calib, rename_map=rename_map, json=json, place=place
        )
    require_unmeasured(wanted, recipe, check=check)
    resolved = resolve(preset, recipe, fields, os.environ)
    for note in resolved.unused:
        say(note)
    if resolved.options.dryrun:
        from vlapack.commands.inspect import inspect

        say("OPENPI_DUQUANT_DRYRUN is set: the layers are listed, and nothing is quantized")
        return inspect(
            checkpoint, preset=preset, recipe=recipe, config=flags.config, layers=True, json=json, fields=fields
        )
    target = out or resolved.options.packdir
    if target is None:
        raise InputError("no --out says where the pack goes (OPENPI_DUQUANT_PACKDIR would do as well)")
    if calib is not None and weights_only:
        raise InputError(f"--calib {calib} and --weights-only exclude each other: give one")

    from vlapack.checkpoints.pack.writer import settled
    from vlapack.packing.make import make_pack

    target = settled(target)  # before a checkpoint of gigabytes is fetched, hashed, or run
    parent = flags.open_parent(checkpoint, "quantize")
    frames: list[Frame] = []
    if recipe is not None and check:  # too few are said before a night of packing
        folder = calibration_folder(parent, calib)
        frames = frames_to_check(recipe, parent, folder, rename_map=rename_map, most=wanted.observations)
    observations = None if weights_only else calibration_set(parent, resolved.recipe, calib, rename_map)
    on_layer = _describe if resolved.options.debug else _nothing
    report = make_pack(parent, resolved.recipe, target, observations, on_layer=on_layer, device=place)
    verdict = None if recipe is None or not check else verdict_on(recipe, target, parent, frames)
    code = 0 if verdict is None or verdict.holds else 1
    if json:
        emit_json(report.to_dict() | ({} if verdict is None else {"check": verdict.to_dict()}))
        return code
    if idle := report.without_inputs:
        say(f"packed without calibration because inference never calls them: {len(idle)} layers")
    before, error = report.measured["bytes"]["before"], report.measured["weight_error"]
    if report.already_there:
        emit_text(f"{target} is this very pack already; nothing was done")
    emit_text(
        f"{target}: {report.layers} layers packed in {duration(report.seconds)}; the parent's weights {size(before)}; "
        f"{report.sizes}; rounding error mean {error['mean']:.3f}, largest {error['max']:.3f} "
        f"({error['worst_layer']}); fingerprint {report.fingerprint[:12]}",
    )
    if verdict is not None:
        emit_text(str(verdict))
    return code


def calibration_set(
    parent: Checkpoint, recipe: Recipe, calib: Path | None, rename_map: str | None
) -> list[dict[str, Any]] | None:
    """Return the observations that calibrate, None where the recipe asks nothing of them.

    Raises:
        InputError: none are given for a robot that the shipped ones do not fit, or fewer than the recipe asks for.
    """
    from vlapack.observations.folder import load_observations
    from vlapack.recipe.needs import needs_activations

    if not needs_activations(recipe):
        say("this recipe does not depend on activations: no calibration")
        return None
    folder = calibration_folder(parent, calib)
    return load_observations(folder, recipe.calib_steps, config=parent.config, rename_map=rename_map)


def _nothing(layer: Selected, packed: QuantizedGroup) -> None:
    """Say nothing of a layer."""


def _describe(layer: Selected, packed: QuantizedGroup) -> None:
    scales = packed.tensors[f"{layer.name}.weight_scale"]
    say(
        f"{layer.name} [{layer.out_features}, {layer.in_features}] {layer.bits} "
        f"block {layer.block} row block {layer.block_out} scales {float(scales.min()):.3g}-{float(scales.max()):.3g} "
        f"error {packed.errors[layer.name]:.4f}"
    )
