"""Memory counted by the operators that allocate it, on any device, meta included."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlapack.checkpoints.tensorfile import is_mapped


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operators made and nobody has freed, by kind of device; none that is mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not is_mapped(tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, kind, nbytes = storage._cdata, tensor.device.type, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live[kind] += nbytes
        self.peak[kind] = max(self.peak[kind], self.live[kind])
        self.peak["both"] = max(self.peak["both"], self.live["cpu"] + self.live["meta"])
        weakref.finalize(storage, self._free, key, kind, nbytes)

    def _free(self, key: int, kind: str, nbytes: int) -> None:
        self._seen.discard(key)
        self.live[kind] -= nbytes
