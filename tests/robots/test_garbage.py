"""Whatever arrives as an observation, a policy answers it with finite actions or with an InputError of one line."""

from __future__ import annotations

import datetime
import decimal
import fractions
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_robot import ROBOTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from small import SMALL, random_observations, small_policy, write_random_checkpoint

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.observations.frame import as_recorded
from vlapack.policy.policy import Policy
from vlapack.robots.layouts import layout_of

ODD: tuple[Any, ...] = (
    None,
    ...,
    NotImplemented,
    object(),
    object,
    lambda: None,
    float("nan"),
    float("inf"),
    -0.0,
    1e308,
    10**400,
    2**63,
    "\ud800",
    "a\x00b",
    " ",
    b"\xff\xfe",
    bytearray(b"abc"),
    memoryview(b"abc"),
    range(8),
    iter([1.0]),
    {1, 2},
    frozenset(),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    datetime.datetime(2026, 1, 1),
    Path("picture.png"),
    Image.new("RGB", (9, 7)),
    Image.new("P", (9, 7)),
    np.ma.masked_array(np.ones(8), mask=[True] * 8),
    np.ma.masked,
    np.array([1.0, None] * 4),
    np.array(object(), dtype=object),
    np.zeros((0, 4, 3), dtype=np.uint8),
    np.zeros((3, 0, 3)),
    np.zeros((1, 4000, 3), dtype=np.uint8),
    np.zeros((5, 3, 3), dtype=np.uint8)[::-1, :, ::-1],
    np.broadcast_to(np.uint8(3), (6, 6, 3)),
    np.full((4, 4, 3), 1.0005, dtype=np.float16),
    np.zeros(8, dtype="m8[s]"),
    np.zeros(8, dtype=[("a", "f4"), ("b", "S3")]),
    np.datetime64("NaT"),
    np.float64(0.5),
    torch.ones(8, dtype=torch.bfloat16, requires_grad=True),
    torch.rand(3, 6, 6).to(torch.bfloat16),
    torch.rand(3, 6, 6, requires_grad=True),
    torch.zeros(8, dtype=torch.complex64).conj(),
    torch._neg_view(torch.ones(8)),
    torch.empty(8, device="meta"),
    torch.eye(8).to_sparse(),
    torch.zeros(8).to(torch.float8_e4m3fn),
    torch.tensor(0.5),
)

LEAVES = (
    st.sampled_from(ODD)
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=3, max_side=9))
    | arrays.arrays(
        st.sampled_from([np.uint8, np.float16, np.float32, np.float64, np.int64, np.longdouble]),
        st.sampled_from([(), (1,), (6,), (7,), (8,), (14,), (3, 5, 5), (5, 4, 3), (2, 2, 4)]),
    )
)
GARBAGE = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module", params=ROBOTS)
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    config: PolicyConfig = ROBOTS[request.param].config
    return Policy.from_pretrained(write_random_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint", config))


def places(observation: Mapping[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every path to a value, dictionaries of pictures and the observation itself included."""
    found = [before]
    for key, value in observation.items():
        found += places(value, (*before, key)) if isinstance(value, Mapping) else [(*before, key)]
    return found


def replaced(observation: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path or not isinstance(observation, Mapping):
        return value
    return {**observation, path[0]: replaced(observation.get(path[0]), path[1:], value)}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_an_observation_of_anything_gets_actions_or_an_input_error(policy: Policy, data: st.DataObject) -> None:
    layout = layout_of(policy.config)
    [observation] = random_observations(1, layout=layout)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([*places(layout.example()), ("unknown",)]))
        observation = replaced(observation, path, data.draw(GARBAGE))
    messages = []
    try:
        inputs = layout.inputs(observation)
        assert np.isfinite(inputs.state).all()
        assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in inputs.images)
    except InputError as error:
        messages.append(str(error))
    try:
        assert np.isfinite(policy.infer(observation)["actions"]).all()
    except InputError as error:
        messages.append(str(error))
    try:
        as_recorded(observation, layout, "test", default_prompt="open it")
    except InputError as error:
        messages.append(str(error))
    for message in messages:
        assert "\n" not in message
        message.encode()


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("noise", "noise: "),
        ([[1.0], [2.0, 3.0]], "noise: .* is not an array of numbers"),
        (np.full((4, 32), np.nan), "noise: not finite"),
        (np.zeros((4, 32), dtype=bool), "noise: dtype bool"),
        (np.zeros((4, 31)), "noise: 1 of shapes"),
    ],
)
def test_noise_is_finite_numbers(policy: Policy, noise: Any, message: str) -> None:
    [observation] = random_observations(1, layout=layout_of(policy.config))
    with pytest.raises(InputError, match=message):
        policy.infer(observation, noise=noise)


def test_a_state_that_would_overflow_the_network_is_refused(tmp_path: Path) -> None:
    config = small_policy(discrete_state_input=False, architecture=replace(SMALL, variant="pi0"))
    policy = Policy.from_pretrained(write_random_checkpoint(tmp_path / "checkpoint", config))
    [observation] = random_observations(1)
    observation["observation/state"] = np.full(8, 1e29)
    assert np.isfinite(policy.infer(observation)["actions"]).all()
    observation["observation/state"] = np.full(8, 3e38)
    with pytest.raises(InputError, match="too far from the statistics"):
        policy.infer(observation)
