"""A recipe: everything that decides what a pack contains, in one frozen dataclass with a JSON form.

A recipe says *which* linears are touched (`scope`, `include`, `exclude`, `layers`, `overrides`) and *how* (bits,
transform, rounding, activation scales). Two methods exist. `vlapack` is ours: linears that share an input (q/k/v,
gate/up) share one transform. `guide` is the recipe of the DuQuant scripts guide: every linear is treated by itself,
with its own permutation and its own SVD blocks, and its smoothing constant λ has no effect (the guide's affine map of
channel energies keeps their order, so the permutation that it enters is the same for every λ).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.recipe.choice import ACT_BITS, GROUP_SIZES, WEIGHT_BITS, Choice, as_choice
from vlapack.recipe.rules import check_choice, check_pattern, is_int, is_number, nearest, require

TYPE = "vlapack.recipe"
VERSION = 2
"""The newest; a recipe without a `Choice` is still written as version 1, which older readers know."""

# Without it the widest scope would also take adaRMS's dense layers.
DEFAULT_INCLUDE = (
    r"(q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2|gate_proj|up_proj|down_proj|multi_modal_projector\.linear)$"
)

MOST_OVERRIDES = 1000
TUNED = "tuned"
"""A recipe file's key for what a tuning measured: a note beside the recipe, which decides nothing (`read_tuned`)."""

_CHOICES: dict[str, tuple[Any, ...]] = {
    "weight_bits": WEIGHT_BITS,
    "act_bits": ACT_BITS,
    "method": ("vlapack", "guide"),
    "rotation": ("none", "hadamard", "svd", "svd_hadamard", "greedy"),
    "row_rot": ("0", "restore"),
    "order": ("permute_rotate", "rotate_permute_rotate"),
    "group_size": GROUP_SIZES,
    "rounding": ("rtn", "gptq"),
    "clip": ("mse", "absmax"),
    "act_scale": ("per_token", "static"),
    "embedding_bits": (16, 8),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which layers are quantized, and how: a frozen dataclass with a JSON form.

    `dataclasses.replace(recipe, block=32)` changes a field. Presets (docs/presets.md) are recipes with names.

    Raises:
        InputError: a field breaks its rule; the message names field, value and rule
    """

    preset: str | None = None
    """The preset it started from; only a label, not part of the digest."""
    scope: str = "paligemma_with_expert."
    """Prefix of the layer names; `paligemma.X` and `paligemma.model.X` mean the same place."""
    include: str = DEFAULT_INCLUDE
    """Regular expression (`re.search`) that a layer's name must match; by default all linears of transformers and
    projector."""
    exclude: str | None = None
    """Regular expression that a layer's name must not match."""
    layers: tuple[str, ...] = ()
    """Exact names; if given, these layers within the scope, whatever `include` and `exclude` say."""
    overrides: tuple[tuple[str, int | Choice], ...] = ()
    """Pairs of regular expression and weight bits (or a `Choice`, which also says groups and activation bits); the
    first that matches a layer wins."""
    weight_bits: int = 4
    """4, 8, or 16: the layer stays float."""
    act_bits: int = 8
    """8, 4 (values in ±7), or 16: activations are not quantized."""
    method: Literal["vlapack", "guide"] = "vlapack"
    """`vlapack`: linears that share an input share a transform; `guide`: the DuQuant scripts guide's recipe."""
    rotation: Literal["none", "hadamard", "svd", "svd_hadamard", "greedy"] = "hadamard"
    """How blocks of input channels are rotated; `greedy` (DuQuant's) needs calibration data."""
    block: int = 64
    """Channels per rotation block, a power of two; shrinks until it divides the layer's input width."""
    shared_block: bool = True
    """One rotation block for all of a layer's input, instead of a distinct one per block."""
    permute: bool = True
    """Spread important channels evenly over the blocks (zigzag) before the rotation."""
    row_rot: Literal["0", "restore"] = "0"
    """`restore`: rotate output rows before rounding, and rotate the result back."""
    block_out: int | None = None
    """Rows per block of the row rotation; None: the same as `block`."""
    smooth: float = 0.0
    """λ in max|x|^λ / max|W|^(1−λ); 0: no smoothing."""
    order: Literal["permute_rotate", "rotate_permute_rotate"] = "permute_rotate"
    """`rotate_permute_rotate` is DuQuant's: rotate, spread the rotated channels over the blocks, rotate again."""
    group_size: Literal[32, 64, 128] | None = None
    """Input channels per bf16 weight scale (the last group may be short); None: one fp32 scale per output channel."""
    rounding: Literal["rtn", "gptq"] = "gptq"
    """`rtn`: round to nearest; `gptq` needs calibration data, and rounds layers that never run to nearest."""
    clip: Literal["mse", "absmax"] = "mse"
    """The range that the integers cover: the part with the least squared error, or all of it."""
    act_scale: Literal["per_token", "static"] = "per_token"
    """Activation scales: computed for each token, or one per layer from calibration data."""
    act_percentile: float = 99.9
    """Percentile of transformed activations that sets a static scale."""
    calib_steps: int = 32
    """Observations used for calibration, one action chunk each."""
    fold: bool = True
    """Fold the first steps of a layer's transform into the layers before it, where that is exact."""
    embedding_bits: int = 16
    """16: embedding rows as in the parent; 8: an int8 row and a scale per token."""
    atm: bool = False
    """QuantVLA's attention temperature matching: one factor per head of the expert, folded into `q_proj`."""
    ohb: bool = False
    """QuantVLA's output head balancing: one factor per layer of the expert, folded into `o_proj`."""
    seed: int = 0
    """Of random rotations and of the noise that calibration starts from."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        for field, choices in _CHOICES.items():
            check_choice(field, getattr(self, field), choices)
        require(isinstance(self.scope, str), "scope", self.scope, "it must be a string")
        for field in ("shared_block", "permute", "fold", "atm", "ohb"):
            require(isinstance(getattr(self, field), bool), field, getattr(self, field), "it must be true or false")
        require(self.preset is None or isinstance(self.preset, str), "preset", self.preset, "it must be a name")
        check_pattern("include", self.include)
        if self.exclude is not None:
            check_pattern("exclude", self.exclude)
        require(len(self.overrides) <= MOST_OVERRIDES, "overrides", "[…]", f"at most {MOST_OVERRIDES} pairs")
        for pattern, chosen in self.overrides:
            check_pattern("overrides", pattern)
            choice = as_choice(chosen)
            require(
                choice.act_bits != 16 or self.act_scale != "static",
                "overrides",
                choice.to_json(),
                "16-bit activations have no static scale: choose `act_scale='per_token'`, or 8 or 4 bits",
            )
        # One spelling of one meaning, so that equal recipes are equal and have equal digests.
        plain = ((pattern, as_choice(chosen)) for pattern, chosen in self.overrides)
        unified = tuple((pattern, choice.weight_bits if choice.is_plain else choice) for pattern, choice in plain)
        object.__setattr__(self, "overrides", unified)
        for field in ("block", "block_out"):
            value = getattr(self, field)
            fits = (field == "block_out" and value is None) or (is_int(value) and value >= 4 and value.bit_count() == 1)
            require(fits, field, value, "it must be a power of two, 4 or more")
        require(is_number(self.smooth) and 0 <= self.smooth <= 1, "smooth", self.smooth, "λ lies in [0, 1]")
        percentile = self.act_percentile
        require(is_number(percentile) and 0 < percentile <= 100, "act_percentile", percentile, "it lies in (0, 100]")
        require(is_int(self.calib_steps) and self.calib_steps > 0, "calib_steps", self.calib_steps, "1 or more")
        require(is_int(self.seed) and 0 <= self.seed < 2**63, "seed", self.seed, "an integer from 0 to 2^63 - 1")
        if self.act_bits == 16 and self.act_scale == "static":
            raise InputError(
                "act_bits = 16 leaves activations unquantized, so a static activation scale has nothing to do: "
                "choose `act_bits=8` or `act_bits=4`, or `act_scale='per_token'` (where OPENPI_DUQUANT_ACT_PCT is set, "
                "unset it)"
            )

    @property
    def shares_transform(self) -> bool:
        """Whether linears that share an input share one transform; the guide's never do."""
        return self.method == "vlapack"

    @property
    def smoothing(self) -> float:
        """The λ that has an effect: 0 under the guide's method, whose constant has none."""
        return self.smooth if self.method == "vlapack" else 0.0

    @property
    def distinct_blocks(self) -> bool:
        """Whether a rotation per block is stored; Hadamard blocks are all equal, so one suffices."""
        return not self.shared_block and self.rotation in ("svd", "svd_hadamard")

    @property
    def rotates_first(self) -> bool:
        """Whether there is also a rotation before the permutation."""
        return self.order == "rotate_permute_rotate" and self.rotation != "none"

    @property
    def distinct_row_blocks(self) -> bool:
        """Whether a row rotation per block is stored (the SVD's U); otherwise one Hadamard block."""
        return self.rotation == "svd"

    @property
    def balances(self) -> bool:
        """Whether the expert's attention is balanced against the float parent's (`atm` or `ohb`)."""
        return self.atm or self.ohb

    @property
    def version(self) -> int:
        """Of the JSON form: 2 if an override says more than weight bits, else 1."""
        return 2 if any(isinstance(chosen, Choice) for _, chosen in self.overrides) else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: `type`, `version` and every field."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["layers"] = list(self.layers)
        fields["overrides"] = [[pattern, as_choice(chosen).to_json()] for pattern, chosen in self.overrides]
        return {"type": TYPE, "version": self.version, **fields}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Recipe:
        """Read the JSON form; absent fields take their defaults.

        Args:
            document: what `to_dict` returns

        Raises:
            InputError: wrong type or version, an unknown key (the nearest known one is named), or a bad value
        """
        if document.get("type") != TYPE:
            raise InputError(f'a recipe says "type": "{TYPE}"; this one says {document.get("type")!r}')
        version = document.get("version")
        if type(version) is not int or not 1 <= version <= VERSION:
            raise InputError(f"recipe version {version!r} is unknown: this vlapack reads versions up to {VERSION}")
        values = {key: value for key, value in document.items() if key not in ("type", "version", TUNED)}
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"a recipe has no key {key!r:.200}{nearest(key, known)}; keys: {', '.join(known)}")
        if "layers" in values:
            values["layers"] = _names(values["layers"])
        if "overrides" in values:
            values["overrides"] = _pairs(values["overrides"])
        recipe = cls(**values)
        if recipe.version > version:
            raise InputError(
                f"an override that sets group_size or act_bits needs a recipe of version {recipe.version}, and this "
                f"one says {version}: set `version={recipe.version}`"
            )
        return recipe

    def digest(self) -> str:
        """Return a SHA-256 over every field except `preset`: equal for recipes that make the same pack."""
        return digest_document(self.to_dict())


def digest_document(document: Mapping[str, Any]) -> str:
    """Return `Recipe.digest` of a recipe's JSON form as it was written, perhaps by a version that knew fewer fields."""
    fields = {key: value for key, value in document.items() if key != "preset"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        InputError: The file is missing, is no JSON object, or holds a bad recipe; the message names the file.
    """
    try:
        document = read_json(path)
    except InputError as error:
        raise InputError(f"the recipe {error}") from error
    try:
        return Recipe.from_dict(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_tuned(path: Path) -> dict[str, Any] | None:
    """Return what a tuning noted in a recipe file, None where none did.

    Raises:
        InputError: as in `read_recipe`, or the note is no JSON object.
    """
    read_recipe(path)
    found = read_json(path).get(TUNED)
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{path}: {TUNED} is {found!r:.100}; what a tuning wrote there is an object")
    return found


def _names(value: Any) -> tuple[str, ...]:
    require(
        isinstance(value, (list, tuple)) and all(isinstance(x, str) for x in value), "layers", value, "a list of names"
    )
    return tuple(value)


def _pairs(value: Any) -> tuple[tuple[str, Choice], ...]:
    good = isinstance(value, (list, tuple)) and all(isinstance(x, (list, tuple)) and len(x) == 2 for x in value)
    require(good, "overrides", value, "a list of [pattern, bits] pairs")
    return tuple((pattern, Choice.from_json(chosen)) for pattern, chosen in value)
