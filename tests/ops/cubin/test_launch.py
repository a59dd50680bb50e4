"""A launch hands the driver what the kernel's code expects: each argument, in its place, as wide as it is."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import torch
from fake_cuda import TORCHS_CONTEXT, FakeCuda, Launched, fake_cubin

from vlapack.errors import InputError, WorkError
from vlapack.ops.cubin.archive import Archive, Code
from vlapack.ops.cubin.driver import Driver
from vlapack.ops.cubin.language import Kernel, stand_in
from vlapack.ops.cubin.launch import Launcher
from vlapack.ops.cubin.variant import Variant

STREAM = 0x5EED
X, ROWS, HUGE = torch.arange(12.0), torch.arange(5, dtype=torch.int8)[1:], 1 << 40
ARGUMENTS = (X, 48, None, 1, ROWS, 3, HUGE, 0.1)
WORDS = ("*fp32:16", "i32:16", "=null", "i32=1", "*i8", "i32", "i64:16", "fp32", "=64", '="plain"')
CODE = Code("kernel", "one.cubin", threads=256, shared=1000)
# Written out: x, stride, rows, count, huge, scale, and the two scratch pointers.
SIZES = (8, 4, 8, 4, 8, 4, 8, 8)


def kernel_of(launch) -> Kernel:
    with stand_in(launch):
        import triton
        import triton.language as tl

        @triton.jit(do_not_specialize=["count"])
        def kernel(  # noqa: PLR0917 - as kernels are
            x_ptr, stride, gate_ptr, groups, rows_ptr, count, huge, scale, SIZE: tl.constexpr, KIND: tl.constexpr
        ):  # fmt: skip
            raise AssertionError("a kernel is not Python")

    return kernel


def launcher(cuda: FakeCuda, *words: tuple[str, ...], code: Code = CODE, cubin: bytes | None = None) -> Launcher:
    made = Launcher(Driver(cuda))
    name = kernel_of(made).name
    codes = {Variant(name, one, (("num_warps", 8),)): code for one in words or (WORDS,)}
    cubins = {code.cubin: fake_cubin("kernel", SIZES) if cubin is None else cubin}
    made.add(1, (Archive("sm_87", "", "", codes, cubins),))
    return made


def run(launcher: Launcher, *arguments, grid=(5, 2), **constants) -> None:
    kernel_of(launcher)[grid](*(arguments or ARGUMENTS), **{"SIZE": 64, "KIND": "plain", "num_warps": 8, **constants})


def test_every_argument_of_a_launch_arrives(cuda: FakeCuda) -> None:
    run(launcher(cuda))
    little = "little"
    assert cuda.launched == [
        Launched(
            symbol="kernel",
            grid=(5, 2, 1),
            block=(256, 1, 1),
            shared=1000,
            stream=STREAM,
            parameters=(
                X.data_ptr().to_bytes(8, little),
                (48).to_bytes(4, little),
                ROWS.data_ptr().to_bytes(8, little),
                (3).to_bytes(4, little),
                HUGE.to_bytes(8, little),
                struct.pack("<f", 0.1),
                bytes(8),
                bytes(8),
            ),
            extra=None,
        )
    ]


def test_negative_integers_keep_their_sign(cuda: FakeCuda) -> None:
    run(launcher(cuda), X, -48, None, 1, ROWS, -3, -HUGE, -0.5)
    values = cuda.launched[0].parameters
    assert [int.from_bytes(values[place], "little", signed=True) for place in (1, 3, 4)] == [-48, -3, -HUGE]


def test_code_is_loaded_once_for_all_launches(cuda: FakeCuda) -> None:
    made = launcher(cuda)
    run(made)
    run(made, torch.zeros(99), *ARGUMENTS[1:])
    assert (cuda.loads, len(cuda.launched)) == (1, 2)


def test_much_shared_memory_is_asked_for_and_little_is_not(cuda: FakeCuda) -> None:
    run(launcher(cuda))
    assert cuda.most_shared == {}
    run(launcher(cuda, code=replace(CODE, shared=100_000)))
    assert cuda.most_shared == {"kernel": 100_000}
    assert cuda.launched[-1].shared == 100_000


def test_a_thread_without_a_context_gets_the_one_that_torch_has(cuda: FakeCuda) -> None:
    cuda.context = None
    run(launcher(cuda))
    assert cuda.context == TORCHS_CONTEXT + 1  # of device 1


def test_a_hint_that_an_argument_does_not_keep_is_not_relied_on(cuda: FakeCuda) -> None:
    without = ("*fp32", *WORDS[1:])
    made = launcher(cuda, WORDS, without)
    run(made, torch.arange(13.0)[1:], *ARGUMENTS[1:])
    assert len(cuda.launched) == 1
    with pytest.raises(InputError, match=r"no shipped kernel for .*test_launch.*\(\*fp32:16, i32,.*VLAPACK_KERNELS"):
        run(made, X, 47, *ARGUMENTS[2:])
    assert len(cuda.launched) == 1


@pytest.mark.parametrize("other", [{"SIZE": 128}, {"KIND": "rms"}, {"num_warps": 4}, {"num_stages": 2}])
def test_other_constants_or_options_are_other_code(cuda: FakeCuda, other: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no shipped kernel"):
        run(launcher(cuda), **other)
    assert not cuda.launched


def test_nothing_is_loaded_while_a_graph_is_captured(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    made = launcher(cuda)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(WorkError, match="kernel is not loaded yet and a graph is being captured"):
        run(made)
    assert cuda.loads == 0
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run(made)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run(made)
    assert len(cuda.launched) == 2


def test_no_programs_are_no_launch(cuda: FakeCuda) -> None:
    run(launcher(cuda), grid=(0, 3))
    assert not cuda.launched


def test_the_first_archive_with_code_is_taken_and_others_fill_in(cuda: FakeCuda) -> None:
    made = launcher(cuda)
    name = kernel_of(made).name
    options = (("num_warps", 8),)
    other = (*WORDS[:8], "=128", WORDS[9])
    cubins = {CODE.cubin: fake_cubin("kernel", SIZES)}
    first = {Variant(name, WORDS, options): replace(CODE, shared=1)}
    second = {Variant(name, words, options): replace(CODE, shared=2) for words in (WORDS, other)}
    preferred, plain = (Archive("sm_110", "", "", codes, cubins) for codes in (first, second))
    made.add(1, (preferred, plain))
    run(made)
    run(made, SIZE=128)
    assert [one.shared for one in cuda.launched] == [1, 2]


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("cuModuleLoadData", 200, r"cuModuleLoadData: device kernel image is invalid \(CUDA error 200\)"),
        ("cuLaunchKernel", 701, r"cuLaunchKernel: too many resources requested \(CUDA error 701\)"),
        ("cuLaunchKernel", 999, r"cuLaunchKernel: an error that the driver does not know \(CUDA error 999\)"),
    ],
)
def test_what_the_driver_refuses_is_an_error_with_its_words(
    cuda: FakeCuda, function: str, code: int, message: str
) -> None:
    made = launcher(cuda)
    cuda.fails[function] = code
    with pytest.raises(WorkError, match=message):
        run(made)
    cuda.fails.clear()
    run(made)
    assert len(cuda.launched) == 1


def test_a_missing_argument_is_named(cuda: FakeCuda) -> None:
    with pytest.raises(TypeError, match="the argument scale is missing"):
        run(launcher(cuda), *ARGUMENTS[:-1])
