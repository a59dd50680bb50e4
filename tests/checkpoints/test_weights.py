"""Weights under other names or of other types: read as what they are, or refused by name, never taken for floats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.weights import SHARD_INDEX_FILE
from vlapack.errors import InputError
from vlapack.policy.policy import Policy

PALIGEMMA = "paligemma_with_expert.paligemma.model."
PATCHES = f"{PALIGEMMA}vision_tower.vision_model.embeddings"
ROTARY = f"{PALIGEMMA}language_model.rotary_emb.inv_freq"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10865448\n"

Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@pytest.fixture
def folder(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))


def changed(folder: Path, change: Change) -> Path:
    path = folder / "model.safetensors"
    save_file(dict(change(load_file(path))), path)
    return folder


def prefixed(prefix: str) -> Change:
    return lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def added(name: str, tensor: Tensor) -> Change:
    return lambda tensors: {**tensors, name: tensor}


def cast(dtype: torch.dtype) -> Change:
    return lambda tensors: {
        name: (tensor.float() * 100).to(dtype) if "layers.1.mlp.gate_proj" in name else tensor
        for name, tensor in tensors.items()
    }


def same_tensors(one: Checkpoint, other: Checkpoint) -> bool:
    return sorted(one.names()) == sorted(other.names()) and all(
        torch.equal(one.read(name), other.read(name)) for name in one.names()
    )


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.int8, "int8"),
        (torch.uint8, "uint8"),
        (torch.int64, "int64"),
        (torch.bool, "bool"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
    ],
)
def test_what_is_no_float_is_refused_by_name_before_anything_is_read(
    folder: Path, dtype: torch.dtype, stored: str
) -> None:
    with pytest.raises(InputError, match=rf"model.safetensors: .*gate_proj.weight is stored as {stored}\b.*: give the"):
        open_checkpoint(changed(folder, cast(dtype)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floats_are_read(folder: Path, dtype: torch.dtype) -> None:
    Policy.from_pretrained(changed(folder, cast(dtype)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_are_read_over_and_said(
    random_checkpoint: Path, folder: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert same_tensors(open_checkpoint(changed(folder, prefixed(prefix))), open_checkpoint(random_checkpoint))
    said = capsys.readouterr().err.replace("\n", " ")
    assert all(f"'{part}.'" in said for part in prefix.split(".")[:-1])


def test_a_part_that_alone_was_compiled_is_read(random_checkpoint: Path, folder: Path) -> None:
    inner = changed(
        folder,
        lambda tensors: {
            name.replace("gemma_expert.model.", "gemma_expert._orig_mod.model."): tensor
            for name, tensor in tensors.items()
        },
    )
    assert same_tensors(open_checkpoint(inner), open_checkpoint(random_checkpoint))


def test_a_tensor_with_and_without_a_wrappers_prefix_is_refused(folder: Path) -> None:
    both = changed(folder, lambda tensors: {**tensors, "module.time_mlp_in.bias": torch.zeros(32)})
    with pytest.raises(
        InputError,
        match=r"time_mlp_in.bias are the same .* with and without a prefix; save one network's state_dict only",
    ):
        open_checkpoint(both)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("model.", r"begin with 'model\.'; LeRobot's folders have that, .*: copy those beside the weights"),
        ("policy.net.", r"begin with 'policy\.net\.'; save them without it"),
    ],
)
def test_other_prefixes_are_named(folder: Path, prefix: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_checkpoint(changed(folder, prefixed(prefix)))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (f"{PATCHES}.position_ids", torch.arange(4)[None]),
        (ROTARY, 10_000.0 ** (-torch.arange(8) / 8)),
        (ROTARY, (10_000.0 ** (-torch.arange(8) / 8)).bfloat16()),
        (
            "paligemma_with_expert.gemma_expert.model.layers.0.self_attn.rotary_emb.inv_freq",
            10_000.0 ** (-torch.arange(8) / 8),
        ),
        ("paligemma_with_expert.gemma_expert.model.embed_tokens.weight", torch.randn(512, 32)),
    ],
)
def test_buffers_that_mean_nothing_are_ignored_with_a_word(
    random_checkpoint: Path, folder: Path, name: str, tensor: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert same_tensors(open_checkpoint(changed(folder, added(name, tensor))), open_checkpoint(random_checkpoint))
    said = capsys.readouterr().err.strip()
    assert f"ignored {name} (" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "tensor"),
    [(f"{PATCHES}.position_ids", torch.arange(4).flip(0)[None]), (ROTARY, 1e6 ** (-torch.arange(8) / 8))],
)
def test_buffers_of_another_network_are_refused(folder: Path, name: str, tensor: Tensor) -> None:
    with pytest.raises(InputError, match=f"{name} is not as usual"):
        open_checkpoint(changed(folder, added(name, tensor)))


def test_any_other_tensor_is_still_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no place for 1 tensor: .*memory\.weight"):
        open_checkpoint(changed(folder, added("memory.weight", torch.zeros(2))))


@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.model", "assets/small/norm_stats.json", "config.json"]
)
def test_a_git_lfs_pointer_is_called_one(folder: Path, file: str) -> None:
    (folder / file).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{file}: a git-lfs pointer, .*`git lfs pull`"):
        open_checkpoint(folder)


def test_a_shard_that_is_a_git_lfs_pointer_is_called_one(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "one.safetensors").write_text(POINTER)
    (folder / SHARD_INDEX_FILE).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "one.safetensors")}))
    with pytest.raises(InputError, match=r"one.safetensors: a git-lfs pointer"):
        open_checkpoint(folder)


def test_a_given_tokenizer_that_is_a_pointer_is_called_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "given.model").write_text(POINTER)
    with pytest.raises(InputError, match=r"given.model: a git-lfs pointer"):
        open_checkpoint(folder, tokenizer=tmp_path / "given.model")
