"""A chunk of π0.5 stays within the kernels that its speed is promised for."""

from __future__ import annotations

import pytest
from gate import chunk
from gate.floors import architecture

from vlapack.pi0.capturable import capturable
from vlapack.recipe.presets import preset

MOST = 2300
MOST_A_LAYER = 10


@pytest.mark.parametrize("name", ["full", None])
def test_a_chunk_takes_few_kernels(name: str | None) -> None:
    found = chunk.counted(None if name is None else preset(name))
    depth, steps = architecture().expert.depth, architecture().num_steps
    around = 5  # into the expert's width, its dtype, the last norm, out of the width, and Euler's sum
    assert found.follow.total() == steps * (depth * MOST_A_LAYER + around)
    assert found.chunk <= MOST


def test_the_full_size_pack_is_capturable_fused() -> None:
    model = chunk.network(architecture(), preset("full"))
    model.tabulate()
    model.fuse()
    assert capturable(model, cameras=2, prompt=32) == []
