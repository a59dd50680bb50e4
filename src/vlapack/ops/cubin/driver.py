"""The few calls of CUDA's driver that load and launch a kernel, by ctypes: libcuda comes with every NVIDIA driver."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_void_p
from typing import Any

from vlapack.errors import InputError, WorkError

LIBRARY = "libcuda.so.1"
STATIC_SHARED_LIMIT = 48 * 1024
"""Bytes of shared memory above which a kernel must ask for them before its first launch."""
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of cuda.h."""

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuCtxGetCurrent": (POINTER(c_void_p),),
    "cuCtxSetCurrent": (c_void_p,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
}
"""Parameter types of cuda.h; every call returns a CUresult, 0 where all is well."""


class Driver:
    """libcuda. torch has initialized it before the first call."""

    def __init__(self, library: Any = None) -> None:
        """Load it, or take a library that has its functions.

        Raises:
            InputError: it is not installed.
        """
        if library is None:
            try:
                library = ctypes.CDLL(LIBRARY)
            except OSError as error:
                raise InputError(f"{LIBRARY}, which NVIDIA's driver installs, cannot be loaded: {error}") from error
        self._functions: dict[str, Any] = {}
        for name, types in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function

    def enter(self, index: int) -> None:
        """Give this thread the context that torch uses on a device, if it has none: a new thread has none."""
        context = c_void_p()
        self._call("cuCtxGetCurrent", byref(context))
        if context.value is not None:
            return
        device = c_int()
        self._call("cuDeviceGet", byref(device), index)
        self._call("cuDevicePrimaryCtxRetain", byref(context), device.value)
        self._call("cuCtxSetCurrent", context)

    def load(self, cubin: bytes) -> int:
        """Load a cubin into the current context; return its module, which stays for the life of the process."""
        module = c_void_p()
        self._call("cuModuleLoadData", byref(module), cubin)
        assert module.value is not None
        return module.value

    def function(self, module: int, symbol: str, shared: int) -> int:
        """Return a kernel of a module, ready for launches with so many bytes of shared memory."""
        function = c_void_p()
        self._call("cuModuleGetFunction", byref(function), module, symbol.encode())
        assert function.value is not None
        if shared > STATIC_SHARED_LIMIT:
            self._call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
        return function.value

    def launch(
        self, function: int, grid: tuple[int, int, int], slots: bytes, *, threads: int, shared: int, stream: int
    ) -> None:
        """Launch a kernel.

        Args:
            function: from `function`
            grid: programs
            slots: its arguments, each at the beginning of 8 bytes
            threads: of one program
            shared: bytes of dynamic shared memory
            stream: CUDA's handle; 0 is the default stream
        """
        # The driver has copied the arguments when it returns.
        memory = ctypes.create_string_buffer(slots, len(slots))
        first = ctypes.addressof(memory)
        addresses = (c_void_p * (len(slots) // 8))(*range(first, first + len(slots), 8))
        self._call("cuLaunchKernel", function, *grid, threads, 1, 1, shared, stream, addresses, None)

    def _call(self, name: str, *arguments: Any) -> None:
        if code := self._functions[name](*arguments):
            text = c_char_p()
            self._functions["cuGetErrorString"](code, byref(text))
            said = text.value.decode() if text.value else "an error that the driver does not know"
            raise WorkError(f"{name}: {said} (CUDA error {code})")
