"""What computed a result is written down, and used again where that is possible."""

from __future__ import annotations

import json

import pytest
import torch

from vlapack.fingerprint import taken_up
from vlapack.ops.arithmetic import VARIABLES, arithmetic, on_threads


def test_everything_that_decides_the_last_bit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = arithmetic()
    assert json.loads(json.dumps(before)) == before
    assert (before["threads"], before["torch"], before["variables"]) == (1, torch.__version__, {})
    assert torch.backends.cpu.get_cpu_capability() in before["instructions"]
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert arithmetic() == {**before, "variables": {"MKL_CBWR": "COMPATIBLE"}}
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    assert arithmetic()["engine"] == "reference"


def test_threads_are_used_in_the_block_only_and_said_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    for count, said in ((None, ""), (1, ""), (3, "3 threads")):
        with on_threads(count):
            assert torch.get_num_threads() == (count or 1)
        assert torch.get_num_threads() == 1
        assert said in capsys.readouterr().err
    with pytest.raises(KeyError), on_threads(2):
        raise KeyError
    assert torch.get_num_threads() == 1


def test_work_is_taken_up_with_its_own_threads_and_nothing_else_of_its_own() -> None:
    here = {"threads": 2, "torch": "2.13.0", "recipe": "r"}
    assert taken_up(here, here) == (here, [])
    assert taken_up({**here, "threads": 7}, here) == ({**here, "threads": 7}, [])
    assert taken_up({**here, "threads": 7, "torch": "2.12.0"}, here)[1] == ["torch: '2.12.0' there, '2.13.0' here"]
    old = {"torch": "2.13.0", "recipe": "r"}  # of a version that did not write threads down
    assert taken_up(old, here)[1] == ["threads: None there, 2 here"]
