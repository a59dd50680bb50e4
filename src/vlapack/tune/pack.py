"""From a tuning's result to a pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlapack.checkpoints.assets import CONFIG_FILE
from vlapack.checkpoints.pack.config import read_config
from vlapack.errors import InputError
from vlapack.fingerprint import differences
from vlapack.machine.gpu import CPU
from vlapack.packing.make import Report, pack_parent
from vlapack.tune.results import Tuned
from vlapack.tune.reuse import Reuse
from vlapack.tune.tuning import Workshop


def pack_tuned(
    tuned: Tuned, workshop: Workshop, out: Path, note: Mapping[str, Any], *, device: torch.device = CPU
) -> Report:
    """Make the pack of a tuning's recipe, calibrated by the observations that it was calibrated by.

    Args:
        tuned: what was found.
        workshop: what it was found with.
        out: the folder to make, of `settled`.
        note: for the pack's `config.json`.
        device: where the layers are packed.
    """
    parent = workshop.space.parent
    ready = Reuse(workshop.space, workshop.work, tuned.recipe, device)
    return pack_parent(parent, tuned.recipe, out, workshop.calibrating, tuned=note, ready=ready, device=device)


def tuned_pack(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the note of the pack in `out` if it was made on this very request, None where nothing is there yet.

    Args:
        out: the folder.
        asked: of `record.request`.

    Raises:
        InputError: `out` holds another pack, or something that is none.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / CONFIG_FILE).is_file():
        raise InputError(f"{out} exists and is not a pack; choose another `out`, or remove it")
    note = read_config(out)["measured"].get("tuned")
    if not isinstance(note, dict):
        raise InputError(f"{out} already holds a pack not made for a target; choose another `out`, or remove it")
    there = {key: note.get(key) for key in asked}
    if rows := differences(there, asked):
        raise InputError(f"{out} already holds another pack; what differs: {'; '.join(rows)}. Choose another `out`")
    return note
