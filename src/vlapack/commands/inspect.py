"""`vlapack inspect`: which layers a recipe quantizes, and the bytes before and after; loads no weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.table import Table

from vlapack.commands.inspect_notes import bits_of, notes_on
from vlapack.commands.shared_flags import ConfigFlag, Flat, PresetFlag, RecipeFlag
from vlapack.console import emit_json, emit_table, emit_text, spelled
from vlapack.errors import InputError
from vlapack.files import from_home
from vlapack.plan.selected import Selected
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags, resolve

if TYPE_CHECKING:
    from vlapack.pi0.config import Pi0Config
    from vlapack.plan.sizes import Sizes, Tensors

COUNTED = ("vision", "projector", "llm", "expert")


@dataclass(frozen=True)
class InspectedNetwork:
    """What there is to inspect, without a single weight."""

    tensors: Tensors
    architecture: Pi0Config

    @property
    def idle(self) -> list[str]:
        """The linears that inference never calls."""
        from vlapack.pi0.names import linears, never_executed

        return [name for name in linears(self.architecture) if name in never_executed(self.architecture)]

    def pack(self, recipe: Recipe) -> tuple[list[Selected], Sizes]:
        """Select the recipe's layers and add up the bytes."""
        from vlapack.checkpoints.pack.contents import layers_of
        from vlapack.pi0.names import never_executed, time_table
        from vlapack.plan.sizes import account

        selected = layers_of(self.architecture, recipe)
        tabulated, tables = time_table(self.architecture)
        unheld = never_executed(self.architecture) | tabulated
        return selected, account(self.tensors, selected, recipe, never_executed=unheld, tables=tables)


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

    A configuration name needs no files; of a folder only the headers are read. The OPENPI_DUQUANT_* variables count
    as they do in `quantize` (docs/configuration.md): preset or guide's defaults < variables < flags.

        vlapack inspect pi05_libero --preset full
        vlapack inspect CHECKPOINT --config pi05_libero --preset llm --layers

    Args:
        target: A checkpoint folder or a Hugging Face repository (owner/name), or a configuration: its name
            (pi05_libero, pi0_aloha, …) or JSON file.
        layers: One row per layer (also with OPENPI_DUQUANT_DEBUG=1).
        json: Write one JSON document to stdout instead of tables.
        fields: Single fields of the recipe; each goes before preset and variables.
    """
    resolved = resolve(preset, recipe, fields, os.environ)
    sources = {field: spelled(source) for field, source in resolved.sources.items()}
    network = open_network(target, config)
    selected, sizes = network.pack(resolved.recipe)
    notes = list(notes_on(resolved.recipe, selected, network.pack, network.idle))
    if json:
        emit_json(_document(target, resolved.recipe, sources, sizes, notes))
        return 0
    for line in _settings(resolved.recipe, sources):
        emit_text(line)
    tables = [_layers(sizes)] if layers or resolved.options.debug else []
    for table in [*tables, _parts(target, sizes)]:
        emit_table(table)
    for note in notes:
        emit_text(f"* {note}")
    return 0


def open_network(target: str, config: str | None) -> InspectedNetwork:
    """Describe a checkpoint folder or a repository by its headers, or a configuration by its name.

    Raises:
        InputError: There is neither such a folder nor such a name; or the folder holds a pack.
    """
    import torch

    from vlapack.checkpoints import SHIPPED, open_with
    from vlapack.checkpoints.assets import REPOSITORY
    from vlapack.checkpoints.configs import policy_config
    from vlapack.pi0.config import CONFIGS
    from vlapack.pi0.names import canonical_name, openpi_tensors

    path = from_home(target)
    if target in SHIPPED or path.is_dir() or (REPOSITORY.fullmatch(target) and not _is_configuration(path)):
        from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint

        checkpoint = open_with(target, config=config)
        architecture = checkpoint.config.architecture
        names = checkpoint.names()
        if isinstance(checkpoint, PackedCheckpoint):
            raise InputError(
                f"{target} is a pack already: inspect its parent, or check it by `vlapack verify {target}`"
            )
        tensors = {canonical_name(name): (tuple(checkpoint.shape(name)), checkpoint.dtype(name)) for name in names}
    elif os.sep in target and not _is_configuration(path):
        raise InputError(f"there is no folder {target}; give a checkpoint folder or a configuration name")
    else:
        architecture = CONFIGS[target] if target in CONFIGS else policy_config(target).architecture
        tensors = {
            name: (shape, getattr(torch, dtype)) for name, (shape, dtype) in openpi_tensors(architecture).items()
        }
    return InspectedNetwork(tensors, architecture)


def _is_configuration(path: Path) -> bool:
    """Whether a path means a JSON file, there or not."""
    return path.is_file() or path.suffix == ".json"


def _document(
    target: str, recipe: Recipe, sources: Mapping[str, str], sizes: Sizes, notes: list[str]
) -> dict[str, Any]:
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
            "held": sizes.held,
            "mapped": sizes.mapped,
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
    held, mapped = f"{sizes.held / 1e6:.1f} MB", f"{sizes.mapped / 1e6:.1f} MB"
    table.caption = f"our runtime holds {held} in memory and maps {mapped} of embedding rows from the file"
    return table
