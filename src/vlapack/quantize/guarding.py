"""What becomes of `save_pretrained` once linears are integers: it writes what its loader reads, or is refused.

A folder of Transformers or of LeRobot that says nothing of the integers loads without an error, with random weights.
Transformers 5 is told (`in_transformers`); everybody else's `save_pretrained` names `vlapack.save` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from torch import nn

from vlapack.errors import InputError
from vlapack.quantize.quantized_linear import quantized_linears

ADOPTERS: list[Callable[[nn.Module], bool]] = []
"""Asked for each model whether they take care of its `save_pretrained`; `in_transformers` adds itself."""


def guard_saving(model: nn.Module) -> None:
    """Let an adopter see to the `save_pretrained` of each outermost module that has one, and refuse all others."""
    adopted: list[str] = []
    for name, module in model.named_modules():
        if not callable(getattr(type(module), "save_pretrained", None)) or not any(quantized_linears(module)):
            continue
        inside = any(not outer or name.startswith(f"{outer}.") for outer in adopted)
        if not inside and any(adopt(module) for adopt in ADOPTERS):
            adopted.append(name)
        else:
            vars(module)["save_pretrained"] = partial(_refuse, type(module).__name__)


def _refuse(kind: str, *_arguments: object, **_options: object) -> NoReturn:
    raise InputError(
        f"{kind}.save_pretrained: its folder could not be loaded again, since this part is quantized in place; write "
        "it with `vlapack.save(model, folder)` and read it with `vlapack.load_(model, folder)`"
    )
