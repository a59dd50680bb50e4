"""Pictures: the ways a robot may hold them, and those that are none. Pixels are compared in test_golden.py."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.robots.images import parse_image, resize_with_pad, to_network

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_channels_first_and_float_pictures_mean_the_same() -> None:
    np.testing.assert_array_equal(parse_image(PICTURE.transpose(2, 0, 1), "k"), PICTURE)
    floats = (PICTURE.astype(np.float32) + 0.5) / 256  # inside each level, so that cutting off finds it
    np.testing.assert_allclose(parse_image(floats, "k"), PICTURE, atol=1)


def test_padding_is_black_and_centred() -> None:
    resized = resize_with_pad(np.full((10, 40, 3), 200, dtype=np.uint8), 16)
    assert resized.shape == (16, 16, 3)
    assert not resized[:6].any()
    assert (resized[6:10] == 200).all()
    assert not resized[10:].any()


def test_range_ends_are_exact_and_read_only_memory_is_no_trouble() -> None:
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    picture[0] = 255
    picture.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = to_network(picture, 8)
    assert pixels.dtype == torch.float32
    assert pixels.unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PICTURE[..., 0], r"shape \(20, 30\)"),
        (np.zeros((4, 5, 4), dtype=np.uint8), r"shape \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), dtype=np.uint8), "empty"),
        (PICTURE.astype(np.int32), "dtype int32"),
        (PICTURE.astype(np.float32), r"float pictures lie in 0-1"),
        (np.full((4, 4, 3), np.nan), r"float pictures lie in 0-1"),
    ],
)
def test_what_is_no_picture_is_refused_by_key(picture: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=f"observation/image: .*{message}"):
        parse_image(picture, "observation/image")


def test_a_picture_too_thin_to_be_seen_is_refused() -> None:
    with pytest.raises(InputError, match="too thin"):
        resize_with_pad(np.zeros((1, 500, 3), dtype=np.uint8), 16)
