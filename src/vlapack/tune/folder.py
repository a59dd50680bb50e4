"""What a tuning has found out so far, kept in a folder, so that a kill costs one piece of work.

    plan.json           what this work is: hashes of policy, recipe and observations, and the versions that compute it
    NAME.safetensors    one finished piece each

The plan does not hold the budget: with the same folder, another budget begins where everything is measured already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from vlapack.checkpoints.pack.writer import PLAN_FILE
from vlapack.errors import InputError
from vlapack.files import full_disk_explained, try_lock, write_atomically
from vlapack.fingerprint import differences


class TuningFolder:
    """The folder of one tuning; a context manager that keeps other processes away.

    Args:
        folder: made if it is not there.
        plan: what decides the pieces (JSON).

    Raises:
        InputError: the folder holds the work of another plan, something else, or another process is at work in it.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Claim the folder."""
        self.folder = folder
        path = folder / PLAN_FILE
        if folder.exists() and not path.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} exists and holds no tuning; choose another folder for the work")
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, json.dumps(dict(plan), indent=1).encode())
        self._lock = path.open("rb")
        if not try_lock(self._lock):
            self._lock.close()
            raise InputError(f"another process is tuning in {folder}; wait for it, or choose another folder")
        if rows := differences(json.loads(path.read_text()), dict(plan)):
            self._lock.close()
            raise InputError(
                f"{folder} holds the work of another tuning ({'; '.join(rows)}); finish that one as it began, remove "
                "the folder, or choose another one"
            )

    def __enter__(self) -> TuningFolder:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let other processes in; what is finished stays."""
        self._lock.close()

    def has(self, name: str) -> bool:
        """Whether a piece is finished."""
        return self._path(name).exists()

    def load(self, name: str) -> dict[str, Tensor]:
        """Return a finished piece."""
        return load_file(self._path(name))

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a piece.

        Raises:
            WorkError: the disk is full.
        """
        path = self._path(name)
        with full_disk_explained(self.folder, self.folder):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, save({key: tensor.contiguous() for key, tensor in tensors.items()}))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
