"""Zigzag must be a permutation, dealt as written, and must spread outliers."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods.permute import zigzag


def test_channels_are_dealt_back_and_forth_largest_first():
    importance = torch.tensor([1.0, 6.0, 3.0, 5.0, 2.0, 4.0])  # by size: 1, 3, 5, 2, 4, 0
    assert zigzag(importance, 3).tolist() == [1, 2, 4, 3, 5, 0]  # two blocks: (1st, 4th, 5th) and (2nd, 3rd, 6th)


@pytest.mark.parametrize(("channels", "block"), [(4304, 16), (64, 64), (5, 1), (12, 4)])
def test_every_channel_appears_once(channels, block):
    assert sorted(zigzag(torch.rand(channels), block).tolist()) == list(range(channels))


def test_neighbouring_outliers_end_in_different_blocks():
    importance = torch.ones(64)
    importance[:8] = 100
    blocks = importance[zigzag(importance, 8)].view(8, 8)
    assert (blocks == 100).sum(1).tolist() == [1] * 8


def test_equal_channels_keep_their_order():
    assert zigzag(torch.zeros(4), 1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("importance", "block", "said"), [(torch.ones(10), 4, "10 channels"), (torch.tensor([1.0, torch.nan]), 2, "NaN")]
)
def test_bad_input_is_named(importance, block, said):
    with pytest.raises(InputError, match=said):
        zigzag(importance, block)
