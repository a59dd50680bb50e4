"""The shipped policy's noise floor, which `vlapack eval` prints beside a drop: the largest that was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlapack.checkpoints import SHIPPED
from vlapack.evaluate.floor import FILE
from vlapack.files import write_json

PATH = SHIPPED["tiny-libero"] / FILE


def write_floor(weights: str, floor: Mapping[str, Any] | None) -> None:
    """Put a floor beside the policy, unless a larger one of the same weights is there.

    Args:
        weights: digest of the weights that it was measured with.
        floor: as `evaluate.floor.noise_floor` gives it; None: no pair of episodes has a result yet.
    """
    if floor is None:
        return
    if PATH.is_file():
        there = json.loads(PATH.read_text(encoding="utf-8"))
        larger = there["episodes"] > floor["episodes"] and there["source"] != floor["source"]
        if there["weights"] == weights and larger:
            return
    write_json(PATH, {"weights": weights, **floor})
