"""A sweep file: which policies play which tasks, as a person writes it in YAML.

```yaml
policies:            # name: a pack, a checkpoint folder, tiny-libero, or the address of a policy server
  tiny: tiny-libero
recipes: [full, full-w4]      # each packs every policy, and the pack is compared with its float parent
suites: {libero_spatial: 0-3}
trials: 20
noise_seeds: 5
```
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vlapack.documents import open_regular
from vlapack.errors import InputError
from vlapack.evaluate.clock import CONTROL_HZ, Guidance, choose_latency
from vlapack.evaluate.plan import BASELINE, FLOORS
from vlapack.libero.clock import Mode
from vlapack.libero.drift import check_drift
from vlapack.recipe.rules import nearest

MOST_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
HINTS = {"seeds": "; `noise_seeds: N` plays each start N times, and `seed` is the root of all of them"}
RESERVED = ("policy", BASELINE, *FLOORS)


def _numbers(value: Any) -> Any:
    """Write ids as the command line does, "0,3,6-7", however YAML read them."""
    if isinstance(value, list) and all(type(one) is int for one in value):
        return ",".join(map(str, value))
    return str(value) if type(value) is int else value


def _suites(value: Any) -> Any:
    return dict.fromkeys(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value


def _entries(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: {"target": entry} if isinstance(entry, str) else entry for name, entry in value.items()}


Numbers = Annotated[str, BeforeValidator(_numbers)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entry(_Strict):
    """A policy of a sweep: its folder or address, and what an openpi folder does not say itself."""

    target: str
    config: str | None = None
    norm_stats: str | None = None
    tokenizer: str | None = None

    def options(self) -> dict[str, Any]:
        """The arguments of `checkpoints.open_with`."""
        return {
            "config": self.config,
            "norm_stats": None if self.norm_stats is None else Path(self.norm_stats),
            "tokenizer": None if self.tokenizer is None else Path(self.tokenizer),
        }


class Sweep(_Strict):
    """What a sweep file says.

    Attributes:
        policies: name → the policy.
        baseline: the name of the one that the others are compared with, where they have no float parent here.
        recipes: presets and recipe files; each packs every policy.
        calib: observations that calibrate the packs.
        suites: suite → ids of tasks, or nothing for all; None: the tasks that the first policy says it was trained for.
        until_ci: as the flag of `vlapack eval`, for each comparison by itself.
        trials, init_states, noise_seeds, seed, replan, hard_reset, drift, mode, latency, control_hz,
            execution_horizon, guidance, dtype, device, compile, noise_floor: as the flags of `vlapack eval`.
    """

    policies: Annotated[dict[str, Entry], BeforeValidator(_entries), Field(min_length=1)]
    baseline: str | None = None
    recipes: list[str] = []
    calib: str | None = None
    suites: Annotated[dict[str, Numbers | None], BeforeValidator(_suites)] | None = None
    trials: int | None = None
    init_states: Numbers | None = None
    noise_seeds: int = Field(default=1, ge=1)
    seed: int = 7
    replan: int | None = Field(default=None, ge=1)
    hard_reset: bool = False
    drift: Annotated[float, Field(strict=False)] = 0.0
    mode: Mode = "sync-free"
    latency: str | None = None
    control_hz: Annotated[float, Field(strict=False)] = CONTROL_HZ
    execution_horizon: int | None = None
    guidance: Guidance | None = None
    noise_floor: bool = False
    until_ci: float | None = Field(default=None, gt=0, lt=1)
    dtype: Literal["float32", "bfloat16"] | None = None
    device: str = "cpu"
    compile: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> Sweep:
        names = list(self.policies)
        for name in names:
            if not NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"policies: the name {name!r} cannot be used; letters, digits, - and _ make a name, and "
                    f"{', '.join(RESERVED)} mean something else"
                )
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(
                f"baseline = {self.baseline!r} is none of the policies {', '.join(names)}"
                + nearest(self.baseline, names)
            )
        labels = [recipe_label(recipe) for recipe in self.recipes]
        if wrong := [label for label in labels if not NAME.fullmatch(label) or label in RESERVED]:
            raise ValueError(f"recipes: {wrong[0]!r} cannot name a pack; letters, digits, - and _ make a name")
        if len(set(labels)) < len(labels):
            raise ValueError(f"recipes: {', '.join(labels)} has a name twice; files count by their names without .json")
        if self.noise_floor and self.baseline is None and not self.recipes:
            raise ValueError("noise_floor: it is a baseline's disagreement with itself, and there is no baseline")
        check_drift(self.drift)
        choose_latency(self.mode, self.latency, self.control_hz)
        return self

    def clock(self) -> dict[str, Any]:
        """Return the settings of the clock, as `latency.plan_clock` takes them."""
        return self.model_dump(include={"mode", "latency", "control_hz", "execution_horizon", "guidance"})


def recipe_label(recipe: str) -> str:
    """Return what a recipe is called in the name of its packs: a preset's name, or a file's without its ending."""
    return Path(recipe).stem if recipe.endswith(".json") else recipe


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        InputError: no such file, no YAML, or keys or values that are not known; the message names each with its value.
    """
    with open_regular(path) as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise InputError(f"{path}: more than 1 MB; a sweep file has a few lines")
    try:
        document = _parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise InputError(f"{path} is nested too deeply; a sweep file has two levels") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected keys such as `policies`, found {type(document).__name__}")
    try:
        return Sweep.model_validate(document)
    except ValidationError as error:
        told = "\n  ".join(_told(one) for one in error.errors(include_url=False))
        raise InputError(f"{path}:\n  {told}") from error


def _parse(text: bytes) -> Any:
    """Parse YAML without aliases, which can grow a line into gigabytes, and without a key that stands twice."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    seen: set[int] = set()
    nodes = [root] if root is not None else []
    while nodes:
        node = nodes.pop()
        line = node.start_mark.line + 1
        if id(node) in seen:
            raise ValueError(f"line {line}: aliases (&, *) are not read; write it out")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError(f"line {line}: the key {twice!r} appears twice")
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    return yaml.safe_load(text)


def _told(error: Any) -> str:
    """Put one of pydantic's errors into a line that names the key and the value."""
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        known = list((Entry if len(error["loc"]) > 1 else Sweep).model_fields)
        last = str(error["loc"][-1])
        hint = HINTS.get(last) or nearest(last, known) or f"; keys: {', '.join(known)}"
        return f"{place} = {error['input']!r:.80}: there is no such key{hint}"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    rule = "expected keys and values below it" if error["type"] in ("dict_type", "model_type") else error["msg"]
    return f"{place} = {error['input']!r:.80}: {rule[0].lower()}{rule[1:]}"
