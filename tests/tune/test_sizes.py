"""Bytes that a running policy holds are those of a real pack that is loaded, whatever folds, stays float or is idle."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from small import random_observations

from vlapack.checkpoints import open_checkpoint
from vlapack.packing.make import make_pack
from vlapack.packing.parent import Parent
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe
from vlapack.tune.space import Space

BASES = {
    "everything": replace(preset("everything"), rounding="rtn"),
    "smooth, static, distinct blocks, row rotation": replace(
        preset("everything"),
        smooth=0.2,
        act_scale="static",
        shared_block=False,
        rotation="svd",
        row_rot="restore",
        rounding="rtn",
    ),
    "groups of 32": replace(preset("full"), group_size=32, rounding="rtn"),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("floats", [0.0, 0.2])
@pytest.mark.parametrize("engine", ["", "reference"])
def test_held_bytes_are_those_of_a_loaded_pack(
    random_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    base: Recipe,
    floats: float,
    engine: str,
) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", engine)
    checkpoint = open_checkpoint(random_checkpoint)
    space = Space.of(Parent(checkpoint), base)
    draw = random.Random(1)
    problem = space.problem({}, "held")
    bits = {
        name: options[-1 if draw.random() < floats else draw.randrange(max(1, len(options) - 1))].bits
        for name, options in problem.options.items()
    }
    make_pack(checkpoint, space.recipe(bits), tmp_path / "pack", random_observations(1))
    assert problem.nbytes(bits) == Policy.from_pretrained(tmp_path / "pack").held_bytes()


def test_what_a_policy_does_not_hold_costs_nothing(random_checkpoint: Path) -> None:
    options = Space.of(Parent(open_checkpoint(random_checkpoint)), preset("everything")).problem({}, "held").options
    free = {name.rpartition(".")[2] for name, of in options.items() if all(option.nbytes == 0 for option in of)}
    assert {
        "embed_tokens",
        "dense",
        "time_mlp_in",
        "time_mlp_out",
        "gate_proj",
    } <= free
    assert "q_proj" in {name.rpartition(".")[2] for name, of in options.items() if of[0].nbytes}
