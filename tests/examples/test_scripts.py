"""The guide's four scripts: the variables they export, what they pass on, and the question before the largest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlapack.policy.compiling import SWITCHES
from vlapack.recipe.environment import OPTIONS, VARIABLES

LIBERO = Path(__file__).parents[2] / "examples" / "libero"
EXPERT = "paligemma_with_expert.gemma_expert.model."

SCRIPTS = {
    "run_simple_w4a8.sh": (EXPERT, "0", "0", "duquant_packed_w4a8_simple"),
    "run_optimized_duquant.sh": (EXPERT, "1", "restore", "duquant_packed_b16_p1_rrestore_a999"),
    "run_llm_w4a8.sh": (
        "paligemma_with_expert.paligemma.language_model.",
        "1",
        "restore",
        "duquant_packed_llm_w4a8",
    ),
    "run_full_quantize.sh": ("paligemma_with_expert.", "1", "restore", "duquant_packed_full_w4a8"),
}


def run(
    tmp_path: Path, script: str, *arguments: str, answer: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with an interpreter that prints what it was given instead of evaluating."""
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n")
    fake.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENPI_", "TORCH"))}
    kept.pop("CKPT", None)
    return subprocess.run(
        ["bash", str(LIBERO / script), *arguments],
        input=answer,
        env={**kept, "PYTHON": str(fake), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_exports_are_the_guides(tmp_path: Path, script: str) -> None:
    scope, permute, row_rot, packdir = SCRIPTS[script]
    result = run(tmp_path, script, answer="y\n")
    assert result.returncode == 0, result.stderr
    _, environ = json.loads(result.stdout)
    prefix = "OPENPI_DUQUANT_"
    assert {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix)} == {
        "SCOPE": scope,
        "WBITS_DEFAULT": "4",
        "ABITS": "8",
        "BLOCK": "16",
        "PERMUTE": permute,
        "ROW_ROT": row_rot,
        "ACT_PCT": "99.9",
        "CALIB_STEPS": "32",
        "LS": "0.15",
        "PACKDIR": packdir,
    }
    for switch in SWITCHES:
        assert environ[switch] == "1"


def test_without_a_checkpoint_the_shipped_policy_is_taken(tmp_path: Path) -> None:
    arguments, _ = json.loads(run(tmp_path, "run_llm_w4a8.sh").stdout)
    assert arguments[arguments.index("--args.policy-dir") + 1] == "tiny-libero"
    assert arguments[arguments.index("--args.policy-config") + 1] == "tiny_libero"


def test_a_checkpoint_with_spaces_and_the_callers_flags_arrive_whole_and_last(tmp_path: Path) -> None:
    result = run(tmp_path, "run_llm_w4a8.sh", "--args.task-ids", "0, 3", CKPT="my checkpoints/pi05")
    arguments, _ = json.loads(result.stdout)
    assert arguments[arguments.index("--args.policy-dir") + 1] == "my checkpoints/pi05"
    assert arguments[arguments.index("--args.policy-config") + 1] == "pi05_libero"
    assert arguments[-2:] == ["--args.task-ids", "0, 3"]


OTHER = {
    "SCOPE": "paligemma_with_expert.paligemma.model.vision_tower.",
    "WBITS_DEFAULT": "8",
    "ABITS": "16",
    "BLOCK": "32",
    "PERMUTE": "2",
    "ROW_ROT": "none of these",
    "ACT_PCT": "95",
    "CALIB_STEPS": "16",
    "LS": "0",
    "PACKDIR": "my packs/first",
    "EXCLUDE": "",
    "INCLUDE": ".*(fc1|fc2).*$",
    "LAYERS": "a,b",
    "WBITS": r"layers\.0\.:16",
    "BLOCK_OUT": "8",
    "DEBUG": "1",
    "DRYRUN": "1",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_variable_that_is_exported_wins_and_is_said(tmp_path: Path, script: str) -> None:
    assert set(OTHER) == {*VARIABLES, *OPTIONS}
    exported = {f"OPENPI_DUQUANT_{name}": value for name, value in OTHER.items()} | dict.fromkeys(SWITCHES, "0")
    result = run(tmp_path, script, **exported)
    assert result.returncode == 0, result.stderr
    _, environ = json.loads(result.stdout)
    assert {name: environ[name] for name in exported} == exported
    for name, value in exported.items():
        assert f"{name}={value}: as you exported it (this script: " in result.stderr


def test_one_variable_changes_no_other_and_the_folder_is_said(tmp_path: Path) -> None:
    result = run(tmp_path, "run_llm_w4a8.sh", OPENPI_DUQUANT_WBITS_DEFAULT="8")
    _, environ = json.loads(result.stdout)
    assert (environ["OPENPI_DUQUANT_WBITS_DEFAULT"], environ["OPENPI_DUQUANT_ABITS"]) == ("8", "8")
    assert result.stderr.splitlines() == [
        "OPENPI_DUQUANT_WBITS_DEFAULT=8: as you exported it (this script: 4)",
        "the pack still goes to duquant_packed_llm_w4a8; export OPENPI_DUQUANT_PACKDIR for a folder of its own",
    ]


def test_the_scripts_own_values_are_not_said(tmp_path: Path) -> None:
    assert run(tmp_path, "run_llm_w4a8.sh", OPENPI_DUQUANT_WBITS_DEFAULT="4", TORCHDYNAMO_DISABLE="1").stderr == ""


def test_unsetting_the_three_switches_in_a_script_compiles_as_the_guide_says(tmp_path: Path) -> None:
    scripts = Path(shutil.copytree(LIBERO, tmp_path / "libero"))
    script = scripts / "run_llm_w4a8.sh"
    text = script.read_text()
    for switch in SWITCHES:
        assert f"export {switch}=1\n" in text
        text = text.replace(f"export {switch}=1\n", f"unset {switch}\n")
    script.write_text(text)
    arguments, environ = json.loads(run(tmp_path, str(script)).stdout)
    assert "--args.compile" in arguments
    assert not set(SWITCHES) & set(environ)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_first_script_alone_measures_the_baseline_unless_told_not_to(tmp_path: Path, script: str) -> None:
    arguments, _ = json.loads(run(tmp_path, script, "--args.no-baseline", answer="y\n").stdout)
    assert ("--args.baseline" in arguments) == (script == "run_simple_w4a8.sh")
    assert arguments[-1] == "--args.no-baseline"


@pytest.mark.parametrize("answer", ["y\n", "yes\n", "yes", "YES\nn\n"])
def test_yes_goes_on(tmp_path: Path, answer: str) -> None:
    assert run(tmp_path, "run_full_quantize.sh", answer=answer).returncode == 0


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yep\n", " maybe\n", "n\ny\n"])
def test_anything_else_refuses_with_exit_2(tmp_path: Path, answer: str) -> None:
    result = run(tmp_path, "run_full_quantize.sh", answer=answer)
    assert (result.returncode, result.stdout) == (2, "")
    assert "nothing was done" in result.stderr


def test_yes_flag_asks_nothing_and_stays_with_the_script(tmp_path: Path) -> None:
    result = run(tmp_path, "run_full_quantize.sh", "--yes", "--args.seed", "3")
    assert result.returncode == 0
    assert "[y/N]" not in result.stderr
    arguments, _ = json.loads(result.stdout)
    assert "--yes" not in arguments
    assert arguments[-2:] == ["--args.seed", "3"]


def test_a_dry_run_of_the_largest_asks_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "run_full_quantize.sh", OPENPI_DUQUANT_DRYRUN="1")
    assert result.returncode == 0, result.stderr
    assert "[y/N]" not in result.stderr
    assert run(tmp_path, "run_full_quantize.sh", OPENPI_DUQUANT_DRYRUN="0").returncode == 2


def test_the_guides_advice_of_sixteen_bit_activations_works(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENPI_", "TORCH"))}
    environ = {"PYTHON": sys.executable, "OPENPI_DUQUANT_ABITS": "16", "OPENPI_DUQUANT_DRYRUN": "1"}
    result = subprocess.run(
        ["bash", str(LIBERO / "run_llm_w4a8.sh")],
        env={**kept, **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "OPENPI_DUQUANT_ACT_PCT is not used: 16-bit activations have no scale" in result.stdout
    assert "act_scale = per_token" in result.stdout
