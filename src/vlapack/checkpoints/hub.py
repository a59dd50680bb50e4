"""Hugging Face's hub: policies by `owner/name`, and packs that go there with the terms they stand under.

`huggingface_hub` (extra `hub`) is asked only where something has to be fetched or sent; what its cache holds already is
read without it.
"""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path

from vlapack.checkpoints.assets import REPOSITORY, hub_snapshot
from vlapack.checkpoints.pack.card import CARD_FILE, GEMMA_NOTICE, NOTICE_FILE, is_gemma
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.errors import InputError, WorkError, install

FILES = ["*.json", "*.safetensors", "*.model", "assets/**", "params/**", CARD_FILE, NOTICE_FILE]


def local_folder(target: str | Path) -> Path:
    """Return the folder of a policy: a path as it is; of a repository, the snapshot in the cache, fetched if need be.

    Raises:
        InputError: a repository that is neither in the cache nor can be fetched.
    """
    path, repository = Path(target), str(target)
    if path.exists() or not REPOSITORY.fullmatch(repository):
        return path
    if (snapshot := hub_snapshot(repository)) is not None:
        return snapshot
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True", "ON"):
        raise InputError(
            f"{target}: no such folder, and no weights of it in Hugging Face's cache; HF_HUB_OFFLINE prevents fetching "
            "them: unset it, or give a folder"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"{target}: no such folder, and no weights of it in Hugging Face's cache; to fetch a "
            f"repository, {install('hub')}"
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{target}: no such folder, and it could not be downloaded from Hugging Face's hub: {error}"
        ) from error


def push_to_hub(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Add a policy packed by vlapack",
) -> str:
    """Send a pack to the hub; return the address of the commit.

    Args:
        folder: the pack.
        repo_id: `owner/name`; made if it does not exist.
        private: for a repository that is made.
        token: of the account; by default the one that `hf auth login` stored.
        revision: the branch.
        commit_message: of the commit.

    Raises:
        InputError: it is no whole pack, or lacks what its parent's licence asks for.
        WorkError: the hub refused.
    """
    require_publishable(folder)
    # Nothing else that lies in the folder, be it a link to a key.
    own = [escape(file.name) for file in PackedCheckpoint.open(folder).files]
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise InputError(f"sending to the hub needs huggingface_hub: {install('hub')}") from error
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        sent = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=own,
            revision=revision,
            commit_message=commit_message,
        )
    except (HfHubHTTPError, OSError) as error:
        raise WorkError(f"{repo_id}: the hub rejected {folder}: {error}") from error
    return str(sent.commit_url)


def require_publishable(folder: Path) -> None:
    """Refuse to publish what is no pack, or one of a Gemma-derived parent without its terms and the word "modified".

    Raises:
        InputError: it names the file and what it lacks.
    """
    policy = PackedCheckpoint.open(folder).config
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not text.startswith("---\n"):
        raise InputError(f"{card}: no model card with its header; quantize again, or copy the whole pack")
    if not is_gemma(policy):
        return
    notice = folder / NOTICE_FILE
    wanted = {
        card: ("license: gemma", *GEMMA_NOTICE.strip().splitlines()),
        notice: tuple(GEMMA_NOTICE.strip().splitlines()),
    }
    for file, lines in wanted.items():
        held = file.read_text(encoding="utf-8") if file.is_file() else ""
        for line in lines:
            if line not in held:
                raise InputError(
                    f"{file}: lacks {line!r}; the parent derives from Gemma, whose terms ask for it: quantize again, "
                    "or restore the line"
                )
