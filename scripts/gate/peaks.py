"""What cards can do at most, as their makers publish it: the ceilings of the rooflines in docs/gpu.md.

Dense rates: makers like to print twice as much, for matrices of which half is zero. Of bf16 the rate with fp32 sums,
which GeForce cards halve. `source` names the maker's document; `read` says where its numbers were really read, for the
documents themselves were not at hand. None: from memory, unchecked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One card.

    Args:
        name: as people call it.
        target: what its kernels are compiled for (`targets.py`).
        int8: dense operations on int8 by tensor cores, 10¹² a second.
        bf16: dense operations on bf16 with fp32 sums, 10¹² a second.
        memory: bytes from memory, 10⁹ a second.
        source: the maker's document.
        read: where its numbers were read; None: from memory, unchecked.
        note: what to know before using the numbers.
    """

    name: str
    target: str
    int8: float
    bf16: float
    memory: float
    source: str
    read: str | None = None
    note: str = ""


CARDS = (
    Card("RTX 3090", "sm_86", 284, 71, 936, "NVIDIA Ampere GA102 GPU Architecture (whitepaper), Appendix A"),
    Card(
        "RTX 4090",
        "sm_89",
        660.6,
        165.2,
        1008,
        "NVIDIA Ada GPU Architecture (whitepaper), Appendix A",
        "the same numbers in waredb.com and hmc-tech.com",
    ),
    Card(
        "RTX 5090",
        "sm_120",
        838,
        209.5,
        1792,
        "NVIDIA RTX Blackwell GPU Architecture (whitepaper), Appendix A",
        "int8 and memory: analysis.castromedia.org, spheron.network; bf16 from memory",
    ),
    Card(
        "A100 80 GB SXM",
        "sm_80",
        624,
        312,
        2039,
        "NVIDIA A100 Tensor Core GPU data sheet (us-nvidia-1758950-r4)",
        "quoted by glennklockwood.com",
    ),
    Card(
        "L4",
        "sm_89",
        242.5,
        121,
        300,
        "NVIDIA L4 Tensor Core GPU data sheet (485 and 242 with sparsity)",
        "int8 and memory: quoted by store.sourcecode.com",
    ),
    Card(
        "H100 SXM",
        "sm_90",
        1978.9,
        989.4,
        3350,
        "NVIDIA H100 Tensor Core GPU Architecture (whitepaper)",
        "quoted by glennklockwood.com",
    ),
    Card(
        "H200 SXM",
        "sm_90",
        1979,
        989.5,
        4800,
        "NVIDIA H200 Tensor Core GPU data sheet (3,958 and 1,979 with sparsity)",
        "quoted by morphllm.com",
    ),
    Card(
        "Jetson AGX Orin 64 GB",
        "sm_87",
        85,
        42.5,
        204.8,
        "NVIDIA Jetson AGX Orin Series technical brief (GPU: 170 TOPS with sparsity)",
        "int8: quoted by mzph.cn; bf16 as half of it, and memory, from memory",
        "the 275 TOPS on the box count its two DLAs, which run no such kernels",
    ),
    Card(
        "Jetson Orin Nano 8 GB Super",
        "sm_87",
        33.5,
        16.75,
        102,
        "NVIDIA Jetson Orin Nano Super Developer Kit data sheet (67 TOPS with sparsity)",
        "int8 and memory: quoted by brojogopalsapui.com; bf16 as half of int8",
    ),
    Card(
        "Jetson Thor T5000",
        "sm_110",
        517,
        258,
        273,
        "NVIDIA Jetson Thor data sheet (2,070 TFLOPS of sparse FP4)",
        None,
        "int8 taken as FP8's rate, a quarter of sparse FP4's; whether plain IMMA reaches it is unknown",
    ),
    Card(
        "Strix Halo (Radeon 8060S)",
        "gfx1151",
        59.4,
        59.4,
        256,
        "AMD RDNA 3.5 instruction set: 512 operations a clock and compute unit, × 40 × 2.9 GHz",
        "units and clock: fpsbench.com; the rate and the memory from memory",
    ),
    Card("MI300X", "gfx942", 2614.9, 1307.4, 5300, "AMD Instinct MI300X data sheet", "memory: jaredwatkins.com"),
)
"""The cards of docs/gpu.md."""
