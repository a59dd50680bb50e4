"""Compiles variants ahead of time with Triton's tools, and checks that the loader may launch what comes out.

The parameters that a cubin's PTX declares are compared with those that the loader will pass: a launch with others would
read whatever is there.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate.compiling import assemble
from gate.targets import TARGETS, Target

from vlapack.errors import WorkError
from vlapack.ops.cubin.archive import Archive, Code, cubin_name, kernels_hash
from vlapack.ops.cubin.language import TYPES
from vlapack.ops.cubin.launch import SCRATCH
from vlapack.ops.cubin.variant import ALIGNMENT, Variant
from vlapack.progress import progress

TENSOR_MEMORY = "tcgen05.mma"
_INTEGER_PRODUCT = re.compile(r"mma\.sync\.\S+\.s8\.s8")
_ENTRY = re.compile(r"\.entry\s+\w+\s*\((.*?)\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.[a-z](\d+)")
_BYTES = {"Q": 8, "q": 8, "i4x": 4, "f4x": 4}


@dataclass(frozen=True)
class Compiled:
    """A variant's code, and whether it multiplies integers on tensor cores."""

    code: Code
    cubin: bytes
    multiplies_integers: bool


def compiled(variants: Iterable[Variant], target: str, cache: Path, workers: int) -> dict[Variant, Compiled]:
    """Compile for a target, in worker processes.

    Raises:
        WorkError: a variant does not compile, or is nothing that the loader can launch; the message names it.
    """
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel cannot be compiled
    os.environ["TRITON_CACHE_DIR"] = str(cache.resolve() / "triton")
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # it names files of this machine, and takes a third of a cubin
    wanted = list(variants)
    found = {}
    # Threads would not do: Triton compiles under Python's lock.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool,
        progress(f"compile for {target}", len(wanted)) as advance,
    ):
        running = {pool.submit(compile_variant, variant, target): variant for variant in wanted}
        for future in as_completed(running):
            variant = running[future]
            found[variant] = future.result()
            advance(variant.kernel)
    return {variant: found[variant] for variant in wanted}


def archive_of(target: str, found: dict[Variant, Compiled]) -> Archive:
    """Put compiled variants into an archive."""
    return Archive(
        target,
        compiler(),
        kernels_hash(),
        {variant: one.code for variant, one in found.items()},
        {one.code.cubin: one.cubin for one in found.values()},
    )


def compiler() -> str:
    """Name what compiles."""
    import triton

    return f"triton {triton.__version__}"


def compile_variant(variant: Variant, target_name: str) -> Compiled:
    """Compile one variant; runs in a worker process."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = TARGETS[target_name]
    options = dict(variant.options)
    try:
        made = triton.compile(
            source(variant), target=GPUTarget(target.backend, target.arch, target.warp_size), options=options
        )
        ptx, cubin, metadata = made.asm["ptx"], made.asm["cubin"], made.metadata
        if target.assembled_as is not None:
            cubin = assemble(ptx, target.assembled_as)
    except Exception as error:  # whatever Triton raises: the variant must be named
        raise WorkError(f"{variant} for {target_name}: {type(error).__name__}: {str(error)[-300:]}") from None
    if wrong := unfit(variant, target, metadata, ptx):
        raise WorkError(f"{variant} for {target_name}: {wrong}")
    code = Code(metadata.name, cubin_name(cubin), target.warp_size * metadata.num_warps, metadata.shared)
    multiplies = TENSOR_MEMORY in ptx if target.assembled_as else _INTEGER_PRODUCT.search(ptx) is not None
    return Compiled(code, cubin, multiplies)


def source(variant: Variant) -> Any:
    """Return what Triton compiles: the types, constants and hints that its own launcher would find."""
    import triton.language as tl
    from triton.compiler import ASTSource

    module, _, name = variant.kernel.rpartition(".")
    kernel = getattr(importlib.import_module(f"vlapack.ops.triton.{module}"), name)
    signature, constants, attributes = {}, {}, {}
    for position, (parameter, word) in enumerate(zip(kernel.arg_names, variant.arguments, strict=True)):
        kind, hint, value = re.fullmatch(r"([^:=]*)([:=]?)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
        signature[parameter] = "constexpr" if hint == "=" else kind
        if hint == "=":
            constants[position,] = getattr(tl, value) if value in TYPES else json.loads(value)
        elif hint == ":":
            attributes[position,] = [["tt.divisibility", ALIGNMENT]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def unfit(variant: Variant, target: Target, metadata: Any, ptx: str) -> str | None:
    """Say why the loader cannot launch a compiled kernel; None: it can."""
    for name, plain in {
        "num_ctas": 1,
        "global_scratch_size": 0,
        "profile_scratch_size": 0,
        "launch_cooperative_grid": False,
        "launch_pdl": False,
    }.items():
        if (value := getattr(metadata, name)) != plain:
            return f"{name} is {value}; the loader launches kernels with {plain} only"
    if metadata.shared > target.shared_limit:
        return f"{metadata.shared} bytes of shared memory; {target.name} has {target.shared_limit}"
    declared, passed = parameter_bytes(ptx), [*(_BYTES[slot] for slot in variant.slots), *(8,) * SCRATCH]
    if declared != passed:
        return f"it declares parameters of {declared} bytes, and the loader passes {passed}"
    return None


def parameter_bytes(ptx: str) -> Sequence[int]:
    """Return the sizes of a kernel's parameters as its PTX declares them."""
    entry = _ENTRY.search(ptx)
    assert entry is not None, "the PTX has no entry"
    return [int(bits) // 8 for bits in _PARAMETER.findall(entry.group(1))]
