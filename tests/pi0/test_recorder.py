"""`Recorder`, which takes a CUDA graph's place in tests, refuses what a graph would not follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vlapack.pi0.recorder import Recorder


class Work:
    """A run on memory of its own."""

    def __init__(self) -> None:
        self.x, self.factor, self.rows = torch.ones(3), 2.0, 3

    def __call__(self) -> Tensor:
        made = self.x * self.factor
        return (made + made)[: self.rows]


def test_a_replay_writes_where_the_first_run_wrote() -> None:
    work = Work()
    recorder = Recorder(work)
    place = recorder.outputs.data_ptr()
    work.x.fill_(5)
    recorder.replay()
    assert recorder.outputs.tolist() == [20, 20, 20]
    assert (recorder.outputs.data_ptr(), recorder.operators, recorder.replays) == (place, 3, 1)


@pytest.mark.parametrize(
    ("name", "value"), [("x", torch.ones(3)), ("factor", 3.0), ("rows", 2)], ids=["address", "number", "shape"]
)
def test_a_replay_that_a_graph_would_not_follow_is_an_error(name: str, value: Any) -> None:
    work = Work()
    recorder = Recorder(work)
    setattr(work, name, value)
    with pytest.raises(AssertionError, match=r"operator \d was "):
        recorder.replay()
