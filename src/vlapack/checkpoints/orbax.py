"""openpi's JAX checkpoints: a folder with `params/`, written by Orbax, and with luck `assets/<id>/norm_stats.json`.

Orbax keeps every array as zarr, all of them in one OCDBT store or each in a folder of its own; tensorstore (extra
`jax`) reads both, slice by slice, without JAX. Names and axes become those of openpi's PyTorch files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlapack.checkpoints.assets import PARAMS
from vlapack.checkpoints.folder import FloatCheckpoint
from vlapack.checkpoints.jaxnames import lora_factors, merge, places
from vlapack.checkpoints.openpi import with_config
from vlapack.errors import InputError, install

if TYPE_CHECKING:
    import tensorstore

STORE = "manifest.ocdbt"
# What tells an array from other entries, and the driver that reads it.
DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}
# A chunk may be a whole array, 4.8 GB in fp32 for the largest of π0's: decoded once, not once a layer.
CACHE_BYTES = 6 * 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def params_folder(path: Path) -> Path | None:
    """Return where a folder's parameters lie: below it, or in it; None where Orbax wrote none."""
    return next((place for place in (path / PARAMS, path) if (place / STORE).is_file() or _loose(place)), None)


def _loose(place: Path) -> bool:
    return (place / "_METADATA").is_file() or next(place.glob(f"{PARAMS}.*/.zarray"), None) is not None


def open_orbax(
    path: Path,
    *,
    config: str | Path | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> FloatCheckpoint:
    """Open a step's folder (`…/29999`), or its `params`; arguments as in `openpi.open_openpi`.

    Raises:
        InputError: as there; or tensorstore is missing, or an array is unknown or broken.
    """
    params = params_folder(path)
    if params is None:
        raise InputError(f"{path}: no {PARAMS}/ of Orbax's in it")
    folder = path if params != path or path.name != PARAMS else path.parent
    return with_config(folder, OrbaxWeights(params), {}, config=config, norm_stats=norm_stats, tokenizer=tokenizer)


class OrbaxWeights:
    """The tensors of a `params/` folder under openpi's PyTorch names, LoRA merged.

    Args:
        path: the folder.

    Raises:
        InputError: tensorstore is missing, the store is broken, or an array has no place in π0's network.
    """

    def __init__(self, path: Path) -> None:
        """List the arrays and open each."""
        try:
            import tensorstore
        except ImportError as error:
            raise InputError(f"{path}: a JAX checkpoint; {install('jax')} brings what reads it") from error
        self.path = path
        self._context = tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
        base = f"file://{path.absolute()}/"
        self._arrays: dict[str, tensorstore.TensorStore] = {}
        try:
            for stored, driver in self._listed(base):
                kvstore: Any = f"{base}{stored}/"
                if (path / STORE).is_file():
                    kvstore = {"driver": "ocdbt", "base": base, "path": f"{stored}/"}
                spec = {"driver": driver, "kvstore": kvstore, "recheck_cached_data": False}
                name = stored.removeprefix(f"{PARAMS}.").removesuffix(".value")
                self._arrays[name] = tensorstore.open(spec, context=self._context, open=True, read=True).result()
        except ValueError as error:
            raise InputError(f"{path}: cannot be read ({error}); copy the folder again") from error
        if not self._arrays:
            raise InputError(f"{path}: holds no arrays; copy the folder again")
        shapes = {name: tuple(map(int, array.shape)) for name, array in self._arrays.items()}
        self._places = places(shapes, str(path))

    def _listed(self, base: str) -> list[tuple[str, str]]:
        """Every array's name in the store, with its driver."""
        import tensorstore

        if (self.path / STORE).is_file():
            store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}, context=self._context).result()
            keys = [key.decode() for key in store.list().result()]
        else:
            keys = [file.relative_to(self.path).as_posix() for kind in DRIVERS for file in self.path.glob(f"*/{kind}")]
        split = [key.rpartition("/")[::2] for key in keys]
        return sorted((name, DRIVERS[kind]) for name, kind in split if kind in DRIVERS)

    def names(self) -> list[str]:
        """Every tensor's name, those of one array together."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        place = self._places[name]
        stored = self._arrays[place.path].shape[0 if place.layer is None else 1 :]
        return tuple(place.turn(torch.empty(stored, device="meta")).shape)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor: fp32 where LoRA changes it, as rounding would undo small changes."""
        path = self._places[name].path
        if lora_factors(path)[0] in self._arrays:
            return torch.float32
        stored = self._arrays[path].dtype.name
        if stored not in DTYPES:
            raise InputError(f"{self.path}: {path} holds {stored}; weights are one of {', '.join(DTYPES)}")
        return DTYPES[stored]

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own."""
        place = self._places[name]
        weight = self._slice(place.path, place.layer)
        down, up = lora_factors(place.path)
        if down in self._arrays:
            weight = merge(place.path, weight, self._slice(down, place.layer), self._slice(up, place.layer))
        return place.turn(weight).contiguous()

    def mapped(self, name: str) -> Tensor:
        """One tensor, in memory too: what Orbax writes is compressed, and often transposed."""
        return self.read(name)

    def _slice(self, path: str, layer: int | None) -> Tensor:
        array = self._arrays[path]
        try:
            values = (array if layer is None else array[layer]).read().result()
        except ValueError as error:
            raise InputError(f"{self.path}: {path} cannot be read ({error}); copy the folder again") from error
        if array.dtype.name == "bfloat16":  # numpy has no such type: the bits are carried over
            return torch.from_numpy(np.array(values).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(values))
