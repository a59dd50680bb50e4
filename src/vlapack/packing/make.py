"""From an opened checkpoint to a pack folder: fingerprint, calibrate, quantize, write; resumed after a kill."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlapack import __version__
from vlapack.checkpoints.assets import CONFIG_FILE, repository_of
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.pack.card import CARD_FILE, model_card
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.config import config_document, read_config
from vlapack.checkpoints.pack.contents import layers_of, pack_specs, untouched
from vlapack.checkpoints.pack.writer import PackWriter, settled, sweep_partial
from vlapack.errors import InputError
from vlapack.fingerprint import THREADS, Fingerprint, differences
from vlapack.machine.gpu import CPU
from vlapack.ops.arithmetic import arithmetic, on_threads
from vlapack.packing.balance import balanced_reader, measure_factors, require_foldable
from vlapack.packing.layers import pack_layers
from vlapack.packing.pack_bytes import PackBytes, bytes_by_part, pack_bytes
from vlapack.packing.parent import Parent
from vlapack.packing.ready import Ready
from vlapack.packing.room import require_room
from vlapack.packing.streaming import compute_dtype
from vlapack.pi0.names import EMBEDDING, linears
from vlapack.plan.selected import Selected, groups
from vlapack.policy.placing import usable
from vlapack.quantize.groups import QuantizedGroup, pack_embedding
from vlapack.quantize.room import peak_bytes, shortage_explained
from vlapack.recipe.needs import inputs_needed, needs_activations
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe


@dataclass(frozen=True)
class Report:
    """What `make_pack` did."""

    pack: Path
    """The pack's folder."""
    fingerprint: str
    """Hash of the parent's weights, the recipe and the calibration data, in hexadecimal."""
    layers: int
    """How many linears are packed."""
    seconds: float
    """The whole time."""
    calibration_seconds: float
    """The part of `seconds` in which the float network ran."""
    measured: Mapping[str, Any]
    """`bytes` (before: the parent's file, after: the pack's tensors), `weight_error` (mean, max, worst_layer),
    `layer_errors` (every layer's) and, if attention was balanced, `balance`: the factors."""
    without_inputs: Sequence[str]
    """Layers packed without calibration although the recipe calibrates, because inference never calls them."""
    already_there: bool
    """Whether the folder held this very pack before, so that nothing was done."""
    sizes: PackBytes
    """Bytes of the pack's file, of the weights that a running policy holds, and of those that it maps."""
    peak_device_bytes: int | None = None
    """Bytes of this process's tensors on the GPU that packed, at most; None for a CPU."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document of a run, with this process's peak memory."""
        return {
            "pack": str(self.pack),
            "fingerprint": self.fingerprint,
            "layers": self.layers,
            "seconds": self.seconds,
            "calibration_seconds": self.calibration_seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_bytes": self.peak_device_bytes,
            "without_inputs": list(self.without_inputs),
            "already_there": self.already_there,
            **self.measured,
            "bytes": {**self.measured["bytes"], **vars(self.sizes)},
        }


def make_pack(
    checkpoint: Checkpoint,
    recipe: Recipe | str,
    out: str | Path,
    observations: Sequence[Mapping[str, Any]] | None,
    *,
    on_layer: Callable[[Selected, QuantizedGroup], None] = lambda layer, packed: None,
    device: str | torch.device = "cpu",
) -> Report:
    """Quantize a float checkpoint into a pack: one folder that loads without its parent.

    A folder that already holds this very pack is left alone. A run that was killed resumes, and ends in the same bytes.

    Args:
        checkpoint: the float parent, from `open_checkpoint`
        recipe: which layers, and how; or a preset's name
        out: the folder to make; `OUT.partial/` beside it holds unfinished work
        observations: calibration data in the keys of the robot's layout, one action chunk each; None: weights only,
            which not every recipe allows
        on_layer: called with every layer as it is packed
        device: where the network runs and the layers are packed: `cpu`, `cuda`, `cuda:1`, or torch's own object. It
            decides roundings, so a run that was begun elsewhere is not taken up

    Returns:
        What was made and measured.

    Raises:
        InputError: the recipe selects nothing or needs calibration data, the parent lacks statistics or tokenizer,
            `out` holds something else, the disk is too small, or the device is not there, cannot be used or has too
            little memory
        WorkError: the disk or the GPU's memory filled up meanwhile
    """
    recipe = preset(recipe) if isinstance(recipe, str) else recipe
    if observations is None:
        require_weights_only(recipe)
    place = usable(device)
    with shortage_explained(place):
        return pack_parent(
            Parent(checkpoint), recipe, settled(Path(out)), observations, on_layer=on_layer, device=place
        )


def pack_parent(
    parent: Parent,
    recipe: Recipe,
    out: Path,
    observations: Sequence[Mapping[str, Any]] | None,
    *,
    on_layer: Callable[[Selected, QuantizedGroup], None] = lambda layer, packed: None,
    tuned: Mapping[str, Any] | None = None,
    ready: Ready | None = None,
    device: torch.device,
) -> Report:
    """Do what `make_pack` does, once parent, folder (of `settled`) and device are certain.

    `tuned` is what a tuning measured, a note for the pack's `config.json`, and `ready` what it packed and saw of these
    very observations, which is not done again.
    """
    start = time.monotonic()
    architecture = parent.config.architecture
    every = linears(architecture)
    selected = layers_of(architecture, recipe)
    require_foldable(selected, recipe, architecture)
    seen = observations if needs_activations(recipe) else None
    together = groups(selected, recipe)
    require_room(parent, together, recipe, seen or (), device)
    fingerprint = parent.fingerprint(recipe, observations)
    specs = pack_specs(parent.tensors, selected, recipe)
    sizes = pack_bytes(specs, selected, recipe, architecture)

    def report(measured: Mapping[str, Any], calibration_seconds: float, *, already_there: bool) -> Report:
        return Report(
            pack=out,
            fingerprint=fingerprint.hex,
            layers=len(selected),
            seconds=time.monotonic() - start,
            calibration_seconds=calibration_seconds,
            measured=measured,
            without_inputs=[layer.name for layer in selected if seen is not None and not layer.executed],
            already_there=already_there,
            sizes=sizes,
            peak_device_bytes=peak_bytes(device),
        )

    if (there := existing_pack(out, fingerprint, recipe)) is not None:
        sweep_partial(out)
        return report(there["measured"], 0.0, already_there=True)

    # What one machine began another must not end in its own way: the pack would be neither's.
    made_with = {**arithmetic(device), "device": device.type}
    made_with["calibrates_in"] = None if seen is None else str(compute_dtype(parent, device)).removeprefix("torch.")
    plan = {**fingerprint.to_dict(), "vlapack": __version__, **made_with}
    after = sum(spec.nbytes for spec in specs)
    with (
        PackWriter(out, plan, specs, beside=after if recipe.balances else 0) as writer,
        on_threads(writer.plan[THREADS]),
    ):
        # Another process may have finished it since we looked.
        if (there := existing_pack(out, fingerprint, recipe)) is not None:
            writer.discard()
            return report(there["measured"], 0.0, already_there=True)
        if recipe.balances:
            assert seen is not None
            calibration_seconds, measured = _balance(writer, parent, recipe, seen, on_layer=on_layer, device=device)
        else:
            packed = pack_layers(writer, parent, together, recipe, seen, on_layer=on_layer, ready=ready, device=device)
            _copy_rest(writer, parent, selected, recipe, device)
            calibration_seconds = packed.calibration_seconds
            measured = {
                "bytes": {"before": parent.nbytes, "after": after},
                "weight_error": _summary(packed.errors),
                # Rows that a tuning reordered add up to another last digit.
                "layer_errors": {name: float(f"{error:.5g}") for name, error in packed.errors.items()},
            }
        if tuned is not None:
            measured = {**measured, "tuned": dict(tuned)}
        config = config_document(
            parent.config,
            recipe,
            selected,
            linears=every,
            fingerprint=fingerprint,
            made_with={key: writer.plan[key] for key in made_with},
            measured=measured,
        )
        parts = bytes_by_part(parent, specs)
        repository = repository_of(parent.checkpoint.path)
        card = model_card(parent.config, recipe, selected, parts=parts, measured=measured, base_model=repository)
        writer.finish(config, {**parent.files(), CARD_FILE: card})
    return report(measured, calibration_seconds, already_there=False)


def _balance(
    writer: PackWriter,
    parent: Parent,
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]],
    *,
    on_layer: Callable[[Selected, QuantizedGroup], None],
    device: torch.device,
) -> tuple[float, dict[str, Any]]:
    """Make the pack without balancing, measure it against the parent, and write it with the factors folded in.

    Returns:
        How long calibration took, and what was measured.
    """
    plain = writer.partial / "plain"
    report = pack_parent(
        parent, replace(recipe, atm=False, ohb=False), plain, observations, on_layer=on_layer, device=device
    )
    pack = PackedCheckpoint.open(plain)
    factors = measure_factors(parent, pack, recipe, observations, keep=writer.partial, device=device)
    read = balanced_reader(pack, factors)
    for name in pack.names():
        if writer.note(name) is None:
            writer.write(name, {name: read(name)}, {})
    return report.calibration_seconds, {**report.measured, "balance": factors}


def require_weights_only(recipe: Recipe) -> None:
    """Refuse a recipe that cannot do without calibration.

    Raises:
        InputError: naming everything for which it cannot, with the settings that do without it.
    """
    if needed := inputs_needed(recipe):
        raise InputError(
            f"no calibration data for {' and '.join(needed)}: give `calib=DIR`, or {' '.join(needed.values())}"
        )


def existing_pack(out: Path, fingerprint: Fingerprint, recipe: Recipe) -> dict[str, Any] | None:
    """Return the `config.json` of the pack in `out` if it is the one wanted, None where nothing is there yet.

    Raises:
        InputError: `out` holds another pack (the fields that differ are listed), or something that is no pack.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / CONFIG_FILE).is_file():
        raise InputError(f"{out} exists and is not a pack; choose another `out`, or remove it")
    found = read_config(out)
    wanted = fingerprint.to_dict()
    there = {key: found["fingerprint"].get(key) for key in wanted}
    if there == wanted:
        return found
    rows = differences({**there, "recipe": ""}, {**wanted, "recipe": ""})  # instead of its hash, its fields:
    rows += [f"recipe.{row}" for row in differences({**found["recipe"], "preset": recipe.preset}, recipe.to_dict())]
    raise InputError(
        f"{out} already holds another pack; what differs: {'; '.join(rows)}. Choose another `out` (or "
        "OPENPI_DUQUANT_PACKDIR): packs are never mixed or overwritten"
    )


def _copy_rest(
    writer: PackWriter, parent: Parent, selected: Sequence[Selected], recipe: Recipe, device: torch.device
) -> None:
    """Store what the recipe does not touch as the parent holds it, and the embedding as it asks."""
    if recipe.embedding_bits == 8 and writer.note(EMBEDDING) is None:
        rows, scale = pack_embedding(parent.read(EMBEDDING).to(device))
        writer.write(EMBEDDING, {EMBEDDING: rows.to(CPU), f"{EMBEDDING}_scale": scale.to(CPU)}, {})
    for name in untouched(parent.tensors, selected, recipe):
        if writer.note(name) is None:
            writer.write(name, {name: parent.read(name)}, {})


def _summary(errors: Mapping[str, float]) -> dict[str, Any]:
    worst = max(errors, key=lambda name: errors[name])
    return {"mean": sum(errors.values()) / len(errors), "max": errors[worst], "worst_layer": worst}
