"""Orthogonal blocks that spread a layer's outliers over B channels.

Every builder returns float64 blocks [1, B, B] (one shared by all groups of B channels) or [K/B, B, B], made for
`Transform.rotation`: a group of channels, as a row vector, is multiplied by its block from the right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.transform import rotate_blocks

ROWS_PER_STEP = 2048
"""Rows of a weight that are float64 at once: a 16384 x 2048 layer is never doubled as a whole."""
GREEDY_STEPS = 256
"""The longest product of rotations that `greedy` tries."""
GREEDY_ROWS = 2048
"""Rows of B channels that `greedy` looks at: those of the largest norm, which no rotation changes."""


def rotation(kind: str, weight: Tensor, block: int, *, shared: bool) -> Tensor | None:
    """Build an input rotation from the weights alone; None for `none`.

    Args:
        kind: `none`, `hadamard`, `svd` or `svd_hadamard`.
        weight: [N, K], already scaled and permuted; linears that share an input are stacked along N.
        block: B; must divide K, and be a power of two where there is a Hadamard.
        shared: One block for all groups of channels instead of one each. A Hadamard is always shared.
    """
    match kind:
        case "none":
            return None
        case "hadamard":
            return hadamard(block).to(weight.device)
        case "svd":
            return svd_blocks(weight, block, shared=shared)
        case "svd_hadamard":
            return svd_hadamard(weight, block, shared=shared)
    raise InputError(f"unknown rotation {kind!r}: choose none, hadamard, svd or svd_hadamard")


def hadamard(block: int) -> Tensor:
    """Return Sylvester's Hadamard matrix over sqrt(B), [1, B, B]: every entry ±1/sqrt(B), so no channel is favoured."""
    if block < 1 or block & (block - 1):
        raise InputError(f"a Hadamard block of {block} is not available: use a power of two")
    matrix = torch.ones(1, 1, dtype=torch.float64)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < block:
        matrix = torch.kron(matrix, pair)
    return (matrix / math.sqrt(block)).unsqueeze(0)


def svd_blocks(weight: Tensor, block: int, *, shared: bool) -> Tensor:
    """Return the right singular vectors V of W[:, blk] = U S Vᵀ, largest singular value first.

    They are the eigenvectors of the B x B Gram matrix W[:, blk]ᵀ W[:, blk]; shared, those of the mean Gram matrix. A
    vector's sign is arbitrary: the entry of largest magnitude is made positive, so that the same weights give the same
    block everywhere. For the same reason the CPU computes the eigenvectors wherever the weight is: for equal
    eigenvalues, another library may choose others. Alone, this gathers energy in few channels and *raises* the 4-bit
    error; see `svd_hadamard`.

    Args:
        weight: [N, K].
        block: B; must divide K.
        shared: One block [1, B, B] instead of [K/B, B, B].
    """
    gram = _gram(weight, block)
    if shared:
        gram = gram.mean(0, keepdim=True)
    vectors = torch.linalg.eigh(gram.cpu()).eigenvectors.flip(-1)
    peaks = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return torch.where(peaks < 0, -vectors, vectors).to(weight.device)


def svd_hadamard(weight: Tensor, block: int, *, shared: bool) -> Tensor:
    """Return V H: the eigenbasis of `svd_blocks`, whose sorted energies the Hadamard then spreads evenly."""
    return svd_blocks(weight, block, shared=shared) @ hadamard(block).to(weight.device)


def greedy(activations: Tensor, block: int, seed: int, steps: int = GREEDY_STEPS) -> Tensor:
    """Return DuQuant's greedy rotation (NeurIPS 2024, arXiv 2406.01721, section 3.2), one block for all channels.

    With x the activations as rows of B channels, each step finds the column d of the largest magnitude and multiplies
    x by E R E, where E swaps columns 0 and d, and R = R~ diag(1, Q'): R~ is orthogonal with a first row of 1/sqrt(B),
    which spreads column d over all, and Q' is random orthogonal, drawn once. Of all products of the first n steps
    (n = 0 included) the one that leaves the smallest max(x) - min(x) is returned. The authors' code takes d from the
    *row* of the largest element, modulo B; their paper, and this function, from its column.

    Args:
        activations: [..., K], already scaled (and permuted). Of their rows of B channels the `GREEDY_ROWS` with the
            largest norms count, since a rotation can make no element larger than its row's norm.
        block: B; must divide K.
        seed: Of Q', drawn on the CPU wherever the activations are.
        steps: The largest n.

    Returns:
        [1, B, B] float64; the same activations and seed give the same block.

    Raises:
        InputError: B does not divide K, there is no activation at all, or one is NaN or infinite.
    """
    channels = activations.shape[-1]
    if channels % block:
        raise InputError(f"cannot rotate {channels} channels in blocks of {block}: the block must divide the channels")
    rows = activations.reshape(-1, block)
    norms = rows.norm(dim=1)
    if not len(rows) or not norms.isfinite().all():
        what = "hold NaN or infinite values" if len(rows) else "are empty"
        raise InputError(f"cannot find a greedy rotation: the activations {what}; check the calibration")
    x = rows[norms.topk(min(GREEDY_ROWS, len(rows))).indices].double()
    spread = _spreading(block, seed).to(x.device)
    product = best = torch.eye(block, dtype=torch.float64, device=x.device)
    least = x.max() - x.min()
    numbers = torch.arange(block, device=x.device)
    for _ in range(steps):  # nothing in here is read by the host, which a GPU would have to wait for
        column = x.abs().amax(0).argmax()
        swap = torch.where(numbers == 0, column, torch.where(numbers == column, 0, numbers))
        step = spread[swap][:, swap]
        x, product = x @ step, product @ step
        width = x.max() - x.min()
        best, least = torch.where(width < least, product, best), torch.minimum(width, least)
    return best.unsqueeze(0)


def _spreading(block: int, seed: int) -> Tensor:
    """Return R~ diag(1, Q') [B, B]: a Householder reflection that takes e_0 to 1/sqrt(B), times a random rotation."""
    axis = torch.full((block,), -1 / math.sqrt(block), dtype=torch.float64)
    axis[0] += 1
    reflected = torch.eye(block, dtype=torch.float64)
    if block > 1:
        reflected -= 2 * torch.outer(axis, axis) / axis.dot(axis)
    draw = torch.randn(block - 1, block - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    random, triangle = torch.linalg.qr(draw)
    reflected[:, 1:] = reflected[:, 1:] @ (random * triangle.diagonal().sign())
    return reflected


def row_rotation(weight: Tensor, block_out: int, kind: str) -> Tensor:
    """Build the rotation of a layer's outputs, which `rotate_rows` applies and `restore_rows` takes back.

    Args:
        weight: [N, K], as it will be rounded.
        block_out: B, the output rows in a block; must divide N.
        kind: The recipe's input rotation. `svd` takes U of W[blk, :] = U S Vᵀ, [N/B, B, B]; any other takes a Hadamard.
    """
    return svd_blocks(weight.T, block_out, shared=False) if kind == "svd" else hadamard(block_out).to(weight.device)


def rotate_rows(weight: Tensor, blocks: Tensor) -> Tensor:
    """Return Uᵀ W[blk, :] for every block of output rows of `weight` [N, K], in its dtype."""
    return rotate_blocks(weight.T, blocks).T.contiguous()


def restore_rows(y: Tensor, blocks: Tensor) -> Tensor:
    """Undo `rotate_rows` on the outputs `y` [..., N]: every block is multiplied by Uᵀ. Exact in float64."""
    return rotate_blocks(y, blocks.transpose(-1, -2))


def _gram(weight: Tensor, block: int) -> Tensor:
    """Return W[:, blk]ᵀ W[:, blk] for every block of columns, [K/B, B, B] float64."""
    channels = weight.shape[1]
    if channels % block:
        raise InputError(f"cannot rotate {channels} channels in blocks of {block}: the block must divide the channels")
    gram = torch.zeros(channels // block, block, block, dtype=torch.float64, device=weight.device)
    for rows in torch.split(weight, ROWS_PER_STEP):
        columns = rows.double().reshape(len(rows), -1, block).transpose(0, 1)  # [K/B, rows, B]
        gram += columns.transpose(1, 2) @ columns
    if not gram.isfinite().all():
        raise InputError("cannot rotate: the weights hold NaN or infinite values")
    return gram
