"""Where `--out` may be: tried before any work, followed or refused in one line; and `~` is home in every path."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from shop import DIT, Shop, die

from vlapack.cli import main
from vlapack.packing import make
from vlapack.packing.parent import Parent
from vlapack.recipe.environment import OPTIONS


def refused(shop: Shop, out: str) -> str:
    """Return what is said, in one line and before any weight is read; exit code 2."""
    with shop.monkeypatch.context() as patch:
        patch.setattr(Parent, "read", die)
        before = sorted(shop.folder.rglob("*"))
        assert main(["quantize", str(shop.parent), "--out", out, *DIT]) == 2
        assert sorted(shop.folder.rglob("*")) == before
    text = shop.capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_a_link_to_a_folder_is_followed_and_that_is_said(shop: Shop) -> None:
    (shop.folder / "disk").mkdir()
    for link, real in (("link", "disk"), ("new", "another/deeper")):  # an empty folder, and none yet
        (shop.folder / link).symlink_to(real)
        assert shop.quantize(link, *DIT) == 0
        assert f"is a link; the pack goes to {shop.folder / real}" in shop.said()
        assert (shop.folder / link).is_symlink()
        assert (shop.folder / real / "config.json").is_file()
    assert shop.quantize("link", *DIT) == 0
    assert "already" in shop.printed()
    assert not list(shop.folder.rglob("*.partial"))


def test_a_link_to_itself_is_refused(shop: Shop) -> None:
    (shop.folder / "loop").symlink_to("loop")
    assert "cannot be written" in refused(shop, str(shop.folder / "loop"))


def test_a_mount_point_is_refused_with_a_folder_that_would_do(shop: Shop) -> None:
    out = shop.folder / "mounted"
    out.mkdir()
    shop.monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    assert f"is a mount point, and a finished pack is renamed: choose a folder in it, {out}/pack" in refused(
        shop, str(out)
    )
    assert shop.quantize("mounted/pack", *DIT) == 0


@pytest.mark.parametrize("out", [".", "", "../here", "./"])
def test_the_folder_one_is_in_is_refused(shop: Shop, out: str) -> None:
    (shop.folder / "here").mkdir()
    shop.monkeypatch.chdir(shop.folder / "here")
    assert "is the folder you are in, and would be replaced" in refused(shop, out)


def test_a_folder_above_holds_something_else(shop: Shop) -> None:
    (shop.folder / "here").mkdir()
    shop.monkeypatch.chdir(shop.folder / "here")
    assert main(["quantize", str(shop.parent), "--out", "..", *DIT]) == 2
    assert ".. exists and is not a pack" not in (said := shop.said())
    assert f"{shop.folder} exists and is not a pack" in said


def test_a_pack_is_found_from_inside(shop: Shop) -> None:
    assert shop.quantize("pack", *DIT) == 0
    shop.monkeypatch.chdir(shop.folder / "pack")
    assert main(["quantize", str(shop.parent), "--out", ".", *DIT]) == 0
    assert "already" in shop.printed()


def test_below_a_file_and_too_long_names_are_refused(shop: Shop) -> None:
    (shop.folder / "file").touch()
    assert "Not a directory" in refused(shop, str(shop.folder / "file/x"))
    assert "Not a directory" in refused(shop, str(shop.folder / "file/x/y"))
    assert "File name too long" in refused(shop, str(shop.folder / ("n" * 256)))
    assert "File name too long" in refused(shop, str(shop.folder / ("n" * 250)))  # fits, with `.partial` not
    assert shop.quantize("n" * 200, *DIT) == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_disk_that_may_not_be_written_is_refused(shop: Shop, number: int) -> None:
    """Permissions do not stop root, who runs the tests somewhere: the system's answer is forced."""

    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    shop.monkeypatch.setattr(Path, "mkdir", refuse)
    assert os.strerror(number) in refused(shop, str(shop.folder / "pack"))


def test_an_empty_folder_a_trailing_slash_and_new_folders_on_the_way_are_fine(shop: Shop) -> None:
    (shop.folder / "empty").mkdir()
    for out in ("empty", "slash/", "a/b/c"):
        assert shop.quantize(out, *DIT) == 0
        assert (shop.folder / out / "config.json").is_file()
    assert not list(shop.folder.rglob("*.partial"))


def test_a_name_that_is_not_utf_8_is_a_name(shop: Shop) -> None:
    out = shop.folder / os.fsdecode(b"pack-\xff")
    assert main(["quantize", str(shop.parent), "--out", str(out), *DIT]) == 0
    assert (out / "config.json").is_file()


def test_home_is_found_in_every_path(shop: Shop) -> None:
    shop.monkeypatch.setenv("HOME", str(shop.folder))
    shop.monkeypatch.chdir(shop.folder)
    (shop.folder / "parent").symlink_to(shop.parent)
    assert main(["quantize", "~/parent", "--out=~/pack", *DIT]) == 0
    assert main(["verify", "~/pack"]) == 0
    assert main(["inspect", "~/parent", "--preset", "dit"]) == 0
    shop.monkeypatch.setenv("OPENPI_DUQUANT_PACKDIR", "~/by variable")
    assert main(["quantize", "~/parent", *DIT]) == 0
    (shop.folder / "observations").symlink_to(shop.observations)
    words = ["--preset", "dit", "--calib-steps", "2", "--calib=~/observations", "--tokenizer=~/parent/tokenizer.model"]
    assert main(["quantize", "~/parent", "--out=~/calibrated", *words]) == 0
    assert sorted(path.name for path in shop.folder.iterdir()) == [
        "by variable", "calibrated", "observations", "pack", "parent",
    ]  # fmt: skip
    assert OPTIONS["PACKDIR"].parse("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_an_error_of_the_system_is_one_line_and_a_mistake_of_ours_is_not_hidden(shop: Shop) -> None:
    def fail(error: Exception) -> int:
        def raised(*_: Any, **__: Any) -> None:
            raise error

        with shop.monkeypatch.context() as patch:
            patch.setattr(make, "pack_layers", raised)
            return shop.quantize("pack", *DIT)

    shop.said()
    assert fail(OSError(errno.EIO, "Input/output error")) == 1
    assert shop.said().rstrip().endswith("failed: Input/output error")
    assert fail(PermissionError(errno.EACCES, "Permission denied", "/a/file")) == 1
    assert shop.said().rstrip().endswith("failed: /a/file: Permission denied")
    with pytest.raises(OSError, match="of a library"):
        fail(OSError("of a library"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        fail(OSError(errno.EBADF, "Bad file descriptor"))
