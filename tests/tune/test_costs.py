"""The table of costs: measured once, kept for the machine that it was measured on, and never trusted when broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vlapack.linear import PackedLinear
from vlapack.methods.round import round_weight
from vlapack.ops.int4 import pack_int4
from vlapack.tune import costs as module
from vlapack.tune.costs import Costs, cache_folder, costs

CPU = torch.device("cpu")


def packed(rows: int = 64, channels: int = 32) -> PackedLinear:
    integers, scales = round_weight(torch.randn(rows, channels), 4)
    tensors = {
        "weight_packed": pack_int4(integers),
        "weight_shape": torch.tensor([rows, channels]),
        "weight_scale": scales,
    }
    return PackedLinear.from_tensors(tensors, weight_bits=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_cost_is_measured_once_per_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with costs(CPU) as table:
        found = [table.product(packed(), 10), table.activation(packed(), 10), table.product(nn.Linear(32, 64), 10)]
    assert all(ms > 0 for ms in found)
    assert cache_folder() == cache / "vlapack"
    monkeypatch.setattr(Costs, "_timings", None)  # nothing is timed any more
    with costs(CPU) as table:
        again = [table.product(packed(), 10), table.activation(packed(), 10), table.product(nn.Linear(32, 64), 10)]
        assert again == found
        with pytest.raises(TypeError):
            table.product(packed(), 11)


def test_another_version_or_thread_count_has_a_table_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Costs(CPU).path
    monkeypatch.setattr(module, "__version__", "another")
    assert Costs(CPU).path != here


@pytest.mark.parametrize("content", ["", "{", "[]", '{"milliseconds": {"x": "y"}}', '{"milliseconds": 3}'])
def test_a_broken_table_is_measured_again(content: str) -> None:
    path = Costs(CPU).path
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with costs(CPU) as table:
        assert table.product(packed(), 3) > 0
    assert "3 rows" in path.read_text()


def test_a_cache_that_cannot_be_written_costs_only_time(cache: Path) -> None:
    (cache / "vlapack").write_text("a file is in the way")
    with costs(CPU) as table:
        assert table.product(packed(), 3) > 0
