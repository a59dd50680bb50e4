"""openpi's bytes, to the byte; and a stranger's bytes, which may be anything."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlapack.errors import InputError
from vlapack.robots.layouts import LAYOUTS, Layout
from vlapack.serve.wire import MOST_DEPTH, MOST_ITEMS, MOST_TEXT_BYTES, check_budget, pack, unpack


def test_an_array_is_openpis_map_of_four_bytes_keys() -> None:
    assert pack({"a": np.array([[1, 2, 3]], dtype=np.int16), "b": np.float32(0.5), "c": "text", "d": [1, None]}) == (
        b"\x84"
        b"\xa1a\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x06\x01\x00\x02\x00\x03\x00\xc4\x05dtype\xa3<i2\xc4\x05shape\x92\x01\x03"
        b"\xa1b\x83\xc4\r__npgeneric__\xc3\xc4\x04data\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00\xc4\x05dtype\xa3<f4"
        b"\xa1c\xa4text"
        b"\xa1d\x92\x01\xc0"
    )


ARRAYS = hnp.arrays(
    st.sampled_from(["|b1", "|u1", "<i8", ">i4", "<f2", ">f4", "<f8"]), hnp.array_shapes(min_dims=0, min_side=0)
)


@given(st.dictionaries(st.text(), ARRAYS | st.integers(-5, 5) | st.text() | st.floats(allow_nan=False), max_size=4))
def test_what_is_packed_comes_back(document: dict[str, Any]) -> None:
    back = unpack(pack(document))
    assert back.keys() == document.keys()
    for key, value in document.items():
        if isinstance(value, np.ndarray):
            assert (back[key].dtype, back[key].shape, back[key].tobytes()) == (
                value.dtype,
                value.shape,
                value.tobytes(),
            )
        else:
            assert back[key] == value


def test_a_view_that_is_not_contiguous_is_sent_in_order() -> None:
    np.testing.assert_array_equal(
        unpack(pack({"a": np.arange(6).reshape(2, 3)[::-1, ::-1]}))["a"], [[5, 4, 3], [2, 1, 0]]
    )


def test_numpys_text_is_text() -> None:
    assert unpack(pack({"a": np.array("räum auf"), "b": np.str_("auf")})) == {"a": "räum auf", "b": "auf"}


@pytest.mark.parametrize("value", [np.array([None]), np.array([1j]), np.zeros(2, dtype="f4,f4"), np.complex64(1)])
def test_objects_and_records_are_not_sent(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        pack({"a": value})


def array(**changes: Any) -> bytes:
    found: dict[bytes, Any] = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
    return msgpack.packb({"a": found | {key.encode(): value for key, value in changes.items()}})


def lists(inner: bytes) -> bytes:
    """28 million items of one byte, in lists that are each allowed."""
    row = b"\xdc\x03\xe8" + inner * 1000
    return b"\x81\xa1a\xdc\x00\x1c" + (b"\xdc\x03\xe8" + row * 1000) * 28


def nested(depth: int) -> bytes:
    return b"\x81\xa1a" * depth + b"\x01"


HOSTILE = {
    "empty": b"",
    "no msgpack": b"\xc1",
    "truncated": array()[:-3],
    "two messages": array() + array(),
    "a list": b"\x91\x01",
    "a number": b"\x01",
    "keys that are bytes": msgpack.packb({b"a": 1}),
    "keys that are lists": b"\x81\x91\x01\x01",
    "text that is none": b"\x81\xa1a\xa2\xff\xfe",
    "a gigabyte claimed": b"\x81\xa1a\xc6\x40\x00\x00\x00abc",
    "4 billion items claimed": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "4 billion keys claimed": b"\xdf\xff\xff\xff\xff",
    "one item too many": msgpack.packb({"a": [0] * (MOST_ITEMS + 1)}),
    "100,000 lists deep": b"\x91" * 100_000,
    "big lists deep": b"\xdc\x04\x00" * 3000,
    "many lists of allowed sizes": msgpack.packb({str(n): [0] * 500 for n in range(3)}),
    "a list beside an allowed one": msgpack.packb({"a": [[], [0] * 1000, [0] * 23]}),
    "a level too deep": nested(MOST_DEPTH + 1),
    "keys too many": msgpack.packb({str(n): None for n in range(MOST_ITEMS // 2 + 1)}),
    "a long text": msgpack.packb({"a": "x" * MOST_TEXT_BYTES}),
    "long keys": msgpack.packb({"a" * (MOST_TEXT_BYTES // 2): 1, "b" * (MOST_TEXT_BYTES // 2 + 1): 1}),
    "an array with many sizes": array(shape=[1] * MOST_ITEMS),
    "an extension": msgpack.packb({"a": msgpack.ExtType(5, b"1234")}),
    "a timestamp": msgpack.packb({"a": msgpack.Timestamp(3, 4)}),
    "objects": array(dtype="|O"),
    "records": array(dtype="f4,f4"),
    "records in bytes": array(dtype="|V8", shape=[1]),
    "complex": array(dtype="<c8", shape=[1]),
    "times": array(dtype="<M8[s]", shape=[1]),
    "text of no size": array(dtype="<U0", data=b"", shape=[2**40]),
    "text of any size": array(dtype="<U4294967295"),
    "a dtype that is a list": array(dtype=[["a", "<f4"]]),
    "a dtype that is missing": array(dtype=None),
    "a huge shape": array(shape=[2**40, 2**40]),
    "a huge shape of nothing": array(data=b"", shape=[0, 2**62, 5]),
    "a shape of 70 dimensions": array(data=b"", shape=[0] * 70),
    "a shape that goes backwards": array(shape=[-1, -2]),
    "a shape of fractions": array(shape=[2.0]),
    "a shape of truths": array(shape=[True], data=bytes(4)),
    "a shape that is a number": array(shape=2),
    "too few bytes": array(shape=[3]),
    "too many bytes": array(shape=[1]),
    "data that is text": array(data="abcdefgh"),
    "data that is missing": array(data=None),
    "characters that do not exist": array(dtype="<U2", shape=[], data=b"\xff" * 8),
    "many texts": array(dtype="<U1", shape=[2]),
    "a scalar out of range": msgpack.packb({"a": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}),
    "a scalar that is text": msgpack.packb({"a": {b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}}),
    "a scalar that is a list": msgpack.packb({"a": {b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}}),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused_in_words(message: bytes) -> None:
    with pytest.raises(InputError):
        unpack(message)


@pytest.mark.parametrize("inner", [b"\x90", b"\x80", b"\x01", b"\xa0", b"\xc0", b"\x91"])
def test_what_is_refused_costs_nothing_whatever_its_size(inner: bytes) -> None:
    message = lists(inner)
    tracemalloc.start()
    start = time.thread_time()
    with pytest.raises(InputError, match="1024 items"):
        unpack(message)
    assert time.thread_time() - start < 0.02
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_the_budget_ends_where_it_says() -> None:
    assert len(unpack(msgpack.packb({"a": [0] * (MOST_ITEMS - 2)}))["a"]) == MOST_ITEMS - 2
    assert unpack(nested(MOST_DEPTH))
    assert unpack(msgpack.packb({"a": "x" * (MOST_TEXT_BYTES - 1)}))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_what_robots_send_is_far_within_the_budget(layout: Layout) -> None:
    example = layout.example()
    cameras = {f"images/{number}": np.zeros((8, 8, 3), np.uint8) for number in range(20)}
    lists_for_vectors = {key: value.tolist() for key, value in example.items() if getattr(value, "ndim", 0) == 1}
    unpack(pack({**example, **cameras, **lists_for_vectors, "noise": np.zeros((50, 32))}))


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(width=32)
    | st.text(max_size=40)
    | st.binary(max_size=300)
)


def levels(document: Any) -> int:
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        VALUES, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner), max_leaves=40
    ),
    st.booleans(),
    st.binary(max_size=3),
)
def test_the_walk_sees_what_msgpack_sees(document: Any, single: bool, behind: bytes) -> None:
    message = msgpack.packb(document, use_single_float=single)
    if levels(document) <= MOST_DEPTH:
        check_budget(message)
    for broken in (message + b"\x00" + behind, message[:-1]):
        with pytest.raises(InputError):
            check_budget(broken)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    with suppress(InputError):
        assert isinstance(unpack(message), dict)


@settings(max_examples=400, deadline=None)
@given(
    st.fixed_dictionaries(
        {b"__ndarray__": st.booleans()},
        optional={
            b"data": st.binary(max_size=40) | st.text(max_size=3) | st.none(),
            b"dtype": st.sampled_from(["<f4", ">i8", "|u1", "<U2", "|O", "<f16", "|b1", "x", ""]) | st.integers(0, 3),
            b"shape": st.lists(st.integers(-2, 2**33) | st.sampled_from([0, 1, 2]), max_size=4) | st.none(),
        },
    )
)
def test_any_array_is_read_or_refused(found: dict[bytes, Any]) -> None:
    try:
        value = unpack(msgpack.packb({"a": found}))["a"]
    except InputError:
        return
    assert isinstance(value, str) or value.nbytes == len(found[b"data"])
