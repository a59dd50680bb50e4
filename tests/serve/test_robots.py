"""Robots other than LIBERO's, by the commands: what a server records calibrates, and data sets compare and tune."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from every_robot import ROBOTS
from process import served
from running import Client
from small import random_observations, write_random_checkpoint
from websockets.sync.client import connect

from vlapack.cli import main
from vlapack.observations.folder import load_observations
from vlapack.policy.policy import Policy
from vlapack.robots.layouts import layout_of
from vlapack.tune import trial

OTHERS = ("droid", "aloha", "lerobot")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("robots")
    return {robot: write_random_checkpoint(root / robot, ROBOTS[robot].config) for robot in OTHERS}


@pytest.mark.parametrize("robot", OTHERS)
def test_what_a_server_records_calibrates_and_compares(
    robot: str, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, config = str(checkpoints[robot]), ROBOTS[robot].config
    records, pack = str(tmp_path / "records"), str(tmp_path / "pack")
    without = ("cam_right_wrist",) if robot == "aloha" else ()
    observations = random_observations(3, layout=layout_of(config), without=without)
    with served(tmp_path, checkpoint, "--record", "--record-dir", records) as server:
        with connect(server.url) as socket:
            client = Client(socket)
            for observation in observations:
                client.infer(observation)
        server.end()
    np.testing.assert_equal(load_observations(Path(records), config=config), observations)

    words = ["--preset", "dit", "--rounding", "rtn", "--calib", records, "--calib-steps", "3", "--out", pack]
    assert main(["quantize", checkpoint, *words]) == 0
    actions = Policy.from_pretrained(pack).infer(observations[0])["actions"]
    assert actions.shape == (config.architecture.action_horizon, len(config.features.actions))
    capsys.readouterr()
    assert main(["compare", pack, "--baseline", checkpoint, "--data", records, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["dimensions"]] == list(config.features.actions)
    assert document["frames"] == 3


def test_another_robots_recording_is_refused_by_every_command(
    checkpoints: dict[str, Path], observation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, seen, out = str(checkpoints["droid"]), str(observation_folder), tmp_path / "out"
    for words in (
        ["quantize", checkpoint, "--preset", "llm", "--calib", seen, "--out", str(out)],
        ["compare", checkpoint, "--baseline", checkpoint, "--data", seen],
        ["tune", checkpoint, "--budget", "1MB", "--calib", seen, "--observations", "4", "--out", str(out)],
        ["serve", checkpoint, "--record", "--record-dir", seen],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "layout 'libero'" in said
        assert "'droid'" in said
    assert not list(tmp_path.iterdir())


def test_a_data_set_calibrates_and_tunes(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "DIRECTIONS", 2)
    cameras = ("observation.images.cam_high", "observation.images.left")
    folder = ROBOTS["aloha"].write_dataset(tmp_path / "data", cameras=cameras)
    words = ["--calib", str(folder), "--rename-map", '{"observation.images.left": "cam_left_wrist"}']
    recipe, pack = str(tmp_path / "recipe.json"), str(tmp_path / "pack")
    checkpoint = str(checkpoints["aloha"])
    assert main(["tune", checkpoint, *words, "--observations", "5", "--budget-file", "550KB", "--out", recipe]) == 0
    assert "without cam_right_wrist" in capsys.readouterr().err
    assert main(["quantize", checkpoint, *words, "--calib-steps", "3", "--recipe", recipe, "--out", pack]) == 0
