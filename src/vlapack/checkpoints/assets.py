"""What a policy's files are called, and where its tokenizer and statistics are looked for.

These are given, or lie in the folder, in openpi's cache or in Hugging Face's.

Nothing is downloaded. What is found is returned; what is missing becomes an error that lists the places.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from vlapack.documents import refuse_lfs_pointer
from vlapack.errors import InputError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SHARD_INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
PARAMS = "params"
TOKENIZER_FILE = "tokenizer.model"
NORM_STATS_FILE = "norm_stats.json"
PALIGEMMA_FILE = "paligemma_tokenizer.model"
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
IN_CACHE = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
HUB_PATTERN = "models--google--paligemma*/snapshots/*/tokenizer.model"


def _openpi_cache() -> Path:
    return Path(os.environ.get("OPENPI_DATA_HOME") or "~/.cache/openpi").expanduser()


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def hub_snapshot(repository: str, revision: str | None = None) -> Path | None:
    """Return a repository's snapshot in Hugging Face's cache, None where it has none.

    Other tools fetch a few files of a repository only: a snapshot without weights, or with some shards, does not count.

    Args:
        repository: `owner/name`.
        revision: a branch, tag or commit; None: what `main` was, else the newest.
    """
    folder = _hub_cache() / f"models--{repository.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    if reference.is_file():
        found = folder / "snapshots" / reference.read_text().strip()
    elif revision is not None:
        found = folder / "snapshots" / revision
    else:
        found = max(folder.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, default=folder)
    return found if _holds_weights(found) else None


def _holds_weights(snapshot: Path) -> bool:
    """Whether a snapshot holds all files of a policy's weights: its links may point to what was never fetched."""
    if any((snapshot / file).is_file() for file in (WEIGHTS_FILE, ADAPTER_FILE)):
        return True
    if (snapshot / SHARD_INDEX_FILE).is_file():
        try:
            shards = set(json.loads((snapshot / SHARD_INDEX_FILE).read_bytes())["weight_map"].values())
        except (ValueError, LookupError, AttributeError, TypeError):
            return True  # opening it says what is wrong with the index
        return all((snapshot / str(shard)).is_file() for shard in shards)
    return any(path.is_file() for path in (snapshot / PARAMS).rglob("*"))


def repository_of(folder: Path) -> str | None:
    """Return the repository that a folder in the cache is a snapshot of; None for any other folder."""
    found = IN_CACHE.search(folder.absolute().as_posix())
    return None if found is None else f"{found['owner']}/{found['name']}"


def _tokenizer_places(folder: Path) -> list[Path]:
    openpi = _openpi_cache() / "big_vision" / PALIGEMMA_FILE
    # LeRobot after 0.6 saves the tokenizer step's files in a folder of their own.
    own = [folder / TOKENIZER_FILE, folder / PALIGEMMA_FILE, folder / "tokenizer" / TOKENIZER_FILE]
    return [*own, openpi, *sorted(_hub_cache().glob(HUB_PATTERN))]


def find_tokenizer(folder: Path, given: Path | None) -> Path | None:
    """The SentencePiece model that belongs to `folder`; `given` goes before every search.

    Raises:
        InputError: `given` does not exist, or what is found is a git-lfs pointer.
    """
    if given is not None:
        if not given.is_file():
            raise InputError(
                f"`tokenizer={str(given)!r}`: no such file; it names a SentencePiece model (tokenizer.model)"
            )
        found: Path | None = given
    else:
        found = next((place for place in _tokenizer_places(folder) if place.is_file()), None)
    if found is not None:
        refuse_lfs_pointer(found)
    return found


def missing_tokenizer(folder: Path) -> InputError:
    """The error of a policy that needs a tokenizer and has none."""
    hub = _hub_cache() / HUB_PATTERN
    places = [*_tokenizer_places(folder), hub]
    return InputError(
        f"{folder}: no tokenizer. Searched {', '.join(map(str, dict.fromkeys(places)))}. Give `tokenizer=PATH`; "
        "π0's and π0.5's is PaliGemma's (gs://big_vision/paligemma_tokenizer.model), which Gemma's terms do not let "
        "us ship"
    )


def _norm_stats_places(folder: Path, asset_id: str | None) -> list[Path]:
    named = [folder / "assets" / asset_id / NORM_STATS_FILE] if asset_id else []
    return [*named, folder / NORM_STATS_FILE]


def asset_ids(folder: Path) -> list[str]:
    """The asset ids for which the folder holds statistics."""
    assets = folder / "assets"
    return sorted(path.parent.relative_to(assets).as_posix() for path in assets.rglob(NORM_STATS_FILE))


def find_norm_stats(folder: Path, asset_id: str | None, given: Path | None) -> Path | None:
    """The norm_stats.json that belongs to `folder`; `given` (the file or its folder) goes first.

    Raises:
        InputError: `given` does not exist.
    """
    if given is not None:
        path = given / NORM_STATS_FILE if given.is_dir() else given
        if not path.is_file():
            raise InputError(
                f"`norm_stats={str(given)!r}`: no such file; it names openpi's norm_stats.json or its folder"
            )
        return path
    return next((place for place in _norm_stats_places(folder, asset_id) if place.is_file()), None)


def missing_norm_stats(folder: Path, asset_id: str | None) -> InputError:
    """The error of a policy that needs statistics and has none."""
    places = ", ".join(map(str, _norm_stats_places(folder, asset_id)))
    others = asset_ids(folder)
    held = f" The folder holds statistics for {', '.join(others)}: is another `config` meant?" if others else ""
    return InputError(
        f"{folder}: no normalization statistics for asset id {asset_id!r}. Searched {places}.{held} "
        "Give `norm_stats=PATH` (openpi's checkpoints keep it in assets/<asset id>/norm_stats.json)"
    )
