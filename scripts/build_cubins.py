"""Compile the GPU kernels that ship for robots without Triton (`VLAPACK_KERNELS=cubin`). Run by `make cubins`.

    make cubins
    python scripts/build_cubins.py --targets sm_87 --out /tmp/cubins

π0, π0.5 and tiny-libero run on `meta` with every preset, and their launches are written down: no GPU is needed. Each is
compiled with Triton's own tools for Orin (sm_87) and Thor (sm_110); integer products for Thor a second time, with
tcgen05 instructions (`VLAPACK_KERNELS=cubin:tcgen05`), by assembling sm_100's PTX for it. A folder `assets/cubins` goes
into wheels that are built afterwards.

Exit code: 0, 1 if a kernel does not compile or is none that the loader could launch, 2 if an option is wrong.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import tyro
from cubins.compiling import archive_of, compiled
from cubins.networks import works
from cubins.recording import BOARDS, recorded

from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say, stdout
from vlapack.errors import InputError
from vlapack.ops.cubin.archive import FOLDER, Archive, write
from vlapack.ops.cubin.choice import TCGEN05
from vlapack.ops.cubin.variant import Variant

TARGETS = tuple(dict.fromkeys(board.architecture for board in BOARDS))
TENSOR_MEMORY_TARGETS = ("sm_110",)
"""Whose integer products can also use tcgen05."""


def main(
    *,
    targets: tuple[str, ...] = TARGETS,
    out: Path = FOLDER,
    workers: int = 2,
    cache: Path = Path(".gate/cubins"),
) -> int:
    """Compile what the networks launch, and write an archive for each target.

    Args:
        targets: Which: sm_87, sm_110.
        out: Folder of the archives.
        workers: Processes that compile.
        cache: Folder for what was compiled; it can be deleted at any time.
    """
    for name in targets:
        if name not in TARGETS:
            raise InputError(f"`targets={name}`: robots have {', '.join(TARGETS)}")
    everything = list(works())
    say(f"running {len(everything)} networks on meta")
    launches = recorded(everything)
    for target in targets:
        found = compiled(launches[target], target, cache, workers)
        _write(archive_of(target, found), out)
        if target in TENSOR_MEMORY_TARGETS:
            second = f"{target}-{TCGEN05}"
            products: list[Variant] = [variant for variant, one in found.items() if one.multiplies_integers]
            again = compiled(products, second, cache, workers)
            _write(archive_of(second, {variant: one for variant, one in again.items() if one.multiplies_integers}), out)
    return 0


def _write(archive: Archive, folder: Path) -> None:
    path = write(archive, folder)
    unpacked = sum(map(len, archive.cubins.values()))
    stdout.print(
        f"{path}: {len(archive.codes)} variants, {len(archive.cubins)} cubins of {unpacked / 1e6:.1f} MB, "
        f"{path.stat().st_size / 1e6:.2f} MB packed, {archive.compiler}",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
