"""What people send as a picture or a vector, as a NumPy array, or an error that names it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vlapack.errors import InputError

BFLOAT16 = "bfloat16"
MOST_KEYS = 20
MOST_LETTERS = 80


def as_array(value: Any, key: str) -> np.ndarray:
    """Return numbers as an array of their own type; bfloat16, which NumPy lacks, as float32.

    Args:
        value: an array, a tensor on any device (with or without a gradient), a number or nested lists of numbers
        key: the observation's key, for the message

    Raises:
        InputError: anything else: ragged lists, objects, texts, masked values, tensors without values.
    """
    if np.ma.is_masked(value):
        raise InputError(f"{key}: a masked array with masked values; fill them in")
    try:
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu()
            if tensor.dtype == torch.bfloat16:
                tensor = tensor.to(torch.float32)
            return tensor.resolve_conj().resolve_neg().numpy()
        array = np.asarray(value)
        # JAX's arrays are of ml_dtypes' type of that name.
        if array.dtype.name == BFLOAT16:
            return array.astype(np.float32)
    except Exception as error:  # whatever a foreign object raises while it is read
        raise InputError(f"{key}: {shown(value)} is not an array of numbers: {_one_line(str(error))}") from error
    if array.dtype == object:
        raise InputError(f"{key}: {shown(value)} is not an array of numbers (dtype object)")
    return array


def check_observation(observation: Any) -> None:
    """Refuse an observation that is no dictionary."""
    if not isinstance(observation, Mapping):
        raise InputError(f"the observation is {shown(observation)}; it must be a dictionary of the robot's keys")


def keys_of(mapping: Mapping[Any, Any]) -> str:
    """Return a dictionary's keys for a message: sorted, the first few, each cut to a readable length."""
    names = sorted(key[:MOST_LETTERS] if isinstance(key, str) else shown(key) for key in mapping)
    return f"{names[:MOST_KEYS]}" + (f" and {len(names) - MOST_KEYS} more" if len(names) > MOST_KEYS else "")


def shown(value: Any) -> str:
    """Return a value and its type for a message, in one short line, whatever it is."""
    return f"{_one_line(reprlib.repr(value))} ({type(value).__name__})"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]}…"
