"""Every block must be orthogonal, the same on every machine, and what its name says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from vlapack.errors import InputError
from vlapack.methods.rotate import greedy, hadamard, rotation, svd_blocks, svd_hadamard


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


def outlying(rows, channels):
    x = torch.randn(rows, channels)
    x[:, 5] *= 50
    x[rows // 2, channels - 1] = -300
    return x


@pytest.mark.parametrize(
    ("rows", "channels", "block"), [(1, 4, 4), (40, 48, 16), (3, 4304, 16), (7, 64, 64), (5, 6, 1)]
)
def test_greedy_is_orthogonal_and_never_widens_the_range(rows, channels, block):
    x = outlying(rows, channels) if channels > 6 else torch.randn(rows, channels)
    made = greedy(x, block, 0)
    assert made.shape == (1, block, block)
    assert_orthogonal(made)
    groups = x.double().reshape(-1, block)
    turned = groups @ made[0]
    assert turned.max() - turned.min() <= groups.max() - groups.min()


def test_greedy_flattens_outliers():
    groups = outlying(64, 64).double()
    turned = groups @ greedy(groups, 64, 0)[0]
    assert turned.max() - turned.min() < 0.5 * (groups.max() - groups.min())


def test_greedy_depends_on_its_seed_and_on_nothing_else_random():
    x = outlying(20, 32)
    first = greedy(x, 16, 1)
    torch.manual_seed(99)
    assert torch.equal(greedy(x, 16, 1), first)
    assert not torch.equal(greedy(x, 16, 2), first)


def test_greedy_without_a_step_and_on_zeros_is_the_identity():
    eye = torch.eye(8, dtype=torch.float64).unsqueeze(0)
    assert torch.equal(greedy(outlying(4, 16), 8, 0, steps=0), eye)
    assert torch.equal(greedy(torch.zeros(3, 16), 8, 0), eye)


def test_greedy_is_a_plain_product_of_swapped_rotations():
    x = outlying(9, 8)
    rotated = greedy(x, 8, 3, steps=1)[0].numpy()
    column = int(np.abs(x.numpy()).max(0).argmax())
    assert np.allclose(np.linalg.norm(rotated[column]), 1)
    # the row that the outlier's column meets: swapped back, it starts with 1/sqrt(B)
    assert rotated[column, column] == pytest.approx(1 / math.sqrt(8))


@pytest.mark.parametrize(
    ("x", "block", "said"),
    [
        (torch.ones(2, 10), 4, "10 channels in blocks of 4"),
        (torch.ones(0, 8), 4, "are empty"),
        (torch.full((1, 8), torch.nan), 4, "NaN"),
    ],
)
def test_greedy_names_bad_activations(x, block, said):
    with pytest.raises(InputError, match=said):
        greedy(x, block, 0)
