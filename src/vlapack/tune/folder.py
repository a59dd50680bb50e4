"""What a tuning has found out so far, kept in a folder, so that a kill costs one piece of work.

    vlapack.lock        locked by the process that works here (files.claimed)
    plan.json           what this work is: hashes of policy, recipe and observations, and what computes it
    NAME.safetensors    one finished piece each

The plan does not hold the budget: with the same folder, another budget begins where everything is measured already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from vlapack.checkpoints.pack.writer import PLAN_FILE
from vlapack.errors import InputError
from vlapack.files import LOCK_FILE, claimed, full_disk_explained, write_atomically
from vlapack.fingerprint import taken_up


class TuningFolder:
    """The folder of one tuning; a context manager that keeps other processes away.

    Args:
        folder: made if it is not there.
        plan: what decides the pieces (JSON); see `fingerprint.taken_up`.

    Attributes:
        plan: the plan of this work, as it was begun.

    Raises:
        InputError: the folder holds the work of another plan, something else, or another process is at work in it.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Claim the folder."""
        self.folder = folder
        path = folder / PLAN_FILE
        if folder.exists() and not path.exists() and any(found.name != LOCK_FILE for found in folder.iterdir()):
            raise InputError(f"{folder} exists and holds no tuning; choose another folder for the work")
        with ExitStack() as held:
            held.enter_context(claimed(folder))
            self.plan = self._agreed(path, dict(plan))
            self._held = held.pop_all()

    def __enter__(self) -> TuningFolder:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let other processes in; what is finished stays."""
        self._held.close()

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

    def _agreed(self, path: Path, plan: dict[str, Any]) -> dict[str, Any]:
        """Return the plan of the work that is here; its own where nothing is."""
        if not path.exists():
            write_atomically(path, json.dumps(plan, indent=1).encode())
            return plan
        begun, rows = taken_up(json.loads(path.read_text()), plan)
        if rows:
            raise InputError(
                f"{self.folder} holds the work of another tuning ({'; '.join(rows)}); finish it with its own command, "
                "remove the folder, or choose another one"
            )
        return begun

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
