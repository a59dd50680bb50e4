"""Observations that are not what a layout needs are refused, with the key, the value and the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.policy.layouts import layout

PICTURE = np.full((6, 8, 3), 9, dtype=np.uint8)
GOOD = {
    "observation/image": PICTURE,
    "observation/wrist_image": PICTURE,
    "observation/state": np.zeros(8, dtype=np.float32),
    "prompt": "go",
}


def test_the_missing_third_camera_is_black_and_masked() -> None:
    robot = layout("libero").inputs(GOOD)
    assert robot.image_masks == (True, True, False)
    assert robot.images[2].shape == PICTURE.shape
    assert not robot.images[2].any()


def test_a_prompt_may_be_a_numpy_string_or_absent() -> None:
    assert layout("libero").inputs(GOOD | {"prompt": np.asarray("go")}).prompt == "go"
    assert layout("libero").inputs({key: GOOD[key] for key in GOOD if key != "prompt"}).prompt is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation/state": np.zeros(7)}, r"observation/state: shape \(7,\)"),
        ({"observation/state": np.array([0.0] * 7 + [np.nan])}, "observation/state: .*not finite"),
        ({"observation/state": np.array(["0"] * 8)}, "observation/state: dtype"),
        ({"observation/image": "front.png"}, "observation/image: shape"),
        ({"prompt": "  "}, "prompt: empty"),
        ({"prompt": 3}, "prompt: 3 is int"),
    ],
)
def test_a_malformed_value_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout("libero").inputs(GOOD | change)


@pytest.mark.parametrize("key", ["observation/image", "observation/wrist_image", "observation/state"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InputError, match=f"no '{key}'"):
        layout("libero").inputs({other: value for other, value in GOOD.items() if other != key})


def test_a_layout_that_is_not_built_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'droid' cannot act yet"):
        layout("droid")
