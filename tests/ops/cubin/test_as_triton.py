"""The launches that are written down are those that Triton's own launcher would make, in types, hints and constants."""

from __future__ import annotations

import importlib
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cubins.compiling import compiled, parameter_bytes, source, unfit
from cubins.networks import Work, packed_on_meta, shortened
from cubins.recording import Board, Recorder
from extras import needs
from gate.targets import TARGETS
from small import SMALL

from vlapack.ops.cubin.language import KERNELS, Kernel, Type, import_kernels
from vlapack.ops.cubin.variant import Variant
from vlapack.pi0.buffers import Shape
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

needs("triton", remedy="pip install triton, which has wheels for Linux")

pytestmark = pytest.mark.usefixtures("forget_kernels")
RECIPES = (
    PRESETS["full"],
    replace(PRESETS["full"], rotation="svd", shared_block=False, block=16, act_scale="static", row_rot="restore"),
    replace(PRESETS["everything"], weight_bits=8, act_bits=16, group_size=32),
)
BOARD = Board("sm_87", 16)


class Keeping(Recorder):
    """Keeps the arguments of every launch, too."""

    def __init__(self) -> None:
        super().__init__([BOARD])
        self.launches: list[tuple[Kernel, list[Any], dict[str, Any], Variant]] = []

    def __call__(self, kernel: Kernel, grid: tuple[int, ...], values: list[Any], options: dict[str, Any]) -> None:
        super().__call__(kernel, grid, values, options)
        self.launches.append((kernel, values, options, Variant.of_launch(kernel, values, options)))


def work(recipe: Recipe, **changes: Any) -> Work:
    return Work("small", replace(SMALL, **changes), recipe, (Shape(1, 2, 7, torch.uint8),))


def keep(*works: Work) -> Keeping:
    recorder = Keeping()
    import_kernels(recorder)
    for one in works:
        recorder.record(one)
    return recorder


def compiled_by_triton(kernel: Any, values: list[Any], options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What Triton's launcher would compile: signature, constants and hints, as it finds them itself."""
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget("cuda", 87, 32))
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    values = [getattr(tl, value.name) if isinstance(value, Type) else value for value in values]
    bound, specialization, rest = binder(*values, **options)
    _, signature, constants, hints = kernel._pack_args(backend, options, bound, specialization, rest)
    return signature, constants, {place: hint for place, hint in hints.items() if hint}


def triton_kernel(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"{KERNELS}.{module}"), function)


def differences() -> tuple[int, list[str]]:
    """How many kernels three small networks launch, and what Triton's own launcher would launch otherwise."""
    kept = keep(*map(work, RECIPES)).launches
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{KERNELS}.")]:
        del sys.modules[name]  # they were imported without Triton
    seen = {variant: (values, options) for _, values, options, variant in kept}
    found = []
    for variant, (values, options) in seen.items():
        ours = source(variant)
        theirs = compiled_by_triton(triton_kernel(variant.kernel), values, options)
        if (ours.signature, ours.constants, ours.attrs) != theirs:
            found.append(f"{variant}: {theirs}")
    return len({variant.kernel for variant in seen}), found


def test_types_hints_and_constants_are_tritons(monkeypatch) -> None:
    # A Triton that was imported for its interpreter does not compile any more: it takes a process of its own.
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # where that one finds this module
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        kernels, found = pool.submit(differences).result()
    assert kernels >= 4
    assert not found


def test_a_compiled_kernel_declares_the_parameters_that_are_passed(tmp_path, monkeypatch) -> None:
    for name in ("TRITON_CACHE_DIR", "TRITON_DISABLE_LINE_INFO"):  # which `compiled` sets
        monkeypatch.setenv(name, "")
    variants = keep(work(PRESETS["full"])).found["sm_87"]
    variant = next(one for one in variants if one.kernel.startswith("rows."))
    made = compiled([variant], "sm_87", tmp_path, workers=1)[variant]  # in another process; it compares, and raises
    assert made.cubin.startswith(b"\x7fELF")
    assert made.code.threads == 32 * dict(variant.options)["num_warps"]


@pytest.mark.parametrize(
    ("metadata", "parameters", "reason"),
    [
        ({}, ".param .u64 a, .param .u32 b, .param .u64 c, .param .u64 d", None),
        ({}, ".param .u64 a, .param .u32 b, .param .u64 c", r"declares parameters of \[8, 4, 8\] bytes"),
        ({}, ".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d", r"and the loader passes \[8, 4, 8, 8\]"),
        ({"num_ctas": 2}, "", "num_ctas is 2"),
        ({"global_scratch_size": 128}, "", "global_scratch_size is 128"),
        ({"shared": 164 * 1024}, "", "167936 bytes of shared memory; sm_87 has 166912"),
    ],
)
def test_code_that_the_loader_cannot_launch_is_refused(
    metadata: dict[str, int], parameters: str, reason: str | None
) -> None:
    plain = {"num_ctas": 1, "global_scratch_size": 0, "profile_scratch_size": 0, "shared": 0}
    launch = {"launch_cooperative_grid": False, "launch_pdl": False}
    variant = Variant("rows.rows_kernel", ("*bf16:16", "=null", "i32", "i32=1"), ())
    made = SimpleNamespace(**plain | launch | metadata)
    found = unfit(variant, TARGETS["sm_87"], made, f".visible .entry k({parameters}) {{ }}")
    assert (found is None) if reason is None else re.search(reason, found or "")


def test_parameters_are_read_from_either_spelling_of_ptx() -> None:
    parameters = ".param .u64 .ptr .global .align 1 k_0,\n.param .b32 k_1,\n.param .f32 k_2"
    ptx = f".visible .entry k(\n{parameters}\n)\n{{ .param .b64 x; }}"
    assert parameter_bytes(ptx) == [8, 4, 4]


def test_a_small_network_stands_for_a_deep_one(forget_kernels) -> None:
    """Every layer of a kind launches the same kernels: those of five layers are those of seven."""
    deep = {part: replace(getattr(SMALL, part), depth=7) for part in ("vision", "llm", "expert")}
    whole = keep(work(PRESETS["full"], **deep)).found
    forget_kernels()
    assert keep(work(PRESETS["full"])._replace(architecture=shortened(replace(SMALL, **deep)))).found == whole


def test_networks_are_as_a_gpu_holds_them() -> None:
    recorder = keep()
    one = work(PRESETS["full"])
    with recorder.instead_of_meta(one.recipe):
        model = packed_on_meta(one.architecture, one.recipe)
    layer = model.get_submodule("paligemma_with_expert.gemma_expert.model.layers.0.mlp.down_proj")
    assert layer.weight_prepared.dim() == 4
    assert model.device.type == "meta"
