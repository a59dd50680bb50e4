"""What `inspect` prints is the contract that scripts and the guide's readers rely on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vlapack.cli import main
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.names import openpi_tensors
from vlapack.recipe.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs" / "presets.md"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCOPE", "DEBUG", "BLOCK", "PERMUTE", "ROW_ROT"):
        monkeypatch.delenv(f"OPENPI_DUQUANT_{name}", raising=False)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json"]) == 0
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


def test_full_keeps_the_json_contract(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "pi05_libero", "--preset", "full")
    assert list(found) == ["target", "preset", "recipe", "sources", "layers", "counts", "bytes", "notes"]
    assert found["counts"] == {"vision": 162, "projector": 1, "llm": 126, "expert": 126, "other": 0}
    assert set(found["bytes"]) == {"before", "after", "saved_fraction", "file", "held", "mapped"}
    layer = found["layers"][0]
    keys = "name part in_features out_features weight_bits act_bits block permute row_rot bytes_before bytes_after"
    assert set(keys.split()) <= set(layer)
    assert len(found["layers"]) == 415
    assert found["sources"]["block"] == "preset full"
    notes = " ".join(found["notes"])
    for truth in ("K = 4304", "64 → 16", "never calls 5 layers: 5 of them", "526.65 MB of vocabulary heads"):
        assert truth in notes
    assert "guide" not in notes


@pytest.mark.parametrize("name", PRESETS)
def test_the_docs_say_of_every_preset_what_inspect_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    found = document(capsys, "pi05_libero", "--preset", name)["bytes"]
    assert row.endswith(f"| {100 * found['saved_fraction']:.1f} % | {found['held'] / 1e9:.2f} GB |")


def test_a_reason_that_differs_by_the_layers_number_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    notes = document(capsys, "pi05_libero", "--preset", "llm")["notes"]
    (note,) = [note for note in notes if "for llm o_proj" in note]
    assert note.startswith("computed at run time for llm o_proj (17 ×): ")
    assert "gemma_expert.model.layers.*.self_attn.v_proj" in note


def test_no_name_is_folded_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "pi05_libero", "--preset", "dit", "--layers"]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("│") and "self_attn.q_proj" in line]
    assert len(rows) == 18
    assert "\n126 layers\n" in shown


def test_a_source_on_the_command_line_is_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pi05_libero", "--preset", "full", "--block", "32", "--weight-overrides", "fc2:8")
    sources = document(capsys, *words)["sources"]
    assert (sources["block"], sources["overrides"], sources["scope"]) == (
        "--block",
        "--weight-overrides",
        "preset full",
    )
    assert main(["inspect", *words]) == 0
    assert "--block: block = 32" in capsys.readouterr().out


def test_the_guides_variables_reach_the_recipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENPI_DUQUANT_SCOPE", "paligemma_with_expert.paligemma.language_model.")
    found = document(capsys, "pi05_libero")
    assert found["counts"]["llm"] == 126
    assert found["bytes"]["saved_fraction"] == pytest.approx(0.387, abs=0.004)
    assert found["sources"]["scope"] == "OPENPI_DUQUANT_SCOPE"
    assert found["preset"] is None
    notes = " ".join(found["notes"])
    for truth in ("108", "162", "360", "415", "414", "20 %", "6.0 %", "40 %", "60 %"):  # the guide's, and the true ones
        assert truth in notes


def test_tables_have_totals_and_rows_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "paligemma_with_expert.gemma_expert.model.layers.17.mlp.down_proj"
    assert main(["inspect", "pi05_libero", "--preset", "dit"]) == 0
    brief = capsys.readouterr().out
    assert brief.startswith("pi05_libero: bytes by part")
    assert "total" in brief
    assert "7473.0" in brief
    assert name not in brief
    assert main(["inspect", "pi05_libero", "--preset", "dit", "--layers"]) == 0
    assert name in capsys.readouterr().out
    monkeypatch.setenv("OPENPI_DUQUANT_DEBUG", "1")
    assert main(["inspect", "pi05_libero", "--preset", "dit"]) == 0
    assert name in capsys.readouterr().out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {
        name: torch.zeros(shape, dtype=torch.float32) for name, (shape, _) in openpi_tensors(CONFIGS["tiny"]).items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_of_a_folder_the_headers_count(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    found = document(capsys, str(folder), "--config", "tiny_libero", "--preset", "full")
    assert found["counts"] == {"vision": 24, "projector": 1, "llm": 28, "expert": 28, "other": 0}
    weights = (folder / "model.safetensors").stat().st_size
    assert found["bytes"]["before"] == pytest.approx(weights, rel=0.01)
    assert found["bytes"]["after"] < found["bytes"]["before"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pi05_libro", "--preset", "full"], "pi05_libero"),
        (["no/such/folder", "--preset", "full"], "no folder"),
        (["pi05_libero"], "no recipe is named"),
        (["pi05_libero", "--preset", "fulll"], "did you mean 'full'"),
        (["pi05_libero", "--preset", "full", "--scope", "policy.dit."], "matches no linear"),
        (["pi05_libero", "--preset", "full", "--block", "3"], "power of two"),
    ],
)
def test_bad_input_is_exit_two_with_the_remedy(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["inspect", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_repository_in_the_cache_is_inspected_by_its_name(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(random_checkpoint, tmp_path / "models--someone--kitchen" / "snapshots" / "abc")
    assert main(["inspect", "someone/kitchen", "--preset", "dit"]) == 0
    assert "someone/kitchen: bytes by part" in capsys.readouterr().out
    assert main(["inspect", "someone/absent", "--preset", "dit"]) == 2
    assert "no weights of it in Hugging Face's cache" in capsys.readouterr().err


def test_a_mix_of_bits_is_named_with_its_layers_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = "language_model.*[kv]_proj:8,gemma_expert.*down_proj:4g32"
    found = document(capsys, "pi05_libero", "--preset", "full-w4", "--weight-overrides", mixed)
    plain = document(capsys, "pi05_libero", "--preset", "full-w4")
    (note,) = [note for note in found["notes"] if "throughout" in note]
    assert note.startswith(
        "W4/4g32/8A8: llm k_proj W8A8 (18 ×), llm v_proj W8A8 (18 ×), expert down_proj W4g32A8 (18 ×);"
    )
    more = found["bytes"]["held"] - plain["bytes"]["held"]
    assert f"{more / 1e6:+.1f} MB" in note
    assert not [note for note in plain["notes"] if "throughout" in note]


def test_an_engine_of_gpus_stands_in_no_ones_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for engine in ("triton", "reference"):
        monkeypatch.setenv("VLAPACK_ENGINE", engine)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        found.append(document(capsys, "tiny-libero", "--preset", "dit")["bytes"])
    assert found[0] == found[1]
