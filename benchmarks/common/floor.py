"""The noise floor in a policy's folder, which `vlapack eval` prints beside a drop: the largest that was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.evaluate.floor import FILE
from vlapack.files import write_json


def write_floor(folder: Path, weights: str, floor: Mapping[str, Any] | None) -> None:
    """Put a floor beside the policy, unless a larger one of the same weights is there.

    Args:
        folder: the policy's.
        weights: digest of the weights that it was measured with.
        floor: as `evaluate.floor.noise_floor` gives it; None: no pair of episodes has a result yet.
    """
    if floor is None:
        return
    path = folder / FILE
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        larger = there["episodes"] > floor["episodes"] and there["source"] != floor["source"]
        if there["weights"] == weights and larger:
            return
    write_json(path, {"weights": weights, **floor})
