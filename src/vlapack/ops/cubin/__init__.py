"""GPU kernels without Triton: compiled code that ships with vlapack, and the CUDA driver that runs it.

JetPack 6 has Python 3.10, for which there is no current Triton on aarch64, and a robot needs no compiler. With
`VLAPACK_KERNELS=cubin` the modules of `ops/triton` run as they are, but `language` stands in for Triton while they are
imported: a launch looks up the code that `scripts/build_cubins.py` compiled for it (`variant`, `archive`) and hands it
to libcuda (`driver`, `launch`).
"""
