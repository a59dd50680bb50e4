"""Folders that hold policies, each opened as one Checkpoint."""

from __future__ import annotations

from pathlib import Path

from vlapack.checkpoints.assets import REPOSITORY
from vlapack.checkpoints.base import Checkpoint, read_json
from vlapack.checkpoints.configs import POLICIES, refuse_fast
from vlapack.checkpoints.lerobot import TYPES, open_lerobot
from vlapack.checkpoints.openpi import CONFIG_FILE, open_openpi
from vlapack.checkpoints.orbax import open_orbax, params_folder
from vlapack.checkpoints.weights import SHARD_INDEX_FILE, WEIGHTS_FILE
from vlapack.errors import InputError

SHIPPED = {"tiny-libero": Path(__file__).parent.parent / "assets" / "tiny-libero"}


def open_checkpoint(
    target: str | Path,
    *,
    config: str | Path | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> Checkpoint:
    """Open a float folder or a pack.

    Args:
        target: a folder, `tiny-libero`, the policy that comes with the package (a folder so called: ./tiny-libero), or
            a repository of Hugging Face's, `owner/name`.
        config: openpi's configuration name or a JSON file; needed where the folder does not say what it is.
        norm_stats: norm_stats.json or its folder, instead of the one in the folder.
        tokenizer: SentencePiece model, instead of the one that is found.

    Raises:
        InputError: nothing usable; the message says what was found and which setting helps.
    """
    folder = SHIPPED.get(str(target), Path(target))
    if not folder.exists() and str(target) in POLICIES:
        raise InputError(f"{target}: the name of a configuration, not of a folder; weights are needed here")
    if not folder.exists() and REPOSITORY.fullmatch(str(target)):
        from vlapack.checkpoints.hub import local_folder

        folder = local_folder(target)
    document = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    kind = document.get("type")
    if kind == "vlapack":
        settings = {"config": config, "norm_stats": norm_stats, "tokenizer": tokenizer}
        if given := [f"`{name}`" for name, value in settings.items() if value is not None]:
            raise InputError(f"{folder}: a pack holds its own configuration; drop {', '.join(given)}")
        from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint

        return PackedCheckpoint.open(folder)
    if kind is not None and kind not in TYPES:
        refuse_fast(str(kind), f"{folder}: type {kind!r}")
        raise InputError(
            f"{folder}: config.json says type {kind!r}; of LeRobot's policies, {' and '.join(TYPES)} are read"
        )
    if kind in TYPES:
        return open_lerobot(folder, document, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
    if (
        not any((folder / file).is_file() for file in (WEIGHTS_FILE, SHARD_INDEX_FILE))
        and params_folder(folder) is not None
    ):
        return open_orbax(folder, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
    return open_openpi(folder, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
