"""What a measured policy is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from every_robot import ROBOTS

from vlapack.bench.worker import BenchTask, observed
from vlapack.errors import InputError


@pytest.mark.parametrize("robot", ["libero", "aloha"])
def test_the_first_frame_of_a_lerobot_data_set_is_shown(tmp_path: Path, robot: str) -> None:
    given = ROBOTS[robot]
    shown = observed(SimpleNamespace(config=given.config), BenchTask("", data=str(given.write_dataset(tmp_path))))  # type: ignore[arg-type]
    assert "prompt" in shown
    assert any("image" in key for key in shown)


def test_data_of_another_robot_is_refused(tmp_path: Path) -> None:
    data = ROBOTS["aloha"].write_dataset(tmp_path)
    with pytest.raises(InputError, match="image"):
        observed(SimpleNamespace(config=ROBOTS["libero"].config), BenchTask("", data=str(data)))  # type: ignore[arg-type]
