"""The networks on which ways to quantize are compared, by the names that flags give them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from common.language import LanguageModel
from common.mixing import ModuleMixes, PolicyMixes
from common.sentences import Sentences

from vlapack.errors import InputError


def targets(
    names: str, *, policy: str, calibration: Path, observations: Path, language: Path, every: int
) -> Iterator[PolicyMixes | ModuleMixes]:
    """Yield the networks of a comma list, each made when its turn comes.

    Args:
        names: of policy, synthetic, minilm, language.
        policy: the policy's folder, for `policy`; its folder's name is the target's, followed by the part of the
            observations that is compared on.
        calibration: what policies are calibrated on.
        observations: what policies are compared on.
        language: where `language.py` has trained its model.
        every: compare policies on every so many-th of the observations.

    Raises:
        InputError: a name is unknown.
    """

    def on_policy(name: str, folder: str) -> PolicyMixes:
        # Rows of fewer observations are rows of another target, as they are no mean of the same thing.
        part = {1: "", 2: ", every second", 3: ", every third"}.get(every, f", one in {every}")
        return PolicyMixes(name + part, folder, calibration, observations, every=every)

    makers: Mapping[str, Callable[[], PolicyMixes | ModuleMixes]] = {
        "policy": lambda: on_policy(Path(policy).name, policy),
        "synthetic": lambda: on_policy("synthetic 0", _drawn(seed=0)),
        "minilm": lambda: _of_modules("minilm", Sentences()),
        "language": lambda: _of_modules("language", LanguageModel(language)),
    }
    for name in names.split(","):
        if name not in makers:
            raise InputError(f"--targets {name!r} is unknown; choose from {', '.join(makers)}")
        yield makers[name]()


def _drawn(seed: int) -> str:
    """Return the folder of a policy of tiny-libero's sizes with drawn weights (`synthetic_pi05.py`)."""
    from synthetic_pi05 import main as draw

    folder = Path(tempfile.mkdtemp()) / "policy"
    draw(folder, seed=seed, config="tiny_libero")
    return str(folder)


def _of_modules(name: str, found: Sentences | LanguageModel) -> ModuleMixes:
    return ModuleMixes(name, found.model, found.seen, found.measured, found.identity)
