"""`vlapack compare` from its command line: a pack against its parent, on both kinds of data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lerobot_folder import write_lerobot
from small import small_policy, write_random_checkpoint

from vlapack.cli import main

CONTRACT = {
    *("policy", "baseline", "data", "source", "seed", "engine", "frames", "horizon", "noise_seeds"),
    *("dimensions", "dtype"),
    *("deviation", "deviation_spread", "gripper", "worst", "cosine"),
}


@pytest.fixture(scope="module")
def pack(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "pack"
    assert (
        main(
            [
                "quantize",
                str(random_checkpoint),
                "--preset",
                "full",
                "--rounding",
                "rtn",
                "--weights-only",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


def test_json_stands_alone_on_stdout_and_repeats(
    pack: Path, random_checkpoint: Path, observation_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(pack), "--baseline", str(random_checkpoint), "--data", str(observation_folder), "--json"]
    documents = []
    for _ in range(2):
        capsys.readouterr()
        assert main(words) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert set(documents[0]) == CONTRACT
    assert documents[0] == documents[1]
    assert documents[0]["frames"] == 4
    assert documents[0]["deviation"]["p50"] > 0
    assert -1 <= documents[0]["cosine"]["min"] <= documents[0]["cosine"]["mean"] <= 1
    assert {row["frame"] for row in documents[0]["worst"]} == {f"00{number}_base.png" for number in range(4)}


def test_the_arithmetic_that_is_asked_for_is_used_and_said(
    pack: Path, random_checkpoint: Path, observation_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(pack), "--baseline", str(random_checkpoint), "--data", str(observation_folder), "--json"]
    found = {}
    for dtype in ("float32", "bfloat16"):
        capsys.readouterr()
        assert main([*words, "--dtype", dtype]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["dtype"] == dtype
        found[dtype] = document["deviation"]
    assert found["float32"] != found["bfloat16"]


def test_a_lerobot_data_set_will_do_and_people_get_a_table(
    pack: Path, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lerobot(tmp_path)
    capsys.readouterr()
    words = ["--baseline", str(random_checkpoint), "--data", str(tmp_path), "--frames", "3"]
    assert main(["compare", str(pack), *words]) == 0
    shown = capsys.readouterr()
    assert "LeRobotDataset v3.0" in shown.err
    for text in (
        "gripper",
        "3 frames × 4 actions",
        "another noise",
        "cosine of the chunks: mean",
        "worst frames: episode",
    ):
        assert text in shown.out


def test_policies_that_do_not_belong_together_are_refused(
    pack: Path, observation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_policy()
    longer = replace(config, architecture=replace(config.architecture, action_horizon=6))
    other = write_random_checkpoint(tmp_path / "other", longer)
    words = ["compare", str(pack), "--baseline", str(other), "--data", str(observation_folder)]
    assert main(words) == 2
    assert "do not belong together" in capsys.readouterr().err
    assert main([*words, "--frames", "0"]) == 2
