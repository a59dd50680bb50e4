"""Writing a checkpoint folder: under a temporary name, then renamed, so that no reader meets half of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from vlapack.checkpoints.assets import CONFIG_FILE, NORM_STATS_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.folder import FloatCheckpoint
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.checkpoints.tensorlayout import TensorSpec, write_tensors
from vlapack.checkpoints.weights import Weights
from vlapack.errors import InputError, WorkError
from vlapack.files import sync, sync_tree, write_json


def write_folder(
    path: Path,
    config: PolicyConfig,
    weights: Weights | Mapping[str, torch.Tensor],
    *,
    normalization: Normalization | None,
    tokenizer: Path | None,
) -> None:
    """Write an openpi folder that opens without `config`.

    Args:
        path: the folder to make.
        config: goes into config.json.
        weights: of a checkpoint, or tensors; under openpi's names.
        normalization: goes to assets/<asset id>/norm_stats.json.
        tokenizer: a SentencePiece model, goes to tokenizer.model.

    Raises:
        InputError: `path` exists.
        WorkError: the disk is full or cannot be written.
    """
    with new_folder(path) as folder:
        folder.mkdir(parents=True)
        if isinstance(weights, Mapping):
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
        elif isinstance(weights, TensorFile):
            shutil.copyfile(weights.path, folder / WEIGHTS_FILE)
        else:
            specs = [TensorSpec(name, weights.dtype(name), weights.shape(name)) for name in weights.names()]
            write_tensors(folder / WEIGHTS_FILE, specs, weights.read)
        write_json(folder / CONFIG_FILE, {"policy_config": config.to_dict()})
        if normalization is not None:
            place = folder / "assets" / config.asset_id if config.asset_id else folder
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / NORM_STATS_FILE, normalization.to_dict())
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)


def copy_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Copy a checkpoint, so that the copy opens by itself.

    A float folder becomes one of openpi's, whatever it was, and takes its configuration, statistics and tokenizer
    along, wherever they were found; a pack holds all of them already, and its own files are copied: what else
    lies in its folder, or behind a link out of it, is not. Errors as in `write_folder`.
    """
    if isinstance(checkpoint, FloatCheckpoint):
        write_folder(
            path,
            checkpoint.config,
            checkpoint.weights,
            normalization=checkpoint.normalization,
            tokenizer=checkpoint.tokenizer,
        )
        return
    assert isinstance(checkpoint, PackedCheckpoint)
    files = checkpoint.files
    with new_folder(path) as folder:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when all went well, and disappears when not."""
    if path.exists():
        raise InputError(f"{path}: exists already; name a new folder")
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        sync_tree(partial)
        partial.rename(path)
        sync(path.parent)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
