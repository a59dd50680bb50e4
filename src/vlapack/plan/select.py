"""Which linears a recipe touches, and with which bits and blocks: pure, on names and shapes alone.

It takes any mapping of linears to shapes, so a network on the meta device, a folder's headers and someone else's
module are all the same to it.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping

from vlapack.errors import InputError
from vlapack.plan.folding import plan
from vlapack.plan.patterns import Names
from vlapack.plan.selected import Group, Selected, groups, part_of, spellings
from vlapack.recipe.choice import Choice
from vlapack.recipe.presets import GUIDE_SCOPES, PRESETS
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.rules import nearest

SMALLEST_BLOCK = 4


def select(
    linears: Mapping[str, tuple[int, int]],
    recipe: Recipe,
    *,
    never_executed: Collection[str] = frozenset(),
    head_dim: int | None = None,
    stored: Mapping[str, Choice] | None = None,
) -> list[Selected]:
    """Return the layers that `recipe` quantizes, in the order of `linears`.

    Args:
        linears: Every linear's name → (out_features, in_features).
        recipe: Which of them, and how. Layers that an override sets to 16 bits stay float and are left out.
        never_executed: Names of linears that inference never calls.
        head_dim: Width of one attention head of language model and expert; unknown, no rotation is folded into values.
        stored: Layer → the choice that a pack made which exists: these layers, instead of those that the recipe's
            patterns choose. A pack may be a stranger's, and a pattern can be made to search for years.

    Raises:
        InputError: The scope, the patterns, a name in `layers` or an override matches nothing; no block of at least
            four channels divides a layer; or layers that share an input have different activation bits.
    """
    scoped = [name for name in linears if any(form.startswith(recipe.scope) for form in spellings(name))]
    if not scoped:
        raise InputError(_unmatched_scope(linears, recipe))
    if stored is None:
        selected = _chosen(scoped, linears, recipe, never_executed)
    else:
        selected = _stored(scoped, stored, linears, recipe, never_executed)
    for group in groups(selected, recipe):
        _check_shared(group)
    return plan(selected, recipe, linears=linears, never_executed=never_executed, head_dim=head_dim)


def _chosen(
    scoped: list[str], linears: Mapping[str, tuple[int, int]], recipe: Recipe, never_executed: Collection[str]
) -> list[Selected]:
    """The layers that the recipe's patterns choose."""
    names = Names(linears)
    chosen = _exact(scoped, recipe) if recipe.layers else [name for name in scoped if names.selects(recipe, name)]
    if not chosen:
        raise InputError(
            f"none of the {len(scoped)} linears in the scope {recipe.scope!r} matches include {recipe.include!r}"
            f" without exclude {recipe.exclude!r}; the first of them is {scoped[0]!r}"
        )
    # Flags may leave out every layer that a preset's own override is for; what a user wrote must match something.
    own = PRESETS[recipe.preset].overrides if recipe.preset in PRESETS else ()
    for pattern, choice in recipe.overrides:
        if (pattern, choice) not in own and not any(names.match(pattern, name) for name in chosen):
            raise InputError(
                f"the override {pattern!r} matches none of the {len(chosen)} selected layers; "
                f"it is a regular expression for names such as {chosen[0]!r}"
            )
    choices = {name: names.choice(recipe, name) for name in chosen}
    selected = [
        _selected(name, linears[name], choices[name], recipe, executed=name not in never_executed)
        for name in chosen
        if choices[name].weight_bits < 16
    ]
    if not selected:
        raise InputError(f"all {len(chosen)} selected layers have 16 weight bits, so nothing would be quantized")
    return selected


def fit_block(block: int, width: int) -> int:
    """Return the largest power of two ≤ `block` (itself one) that divides `width`."""
    return min(block, width & -width)


def _exact(scoped: list[str], recipe: Recipe) -> list[str]:
    by_spelling = {form: name for name in scoped for form in spellings(name)}
    for name in recipe.layers:
        if name not in by_spelling:
            raise InputError(
                f"layers names {name!r:.200}, which is not a linear in the scope {recipe.scope!r}"
                f"{nearest(name, list(by_spelling))}"
            )
    wanted = {by_spelling[name] for name in recipe.layers}
    return [name for name in scoped if name in wanted]


def _stored(
    scoped: list[str],
    stored: Mapping[str, Choice],
    linears: Mapping[str, tuple[int, int]],
    recipe: Recipe,
    never_executed: Collection[str],
) -> list[Selected]:
    allowed = set(_exact(scoped, recipe) if recipe.layers else scoped)
    for name in stored:
        if name not in allowed:
            raise InputError(f"{name:.200} is packed, but is not a linear that the recipe could choose")
    if not stored:
        raise InputError("no layer is packed")
    return [
        _selected(name, linears[name], stored[name], recipe, executed=name not in never_executed)
        for name in scoped
        if name in stored
    ]


def _check_shared(group: Group) -> None:
    """Refuse activation bits that differ among layers which read one input: it is rounded once for all of them."""
    first, *others = group
    for layer in others:
        if layer.act_bits != first.act_bits:
            raise InputError(
                f"{first.name} has {first.act_bits} activation bits and {layer.name} has {layer.act_bits}, and both "
                "read one input, which is rounded once for both: let an override's pattern match both, or neither"
            )


def _selected(name: str, shape: tuple[int, int], choice: Choice, recipe: Recipe, *, executed: bool) -> Selected:
    rows, columns = shape
    wanted = recipe.block if recipe.permute or recipe.rotation != "none" else 0
    wanted_out = (recipe.block_out or recipe.block) if recipe.row_rot == "restore" else 0
    block = _block(name, "input channels", columns, wanted)
    block_out = _block(name, "output rows", rows, wanted_out)
    return Selected(
        name=name,
        part=part_of(name),
        in_features=columns,
        out_features=rows,
        weight_bits=choice.weight_bits,
        group_size=recipe.group_size if isinstance(choice.group_size, str) else choice.group_size,
        act_bits=recipe.act_bits if isinstance(choice.act_bits, str) else choice.act_bits,
        block=block,
        block_out=block_out,
        block_shrunk=block < wanted or block_out < wanted_out,
        permute=recipe.permute,
        row_rot=recipe.row_rot,
        executed=executed,
    )


def _block(name: str, what: str, width: int, wanted: int) -> int:
    if not wanted:
        return 0
    block = fit_block(wanted, width)
    if block < SMALLEST_BLOCK:
        raise InputError(
            f"{name}: its {width} {what} have no block of {SMALLEST_BLOCK} or more (the largest power of two "
            f"that divides {width} is {block}); exclude this layer, or quantize without permutation and rotation"
        )
    return block


def _unmatched_scope(linears: Mapping[str, tuple[int, int]], recipe: Recipe) -> str:
    names = Names(linears)
    counts = Counter(prefix for name in linears if names.selects(recipe, name) for prefix in _prefixes(name))
    close = difflib.get_close_matches(recipe.scope, list(counts), n=4, cutoff=0.5)
    found = close or [scope for scope in GUIDE_SCOPES.values() if scope in counts] or sorted(counts, key=len)[:4]
    listed = ", ".join(f"{scope!r} ({counts[scope]} layers)" for scope in found)
    return f"the scope {recipe.scope!r} matches no linear; the nearest scopes that do: {listed or 'none in this model'}"


def _prefixes(name: str) -> list[str]:
    """Return the dotted prefixes of a layer's place, down to its stack of layers."""
    pieces = spellings(name)[0].split(".")[:-1]
    stack = next((i for i, piece in enumerate(pieces) if piece.isdigit()), len(pieces))
    return [".".join(pieces[:end]) + "." for end in range(1, stack + 1)]
