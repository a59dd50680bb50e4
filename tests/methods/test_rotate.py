"""Every block must be orthogonal, the same on every machine, and what its name says."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard, rotation, svd_blocks, svd_hadamard


def assert_orthogonal(blocks):
    eye = torch.eye(blocks.shape[-1], dtype=torch.float64).expand_as(blocks)
    assert torch.allclose(blocks.transpose(-1, -2) @ blocks, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [1, 2, 16, 64])
def test_hadamard_is_sylvesters(block):
    expected = torch.from_numpy(scipy.linalg.hadamard(block, dtype=float)) / math.sqrt(block)
    assert torch.allclose(hadamard(block)[0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 3000])  # fewer rows than a block; more than one step
def test_svd_blocks_are_orthogonal_for_any_number_of_rows(rows, shared):
    blocks = svd_blocks(torch.randn(rows, 48), 16, shared=shared)
    assert blocks.shape == ((1 if shared else 3), 16, 16)
    assert_orthogonal(blocks)
    assert_orthogonal(svd_hadamard(torch.randn(rows, 48), 16, shared=shared))


def test_svd_blocks_are_the_right_singular_vectors_largest_first():
    weight = torch.randn(40, 24, dtype=torch.float64)
    for i, v in enumerate(svd_blocks(weight, 8, shared=False)):
        expected = torch.linalg.svd(weight[:, 8 * i : 8 * (i + 1)]).Vh
        assert torch.allclose((expected @ v).abs(), torch.eye(8, dtype=torch.float64), atol=1e-9)


def test_a_zero_weight_still_gives_an_orthogonal_block():
    assert_orthogonal(svd_blocks(torch.zeros(4, 8), 4, shared=False))


def test_a_singular_vectors_sign_does_not_depend_on_the_solver():
    blocks = svd_blocks(torch.randn(40, 24), 8, shared=False)
    peaks = blocks.gather(-2, blocks.abs().argmax(-2, keepdim=True))
    assert (peaks > 0).all()


def test_hadamard_after_svd_evens_out_what_svd_gathers():
    weight = torch.randn(256, 64) * torch.logspace(-2, 2, 64)
    plain, spread = (
        (weight.double() @ rotation(k, weight, 64, shared=True)[0]).norm(dim=0) for k in ("svd", "svd_hadamard")
    )
    assert spread.max() / spread.min() < 2
    assert plain.max() / plain.min() > 1000


@pytest.mark.parametrize(
    ("kind", "block", "said"),
    [("greedier", 8, "greedier"), ("hadamard", 12, "power of two"), ("svd", 7, "24 channels in blocks of 7")],
)
def test_bad_input_is_named(kind, block, said):
    with pytest.raises(InputError, match=said):
        rotation(kind, torch.randn(3, 24), block, shared=False)


def test_damaged_weights_are_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        svd_blocks(torch.tensor([[1.0, torch.inf]]), 2, shared=False)
