"""What `tune` and `quantize` have in common when they measure: the flags that say what is wanted, and what is printed.

Nothing here loads torch before it is needed: `--help` answers at once.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vlapack.console import emit_table, emit_text, say, size
from vlapack.errors import InputError

if TYPE_CHECKING:
    import torch

    from vlapack.packing.parent import Parent
    from vlapack.recipe.recipe import Recipe
    from vlapack.tune.allocate import Chosen
    from vlapack.tune.results import Tuned
    from vlapack.tune.target import Target
    from vlapack.tune.tuning import Workshop

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
MOST_OBSERVATIONS = 64
"""Taken without `--observations`: half calibrate, half are kept back."""


@dataclass(frozen=True)
class MeasuringFlags:
    """What the bits are to achieve: exactly one of the first three.

    Args:
        max_error: The smallest pack whose median error of a chunk, as `vlapack compare` prints it, stays below this
            (`1%` or `0.01`) on observations kept back.
        budget: The least error for this much memory, held by a running policy: `1.5GB`, `950MB` (10^9 and 10^6
            bytes).
        budget_file: The least error for a file of at most this size.
        observations: How many to use, evenly spaced over the folder; half are kept back (of fewer than 32, sixteen or
            every fourth). Default: all, up to 64.
        choices: What a layer may become besides staying float: bits, and groups that share a scale, such as
            `4,8,4g32,4g128`. Each one costs time and disk.
        survey: Measure every point of the frontier, not only those near the target: about thirty more runs over the
            observations kept back. The other points are predictions, which may be several times off.
        work: Folder that keeps the measurements, so that another target takes seconds. Default: a `.partial` folder
            next to the result, removed at the end.
    """

    max_error: str | None = None
    budget: str | None = None
    budget_file: str | None = None
    observations: int | None = None
    choices: str = "4,8"
    survey: bool = False
    work: Path | None = None

    @property
    def given(self) -> list[str]:
        """Names of the targets that were given."""
        return [f"`{name}`" for name in ("max_error", "budget", "budget_file") if getattr(self, name) is not None]

    def target(self) -> Target:
        """Return the target.

        Raises:
            InputError: none is given, or more than one, or it does not parse.
        """
        from vlapack.tune.target import Target

        if len(self.given) != 1:
            found = " and ".join(self.given)
            raise InputError(
                f"{f'{found} exclude each other' if found else 'no target is given'}: give one of `max_error='1%'`, "
                "`budget='1.5GB'` (what a running policy holds) and `budget_file='2.4GB'` (its file)"
            )
        if self.max_error is not None:
            return Target("error", parse_error(self.max_error))
        if self.budget is not None:
            return Target("held", parse_bytes(self.budget, "budget"))
        return Target("file", parse_bytes(self.budget_file or "", "budget_file"))

    def packed(self) -> tuple[Chosen, ...]:
        """Return the choices.

        Raises:
            InputError: one is unknown, or none is there.
        """
        from vlapack.recipe.choice import Choice

        found: list[Chosen] = []
        for text in self.choices.split(","):
            try:
                choice = Choice.from_text(text)
            except (ValueError, InputError) as error:
                raise InputError(f"`choices={self.choices!r}`: {error}") from error
            if choice.weight_bits == 16:
                raise InputError(f"`choices={self.choices!r}`: 16 is always among them, as a layer may stay as it is")
            found.append(choice.weight_bits if choice.is_plain else choice)
        return tuple(dict.fromkeys(found))


def parse_bytes(text: str, field: str = "budget") -> int:
    """Return the bytes of `2.4GB`, `950MB`, `10 kB`; a unit is 10^9, 10^6 or 10^3 bytes.

    Raises:
        InputError: it does not parse, or is nothing.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([KMG]B)\s*", text.upper())
    if not match or not (size := int(float(match[1]) * UNITS[match[2]])):
        raise InputError(f"`{field}={text!r}` is not a size: write a number and GB, MB or KB, such as 2.4GB or 950MB")
    return size


def parse_error(text: str) -> float:
    """Return the fraction of `1%`, `0.5 %` or `0.01`.

    Raises:
        InputError: it does not parse, is nothing, or is 100 % and more.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise InputError(f"`max_error={text!r}` is not an error between 0 and 100 %: write 1%, or 0.01")
    return value


def observations_for(
    parent: Parent, flags: MeasuringFlags, folder: Path, rename_map: str | None
) -> list[dict[str, Any]]:
    """Read as many observations as the flags ask for; without them all, up to `MOST_OBSERVATIONS`."""
    from vlapack.observations.folder import load_observations, open_source

    there, count = len(open_source(folder, parent.config, rename_map=rename_map)), flags.observations
    if count is None:
        count = min(MOST_OBSERVATIONS, there)
    if count > there:
        raise InputError(f"{folder} holds {there} observations, fewer than `observations={count}`: record more")
    return load_observations(folder, count, config=parent.config, rename_map=rename_map)


def tuned_as_asked(
    parent: Parent,
    base: Recipe,
    flags: MeasuringFlags,
    observations: Sequence[Mapping[str, Any]],
    partial: Path,
    *,
    done: Callable[[Tuned, Workshop], None],
    device: torch.device,
) -> Tuned:
    """Tune as the flags say, in their folder or else in `partial`; the rest is as in `tune.tuning.tune`."""
    from vlapack.quantize.room import shortage_explained
    from vlapack.tune.tuning import tune

    with shortage_explained(device):
        return tune(
            parent,
            base,
            flags.target(),
            observations,
            flags.work or partial,
            packed=flags.packed(),
            survey=flags.survey,
            done=done,
            device=device,
        )


def document(tuned: Tuned, seconds: float) -> dict[str, Any]:
    """Return the part of the JSON document that says what came out."""
    chosen = tuned.chosen.to_dict()
    return {
        "target": {"kind": tuned.target.kind, "value": tuned.target.value},
        "chosen": chosen["name"],
        "bytes": {"file": chosen["file_bytes"], "held": chosen["held_bytes"]},
        "error": {"predicted": chosen["predicted"], **(chosen["measured"] or {})},
        "ms": chosen["ms"],
        "layers": chosen["layers"],
        "points": [point.to_dict() for point in tuned.points],
        "observations": dict(tuned.observations),
        "chunks": dict(tuned.chunks),
        "seconds": seconds,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def show(tuned: Tuned, written: Sequence[Path]) -> None:
    """Print the frontier."""
    table = Table(title=f"{tuned.target}; errors are of the action chunk, measured on observations kept back")
    for column in ("", "MB held", "MB file", "predicted", "median", "95 %", "ms", "bits"):
        table.add_column(column, justify="left" if column in ("", "bits") else "right", no_wrap=True)
    for point in sorted(tuned.points, key=lambda one: one.held):
        measured = point.measured
        cells = [f"{measured.median:.2%}", f"{measured.p95:.2%}"] if measured else ["", ""]
        counts = ", ".join(f"{count} at {bits}" for bits, count in point.to_dict()["layers"].items())
        mark = "→ " if point is tuned.chosen else ""
        table.add_row(
            f"{mark}{point.name}",
            f"{point.held / 1e6:.2f}",
            f"{point.nbytes / 1e6:.2f}",
            f"{point.predicted:.2%}",
            *cells,
            "" if point.ms is None else f"{point.ms:.1f}",
            counts,
        )
    emit_table(table)
    chosen = tuned.chosen
    assert chosen.measured is not None
    emit_text(
        f"{chosen.name}: file {size(chosen.nbytes)}, held {size(chosen.held)}; median error "
        f"{chosen.measured.median:.2%}, 95 % point {chosen.measured.p95:.2%} on {chosen.measured.frames} observations "
        f"kept back; {tuned.chunks['float']} float and {tuned.chunks['packed']} packed chunks",
    )
    say(f"the frontier is in {written[0]}{''.join(f' and {path.name}' for path in written[1:])}")
