"""Opening folders: what they prove is checked, what nothing proves is asked for, what is none says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.configs import policy_config
from vlapack.errors import InputError, WorkError
from vlapack.pi0.names import openpi_tensors


@pytest.fixture
def folder(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to write into; its own config.json says what it is."""
    return Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def config_file(folder: Path, tmp_path: Path) -> Path:
    """The same configuration as a file; the folder itself says nothing any more."""
    document = json.loads((folder / "config.json").read_text())["policy_config"]
    (folder / "config.json").unlink()
    path = tmp_path / "small.json"
    path.write_text(json.dumps(document))
    return path


def changed(path: Path, **changes: Any) -> Path:
    document = json.loads(path.read_text())
    document["architecture"] |= changes
    path.write_text(json.dumps(document))
    return path


def test_a_folder_of_ours_opens_by_itself(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.name == "small"
    assert checkpoint.tokenizer == folder / "tokenizer.model"
    assert checkpoint.normalization is not None
    tensors = load_file(folder / "model.safetensors")
    assert sorted(checkpoint.names()) == sorted(tensors)
    for name in ("action_in_proj.weight", "time_mlp_in.bias"):
        assert torch.equal(checkpoint.read(name), tensors[name])
        assert (checkpoint.shape(name), checkpoint.dtype(name)) == (tuple(tensors[name].shape), tensors[name].dtype)


def test_a_folder_that_says_nothing_asks_for_the_configuration(folder: Path, config_file: Path) -> None:
    with pytest.raises(InputError, match=r"action_horizon.*`config=NAME`.*variant pi05 with action_dim 32"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, config=config_file).config.name == "small"


def test_the_likely_name_is_said(tmp_path: Path) -> None:
    shapes = openpi_tensors(policy_config("tiny_libero").architecture)
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, (shape, _) in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="likely `config='tiny_libero'`"):
        open_checkpoint(tmp_path)


def test_another_variant_contradicts_the_weights(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"pi0_libero has variant pi0, but time_mlp_in in model.safetensors proves pi05"
    ):
        open_checkpoint(folder, config="pi0_libero")


def test_other_sizes_contradict_the_weights(folder: Path, config_file: Path) -> None:
    with pytest.raises(InputError, match=r"action_dim 7, but model.safetensors proves 32"):
        open_checkpoint(folder, config=changed(config_file, action_dim=7))
    with pytest.raises(InputError, match=r"shapes; the first is .*\[512, \d+\] instead of \[600, "):
        open_checkpoint(folder, config=changed(config_file, action_dim=32, vocab_size=600))


def test_the_converters_horizon_is_a_proof(folder: Path, config_file: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"action_dim": 32, "action_horizon": 50}))
    with pytest.raises(InputError, match=r"action_horizon 4, but config\.json proves 50"):
        open_checkpoint(folder, config=config_file)


def test_both_spellings_of_paligemma_are_checked(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name.replace("paligemma.model.", "paligemma."): value for name, value in load_file(path).items()}
    save_file(tensors, path)
    assert open_checkpoint(folder).config.name == "small"
    name = next(name for name in tensors if "vision_tower" in name and name.endswith("q_proj.weight"))
    save_file(tensors | {name: torch.zeros(3, 5)}, path)
    with pytest.raises(InputError, match=r"1 of the tensors do not have .*q_proj.weight: \[3, 5\]"):
        open_checkpoint(folder)


def test_a_truncated_checkpoint_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.bin", "pytorch_model.bin, a pickle"),
        ("model.pt", "model.pt, a pickle"),
        ("notes.txt", r"no model.safetensors; the folder holds \['notes.txt'\]"),
    ],
)
def test_other_kinds_of_weights_are_refused_with_a_way_on(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path, config="pi05_libero")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lm_head.weight"], "neither time_mlp_in"),
        (["time_mlp_in.weight"], r"lacks action_in_proj\.weight"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path, config="pi05_libero")


@pytest.mark.parametrize(("kind", "message"), [("act", "'act'; of LeRobot's policies"), ("pi0_fast", "π0-FAST")])
def test_lerobots_other_policies_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"type": kind}))
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)


def test_targets_that_are_no_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the name of a configuration"):
        open_checkpoint("pi05_libero")


def test_given_files_go_before_the_folders_and_must_exist(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(folder / "tokenizer.model", tmp_path / "other.model"))
    stats = folder / "assets" / "small"
    checkpoint = open_checkpoint(folder, tokenizer=other, norm_stats=stats)
    assert checkpoint.tokenizer == other
    with pytest.raises(InputError, match=r"`tokenizer='.*absent.model'`: no such file"):
        open_checkpoint(folder, tokenizer=tmp_path / "absent.model")
    with pytest.raises(InputError, match=r"`norm_stats='.*'`: no such file"):
        open_checkpoint(folder, norm_stats=tmp_path)


def test_the_tokenizer_is_found_in_openpis_cache_and_then_in_hfs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (folder / "tokenizer.model").unlink()
    assert open_checkpoint(folder).tokenizer is None
    places = [
        tmp_path / "hub/models--google--paligemma-3b-pt-224/snapshots/abc/tokenizer.model",
        tmp_path / "data/big_vision/paligemma_tokenizer.model",
    ]
    for place in places:
        place.parent.mkdir(parents=True)
        place.touch()
        assert open_checkpoint(folder).tokenizer == place


def test_a_failed_copy_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlapack.checkpoints import write

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.shutil, "copyfile", full)
    with pytest.raises(WorkError, match=r"copy: cannot be written: No space left on device"):
        write.copy_checkpoint(open_checkpoint(folder), tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]
