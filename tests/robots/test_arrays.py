"""Pictures, vectors and prompts in every form that a robot's program may hold them: the right answer or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.robots.arrays import as_array, keys_of, shown
from vlapack.robots.images import parse_image
from vlapack.robots.keys import get, parse_prompt, parse_state

STATE = np.linspace(-1, 1, 8)


class Raising:
    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise ZeroDivisionError("no\narray")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


SAME_STATES: dict[str, Any] = {
    "a list": STATE.tolist(),
    "tensors in a list": [torch.tensor(number) for number in STATE.astype(np.float32)],
    "a tensor with a gradient": torch.tensor(STATE, requires_grad=True),
    "half of a tensor": torch.tensor(np.repeat(STATE, 2))[::2],
    "negative strides": STATE[::-1].copy()[::-1],
    "read-only": np.frombuffer(STATE.tobytes()),
    "the other byte order": STATE.astype(">f8"),
    "a mask of nothing": np.ma.masked_array(STATE, mask=False),
    "a negated view": torch._neg_view(torch.tensor(-STATE)),
}


@pytest.mark.parametrize("form", SAME_STATES)
def test_a_state_means_the_same_in_every_form(form: str) -> None:
    found = parse_state(SAME_STATES[form], "state", 8)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, STATE, rtol=1e-7)
    assert found.flags.writeable


def test_bfloat16_is_read_as_it_is() -> None:
    tensor = torch.tensor(STATE, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(parse_state(tensor, "state", 8), tensor.detach().float().numpy())
    picture = torch.rand(3, 8, 8).to(torch.bfloat16)
    np.testing.assert_array_equal(parse_image(picture, "k"), parse_image(picture.float(), "k"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0], [1.0, 2.0]], "state: .* is not an array of numbers"),
        (np.array([1.0, None] * 4), "state: .*dtype object"),
        (np.ma.masked_array(STATE, mask=[True] + [False] * 7), "state: a masked array"),
        (torch.empty(8, device="meta"), "state: .* is not an array of numbers"),
        (torch.zeros(8).to_sparse(), "state: .* is not an array of numbers"),
        (Raising(), r"state: <Raising instance .* \(Raising\) is not an array of numbers: no array"),
        ([Raising()] * 8, "state: .* is not an array of numbers"),
        ({"a": 1}, "state: .*dtype object"),
        (None, "state: .*None"),
        (np.zeros(8, dtype="m8[s]"), "state: dtype timedelta64"),
        (np.zeros(8, dtype=bool), "state: dtype bool"),
        (np.zeros(8, dtype=complex), "state: dtype complex"),
        ([10**40] * 8, "state: .*dtype object"),
        ([1e39] * 8, "state: .* is not finite everywhere"),
        (np.full(8, np.longdouble("1e4000")), "state: .* is not finite everywhere"),
        (STATE[:, None], r"state: shape \(8, 1\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_state_is_refused_in_one_line(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_state(value, "state", 8)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_white_that_rounding_made_whiter_is_white() -> None:
    picture = np.full((4, 4, 3), 1.0009, dtype=np.float32)
    picture[0] = -0.0009
    found = parse_image(picture, "k")
    assert found[0].max() == 0
    assert found[1:].min() == 255
    for outside in (1.002, -0.002, np.inf, np.nan):
        picture[2, 2, 2] = outside
        with pytest.raises(InputError, match="float pictures lie in 0-1"):
            parse_image(picture, "k")


def test_clipping_changes_no_other_level() -> None:
    inside = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    outside = inside.copy()
    outside[0, 0] = 1.0005
    np.testing.assert_array_equal(parse_image(outside, "k")[1:], parse_image(inside, "k")[1:])
    np.testing.assert_array_equal(parse_image(inside, "k"), (255 * inside).astype(np.uint8))


@pytest.mark.parametrize("form", ["negative strides", "read-only", "transposed", "a tensor"])
def test_a_picture_means_the_same_in_every_memory_layout(form: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    frozen = picture.copy()
    frozen.setflags(write=False)
    given = {
        "negative strides": picture[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": frozen,
        "transposed": picture.transpose(2, 0, 1),
        "a tensor": torch.from_numpy(picture.copy()).permute(2, 0, 1),
    }[form]
    np.testing.assert_array_equal(parse_image(given, "k"), picture)


@pytest.mark.parametrize(
    "value", ["open it", b"open it", np.str_("open it"), np.bytes_(b"open it"), np.array("open it")]
)
def test_a_prompt_is_text_in_any_wrapping(value: Any) -> None:
    assert parse_prompt(value) == "open it"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("open \ud800 it", "not Unicode: surrogates not allowed at 5"),
        (b"open \xff it", "not Unicode: invalid start byte at 5"),
        (["open it"], r"prompt: \['open it'\] \(list\)"),
        (torch.zeros(3, 400), r"prompt: .* \(Tensor\)"),
        (None, "None"),
        (np.array(["a", "b"]), "prompt: .*ndarray"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_text_is_no_prompt(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_prompt(value)
    str(raised.value).encode()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("observation", [None, [], "state", 3, {"state"}, Raising()])
def test_an_observation_is_a_dictionary(observation: Any) -> None:
    with pytest.raises(InputError, match=r"the observation is .*; it must be a dictionary"):
        get(observation, "state")


def test_messages_stay_short_whatever_they_show() -> None:
    assert len(keys_of({f"{number}" * 1000: 1 for number in range(1000)})) < 2500
    assert len(shown("a\n" * 10**6)) < 120
    assert as_array(3, "k").shape == ()
