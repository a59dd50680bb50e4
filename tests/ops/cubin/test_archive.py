"""An archive comes back as it was, or is refused in one line that names the file and what to do."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vlapack.errors import InputError
from vlapack.ops.cubin.archive import Archive, Code, cubin_name, kernels_hash, read, write
from vlapack.ops.cubin.variant import Variant

CUBINS = {cubin_name(cubin): cubin for cubin in (b"\x7fELF one\0", b"\x7fELF two\0")}
ONE, TWO = CUBINS
OPTIONS = (("enable_fp_fusion", False), ("num_warps", 4))
CODES = {
    Variant("rows.rows_kernel", ("*bf16:16", "i32", '="plain"'), OPTIONS): Code("rows_kernel", ONE, 128, 4096),
    Variant("rows.rows_kernel", ("*bf16", "i32", '="plain"'), OPTIONS): Code("rows_kernel", TWO, 128, 0),
}
ARCHIVE = Archive("sm_87", "triton 3.9.0", kernels_hash(), CODES, CUBINS)


def edited(path: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    with tarfile.open(path, "r:xz") as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    edit(files)
    with tarfile.open(path, "w:xz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def index_with(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        files["index.json"] = json.dumps(json.loads(files["index.json"]) | changes).encode()

    return edit


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write(ARCHIVE, tmp_path)
    assert read("sm_87", tmp_path) == ARCHIVE
    first = path.read_bytes()
    assert write(ARCHIVE, tmp_path).read_bytes() == first


def test_code_is_found_with_and_without_a_hint() -> None:
    launch = Variant("rows.rows_kernel", ("*bf16:16", "i32:16", '="plain"'), OPTIONS)
    found = ARCHIVE.find(launch)
    assert found is not None
    assert found[1].cubin == ONE
    found = ARCHIVE.find(replace(launch, arguments=("*bf16", "i32:16", '="plain"')))
    assert found is not None
    assert found[1].cubin == TWO
    assert ARCHIVE.find(replace(launch, arguments=("*bf16", "i32:16", '="rms"'))) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda files: files.pop("index.json"), r"damaged \(it has no index.json\)"),
        (lambda files: files.update({"index.json": b"{"}), "damaged"),
        (lambda files: files.update({"index.json": b"[]"}), "damaged"),
        (index_with(variants=[{"kernel": "x"}]), "damaged"),
        (index_with(variants=7), "damaged"),
        (index_with(format=2), "format 2, this vlapack reads 1"),
        (lambda files: files.pop(ONE), f"{ONE} is missing or is not what it was"),
        (lambda files: files.update({ONE: b"\x7fELF 0ne\0"}), f"{ONE} is missing or is not what it was"),
        (index_with(target="sm_110"), "holds kernels for sm_110, not sm_87"),
        (index_with(kernels="0123"), f"compiled from kernels 0123, and those here are {kernels_hash()}"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, edit: Callable[[dict[str, bytes]], None], message: str) -> None:
    path = write(ARCHIVE, tmp_path)
    edited(path, edit)
    with pytest.raises(InputError, match=message) as caught:
        read("sm_87", tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "make cubins" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 10, -40])
def test_a_cut_archive_is_damaged(tmp_path: Path, length: int) -> None:
    path = write(ARCHIVE, tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="damaged"):
        read("sm_87", tmp_path)


def test_a_missing_target_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no compiled kernels for sm_87.*there are: none"):
        read("sm_87", tmp_path / "nowhere")
    write(ARCHIVE, tmp_path)
    with pytest.raises(InputError, match=r"no compiled kernels for sm_89.*there are: sm_87"):
        read("sm_89", tmp_path)


def test_another_kernels_source_is_another_hash(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text("a")
    first = kernels_hash(tmp_path)
    (tmp_path / "rows.py").write_text("b")
    assert kernels_hash(tmp_path) != first
