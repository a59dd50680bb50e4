"""Products in fp32 as they are written, whatever the process has allowed its GPUs to round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

FULL = "highest"


@contextmanager
def full_precision() -> Iterator[None]:
    """Let no fp32 product in the block read its factors as TF32 or bf16.

    openpi's `PI0Pytorch` switches that on for its whole process. Ten bits of a factor would be too few for GPTQ: errors
    are corrected by products of what is left of them.
    """
    before = torch.get_float32_matmul_precision()
    if before == FULL:
        yield
        return
    torch.set_float32_matmul_precision(FULL)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
