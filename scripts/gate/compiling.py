"""Compiles one kernel for one card, ahead of time, with the tools that Triton brings.

Triton's wheel holds everything: ptxas for the cards before sm_90 and one for the later ones, cuobjdump, nvdisasm, and
LLVM for AMD. Neither a GPU nor a driver nor CUDA is needed.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import subprocess
import tempfile
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

from gate.machine_code import MachineCode, read_amd, read_nvidia
from gate.targets import TARGETS, Target

PACKAGE = "vlapack.ops.triton"
_TOKENS = ("M", "rows", "tokens")
"""Arguments that count tokens, which are any number; 16 divides the widths of layers and heads."""


@lru_cache(maxsize=1)
def specimens() -> dict[str, Any]:
    """Return what every module of kernels wants compiled, by name."""
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel cannot be compiled
    package = importlib.import_module(PACKAGE)
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(package.__path__):
        made = getattr(importlib.import_module(f"{PACKAGE}.{module.name}"), "specimens", None)
        for specimen in made() if made is not None else ():
            assert specimen.name not in found, f"two specimens are called {specimen.name!r}"
            found[specimen.name] = specimen
    return found


def is_meant_for(specimen: Any, target: Target) -> bool:
    """Whether a specimen is one for this card; a card's second variant is for products of integers alone."""
    if target.assembled_as is not None and not (specimen.expects == "mma" and "*i8" in specimen.signature.values()):
        return False
    return not specimen.targets or target.name.partition("-")[0] in specimen.targets


def constants(specimen: Any, target: Target) -> dict[str, Any]:
    """Return a specimen's compile-time constants on a card: the inline assembly is NVIDIA's only."""
    found = dict(specimen.constexprs)
    if target.backend != "cuda" and found.get("ASM"):
        found["ASM"] = False
    return found


def options(specimen: Any) -> dict[str, Any]:
    """Return Triton's options of a specimen: without fusion, multiplications and additions round one by one."""
    return {"num_warps": specimen.num_warps, "num_stages": specimen.num_stages, "enable_fp_fusion": False}


def compile_to_facts(name: str, target_name: str) -> dict[str, Any]:
    """Compile a specimen and return its `MachineCode` as a dict, or `{"error": …}`; runs in a worker process."""
    try:
        return dataclasses.asdict(compile_specimen(specimens()[name], TARGETS[target_name]))
    except subprocess.CalledProcessError as error:
        return {"error": _last_line(f"{error.stdout}{error.stderr}")}
    except Exception as error:  # whatever Triton raises: a kernel that does not compile is a finding, not a crash
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {_last_line(str(error))}"}


def compile_specimen(specimen: Any, target: Target) -> MachineCode:
    """Compile a specimen for a card and read its code."""
    import triton
    from triton.backends.compiler import GPUTarget

    compiled = triton.compile(
        _source(specimen, target),
        target=GPUTarget(target.backend, target.arch, target.warp_size),
        options=options(specimen),
    )
    ttir, shared = compiled.asm["ttir"], compiled.metadata.shared
    if target.backend == "hip":
        return read_amd(compiled.asm["amdgcn"], ttir, shared)
    cubin, ptx = compiled.asm["cubin"], compiled.asm["ptx"]
    if target.assembled_as is not None:
        cubin = assemble(ptx, target.assembled_as)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        return read_nvidia(
            _tool("nvdisasm", "-c", file),
            _tool("cuobjdump", "-res-usage", file),
            ptx,
            ttir,
            compiled.asm["ttgir"],
            shared,
            specimen.num_warps,
        )


def assemble(ptx: str, arch: str) -> bytes:
    """Assemble PTX for another card of the same family than it was written for."""
    begin = ptx.index(".target ")
    end = ptx.index("\n", begin)
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(f"{ptx[:begin]}.target {arch}{ptx[end:]}", encoding="utf-8")
        _tool("ptxas_blackwell", "--fmad=false", f"--gpu-name={arch}", source, "-o", cubin)
        return cubin.read_bytes()


def _source(specimen: Any, target: Target) -> Any:
    from triton.compiler import ASTSource

    names = specimen.kernel.arg_names
    fixed = constants(specimen, target)
    return ASTSource(
        fn=specimen.kernel,
        signature={name: "constexpr" if name in fixed else specimen.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs={
            (position,): [["tt.divisibility", 16]]
            for position, parameter in enumerate(specimen.kernel.params)
            if _is_aligned(parameter, specimen.signature.get(parameter.name, ""))
        },
    )


def _is_aligned(parameter: Any, kind: str) -> bool:
    """Whether a call tells Triton that 16 divides the argument: tensors' addresses, and sizes that layers fix."""
    if kind.startswith("*"):
        return True
    return kind in ("i32", "i64") and parameter.name not in _TOKENS and not parameter.do_not_specialize


def _tool(name: str, *arguments: str | Path) -> str:
    """Run one of the tools in Triton's wheel and return what it prints."""
    from triton import knobs

    path = getattr(knobs.nvidia, name).path
    ran = subprocess.run([path, *map(str, arguments)], check=True, capture_output=True, text=True)
    return ran.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")[:300]
