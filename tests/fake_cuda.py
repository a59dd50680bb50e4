"""A libcuda that is not there: C functions, called through the same C interface, that note what they are given.

A "cubin" for it says what its kernel's parameters are, as a real one does, and a launch reads as many bytes of each
address as that says.
"""

# ruff: noqa: N802 - the functions are CUDA's
from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, c_int, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any

MAGIC = b"FAKE\0"
ERRORS = {1: b"invalid argument", 200: b"device kernel image is invalid", 701: b"too many resources requested"}
TORCHS_CONTEXT = 0xC0DE
PARAMETERS = {
    "cuGetErrorString": (c_int, c_void_p),
    "cuCtxGetCurrent": (c_void_p,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuModuleLoadData": (c_void_p, c_void_p),
    "cuModuleGetFunction": (c_void_p, c_void_p, c_void_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, c_void_p, c_void_p),
}


def fake_cubin(symbol: str, sizes: Sequence[int]) -> bytes:
    """Return an image with one kernel, whose parameters have so many bytes each."""
    return MAGIC + bytes((len(sizes), *sizes)) + symbol.encode() + b"\0"


@dataclass(frozen=True)
class Launched:
    """What a launch came with; each of the parameters as the bytes that its kernel would read."""

    symbol: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    stream: int
    parameters: tuple[bytes, ...]
    extra: int | None


class FakeCuda:
    """The library, and what became of it.

    Attributes:
        launched: in order.
        loads: how many images were loaded.
        most_shared: what kernels asked for, by symbol.
        context: the current one, or None.
        fails: function → the error that it returns.
    """

    def __init__(self) -> None:
        self.launched: list[Launched] = []
        self.loads = 0
        self.most_shared: dict[str, int] = {}
        self.context: int | None = TORCHS_CONTEXT
        self.fails: dict[str, int] = {}
        self._images: dict[int, tuple[str, tuple[int, ...]]] = {}
        for name, types in PARAMETERS.items():
            setattr(self, name, CFUNCTYPE(c_int, *types)(self._failing(name, getattr(self, f"_{name}"))))

    def _failing(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        return lambda *arguments: self.fails.get(name) or function(*arguments)

    def _cuGetErrorString(self, code: int, text: int) -> int:
        if code not in ERRORS:
            return 1
        ctypes.c_char_p.from_address(text).value = ERRORS[code]
        return 0

    def _cuCtxGetCurrent(self, context: int) -> int:
        return put(context, self.context)

    def _cuCtxSetCurrent(self, context: int) -> int:
        self.context = context
        return 0

    def _cuDeviceGet(self, device: int, ordinal: int) -> int:
        c_int.from_address(device).value = 100 + ordinal
        return 0

    def _cuDevicePrimaryCtxRetain(self, context: int, device: int) -> int:
        return put(context, TORCHS_CONTEXT + device - 100)

    def _cuModuleLoadData(self, module: int, image: int) -> int:
        if ctypes.string_at(image, len(MAGIC)) != MAGIC:
            return 200
        count = ctypes.string_at(image + len(MAGIC), 1)[0]
        sizes = tuple(ctypes.string_at(image + len(MAGIC) + 1, count))
        symbol = ctypes.string_at(image + len(MAGIC) + 1 + count).decode()
        self.loads += 1
        self._images[self.loads] = symbol, sizes
        return put(module, self.loads)

    def _cuModuleGetFunction(self, function: int, module: int, name: int) -> int:
        if ctypes.string_at(name).decode() != self._images[module][0]:
            return 500
        return put(function, 0xF000 + module)

    def _cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> int:
        assert attribute == 8, "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        self.most_shared[self._images[function - 0xF000][0]] = value
        return 0

    def _cuLaunchKernel(self, function: int, *rest: Any) -> int:
        symbol, sizes = self._images[function - 0xF000]
        *numbers, shared, stream, parameters, extra = rest
        addresses = (c_void_p * len(sizes)).from_address(parameters)
        values = tuple(ctypes.string_at(address, size) for address, size in zip(addresses, sizes, strict=True))
        grid, block = tuple(numbers[:3]), tuple(numbers[3:])
        self.launched.append(Launched(symbol, grid, block, shared, stream or 0, values, extra))
        return 0


def put(address: int, value: int | None) -> int:
    c_void_p.from_address(address).value = value
    return 0
