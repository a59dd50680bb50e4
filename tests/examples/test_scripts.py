"""The guide's four scripts: the variables they export, what they pass on, and the question before the largest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    for switch in ("OPENPI_DISABLE_TORCH_COMPILE", "TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):
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
