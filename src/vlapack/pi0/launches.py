"""How many kernels a captured chunk launches, counted without a GPU: one for each operator that is not a view.

On fast GPUs launches take longer than the arithmetic, so their number is a figure of its own. It is a lower bound: what
torch launches for one operator is up to torch, and a rotation that is no Hadamard's takes kernels of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vlapack.pi0.buffers import Buffers, Shape
from vlapack.pi0.capturable import on_meta
from vlapack.pi0.flow import Pi0
from vlapack.pi0.fused.products import DECODE_TOKENS

ONE_KERNEL = (rms_norm, scaled_dot_product_attention)
"""What CUDA has one kernel for, and `meta` takes apart."""
TWO_KERNELS = ("attend_few", "attend_quantize")
"""Ops that share the keys among programs, and need a second kernel to put the parts together."""
PRODUCTS = ("int_linear", "float_linear")
"""Ops that do so with the channels where there are few tokens and no groups."""
NO_KERNEL = ("empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "_unsafe_view", "alias", "detach")
"""Operators that are no views and launch nothing."""


@dataclass(frozen=True)
class Launches:
    """Kernels by operator.

    Attributes:
        encode: Of pictures and prompt.
        follow: Of all denoise steps together.
        steps: Denoise steps.
    """

    encode: Counter[str]
    follow: Counter[str]
    steps: int

    @property
    def chunk(self) -> int:
        """Of a whole chunk."""
        return self.encode.total() + self.follow.total()


def launches(model: Pi0, shape: Shape, *, fused: bool = True) -> Launches:
    """Count the kernels of the runs that `graphs.Runner` captures for a chunk.

    Args:
        model: Float or packed, on any device; no weight is read.
        shape: Of the work.
        fused: Whether the network has its fused form, as on GPUs.
    """
    twin = on_meta(model, fused=fused)
    if twin.time_table is None:
        twin.tabulate()
    assert twin.time_table is not None
    with torch.no_grad():
        buffers = Buffers(twin, shape)
        buffers.prefix, encode = _counted(buffers.encode)
        _, follow = _counted(buffers.follow)
    return Launches(encode, follow, len(twin.time_table))


def _counted(run: Callable[[], Any]) -> tuple[Any, Counter[str]]:
    operators = _Operators()
    with _Whole(operators), operators:
        return run(), operators.found


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators, while it is not told that it sees parts of one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()
        self.inside = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if not (self.inside or function.is_view or name in NO_KERNEL):
            split = name in PRODUCTS and len(args[0]) <= DECODE_TOKENS and (kwargs or {}).get("group_size") is None
            self.found[name] += 2 if split or name in TWO_KERNELS else 1
        return function(*args, **(kwargs or {}))


class _Whole(TorchFunctionMode):
    """Counts calls of `ONE_KERNEL`."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function not in ONE_KERNEL:
            return function(*args, **(kwargs or {}))
        self._operators.found[function.__name__] += 1
        self._operators.inside = True
        try:
            result = function(*args, **(kwargs or {}))
            # CUDA's attention writes token by token, as the next product reads it.
            return result if function is rms_norm else result.transpose(1, 2).contiguous().transpose(1, 2)
        finally:
            self._operators.inside = False
