"""openpi's `PI0Pytorch`, quantized in its process by the DuQuant scripts guide's one line and its variables.

    from vlapack.openpi import enable_duquant_if_configured

    enable_duquant_if_configured(model)  # before or after model.to(device), as the guide has it

Without observations the layers learn their scales as the guide's do: the policy acts in float for the first
`OPENPI_DUQUANT_CALIB_STEPS` chunks, and from then on with integers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.quantize.inplace import Conversion, quantize_
from vlapack.recipe.environment import PREFIX, Options, options_from_environment, variables_set
from vlapack.recipe.resolve import RecipeFlags, resolve


def enable_duquant_if_configured(
    model: nn.Module, calib: Iterable[Any] | None = None, *, environ: Mapping[str, str] = os.environ
) -> bool:
    """Quantize openpi's model in place if the `OPENPI_DUQUANT_*` variables are set; else do nothing.

    Args:
        model: openpi's `PI0Pytorch`, with its weights
        calib: openpi's observations, as `sample_actions` takes them; None: calibrate on the first chunks that the
            policy computes, in float until then
        environ: where the variables are read from

    Returns:
        Whether the variables are set. With `OPENPI_DUQUANT_DRYRUN` the layers are listed and nothing is changed.

    Raises:
        InputError: a variable does not parse, or as in `quantize_`
    """
    if not variables_set(environ) and options_from_environment(environ) == Options():
        return False
    resolved = resolve(None, None, RecipeFlags(), environ)
    for note in resolved.unused:
        say(note)
    conversion = Conversion(model, resolved.recipe)
    if resolved.options.debug or resolved.options.dryrun:
        for layer in conversion.selected:
            say(
                f"{layer.name} [{layer.out_features}, {layer.in_features}] {layer.bits} "
                f"block {layer.block} row block {layer.block_out}"
            )
    if resolved.options.dryrun:
        say(f"{PREFIX}DRYRUN is set: {len(conversion.selected)} layers would be quantized")
        return True
    if resolved.options.packdir is not None:
        say(f"{PREFIX}PACKDIR is not used in place: `vlapack quantize` writes packs")
    if calib is None and conversion.needs_inputs:
        _learn_from_the_first_chunks(model, conversion)
    else:
        quantize_(model, resolved.recipe, calib)
    return True


def _learn_from_the_first_chunks(model: nn.Module, conversion: Conversion) -> None:
    """Let the policy act in float until it has seen as many observations as calibrate; then convert it."""
    if not hasattr(type(model), "sample_actions"):
        raise InputError(
            f"{type(model).__name__} has no sample_actions, so it is not openpi's PI0Pytorch: give calib, or call "
            "vlapack.quantize_"
        )
    wrapped = vars(model).get("sample_actions")  # torch.compile's, which must not be traced with the hooks in place
    steps = conversion.recipe.calib_steps
    watching = ExitStack()
    watching.enter_context(conversion.watching())
    seen = 0

    def sample_actions(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        actions = type(model).sample_actions(model, *args, **kwargs)  # type: ignore[attr-defined]
        seen += 1
        if seen == steps:
            watching.close()
            if wrapped is None:
                del model.sample_actions
            else:
                model.sample_actions = wrapped
            conversion.convert()
            say(f"calibrated on {steps} chunks; from now on {len(conversion.selected)} layers are integers")
        return actions

    model.sample_actions = sample_actions  # type: ignore[assignment]
    say(f"{len(conversion.selected)} layers learn their scales from the next {steps} chunks, which are float")
