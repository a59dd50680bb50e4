"""`vlapack inspect`: which layers a recipe quantizes, and the bytes before and after; loads no weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tyro
from rich.table import Table

from vlapack.commands.inspect_network import open_network
from vlapack.commands.inspect_notes import bits_of, notes_on
from vlapack.commands.shared_flags import ConfigFlag, Flat, PresetFlag, RecipeFlag
from vlapack.console import emit_json, emit_table, emit_text, spelled
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags, resolve

if TYPE_CHECKING:
    from vlapack.packing.pack_bytes import PackBytes
    from vlapack.plan.sizes import Sizes

COUNTED = ("vision", "projector", "llm", "expert")


def inspect(
    target: tyro.conf.Positional[str],
    *,
    preset: PresetFlag = None,
    recipe: RecipeFlag = None,
    config: ConfigFlag = None,
    layers: bool = False,
    json: bool = False,
    fields: Flat[RecipeFlags] = RecipeFlags(),  # noqa: B008  (frozen)
) -> int:
    """Show which layers a recipe quantizes and what that saves, from names and shapes alone.

    A configuration's name needs no files; of a folder only the headers are read. The OPENPI_DUQUANT_* variables work as
    in `quantize` (docs/configuration.md): preset or guide's defaults < variables < flags.

        vlapack inspect pi05_libero --preset full
        vlapack inspect CHECKPOINT --config pi05_libero --preset llm --layers

    Args:
        target: A checkpoint folder or a Hugging Face repository (owner/name), or a configuration: its name
            (pi05_libero, pi0_aloha, …) or JSON file.
        layers: One row per layer (also with OPENPI_DUQUANT_DEBUG=1).
        json: Write one JSON document to stdout instead of tables.
        fields: Single fields of the recipe; they override preset and variables.
    """
    resolved = resolve(preset, recipe, fields, os.environ)
    sources = {field: spelled(source) for field, source in resolved.sources.items()}
    network = open_network(target, config)
    sizes, pack = network.by_layer(resolved.recipe), network.pack(resolved.recipe)
    notes = list(notes_on(resolved.recipe, network))
    if json:
        emit_json(_document(target, resolved.recipe, sources, (sizes, pack), notes))
        return 0
    for table in [_parts(target, sizes), *([_layers(sizes)] if layers or resolved.options.debug else [])]:
        emit_table(table)
    emit_text(f"the pack: {pack}")
    for note in notes:
        emit_text(f"* {note}")
    for line in _settings(resolved.recipe, sources):
        emit_text(line)
    return 0


def _document(
    target: str, recipe: Recipe, sources: Mapping[str, str], packed: tuple[Sizes, PackBytes], notes: list[str]
) -> dict[str, Any]:
    sizes, pack = packed
    counts = Counter(size.layer.part if size.layer.part in COUNTED else "other" for size in sizes.layers)
    return {
        "target": target,
        "preset": recipe.preset,
        "recipe": recipe.to_dict(),
        "sources": dict(sources),
        "layers": [
            {
                **vars(size.layer),
                "bytes_before": size.before,
                "bytes_after": size.after,
                "runtime": vars(size.runtime),
            }
            for size in sizes.layers
        ],
        "counts": {part: counts[part] for part in (*COUNTED, "other")},
        "bytes": {
            "before": sizes.before,
            "after": sizes.after,
            "saved_fraction": sizes.saved_fraction,
            **vars(pack),
        },
        "notes": notes,
    }


def _settings(recipe: Recipe, sources: Mapping[str, str]) -> Iterator[str]:
    for source in dict.fromkeys(sources.values()):
        fields = [field for field in sources if sources[field] == source and field != "preset"]
        yield f"{source}: {', '.join(f'{field} = {_shown(getattr(recipe, field))}' for field in fields)}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(":".join(map(str, item)) if isinstance(item, tuple) else item for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value) or "any"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=bool(place), overflow="fold")
    return table


def _layers(sizes: Sizes) -> Table:
    columns = (
        "layer",
        "K → N",
        "bits",
        "block",
        "permute",
        "folded",
        "row rotation",
        "MB before",
        "after",
        "transform kB",
        "MAC/token",
        "runs",
    )
    table = _table(f"{len(sizes.layers)} layers", *columns)
    for size in sizes.layers:
        layer = size.layer
        table.add_row(
            layer.name,
            f"{layer.in_features} → {layer.out_features}",
            layer.bits,
            f"{layer.block or '–'}{' (shrunk)' if layer.block_shrunk else ''}",
            "yes" if layer.permute else "no",
            ", ".join(layer.folded) or "–",
            f"{layer.row_rot}{f' {layer.block_out}' if layer.block_out else ''}",
            f"{size.before / 1e6:.3f}",
            f"{size.after / 1e6:.3f}",
            f"{size.runtime.bytes / 1e3:.1f}",
            f"{size.runtime.macs_per_token}",
            "yes" if layer.executed else "never",
        )
    return table


def _parts(target: str, sizes: Sizes) -> Table:
    table = _table(
        f"{target}: bytes by part, {bits_of([size.layer for size in sizes.layers])}",
        "part",
        "packed layers",
        "MB before",
        "MB after",
        "saved of all",
    )
    counts = Counter(size.layer.part for size in sizes.layers)
    for part, size in sizes.parts.items():
        saved = (size.before - size.after) / sizes.before
        table.add_row(part, str(counts[part]), f"{size.before / 1e6:.1f}", f"{size.after / 1e6:.1f}", f"{saved:.1%}")
    table.add_section()
    table.add_row(
        "total",
        str(len(sizes.layers)),
        f"{sizes.before / 1e6:.1f}",
        f"{sizes.after / 1e6:.1f}",
        f"{sizes.saved_fraction:.1%}",
    )
    return table
