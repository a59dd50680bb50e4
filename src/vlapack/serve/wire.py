"""openpi's wire format: msgpack, with numpy arrays as maps of four bytes keys. Never pickle.

    array    {b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}
    scalar   {b"__npgeneric__": true, b"data": 0.5, b"dtype": "<f4"}

`pack` writes the bytes that openpi's `msgpack_numpy` writes. `unpack` reads what its clients send and nothing else. It
is the first code that a stranger's bytes meet. So it first walks over the message from head to head without making any
object, and refuses what has too many items, is nested too deep or holds too much text. An observation has some sixty
items, and the walk takes 30 µs; a hostile message is refused after 1024 steps, whatever its size.
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
# The budget of a whole message. An observation is a handful of keys whose numbers come as arrays: LIBERO's has 51
# items, ALOHA's 66, three and four levels deep. The bytes are the server's `max_message_mb`.
MOST_ITEMS = 1024
"""Values, keys included: each number of a list is one, and an array is some ten."""
MOST_DEPTH = 8
MOST_TEXT_BYTES = 1 << 16
"""Of all texts and keys together. Decoding takes long, and one emoji makes every character of a text four bytes."""
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
        InputError: not msgpack, over the budget, not a dictionary with text keys, or an array whose type, shape and
            bytes do not agree.
    """
    check_budget(message)
    try:
        document = msgpack.unpackb(message, object_hook=_decode)
    except InputError:
        raise
    except (ValueError, TypeError) as error:  # msgpack's own exceptions are ValueErrors
        raise _no_msgpack(str(error)) from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(
            f"the message is a {type(document).__name__}; an observation is a dictionary whose keys are text"
        )
    return document


def check_budget(message: bytes) -> None:
    """Walk over a message's heads, at most `MOST_ITEMS` of them, without making what they announce.

    Raises:
        InputError: more items, levels or text than a message may have, an extension, or bytes that are no msgpack.
    """
    position, items, text = 0, 0, 0
    open_: list[int] = [1]  # how many items each level that has begun still expects
    while open_:
        if open_[-1] == 0:
            open_.pop()
            continue
        open_[-1] -= 1
        kind, size, position = _head(message, position)
        if kind in (_LIST, _MAP):
            expected = 2 * size if kind == _MAP else size
            items += expected
            if items > MOST_ITEMS:
                raise InputError(f"the message has more than {MOST_ITEMS} items; numbers are sent as numpy arrays")
            if len(open_) > MOST_DEPTH:
                raise InputError(f"the message is nested more than {MOST_DEPTH} levels deep")
            open_.append(expected)
            continue
        if kind == _TEXT:
            text += size
            if text > MOST_TEXT_BYTES:
                raise InputError(f"the message has more than {MOST_TEXT_BYTES} bytes of text")
        position += size
        if position > len(message):
            raise _no_msgpack("it ends too early")
    if position != len(message):
        raise _no_msgpack(f"{len(message) - position} bytes follow its end")


# What a head announces: so many bytes, or so many items (lists) or pairs of items (maps).
_BYTES, _LIST, _MAP, _TEXT = 0, 1, 2, 3
# First bytes 0xc0-0xdf: the kind, and the bytes that the value takes, or, negative, the bytes that its size takes.
_HEADS: dict[int, tuple[int, int]] = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (_BYTES, 0)),  # nil, false, true
    **{0xC4 + power: (_BYTES, -(1 << power)) for power in range(3)},
    **{0xCA: (_BYTES, 4), 0xCB: (_BYTES, 8)},  # floats
    **{first + power: (_BYTES, 1 << power) for first in (0xCC, 0xD0) for power in range(4)},  # integers
    **{0xD9 + power: (_TEXT, -(1 << power)) for power in range(3)},
    **{0xDC: (_LIST, -2), 0xDD: (_LIST, -4), 0xDE: (_MAP, -2), 0xDF: (_MAP, -4)},
}


def _head(message: bytes, position: int) -> tuple[int, int, int]:
    """Return the kind of the value at `position`, its size in bytes or items, and where its content begins."""
    if position >= len(message):
        raise _no_msgpack("it ends too early")
    first = message[position]
    position += 1
    if first < 0x80 or first >= 0xE0:
        return _BYTES, 0, position
    if first < 0xA0:
        return _MAP if first < 0x90 else _LIST, first & 15, position
    if first < 0xC0:
        return _TEXT, first & 31, position
    if first not in _HEADS:
        raise _no_msgpack("it has an extension type" if first != 0xC1 else "it has a byte 0xc1")
    kind, size = _HEADS[first]
    if size < 0:
        end = position - size
        return kind, int.from_bytes(message[position:end], "big"), end
    return kind, size, position


def _no_msgpack(why: str) -> InputError:
    return InputError(f"the message is not msgpack as openpi's clients write it: {why}")


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
