"""openpi's wire format: msgpack, with numpy arrays as maps of four bytes keys. Never pickle.

    array    {b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}
    scalar   {b"__npgeneric__": true, b"data": 0.5, b"dtype": "<f4"}

`pack` writes the bytes that openpi's `msgpack_numpy` writes. `unpack` reads what its clients send and nothing else: it
is the first code that a stranger's bytes meet, so every size is checked against the bytes that are really there before
anything of that size is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from vlapack.errors import InputError

# Booleans, integers, floats and text: no objects, records, complex numbers or times. No type of zero bytes: a shape of
# any size would fit into nothing.
DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|U[1-9]\d{0,5})")
# An observation is a handful of keys; its numbers come as arrays. msgpack makes room for the items that a map or a list
# claims to have before it has seen them.
MOST_ITEMS = 1024
REFUSED_KINDS = "VOc"


def pack(document: Mapping[str, Any]) -> bytes:
    """Serialize a dictionary with numpy arrays and scalars in it.

    Raises:
        ValueError: an array of objects, records or complex numbers.
        TypeError: something that is neither numpy's nor msgpack's.
    """
    packed: bytes = msgpack.packb(document, default=_encode)
    return packed


def unpack(message: bytes) -> dict[str, Any]:
    """Read one message: a dictionary with numpy arrays (read-only views of the message's bytes) and scalars in it.

    Raises:
        InputError: not msgpack, not a dictionary with text keys, or an array whose type, shape and bytes do not agree.
    """
    try:
        document = msgpack.unpackb(
            message,
            object_hook=_decode,
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_ITEMS,
            max_ext_len=0,
        )
    except InputError:
        raise
    except (ValueError, TypeError) as error:  # msgpack's own exceptions are ValueErrors
        raise InputError(f"the message is not msgpack as openpi's clients write it: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(
            f"the message is a {type(document).__name__}; an observation is a dictionary whose keys are text"
        )
    return document


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} cannot be sent: {value!r}")
    if value.dtype.kind in REFUSED_KINDS:
        raise ValueError(f"dtype {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _decode(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        return _array(found)
    if b"__npgeneric__" in found:
        return _scalar(found)
    return found


def _array(found: Mapping[Any, Any]) -> np.ndarray | str:
    dtype, data, shape = _dtype(found), found.get(b"data"), found.get(b"shape")
    if not isinstance(data, bytes):
        raise InputError(f"an array's data is {type(data).__name__}; it must be bytes")
    if not (isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)):
        raise InputError(f"an array's shape is {shape!r}; it must be a list of sizes")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise InputError(f"an array of shape {shape} and dtype {dtype} has {len(data)} bytes of data")
    if dtype.kind != "U":
        return np.ndarray(shape, dtype, buffer=data)
    if math.prod(shape) != 1:
        raise InputError(f"an array of shape {shape} of texts; an observation holds single ones")
    # Not by numpy, which makes broken strings of what is no text, and raises a SystemError as soon as one is touched.
    return data.decode("utf-32-be" if dtype.str[0] == ">" else "utf-32-le").rstrip("\0")


def _scalar(found: Mapping[Any, Any]) -> Any:
    dtype, value = _dtype(found), found.get(b"data")
    if not isinstance(value, bool | int | float | str):
        raise InputError(f"a scalar's data is {type(value).__name__}; it must be a number or text")
    try:
        return dtype.type(value)
    except (OverflowError, ValueError) as error:
        raise InputError(f"{value!r:.100} is no {dtype}: {error}") from error


def _dtype(found: Mapping[Any, Any]) -> np.dtype[Any]:
    text = found.get(b"dtype")
    if not (isinstance(text, str) and DTYPE.fullmatch(text)):
        raise InputError(f"dtype {text!r:.100}; arrays hold booleans, integers, floats or text")
    return np.dtype(text)
