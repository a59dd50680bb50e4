"""The layout for Triton's products loses nothing, and its three instructions unpack every byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlapack.errors import InputError
from vlapack.ops.int4 import pack_int4
from vlapack.ops.triton import layout


def stored(rows, channels, bits):
    low = -(2 ** (bits - 1))
    integers = torch.randint(low, -low, (rows, channels), dtype=torch.int8)
    return integers, pack_int4(integers) if bits == 4 else integers


@given(shape=st.tuples(st.integers(1, 5), st.integers(1, 600)), bits=st.sampled_from([4, 8]))
@settings(max_examples=50, deadline=None)
def test_the_layout_loses_nothing(shape, bits):
    _, weight = stored(*shape, bits)
    prepared = layout.prepare(weight, bits, shape[1])
    assert prepared.shape == layout.prepared_shape(bits, *shape)
    assert layout.bits_of(prepared) == bits
    assert torch.equal(layout.restore(prepared, *shape), weight)


def test_a_weight_that_is_not_contiguous_is_laid_out_by_its_values():
    _, weight = stored(6, 256, 4)
    turned = weight.T.contiguous().T
    assert torch.equal(layout.prepare(turned, 4, 256), layout.prepare(weight, 4, 256))


@pytest.mark.parametrize("channels", [1, 100, 128, 300])
def test_byte_j_of_a_block_holds_channels_j_and_64_j_as_twos_complement(channels):
    integers, weight = stored(3, channels, 4)
    prepared = layout.prepare(weight, 4, channels)
    whole = torch.nn.functional.pad(integers, (0, -channels % 128)).view(3, -1, 2, 64)
    blocks = prepared.view(3, -1, 64)
    assert torch.equal((blocks << 4).view(torch.int8), whole[:, :, 0] * 16)
    assert torch.equal((blocks & 0xF0).view(torch.int8), whole[:, :, 1] * 16)


def test_what_fills_a_packs_last_word_does_not_enter_the_sum():
    _, weight = stored(2, 5, 4)
    spoiled = weight | (0x7FF << 20)
    assert torch.equal(layout.prepare(spoiled, 4, 5), layout.prepare(weight, 4, 5))


def test_the_inline_assembly_unpacks_every_byte_as_the_plain_code_does():
    """Four bytes a register: a shift by 4 carries bits into the next byte, which the mask removes."""
    first = np.arange(256, dtype=np.uint32)
    words = first | first[::-1] << 8 | np.roll(first, 7) << 16 | np.roll(first, 99) << 24
    low, high = (words << np.uint32(4)) & np.uint32(0xF0F0F0F0), words & np.uint32(0xF0F0F0F0)
    singly = words.astype("<u4").view(np.uint8)
    assert (low.astype("<u4").view(np.uint8) == singly << np.uint8(4)).all()
    assert (high.astype("<u4").view(np.uint8) == singly & np.uint8(0xF0)).all()


def test_gate_and_up_take_turns_and_come_apart_again():
    gate, up = torch.randn(5, 3), torch.randn(5, 3)
    both = layout.interleave(gate, up)
    assert torch.equal(both[0], gate[0])
    assert torch.equal(both[9], up[4])
    assert all(torch.equal(*pair) for pair in zip(layout.separate(both), (gate, up), strict=True))


def test_laying_out_needs_little_more_than_the_layer():
    """On a board whose memory is shared, a layer must not need many times its bytes while it is laid out."""
    weight = torch.zeros(256, 512, dtype=torch.int32)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layout.prepare(weight, 4, 4096)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak <= 3.5 * weight.nbytes


@pytest.mark.parametrize(
    ("weight", "bits", "channels", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.int32), 4, 17, r"17 4-bit weights a row need torch.int32 \[N, 3\]"),
        (torch.zeros(2, 16, dtype=torch.int32), 8, 16, r"need torch.int8 \[N, 16\]"),
        (torch.zeros(2, 16, dtype=torch.int8), 2, 16, "weights of 2 bits"),
        (torch.zeros(1, 131072, dtype=torch.int8), 8, 131072, "sums hold 131071"),
    ],
)
def test_what_is_no_packs_weight_is_refused(weight, bits, channels, message):
    with pytest.raises(InputError, match=message):
        layout.prepare(weight, bits, channels)


def test_another_prepared_shape_is_refused():
    with pytest.raises(InputError, match=r"is \[2, 1, 1, 64\], not \[2, 2, 1, 64\]"):
        layout.restore(torch.zeros(2, 2, 1, 64, dtype=torch.uint8), 2, 100)
    with pytest.raises(InputError, match="a weight prepared for the triton engine is uint8"):
        layout.bits_of(torch.zeros(2, 16, dtype=torch.int32))
