"""`from vlapack import …`: the public names, and that importing the package costs nothing until one is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vlapack

SECONDS = 0.2


def test_every_public_name_is_there() -> None:
    for name in vlapack.__all__:
        assert getattr(vlapack, name) is not None
    assert dir(vlapack) == sorted(vlapack.__all__)


def test_a_name_is_the_object_of_its_module() -> None:
    from vlapack import Checkpoint, Policy, Recipe, make_pack, open_checkpoint, quantize_
    from vlapack.checkpoints import base
    from vlapack.packing import make
    from vlapack.policy import policy
    from vlapack.quantize import inplace
    from vlapack.recipe import recipe

    assert (Checkpoint, Policy, Recipe) == (base.Checkpoint, policy.Policy, recipe.Recipe)
    assert (make_pack, quantize_) == (make.make_pack, inplace.quantize_)
    assert open_checkpoint is vlapack.checkpoints.open_checkpoint
    assert vlapack.quantize.inplace is inplace  # the package of nearly the same name


def test_a_name_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Polcy'; it has Checkpoint, Policy"):
        _ = vlapack.Polcy


def test_importing_the_package_is_quick_and_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import vlapack; seconds = time.perf_counter() - start; "
        "vlapack.__version__, dir(vlapack); print(seconds, *{'torch', 'numpy'} & sys.modules.keys())"
    )
    said = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(3)]
    found = [run.stdout.split() for run in said]
    assert all(len(words) == 1 for words in found), found
    assert min(float(words[0]) for words in found) < SECONDS  # of three: the machine may be busy


def test_the_names_alone_make_a_pack_that_acts(random_checkpoint: Path, tmp_path: Path) -> None:
    pack = str(tmp_path / "pack")
    report = vlapack.make_pack(vlapack.open_checkpoint(str(random_checkpoint)), "dit-fast", pack, None)
    policy = vlapack.Policy.from_pretrained(pack)
    assert report.pack == Path(pack)
    assert np.isfinite(policy.infer(policy.example())["actions"]).all()
