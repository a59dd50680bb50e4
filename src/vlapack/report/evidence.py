"""What a report is made of, recognized by what it is: nobody has to say which file is which.

Runs, packs and documents of other commands are named in any order, as a shell lists them (`outputs/*`), so a report
needs no flag for each of them. Every kind says itself what it is: a run by `plan.json`, a pack by its `config.json`, a
document by its keys. What is left must be a float policy's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, FiniteFloat, NonNegativeInt, ValidationError

from vlapack.documents import is_file, read_json
from vlapack.errors import InputError
from vlapack.files import from_home
from vlapack.report.diagnosed import Diagnosed
from vlapack.report.reading import EPISODES_FILE, PLAN_FILE, SUMMARY_FILE, first_problem, is_run
from vlapack.report.runs import Run

Amount = FiniteFloat


class Quantiles(BaseModel):
    """Median and 95th percentile."""

    p50: Amount
    p95: Amount


class Dimension(BaseModel):
    """One dimension of the actions in `vlapack compare --json`."""

    name: str
    scale: Amount
    relative: Quantiles | None
    spread: Quantiles


class Gripper(BaseModel):
    """How often a gripper's sign is another."""

    rate: Amount
    spread_rate: Amount


class Compared(BaseModel):
    """What a report reads of `vlapack compare --json`."""

    policy: str
    baseline: str
    data: str
    frames: NonNegativeInt
    dimensions: list[Dimension]
    deviation: Quantiles
    deviation_spread: Quantiles
    gripper: Gripper | None


class Milliseconds(BaseModel):
    """Of a chunk."""

    median: Amount
    min: Amount
    max: Amount


class Timed(BaseModel):
    """One policy in `vlapack bench --json`."""

    name: str
    ms_per_chunk: Milliseconds
    parts: dict[str, Amount]
    bytes_by_part: dict[str, NonNegativeInt]


class Floor(BaseModel):
    """What the machine could do at best."""

    seconds: Amount
    times_floor: Amount
    peak_of: str


class Benched(BaseModel):
    """What a report reads of `vlapack bench --json`."""

    cpu: str
    isa: str
    engine: str
    threads: NonNegativeInt
    policy: Timed
    baseline: Timed | None
    ratio: Amount | None
    floor: Floor


class InspectedLayer(BaseModel):
    """One layer in `vlapack inspect --json`."""

    name: str
    weight_bits: NonNegativeInt
    group_size: NonNegativeInt | None
    act_bits: NonNegativeInt


class InspectedBytes(BaseModel):
    """Of the whole network."""

    before: NonNegativeInt
    after: NonNegativeInt
    held: NonNegativeInt
    mapped: NonNegativeInt


class Inspected(BaseModel):
    """What a report reads of `vlapack inspect --json`."""

    target: str
    layers: list[InspectedLayer]
    bytes: InspectedBytes


class Target(BaseModel):
    """What a tuning aimed at: `error` a fraction, or `held` or `file` bytes."""

    kind: str
    value: Amount


class Error(BaseModel):
    """Of a chunk, over observations that were kept back."""

    median: Amount
    p95: Amount


class Point(BaseModel):
    """One assignment of bits."""

    name: str
    kind: str
    file_bytes: NonNegativeInt
    held_bytes: NonNegativeInt
    predicted: Amount
    measured: Error | None
    ms: Amount | None
    layers: dict[str, NonNegativeInt]


class Frontier(BaseModel):
    """What a report reads of a tuning's `NAME.frontier.json`."""

    target: Target
    chosen: str
    points: list[Point]
    sensitivity: dict[str, dict[str, Amount]]


Document = Compared | Benched | Inspected | Frontier | Diagnosed
KINDS: dict[type[Document], tuple[str, frozenset[str]]] = {
    Compared: ("`vlapack compare --json`", frozenset({"dimensions", "deviation", "deviation_spread"})),
    Benched: ("`vlapack bench --json`", frozenset({"policy", "floor", "threads"})),
    Inspected: ("`vlapack inspect --json`", frozenset({"layers", "counts", "sources"})),
    Diagnosed: ("`vlapack diagnose --json`", frozenset({"findings", "remedies", "target_from"})),
    Frontier: ("`vlapack tune` (NAME.frontier.json)", frozenset({"points", "sensitivity", "chosen"})),
}
"""Document → what writes it, and the keys by which it is known."""


@dataclass
class Evidence:
    """Everything that was given, by kind."""

    runs: list[Run] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    benched: list[Benched] = field(default_factory=list)
    inspected: list[Inspected] = field(default_factory=list)
    frontiers: list[Frontier] = field(default_factory=list)
    diagnosed: list[Diagnosed] = field(default_factory=list)
    packs: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    """Names of folders, to be opened as checkpoints."""

    def add(self, document: Document) -> None:
        """Put a document to its kind."""
        match document:
            case Compared():
                self.compared.append(document)
            case Benched():
                self.benched.append(document)
            case Inspected():
                self.inspected.append(document)
            case Frontier():
                self.frontiers.append(document)
            case Diagnosed():
                self.diagnosed.append(document)


def gather(inputs: Iterable[str]) -> Evidence:
    """Read what the user named.

    Raises:
        InputError: one is nothing that a report takes, or is damaged.
    """
    found = Evidence()
    for name in dict.fromkeys(inputs):
        path = from_home(name)
        if is_file(path):
            found.add(_document(path))
        elif path.is_dir() and is_run(path):
            found.runs.append(Run.read(path))
        elif path.is_dir() and _is_pack(path):
            found.packs.append(name)
        elif path.is_dir() or _is_shipped(name):
            found.parents.append(name)
        else:
            raise InputError(
                f"there is no {name!r}; give folders of `vlapack eval`, packs, their float parent, or what "
                "`vlapack compare --json`, `vlapack bench --json`, `vlapack inspect --json`, `vlapack diagnose --json` "
                "and `vlapack tune` wrote"
            )
    return found


def _document(path: Path) -> Document:
    if path.name in (PLAN_FILE, EPISODES_FILE, SUMMARY_FILE):
        raise InputError(f"{path} is a part of a run: give its folder, {path.parent}")
    document = read_json(path)
    for kind, (source, keys) in KINDS.items():
        if keys <= document.keys():
            try:
                return kind.model_validate(document)
            except ValidationError as error:
                raise InputError(
                    f"{path} is not what {source} writes today: {first_problem(error)}; run it again"
                ) from error
    known = ", ".join(source for source, _ in KINDS.values())
    raise InputError(f"{path} is not of a kind that a report knows: {known}")


def _is_pack(folder: Path) -> bool:
    from vlapack.checkpoints.assets import CONFIG_FILE
    from vlapack.checkpoints.pack.config import TYPE

    path = folder / CONFIG_FILE
    return is_file(path) and read_json(path).get("type") == TYPE


def _is_shipped(name: str) -> bool:
    from vlapack.checkpoints import SHIPPED

    return name in SHIPPED
