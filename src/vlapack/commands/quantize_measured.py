"""`vlapack quantize` by measuring: under a target in one step, and with a tuned recipe that is checked."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlapack.commands.measuring import MeasuringFlags, document, observations_for, show, tuned_as_asked
from vlapack.commands.shared_flags import CheckpointFlags, calibration_folder
from vlapack.console import emit_json, emit_text, say
from vlapack.errors import InputError
from vlapack.progress import duration
from vlapack.recipe.environment import PREFIX, options_from_environment, variables_set
from vlapack.recipe.presets import preset as named_preset
from vlapack.recipe.resolve import RecipeFlags

if TYPE_CHECKING:
    import torch

    from vlapack.checkpoints.base import Checkpoint
    from vlapack.observations.frame import Frame
    from vlapack.recipe.recipe import Recipe
    from vlapack.tune.check import Verdict
    from vlapack.tune.results import Tuned
    from vlapack.tune.tuning import Workshop

DECIDED = {
    "weight_bits": "the bits are what is measured",
    "overrides": "the bits are what is measured",
    "embedding_bits": "the embedding's bits are among what is measured",
    "calib_steps": "`observations` says how many there are, and half of them calibrates",
}
"""Fields of a recipe that a target leaves nobody to set."""
LAYERS = "everything"
"""The preset that says which layers are decided about, unless another is named."""


def base_recipe(preset: str | None, fields: RecipeFlags, excluded: Mapping[str, Any]) -> Recipe:
    """Return which layers are decided about, and how they are quantized.

    Raises:
        InputError: something is given that already decides the bits, or a field breaks its rule.
    """
    for name, value in excluded.items():
        if value:
            raise InputError(f"`{name}` and a measured target exclude each other: {EXCLUDED[name]}")
    if variables := variables_set(os.environ):
        raise InputError(
            f"a measured target chooses the bits, and these variables describe a recipe: {', '.join(variables)}; unset "
            "them, or leave the target out"
        )
    given = fields.values()
    for name, why in DECIDED.items():
        if name in given:
            raise InputError(f"`{name}` and a measured target exclude each other: {why}")
    return replace(named_preset(preset or LAYERS), **given)


EXCLUDED = {
    "recipe": "a recipe says the bits already; leave it out, or add `check=True` and leave the target out",
    "weights_only": "what bits do to the actions is measured on observations",
    "check": "it goes with a tuned `recipe`, in place of a target",
}


def quantize_measured(
    policy: str,
    base: Recipe,
    wanted: MeasuringFlags,
    flags: CheckpointFlags,
    *,
    out: Path | None,
    calib: Path | None,
    rename_map: str | None,
    json: bool,
    place: torch.device,
) -> int:
    """Measure, allocate and pack; arguments as in `quantize`."""
    start = time.monotonic()
    target, packed = wanted.target(), wanted.packed()
    options = options_from_environment(os.environ)
    if (wished := out or options.packdir) is None:
        raise InputError(f"no --out says where the pack goes ({PREFIX}PACKDIR would do as well)")

    from vlapack.checkpoints.pack.writer import partial_path, settled
    from vlapack.files import require_writable, sweep
    from vlapack.packing.make import Report
    from vlapack.packing.parent import Parent
    from vlapack.quantize.room import peak_bytes
    from vlapack.tune.pack import pack_tuned, tuned_pack
    from vlapack.tune.record import note_of, request, write_frontier

    goal = settled(wished)
    partial = partial_path(goal.with_name(f"{goal.name}.tuning"))
    require_writable(wanted.work or partial)
    parent = Parent(flags.open_parent(policy, "quantize"))
    found = observations_for(parent, wanted, calibration_folder(parent.checkpoint, calib), rename_map)
    asked = request(parent, base, target, packed, found)
    if (note := tuned_pack(goal, asked)) is not None:
        if wanted.work is None:
            sweep(partial)
        if json:
            emit_json({"pack": str(goal), "already_there": True, "tuned": note})
        else:
            emit_text(f"{goal} is this very pack already; nothing was done")
        return 0
    reports: list[Report] = []
    written: list[Path] = []

    def write(tuned: Tuned, workshop: Workshop) -> None:
        written.extend(write_frontier(tuned, goal))
        reports.append(pack_tuned(tuned, workshop, goal, note_of(tuned, asked), device=place))

    tuned = tuned_as_asked(parent, base, wanted, found, partial, done=write, device=place)
    if wanted.work is None:
        sweep(partial)
    if json:
        outcome = document(tuned, time.monotonic() - start)
        outcome |= {"frontier": [str(path) for path in written], "peak_device_bytes": peak_bytes(place)}
        report = reports[0].to_dict()
        emit_json({**report, **outcome, "bytes": {**report["bytes"], **outcome["bytes"]}})
        return 0
    show(tuned, written)
    emit_text(
        f"{goal}: {reports[0].layers} layers packed, {duration(time.monotonic() - start)}; {reports[0].sizes}; "
        f"fingerprint {reports[0].fingerprint[:12]}",
    )
    return 0


def require_unmeasured(wanted: MeasuringFlags, recipe: Path | None, *, check: bool) -> None:
    """Refuse flags of measuring where nothing is measured, and a check of a recipe that no tuning made.

    Raises:
        InputError: as described.
    """
    from vlapack.recipe.recipe import read_tuned

    plain = MeasuringFlags()
    for name in ("choices", "survey", "work", *(() if check else ("observations",))):
        if getattr(wanted, name) != getattr(plain, name):
            raise InputError(f"`{name}` goes with `max_error`, `budget` or `budget_file`: give one of them")
    if check and (recipe is None or read_tuned(recipe) is None):
        what = "no `recipe=FILE` is given" if recipe is None else f"{recipe} has no note of one"
        raise InputError(
            f"`check=True` compares with what a tuning measured, and {what}: give a recipe that `vlapack tune` wrote"
        )


def frames_to_check(
    recipe: Path, parent: Checkpoint, calib: Path, *, rename_map: str | None, most: int | None
) -> list[Frame]:
    """Return observations that do not calibrate the recipe's pack.

    Raises:
        InputError: there are too few of them.
    """
    from vlapack.fingerprint import digest_observations
    from vlapack.observations.folder import open_source
    from vlapack.recipe.recipe import read_recipe
    from vlapack.tune.check import CHECKED, FEWEST_CHECKED

    steps = read_recipe(recipe).calib_steps
    source = open_source(calib, parent.config, rename_map=rename_map)
    frames = source.take(min(len(source), steps + max(steps, CHECKED)))
    seen = {digest_observations([frame.observation]) for frame in source.take(min(steps, len(source)))}
    fresh = [frame for frame in frames if digest_observations([frame.observation]) not in seen]
    count = min(most or CHECKED, len(fresh))
    if count < FEWEST_CHECKED:
        raise InputError(
            f"{calib} has {len(fresh)} observations beside the {steps} that calibrate, and {count} are to be looked "
            f"at: a check needs {FEWEST_CHECKED} or more"
        )
    return [fresh[number * len(fresh) // count] for number in range(count)]


def verdict_on(recipe: Path, pack: Path, parent: Checkpoint, frames: Sequence[Frame]) -> Verdict:
    """Compare a pack that a tuned recipe made with its float parent, as `vlapack compare` does."""
    from vlapack.checkpoints import open_checkpoint
    from vlapack.evaluate.compare import compare
    from vlapack.policy.policy import Policy
    from vlapack.recipe.recipe import read_tuned
    from vlapack.tune.check import Verdict

    say(f"comparing {pack} with {parent.path} on {len(frames)} observations that did not calibrate it")
    found = compare(
        lambda: Policy.from_checkpoint(parent), lambda: Policy.from_checkpoint(open_checkpoint(pack)), frames
    )
    note = read_tuned(recipe)
    assert note is not None
    return Verdict.on(note, found)
