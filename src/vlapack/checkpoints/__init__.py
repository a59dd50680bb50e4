"""Folders that hold policies, each opened as one Checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlapack.checkpoints.assets import CONFIG_FILE, REPOSITORY, SHARD_INDEX_FILE, WEIGHTS_FILE
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.configs import POLICIES, refuse_fast
from vlapack.checkpoints.lerobot import TYPES, open_lerobot
from vlapack.checkpoints.module import TYPE as MODULE_TYPE
from vlapack.checkpoints.openpi import open_openpi
from vlapack.checkpoints.orbax import open_orbax, params_folder
from vlapack.checkpoints.pack.config import TYPE as PACK_TYPE
from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.files import from_home

SHIPPED = {"tiny-libero": Path(__file__).parent.parent / "assets" / "tiny-libero"}


def open_checkpoint(
    target: str | Path,
    *,
    config: str | Path | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> Checkpoint:
    """Open a checkpoint folder or a pack; tensors are read later.

    openpi's PyTorch and JAX folders, LeRobot's folders, LoRA adapters and vlapack's packs open as they are.

    Args:
        target: a folder, `tiny-libero` (comes with the package; `./tiny-libero` is a folder of that name), or a Hugging
            Face repository, `owner/name`
        config: openpi's configuration name or a JSON file, if the folder does not say what it holds
        norm_stats: `norm_stats.json` or its folder, instead of the one in the checkpoint
        tokenizer: SentencePiece model, instead of the one that is found

    Returns:
        The opened checkpoint.

    Raises:
        InputError: the folder cannot be used; the message says what was found and which setting helps
    """
    folder, document = _found(target)
    settings = {"config": config, "norm_stats": norm_stats, "tokenizer": tokenizer}
    given = [f"`{name}`" for name, value in settings.items() if value is not None]
    if given and document.get("type") == PACK_TYPE:
        raise InputError(f"{folder}: a pack holds its own configuration; drop {', '.join(given)}")
    return _open(folder, document, config=config, norm_stats=norm_stats, tokenizer=tokenizer)


def open_with(
    target: str | Path,
    *,
    config: str | Path | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> Checkpoint:
    """Open a float folder with these, or a pack without them, so that one set serves a pack and its parent.

    Arguments and errors as in `open_checkpoint`, which refuses them for a pack.
    """
    return _open(*_found(target), config=config, norm_stats=norm_stats, tokenizer=tokenizer)


def _found(target: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder that a target means, and its `config.json`, empty where there is none."""
    folder = SHIPPED.get(str(target), from_home(str(target)))
    if not folder.exists() and str(target) in POLICIES:
        raise InputError(f"{target}: the name of a configuration, not of a folder; weights are needed here")
    if not folder.exists() and REPOSITORY.fullmatch(str(target)):
        from vlapack.checkpoints.hub import local_folder

        folder = local_folder(target)
    return folder, read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}


def _open(
    folder: Path,
    document: dict[str, Any],
    *,
    config: str | Path | None,
    norm_stats: Path | None,
    tokenizer: Path | None,
) -> Checkpoint:
    kind = document.get("type")
    if kind == PACK_TYPE:
        from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint

        return PackedCheckpoint.open(folder)
    if kind == MODULE_TYPE:
        raise InputError(
            f"{folder}: the state of a module, written by vlapack.save; build the module and call vlapack.load_"
        )
    if kind is not None and (not isinstance(kind, str) or kind not in TYPES):
        refuse_fast(str(kind), f"{folder}: type {kind!r}")
        raise InputError(
            f"{folder}: config.json says type {kind!r}; of LeRobot's policies, {' and '.join(TYPES)} are read"
        )
    if kind is not None:
        return open_lerobot(folder, document, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
    if (
        not any((folder / file).is_file() for file in (WEIGHTS_FILE, SHARD_INDEX_FILE))
        and params_folder(folder) is not None
    ):
        return open_orbax(folder, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
    return open_openpi(folder, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
