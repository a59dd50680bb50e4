"""The file of compiled kernels for one class of card: `assets/cubins/<target>.tar.xz`, an index and cubins.

`scripts/build_cubins.py` writes it. Code fits the launches of the kernels that it was compiled from, so an archive
names their hash, and another one is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from vlapack.documents import open_regular
from vlapack.errors import InputError
from vlapack.files import replaced
from vlapack.ops.cubin.variant import Variant, best

FOLDER = Path(__file__).parents[2] / "assets" / "cubins"
SUFFIX = ".tar.xz"
SOURCES = Path(__file__).parents[1] / "triton"
INDEX = "index.json"
FORMAT = 1
MOST_BYTES = 1 << 28
"""Of an archive's contents; one of ours has some tens of megabytes."""
AGAIN = "`make cubins` where Triton is installed builds it again"


@dataclass(frozen=True)
class Code:
    """A compiled kernel.

    Attributes:
        symbol: its name in the cubin.
        cubin: the cubin's name in the archive.
        threads: of one program.
        shared: bytes of dynamic shared memory.
    """

    symbol: str
    cubin: str
    threads: int
    shared: int


@dataclass(frozen=True)
class Archive:
    """Compiled kernels for a class of card.

    Attributes:
        target: `sm_87`, `sm_110-tcgen05`.
        compiler: what compiled them, for people.
        kernels: `kernels_hash()` when they were compiled.
        codes: by what they are compiled for.
        cubins: by `Code.cubin`.
    """

    target: str
    compiler: str
    kernels: str
    codes: Mapping[Variant, Code]
    cubins: Mapping[str, bytes]

    def find(self, launch: Variant) -> tuple[Variant, Code] | None:
        """Return the code for a launch that relies on the most of what is true of its arguments, or None."""
        found = launch if launch in self.codes else best(self._families.get(launch.unhinted, ()), launch)
        return None if found is None else (found, self.codes[found])

    @cached_property
    def _families(self) -> dict[Variant, list[Variant]]:
        families: dict[Variant, list[Variant]] = {}
        for variant in self.codes:
            families.setdefault(variant.unhinted, []).append(variant)
        return families


def cubin_name(cubin: bytes) -> str:
    """Name a cubin by its contents."""
    return f"{hashlib.sha256(cubin).hexdigest()[:16]}.cubin"


def kernels_hash(folder: Path = SOURCES) -> str:
    """Return a hash of the modules of `ops/triton`."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def write(archive: Archive, folder: Path = FOLDER) -> Path:
    """Write an archive, the same bytes for the same contents; return its path."""
    index = {
        "format": FORMAT,
        "target": archive.target,
        "compiler": archive.compiler,
        "kernels": archive.kernels,
        "variants": [
            {
                "kernel": variant.kernel,
                "arguments": variant.arguments,
                "options": dict(variant.options),
                "symbol": code.symbol,
                "cubin": code.cubin,
                "threads": code.threads,
                "shared": code.shared,
            }
            for variant, code in sorted(archive.codes.items(), key=lambda item: str(item[0]))
        ],
    }
    # Cubins of one kernel stand side by side: what they have in common is then stored once.
    order = dict.fromkeys(entry["cubin"] for entry in index["variants"])  # type: ignore[attr-defined]
    files = {INDEX: json.dumps(index, indent=1).encode(), **{name: archive.cubins[name] for name in order}}
    path = folder / f"{archive.target}{SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(path) as draft, tarfile.open(draft, "w:xz", preset=9) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def read(target: str, folder: Path = FOLDER) -> Archive:
    """Read the archive of a target.

    Raises:
        InputError: it is missing, damaged, or of other kernels than these.
    """
    path = folder / f"{target}{SUFFIX}"
    if not path.exists():
        there = ", ".join(shipped_targets(folder)) or "none"
        raise InputError(f"{path}: there are no compiled kernels for {target}; in this folder there are: {there}")
    with open_regular(path) as file:
        try:
            archive = _parsed(_contents(file))
        except (lzma.LZMAError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{path}: damaged ({reason}); {AGAIN}") from error
    if archive.target != target:
        raise InputError(f"{path}: holds kernels for {archive.target}, not {target}; {AGAIN}")
    if archive.kernels != (here := kernels_hash()):
        raise InputError(f"{path}: compiled from kernels {archive.kernels}, and those here are {here}; {AGAIN}")
    return archive


def shipped_targets(folder: Path = FOLDER) -> list[str]:
    """Return the targets that there are archives for."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def _contents(file: IO[bytes]) -> dict[str, bytes]:
    with lzma.open(file) as packed:
        content = packed.read(MOST_BYTES + 1)  # to its end, where the checksum is
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        members = {entry.name: tar.extractfile(entry) for entry in tar}
        return {name: member.read() for name, member in members.items() if member is not None}


def _parsed(files: dict[str, bytes]) -> Archive:
    if INDEX not in files:
        raise ValueError(f"it has no {INDEX}")
    index = json.loads(files.pop(INDEX))
    if index["format"] != FORMAT:
        raise ValueError(f"format {index['format']}, this vlapack reads {FORMAT}")
    codes = dict(map(_entry, index["variants"]))
    needed = {code.cubin for code in codes.values()}
    if wrong := sorted(name for name in needed if name not in files or cubin_name(files[name]) != name):
        raise ValueError(f"{wrong[0]} is missing or is not what it was")
    return Archive(index["target"], index["compiler"], index["kernels"], codes, files)


def _entry(entry: Mapping[str, Any]) -> tuple[Variant, Code]:
    variant = Variant(entry["kernel"], tuple(entry["arguments"]), tuple(sorted(entry["options"].items())))
    return variant, Code(entry["symbol"], entry["cubin"], int(entry["threads"]), int(entry["shared"]))
