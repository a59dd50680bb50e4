"""Packs that are broken on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.observations.folder import SHIPPED_OBSERVATIONS

DAMAGE = 3.0
"""What a damaged layer's scales are multiplied by."""


def damaging(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Let packing write other scales for a layer than it found, with checksums that fit them."""
    write: Callable[..., None] = PackWriter.write

    def damaged(self: PackWriter, piece: str, tensors: Mapping[str, Tensor], note: Any) -> None:
        name = f"{layer}.weight_scale"
        changed = {key: tensor * DAMAGE if key == name else tensor for key, tensor in tensors.items()}
        write(self, piece, changed, note)

    monkeypatch.setattr(PackWriter, "write", damaged)


def observations_of_one_task(folder: Path) -> Path:
    """Copy the shipped observations of one prompt."""
    index = json.loads((SHIPPED_OBSERVATIONS / "index.json").read_text())
    prompt = index["observations"][0]["prompt"]
    index["observations"] = [one for one in index["observations"] if one["prompt"] == prompt]
    index.pop("seen", None)
    folder.mkdir()
    for one in index["observations"]:
        for picture in (one["image"], one["wrist_image"]):
            shutil.copy(SHIPPED_OBSERVATIONS / picture, folder / picture)
    (folder / "index.json").write_text(json.dumps(index))
    return folder
