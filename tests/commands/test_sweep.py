"""`vlapack sweep`, `merge` and shards of `eval`, on a fake simulator and fake policies."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from vlapack.cli import main
from vlapack.commands import sweep as sweep_command
from vlapack.evaluate import contender as contender_module
from vlapack.evaluate import floor as floor_module
from vlapack.evaluate import run as run_module
from vlapack.evaluate import sweep as sweep_module
from vlapack.libero import suites

DRIFTS = {"float": 0.5, "other": 0.4, "full": 0.45, "dit": -5.0}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Spawned workers import the simulators by name, and inherit this path.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluate"))
    fakes, simulators = importlib.import_module("fakes"), importlib.import_module("simulators")

    def contender(role: str, target: str, **flags: object) -> tuple[object, dict[str, Any]]:
        kind = Path(target).name.rpartition("+")[2]
        metadata = {"tasks": {"libero_spatial": [0, 3]}}
        return fakes.contender(role, fakes.Drunkard(DRIFTS[kind]), digest=kind), metadata

    for module in (contender_module, floor_module, sweep_module):
        monkeypatch.setattr(module, "contender", contender)
    monkeypatch.setattr(sweep_module, "open_with", lambda target, **_: target)
    monkeypatch.setattr(
        sweep_module, "make_pack", lambda parent, recipe, out, seen: out.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(sweep_command, "calibration_set", lambda *_: None)
    monkeypatch.setattr(suites, "simulator", lambda: "fake 1")
    monkeypatch.setattr(suites, "mujoco_version", lambda: "3.2.3")
    monkeypatch.setattr(suites, "num_tasks", lambda suite: 10)
    monkeypatch.setattr(run_module, "evaluate", functools.partial(run_module.evaluate, factory=simulators.walk))
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SWEEP = "policies: {a: float}\nrecipes: [full, dit]\ntrials: 3\nnoise_seeds: 2\nnoise_floor: true\n"


def test_every_pack_is_compared_with_its_float_parent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(SWEEP)
    code, stdout, stderr = run(capsys, "sweep", "s.yaml", "--no-videos")
    assert code == 0
    out = tmp_path / "outputs" / "sweep" / "s"
    found = json.loads((out / "summary.json").read_text())
    assert found["type"] == "vlapack.sweep"
    assert {role: summary["baseline"] for role, summary in found["policies"].items()} == {
        "a": None, "a+full": "a", "a+dit": "a",
    }  # fmt: skip
    assert found["policies"]["a+full"]["noise_floor"]["episodes"] == 12
    assert found["policies"]["a+dit"]["verdict"] == found["verdict"] == "drop"
    assert found["policies"]["a+full"]["paired"]["both"] == 12
    assert "a+full: " in stdout
    assert "the float policy disagrees with itself" in stdout
    assert stdout.count("a (baseline)") == 1
    assert json.loads((out / "policies" / "a+full" / "summary.json").read_text()) == found["policies"]["a+full"]
    before = (out / "episodes.jsonl").read_bytes()
    assert run(capsys, "sweep", "s.yaml", "--no-videos")[0] == 0
    assert (out / "episodes.jsonl").read_bytes() == before
    assert "4 roles" in stderr


def test_shards_of_a_sweep_say_what_all_of_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(SWEEP)
    whole = run(capsys, "sweep", "s.yaml", "--no-videos", "--out", "whole", "--json")[1]
    parts = ("sweep", "s.yaml", "--no-videos", "--out", "parts", "--workers", "1")
    code, _, stderr = run(capsys, *parts, "--shard", "1/2")
    assert code == 2
    assert "run the sweep with --prepare first" in stderr
    assert run(capsys, *parts, "--prepare")[0] == 0
    assert run(capsys, *parts, "--shard", "2/2")[0] == 0
    code, _, stderr = run(capsys, "merge", "parts")
    assert code == 2
    assert "no shard 1/2" in stderr
    assert "give --partial to merge what is there" in stderr
    assert run(capsys, *parts, "--shard", "1/2")[0] == 0
    code, merged, _ = run(capsys, "merge", "parts", "--json")
    assert code == 0

    def told(text: str) -> dict[str, Any]:
        policies = json.loads(text)["policies"]
        return {role: [summary[key] for key in ("paired", "per_task", "steps")] for role, summary in policies.items()}

    assert told(merged) == told(whole)


def test_shards_of_an_evaluation_merge_into_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("eval", "full", "--baseline", "float", "--trials", "3", "--no-videos", "--workers", "1")
    whole = json.loads(run(capsys, *arguments, "--out", "whole", "--json")[1])
    shard = json.loads(run(capsys, *arguments, "--out", "parts", "--shard", "1/2", "--json")[1])
    assert shard == {"shard": "1/2", "episodes": 6, "errors": 0, "out": "parts/shards/1-of-2"}
    assert run(capsys, *arguments, "--out", "parts", "--shard", "2/2")[0] == 0
    code, merged, _ = run(capsys, "merge", "parts", "--json")
    assert code == 0
    for key in ("policy", "baseline", "paired", "per_task", "verdict", "pooled", "noise_floor"):
        assert json.loads(merged)[key] == whole[key]


def test_a_shard_without_a_folder_for_all_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, stderr = run(capsys, "eval", "full", "--shard", "1/2")
    assert code == 2
    assert "give all of them the same --out" in stderr


def test_a_run_that_may_stop_early_says_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("eval", "full", "--baseline", "float", "--trials", "30", "--noise-seeds", "2", "--no-videos")
    code, stdout, stderr = run(capsys, *arguments, "--until-ci", "0.2", "--out", "out")
    assert code == 0
    assert "after 40 of 120 cases: difference" in stderr
    assert "stopped after " in stdout
    assert "95 % at any stopping" in stdout


def test_a_gpu_policy_is_not_sent_to_a_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    code, _, stderr = run(capsys, "eval", "full", "--ray", "local", "--compile")
    assert code == 2
    assert "--ray sends the policy to other machines, where --compile has no effect" in stderr


def test_a_sweep_file_with_a_mistake_is_exit_2_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("s.yaml").write_text("policies: {a: float}\nrecipes: [ful]\n")
    code, _, stderr = run(capsys, "sweep", "s.yaml")
    assert code == 2
    assert "ful" in stderr
    assert not (tmp_path / "outputs" / "sweep" / "s" / "packs").exists()
