"""A card that is not there: its tensors are the CPU's, tagged, so that code with values runs and mixing is found.

Within `TaggedDevice()`, `x.to("cuda")` copies and tags, `x.device` answers `cuda:0`, and what is computed of tagged
tensors is tagged. As on a real card, an operator that meets tensors of both sides raises (numbers, which are CPU
tensors without dimensions, and indices may be the CPU's), and so does `numpy()`. What the host waits for is counted:
values that it reads, copies to it, and shapes that depend on values. On the way back through a graph torch makes zeros
by itself, whose device nobody sees: they belong to whatever they first meet.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
DEVICE_OF, IS_CUDA = Tensor.device.__get__, Tensor.is_cuda.__get__  # type: ignore[attr-defined]
INDEXING = ("index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index")
TORCH, HERE = str(Path(torch.__file__).parent), __file__
SOURCES = str(Path(HERE).parents[1] / "src")


class MixedDevicesError(AssertionError):
    """An operator met tensors of the card and of the CPU."""


class TaggedDevice:
    """The card, while its context lasts.

    Attributes:
        reads: what the host waited for, `file:line what`, and how often
        peak: bytes of tensors that were on the card at once, at most; what is inside an operator is not seen
    """

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self.peak = 0
        self._live = 0
        self._sizes: dict[int, int] = {}
        self._loose: dict[int, StorageWeakRef] = {}
        self.backward = False
        self._tags: dict[int, StorageWeakRef] = {}
        self._stack = ExitStack()
        self.silent = False

    def __enter__(self) -> Self:
        self._stack.enter_context(_Operators(self))
        self._stack.enter_context(_Calls(self))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the card."""
        if tensor.is_meta:
            return False
        found = self._tags.get(_plain(tensor).untyped_storage()._cdata)
        return found is not None and not found.expired()

    def place(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Say where a tensor with memory of its own is, and return it."""
        if not tensor.is_meta:
            storage = _plain(tensor).untyped_storage()
            if device.type == "cuda":
                # The reference keeps the storage's address from being used again.
                self._forget(storage._cdata)
                self._tags[storage._cdata] = StorageWeakRef(storage)
                self._sizes[storage._cdata] = storage.nbytes()
                self._live += storage.nbytes()
                if self._live > self.peak:
                    for address in [address for address, found in self._tags.items() if found.expired()]:
                        self._forget(address)
                    self.peak = max(self.peak, self._live)
            else:
                self._forget(storage._cdata)
        return tensor

    def loosen(self, tensor: Tensor) -> None:
        """Leave open where a tensor is."""
        storage = tensor.untyped_storage()
        self._loose[storage._cdata] = StorageWeakRef(storage)

    def claim(self, tensor: Tensor) -> bool:
        """Put a tensor on the card if that was open."""
        found = self._loose.pop(tensor.untyped_storage()._cdata, None)
        if found is None or found.expired():
            return False
        self.place(tensor, CARD)
        return True

    def _forget(self, address: int) -> None:
        if self._tags.pop(address, None) is not None:
            self._live -= self._sizes.pop(address)

    def note(self, what: str) -> None:
        """Count something that the host waits for, by the line of ours that does it."""
        frame = sys._getframe(1)
        while frame.f_back is not None and not frame.f_code.co_filename.startswith(SOURCES):
            frame = frame.f_back
        self.reads[f"{frame.f_code.co_filename.removeprefix(SOURCES)}:{frame.f_lineno} {what}"] += 1

    def read_in(self, module: str) -> int:
        """How often the host waited in modules whose path ends so."""
        return sum(count for where, count in self.reads.items() if where.partition(":")[0].endswith(module))


class _Operators(TorchDispatchMode):
    """Tags results, and refuses operators on both sides."""

    def __init__(self, card: TaggedDevice) -> None:
        super().__init__()
        self._card = card

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, card = kwargs or {}, self._card
        if card.silent:
            return function(*args, **kwargs)
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not leaf.is_meta]
        of_card = any(map(card.holds, tensors))
        if of_card:
            of_card = self._result_on_card(name, args, tensors)
            if self._waits(function, name, args, of_card=of_card):
                card.note(name)
        result = function(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and of_card:
                card.place(leaf, CARD)
            elif isinstance(leaf, Tensor) and card.backward and not tensors:
                card.loosen(leaf)
        return result

    def _result_on_card(self, name: str, args: Any, tensors: list[Tensor]) -> bool:
        """Where the result of an operator is that has a tensor on the card.

        Raises:
            MixedDevicesError: it has one on the CPU, too, and may not.
        """
        holds = self._card.holds
        if name == "copy_":
            return holds(args[0])
        if name in INDEXING:  # by whatever indices
            tensors = [args[0], *(leaf for leaf in args[2:] if isinstance(leaf, Tensor))]
        there = any(map(holds, tensors))
        here = [tensor for tensor in tensors if tensor.dim() and not holds(tensor)]
        if there and [tensor for tensor in here if not self._card.claim(tensor)]:
            raise MixedDevicesError(f"{name}: {_described(tensors, self._card)}")
        return there

    def _waits(self, function: Any, name: str, args: Any, *, of_card: bool) -> bool:
        """Whether the host waits for an operator."""
        if name == "_local_scalar_dense":
            return True
        if name == "copy_":
            return not of_card
        if name in INDEXING:
            return any(isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in args[1])
        return torch.Tag.dynamic_output_shape in function.tags


class _Calls(TorchFunctionMode):
    """Answers what torch would answer of the card, and makes tensors there."""

    def __init__(self, card: TaggedDevice) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, card = kwargs or {}, self._card
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if function == DEVICE_OF:
            return CARD if card.holds(first) else function(*args)
        if function == IS_CUDA:
            return card.holds(first)
        if first is not None and card.holds(first):
            if function is Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if function is Tensor.tolist:
                card.note("tolist")
        if function in (Tensor.cpu, Tensor.cuda):
            return self._moved(first, CPU if function is Tensor.cpu else CARD)
        if function is Tensor.to:
            return self._to(first, args[1:], kwargs)
        if function is torch.autograd.grad:
            card.backward = True
            try:
                return function(*args, **kwargs)
            finally:
                card.backward = False
        device = kwargs.get("device")
        if device is None or torch.device(device).type == "meta":
            return function(*args, **kwargs)
        target = torch.device(device)
        made = function(*args, **{**kwargs, "device": CPU})
        return tree_map(lambda leaf: card.place(leaf, target) if isinstance(leaf, Tensor) else leaf, made)

    def _to(self, tensor: Tensor, args: Any, kwargs: Any) -> Tensor:
        words = [*args, *kwargs.values()]
        other = next((word for word in words if isinstance(word, Tensor)), None)
        named = next((word for word in words if isinstance(word, str | torch.device)), None)
        dtype = next((word for word in words if isinstance(word, torch.dtype)), None)
        device = None if named is None else torch.device(named)
        if other is not None:
            device, dtype = (CARD if self._card.holds(other) else other.device), other.dtype
        if device is not None and device.type == "meta":
            return tensor.to(device=device, dtype=dtype or tensor.dtype)
        if device is not None:
            tensor = self._moved(tensor, device)
        copied = bool(kwargs.get("copy")) and tensor.dtype == (dtype or tensor.dtype)
        return tensor.clone() if copied else tensor.to(dtype or tensor.dtype)

    def _moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        card = self._card
        if card.holds(tensor) == (device.type == "cuda") or tensor.is_meta:
            return tensor
        if device.type == "cpu":
            card.note("copy to the host")
        card.silent = True
        try:
            copy = tensor.clone()
        finally:
            card.silent = False
        return card.place(copy, device)


def _plain(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _described(tensors: list[Tensor], card: TaggedDevice) -> str:
    return ", ".join(f"{list(tensor.shape)} on {'the card' if card.holds(tensor) else 'the CPU'}" for tensor in tensors)
