"""A whole pack on the GPU's own kernels, which Triton interprets here: the reference's integers in every layer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlapack import Recipe, make_pack, open_checkpoint

PROGRAM = Path(__file__).with_name("interpreted.py")
NEEDED = ("triton", "vlapack.ops.triton.product", "vlapack.ops.triton.activation")


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not all(map(is_there, NEEDED)), reason="needs Triton, and the kernels")
def test_a_pack_acts_on_the_gpus_kernels(random_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(rounding="rtn", overrides=(("up_proj", 8),), block=8)
    pack = make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path / "pack", None).pack
    path = f"import sys; sys.path[:0] = {sys.path!r}; sys.argv = {['', str(random_checkpoint), str(pack)]!r}; "
    code = f"{path}import runpy; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["integers"] > 10_000
    assert found["products"] > 20  # of merged linears
    # Dense rotations are float64 in the reference: at a tie, a value may fall on the other side.
    assert found.get("flipped", 0) <= found["integers"] / 10_000
    assert not found.get("wrong", 0)
    assert found["from_reference"] <= found["from_float"] / 2
