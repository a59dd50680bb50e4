"""Peak memory of `quantize_` on a random network of 1 GB, at one budget of layers' inputs per process.

    python benchmarks/inplace_memory.py GIB

Prints the peak of the process's memory before and after, the seconds, and a hash of the layers: every budget must give
the same one.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
from torch import Tensor, nn

from vlapack import Recipe, quantize_

BLOCKS, WIDTH, HIDDEN = 20, 1024, 2816
RECIPE = Recipe(scope="", block=64, rounding="rtn", act_scale="static")


class Block(nn.Module):
    """The linears of a transformer's layer, by their usual names, one after another."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., WIDTH] → the same."""
        y = self.o_proj(self.q_proj(x) + self.k_proj(x) + self.v_proj(x))
        x = nn.functional.layer_norm(x + y, (WIDTH,))
        y = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return nn.functional.layer_norm(x + y, (WIDTH,))


def peak() -> float:
    """Return the most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Quantize it."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(BLOCKS))).eval()
    batches = [torch.randn(1, 1024, WIDTH) for _ in range(4)]
    with torch.no_grad():
        model(batches[0])
    size, before, start = sum(p.numel() * p.itemsize for p in model.parameters()) / 1e9, peak(), time.monotonic()
    quantize_(model, RECIPE, batches, calib_memory=int(float(sys.argv[1]) * 2**30))
    seconds, after, digest = time.monotonic() - start, peak(), hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    print(
        f"model {size:.2f} GB, budget {sys.argv[1]} GiB: peak {before:.2f} GB before and {after:.2f} GB after, "
        f"{seconds:.0f} s, layers {digest.hexdigest()[:12]}"
    )


if __name__ == "__main__":
    main()
