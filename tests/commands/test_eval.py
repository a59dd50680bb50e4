"""`vlapack eval` from its command line to its exit code, on a fake simulator and fake policies."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import libero_installed
import pytest
from extras import needs

from vlapack.cli import main
from vlapack.errors import InputError
from vlapack.evaluate import contender as contender_module
from vlapack.evaluate import floor as floor_module
from vlapack.evaluate import run as run_module
from vlapack.libero import distribution, suites
from vlapack.libero import drift as drift_module


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Spawned workers import the simulators by name, and inherit this path.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluate"))
    fakes, simulators = importlib.import_module("fakes"), importlib.import_module("simulators")
    drifts = {"good": 0.5, "bad": -5.0, "often": 0.5}

    def contender(role: str, target: str, **flags: object) -> tuple[object, dict[str, Any]]:
        held = 10 if role == "policy" else 70
        metadata = {"tasks": {"libero_spatial": [0, 3]}} | ({"n_action_steps": 2} if target == "often" else {})
        return fakes.contender(role, fakes.Drunkard(drifts[target], held), digest=target), metadata

    monkeypatch.setattr(contender_module, "contender", contender)
    monkeypatch.setattr(floor_module, "contender", contender)
    monkeypatch.setattr(suites, "simulator", lambda: "fake 1")
    monkeypatch.setattr(suites, "mujoco_version", lambda: "3.2.3")
    monkeypatch.setattr(suites, "num_tasks", lambda suite: 10)
    monkeypatch.setattr(run_module, "evaluate", functools.partial(run_module.evaluate, factory=simulators.walk))
    return fakes


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["eval", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("target", "flags", "replan"), [("often", (), 2), ("often", ("--replan", "3"), 3), ("good", (), 5)]
)
def test_a_policy_is_replanned_as_its_parent_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, flags: tuple[str, ...], replan: int
) -> None:
    out = tmp_path / "out"
    few = ("--suite", "libero_spatial", "--task-ids", "0", "--trials", "1", "--workers", "1", "--no-videos")
    code, _, _ = run(capsys, target, *few, "--out", str(out), *flags)
    assert code == 0
    assert json.loads((out / "plan.json").read_text())["replan"] == replan


@pytest.mark.usefixtures("fakes")
def test_json_is_the_summary_and_stands_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("imageio_ffmpeg", remedy="pip install '.[libero]'")
    out = tmp_path / "out"
    code, stdout, stderr = run(
        capsys, "good", "--baseline", "good", "--trials", "1", "--workers", "1", "--out", str(out), "--json"
    )
    assert code == 0
    summary = json.loads(stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["task_ids"] == [0, 3]
    assert summary["bytes"] == {"policy": 10, "baseline": 70}
    assert "[2/2]" in stderr
    for name in ("eval_info.json", "eval_info_baseline.json", "episodes.jsonl", "plan.json"):
        assert (out / name).exists()
    assert len(list((out / "videos").rglob("eval_episode_*.mp4"))) == 4


@pytest.mark.usefixtures("fakes")
def test_the_noise_floor_is_played_and_printed_beside_the_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--trials", "2", "--noise-seeds", "2", "--no-videos", "--out", str(tmp_path / "out"))
    code, stdout, stderr = run(capsys, "good", "--baseline", "good", *few, "--noise-floor")
    assert code == 0
    assert "episodes per policy: 8 (libero_spatial_0, libero_spatial_3; init states [0, 1]; noise seeds 2)" in stderr
    assert "noise floor (another noise seed)" in stdout
    assert "drop at most" in stdout
    assert "the float policy disagrees with itself in" in stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["noise_floor"]["episodes"] == 8
    before = (tmp_path / "out" / "episodes.jsonl").read_bytes()
    assert run(capsys, "good", "--baseline", "good", *few, "--noise-floor")[0] == 0
    assert (tmp_path / "out" / "episodes.jsonl").read_bytes() == before


@pytest.mark.usefixtures("fakes")
def test_a_noise_floor_without_a_baseline_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, stderr = run(capsys, "good", "--trials", "1", "--out", str(tmp_path / "out"), "--noise-floor")
    assert code == 2
    assert "give --baseline" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("fps", ["7", "40", "0", "nan"])
def test_a_rate_that_whole_steps_do_not_make_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fps: str
) -> None:
    code, _, stderr = run(capsys, "good", "--trials", "1", "--out", str(tmp_path / "out"), "--video-fps", fps)
    assert code == 2
    assert f"--video-fps {fps}: a video has a picture of every step (20 a second)" in " ".join(stderr.split())


@pytest.mark.usefixtures("fakes")
def test_a_policy_alone_is_told_which_flag_compares_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = run(capsys, "good", "--trials", "1", "--workers", "1", "--out", str(tmp_path / "out"))
    assert code == 0
    assert "evaluated alone; --baseline compares it" in stdout


@pytest.mark.usefixtures("fakes")
def test_a_baseline_that_never_succeeds_is_exit_1_and_never_no_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = run(
        capsys, "good", "--baseline", "bad", "--trials", "2", "--out", str(tmp_path / "out"), "--no-videos"
    )
    assert code == 1
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["verdict"] == "baseline_failed"
    assert "no drop" not in stdout
    assert "check its checkpoint, --config and --norm-stats" in stderr


@pytest.mark.usefixtures("fakes")
def test_another_plan_in_the_folder_is_exit_2_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("good", "--out", str(tmp_path / "out"), "--no-videos")
    assert run(capsys, *arguments, "--trials", "1")[0] == 0
    before = (tmp_path / "out" / "episodes.jsonl").read_bytes()
    code, _, stderr = run(capsys, *arguments, "--trials", "2")
    assert code == 2
    assert "init_states: [0] there, [0, 1] here" in stderr
    assert (tmp_path / "out" / "episodes.jsonl").read_bytes() == before


@pytest.mark.parametrize("stray", [False, True])
def test_libero_missing_or_another_is_exit_2_with_what_to_type_before_anything_starts(
    stray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fakes: Any
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(contender_module, "contender", lambda *_, **__: pytest.fail("the policy was opened"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    entry = tmp_path / "third_party"
    if stray:
        libero_installed.stray(entry / "libero")
        monkeypatch.setenv("PYTHONPATH", str(entry))
        monkeypatch.syspath_prepend(str(entry))
        monkeypatch.delitem(sys.modules, "libero", raising=False)
    else:
        monkeypatch.setattr(distribution, "find", lambda: None)
    code, _, stderr = run(capsys, "tiny-libero", "--suite", "libero_spatial", "--out", str(tmp_path / "out"))
    assert code == 2
    assert (f"take {entry} off PYTHONPATH" if stray else "pip install '.[libero]'") in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fakes")
def test_episodes_of_two_simulators_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("good", "--out", str(tmp_path / "out"), "--no-videos", "--trials", "1")
    assert run(capsys, *arguments)[0] == 0
    monkeypatch.setattr(suites, "simulator", lambda: "fake 2")
    code, _, stderr = run(capsys, *arguments)
    assert code == 2
    assert "simulator: 'fake 1' there, 'fake 2' here" in stderr


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("version", "told"), [("3.2.3", False), ("3.8.1", True), ("3.10.0", True), ("4.0.0rc1", True)])
def test_a_mujoco_with_other_scenes_is_said(
    version: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "mujoco_version", lambda: version)
    code, _, stderr = run(capsys, "good", "--out", str(tmp_path / "out"), "--no-videos", "--trials", "1")
    assert code == 0
    assert (f"MuJoCo {version} shows and moves some scenes differently from 3.2.3" in stderr) == told


FEW = ("--suite", "libero_spatial", "--task-ids", "0", "--trials", "1", "--workers", "1", "--no-videos")


@pytest.mark.usefixtures("fakes")
def test_a_clock_is_frozen_in_the_plan_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", str(tmp_path / "out"))
    late = ("--mode", "async", "--latency", "60ms")
    code, stdout, stderr = run(capsys, "good", *FEW, *out, *late)
    assert code == 0
    said = "clock: async, 2 control steps late (100 ms at 20 Hz)"
    assert said in stderr
    assert f"{said}. policy held still for" in " ".join(stdout.split())
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["clock"] == {"mode": "async", "latency": 2, "control_hz": 20.0}
    assert run(capsys, "good", *FEW, *out, "--mode", "async", "--latency", "2steps")[0] == 0
    code, _, stderr = run(capsys, "good", *FEW, *out)
    assert code == 2
    assert "clock mode: 'async' there, 'sync-free' here" in stderr


@pytest.mark.usefixtures("fakes")
def test_a_measured_latency_is_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("good", *FEW, "--out", str(tmp_path / "out"), "--mode", "wait", "--latency", "measured")
    first, again = (run(capsys, *arguments) for _ in range(2))
    assert first[0] == again[0] == 0
    assert "measuring its latency" in first[2]
    assert "measuring its latency" not in again[2]
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["clock"]["measured_ms"].keys() == {"policy"}


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--latency", "80ms"), "--latency 80ms does nothing while time stands still: give --mode wait"),
        (("--mode", "async"), "--mode async needs to know how late a chunk is: give --latency 80ms"),
        (("--mode", "wait", "--latency", "fast"), "--latency fast is no latency"),
        (("--mode", "wait", "--latency", "1steps", "--control-hz", "-1"), "--control-hz -1"),
        (("--mode", "rtc", "--latency", "2steps"), "cannot continue its last chunk, as --mode rtc asks"),
        (("--mode", "rtc", "--latency", "2steps", "--guidance", "trained"), "asks; give --guidance lerobot"),
        (("--mode", "async", "--latency", "2steps", "--execution-horizon", "5"), "--execution-horizon 5 is for --mode"),
        (("--mode", "wait", "--latency", "measured", "--shard", "1/2"), "measure it in a run without --shard"),
    ],
)
def test_half_of_a_clock_is_exit_2_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    code, _, stderr = run(capsys, "good", *FEW, "--out", str(tmp_path / "out"), *flags)
    assert code == 2
    assert said in " ".join(stderr.split())


@pytest.fixture
def moving(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    simulators = importlib.import_module("simulators")
    monkeypatch.setattr(run_module, "evaluate", functools.partial(run_module.evaluate.func, factory=simulators.fleeing))

    def require(tasks: Any) -> None:
        if ("libero_spatial", 4) in tasks:
            raise InputError("nothing stands on the table in task 4: give `task_ids=0,1`")

    monkeypatch.setattr(drift_module, "require_drifting", require)


@pytest.mark.usefixtures("moving")
def test_a_moving_target_is_frozen_in_the_plan_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", str(tmp_path / "out"))
    code, stdout, stderr = run(capsys, "good", *FEW, *out, "--drift", "0.05")
    assert code == 0
    said = "moving target: the object to pick up drifts at 0.05 m/s"
    assert said in stderr
    assert said in " ".join(stdout.split())
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["drift"] == 0.05
    assert run(capsys, "good", *FEW, *out, "--drift", "0.05")[0] == 0
    code, _, stderr = run(capsys, "good", *FEW, *out)
    assert code == 2
    assert "drift: 0.05 there, 0.0 here" in stderr


@pytest.mark.usefixtures("moving")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--drift", "-1"), "--drift -1: meters a second, from 0"),
        (("--drift", "0.1", "--task-ids", "4"), "nothing stands on the table in task 4: give --task-ids 0,1"),
    ],
)
def test_a_target_that_cannot_move_is_exit_2_before_anybody_plays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    few = ("--suite", "libero_spatial", "--trials", "1", "--no-videos", "--out", str(tmp_path / "out"))
    code, _, stderr = run(capsys, "good", *few, *flags)
    assert code == 2
    assert said in " ".join(stderr.split())
    assert not (tmp_path / "out" / "plan.json").exists()
