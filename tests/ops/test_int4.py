"""The 4-bit encoding is compressed-tensors' `pack-quantized`, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.ops.int4 import pack_int4, unpack_int4


def pack_by_arithmetic(q):
    """The encoding by its definition, one nibble at a time, in Python's integers."""
    words = [[0] * -(-q.shape[1] // 8) for _ in q]
    for n, row in enumerate(q.tolist()):
        for k, value in enumerate(row):
            words[n][k // 8] |= (value + 8) << (4 * (k % 8))
    return np.array(words, dtype=np.uint32).view(np.int32)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 8), (5, 33), (4, 4304)])
def test_packing_follows_the_definition_and_unpacking_returns_the_integers(shape):
    q = torch.randint(-8, 8, shape, dtype=torch.int8)
    packed = pack_int4(q)
    assert packed.dtype == torch.int32
    assert np.array_equal(packed.numpy(), pack_by_arithmetic(q))
    assert torch.equal(unpack_int4(packed, shape[1]), q)


def test_compressed_tensors_0_20_packs_the_same_words():
    q = torch.tensor([[-8, -7, -1, 0, 1, 2, 6, 7, 3, -4, 5], [7, 7, 7, 7, 7, 7, 7, 7, -8, -8, -8]], dtype=torch.int8)
    assert pack_int4(q).tolist() == [[-22444272, 3403], [-1, 0]]


def test_rows_that_are_not_contiguous_pack_the_same():
    q = torch.randint(-8, 8, (24, 5), dtype=torch.int8)
    assert torch.equal(pack_int4(q.T), pack_int4(q.T.contiguous()))
    words = pack_int4(q.T.contiguous())
    assert torch.equal(unpack_int4(words[1::2], 24), q.T[1::2])


@pytest.mark.parametrize(
    ("q", "said"),
    [
        (torch.full((1, 4), 8, dtype=torch.int8), "from 8 to 8"),
        (torch.full((1, 4), -9, dtype=torch.int8), "from -9 to -9"),
        (torch.zeros(1, 4), "float32"),
        (torch.zeros(4, dtype=torch.int8), r"\[4\]"),
    ],
)
def test_what_four_bits_cannot_hold_is_refused(q, said):
    with pytest.raises(InputError, match=said):
        pack_int4(q)


@pytest.mark.parametrize("packed", [torch.zeros(2, 2, dtype=torch.int32), torch.zeros(2, 1)])
def test_words_that_do_not_fit_the_row_are_refused(packed):
    with pytest.raises(InputError, match=r"need int32 \[N, 1\]"):
        unpack_int4(packed, 7)
