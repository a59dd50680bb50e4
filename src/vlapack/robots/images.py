"""Camera pictures, as openpi prepares them: uint8 [H, W, 3] -> padded square -> float32 [3, S, S] in [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from vlapack.errors import InputError
from vlapack.robots.arrays import as_array

CHANNELS = 3

# Resizing, JPEG and half precision leave white at 1.0005 or so.
ROUNDING = 1e-3


def parse_image(picture: Any, key: str) -> np.ndarray:
    """Bring a picture into uint8 [H, W, 3].

    Args:
        picture: uint8 in 0-255 or float in 0-1, [H, W, 3] or [3, H, W]. Floats that rounding has put outside by
            `ROUNDING` or less are clipped.
        key: the observation's key, for the message.

    Raises:
        InputError: another type, shape or range.
    """
    image = as_array(picture, key)
    if image.ndim != 3 or CHANNELS not in (image.shape[0], image.shape[-1]):
        raise InputError(f"{key}: shape {image.shape}; a picture is [height, width, 3] or [3, height, width]")
    if 0 in image.shape:
        raise InputError(f"{key}: shape {image.shape}; the picture is empty")
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also catches NaN
            raise InputError(f"{key}: float values from {low} to {high}; float pictures lie in 0-1")
        image = (255 * (image if low >= 0 and high <= 1 else image.clip(0, 1))).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{key}: dtype {image.dtype}; a picture is uint8 in 0-255, or float in 0-1")
    return image.transpose(1, 2, 0) if image.shape[0] == CHANNELS else image


def resize_with_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Fit uint8 [H, W, 3] into [size, size, 3] without distortion: PIL's bilinear filter, black bars.

    Pixel for pixel what openpi-client's `image_tools.resize_with_pad` does, since policies were trained on it.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    ratio = max(width / size, height / size)
    new_height, new_width = int(height / ratio), int(width / ratio)
    if 0 in (new_height, new_width):
        raise InputError(f"a picture of {width} x {height} pixels is too thin to be shown at {size} x {size}")
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((new_width, new_height), Image.Resampling.BILINEAR)
    canvas = np.zeros((size, size, CHANNELS), dtype=np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return canvas


def to_pixels(image: np.ndarray, size: int) -> torch.Tensor:
    """Resize uint8 [H, W, 3] to uint8 [3, size, size]."""
    pixels = torch.from_numpy(np.array(resize_with_pad(image, size)))  # a copy: the caller may hold read-only memory
    return pixels.permute(2, 0, 1)


def to_network(image: np.ndarray, size: int) -> torch.Tensor:
    """Resize uint8 [H, W, 3] and scale it to float32 [3, size, size] in [-1, 1]."""
    return to_pixels(image, size).to(torch.float32) / 255.0 * 2.0 - 1.0
