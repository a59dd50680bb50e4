"""A pack made of what a tuning packed before is the one that is made from the beginning, byte by byte."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import random_observations

from vlapack.checkpoints import open_checkpoint
from vlapack.packing import layers
from vlapack.packing.make import make_pack, pack_parent
from vlapack.packing.parent import Parent
from vlapack.recipe.choice import Choice
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe
from vlapack.tune.candidates import pack_candidates
from vlapack.tune.folder import TuningFolder
from vlapack.tune.reuse import Reuse
from vlapack.tune.space import Space

CPU = torch.device("cpu")
OBSERVATIONS = random_observations(2)
EVERYTHING = replace(preset("everything"), block=16)
BASES = {
    "everything": EVERYTHING,
    "static": replace(EVERYTHING, act_scale="static"),
    "svd": replace(EVERYTHING, rotation="svd"),
    "smooth": replace(EVERYTHING, smooth=0.2),
}
CHOICES = (4, 8, Choice(4, group_size=32), Choice(8, act_bits=4))


def files(folder: Path) -> dict[str, Any]:
    """Every file, `config.json` without its checksum and with rounding errors to five digits: reordered rows add up to
    another last digit."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(found["config.json"])
    errors = config["measured"]["weight_error"]
    errors |= {key: f"{value:.5g}" for key, value in errors.items() if isinstance(value, float)}
    return found | {"config.json": config | {"checksum": ""}}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_packs_from_the_folder_have_the_same_bytes(random_checkpoint: Path, tmp_path: Path, base: Recipe) -> None:
    checkpoint = open_checkpoint(random_checkpoint)
    packed = CHOICES if base is EVERYTHING else (4, 8)
    space = Space.of(Parent(checkpoint), base, packed)
    draw = random.Random(0)
    with TuningFolder(tmp_path / "work", {}) as work:
        pack_candidates(work, space, OBSERVATIONS)
        for number, floats in enumerate((0.0, 0.3) if base is EVERYTHING else (0.1,)):
            bits = {
                name: 16 if draw.random() < floats and options[-1].bits == 16 else draw.choice(options).bits
                for name, options in space.problem({}).options.items()
            }
            for names in space.problem({}).alike:  # they round their input alike
                for name in names:
                    bits[name] = 8 if bits[name] == CHOICES[3] else bits[name]
            recipe = replace(space.recipe(bits), calib_steps=2)
            again, whole = tmp_path / f"again{number}", tmp_path / f"whole{number}"
            ready = Reuse(space, work, recipe, CPU)
            pack_parent(space.parent, recipe, again, OBSERVATIONS, ready=ready, device=CPU)
            make_pack(checkpoint, recipe, whole, OBSERVATIONS)
            assert files(again) == files(whole)


def test_nothing_is_calibrated_again(random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(random_checkpoint)
    space = Space.of(Parent(checkpoint), EVERYTHING)
    with TuningFolder(tmp_path / "work", {}) as work:
        pack_candidates(work, space, OBSERVATIONS)
        recipe = space.recipe({name: options[0].bits for name, options in space.problem({}).options.items()})
        monkeypatch.setattr(layers, "stream", None)
        ready = Reuse(space, work, recipe, CPU)
        pack_parent(space.parent, recipe, tmp_path / "pack", OBSERVATIONS, ready=ready, device=CPU)
