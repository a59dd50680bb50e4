"""The work folder of a tuning: finished pieces survive, plans never mix, and processes keep out of each other's way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from vlapack.checkpoints.pack.writer import leftovers
from vlapack.errors import InputError, WorkError
from vlapack.files import is_claimed
from vlapack.tune import folder as module
from vlapack.tune.folder import TuningFolder


def test_a_finished_piece_is_there_for_the_next_run(tmp_path: Path) -> None:
    pieces = {"sums": torch.arange(3, dtype=torch.float64), "order": torch.tensor([2, 1], dtype=torch.uint16)}
    with TuningFolder(tmp_path / "r.json.partial", {"weights": "a"}) as work:
        assert not work.has("samples/0")
        work.keep("samples/0", pieces)
    with TuningFolder(tmp_path / "r.json.partial", {"weights": "a"}) as work:
        assert work.has("samples/0")
        assert all(torch.equal(work.load("samples/0")[key], tensor) for key, tensor in pieces.items())


def test_another_plan_or_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with TuningFolder(tmp_path / "work", {"weights": "a", "recipe": "r"}):
        pass
    with pytest.raises(InputError, match="weights: 'a' there, 'b' here"):
        TuningFolder(tmp_path / "work", {"weights": "b", "recipe": "r"})
    with pytest.raises(InputError, match="holds no tuning"):
        TuningFolder(tmp_path, {"weights": "a"})


def test_two_processes_do_not_share_a_folder_and_clean_leaves_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "r.json.partial"
    with TuningFolder(folder, {}):
        assert leftovers(tmp_path) == [folder]
        assert is_claimed(folder)
        with pytest.raises(InputError, match="another process"):
            TuningFolder(folder, {})
    assert not is_claimed(folder)


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TuningFolder(tmp_path / "work", {}) as work:
        work.keep("first", {"x": torch.ones(1)})

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, "write_atomically", full)
        with pytest.raises(WorkError, match="give the same command again"):
            work.keep("second", {"x": torch.ones(1)})
        assert work.has("first")
        assert not work.has("second")
