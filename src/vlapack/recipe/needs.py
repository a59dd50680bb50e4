"""What a recipe needs to know of the layers' inputs."""

from __future__ import annotations

from vlapack.recipe.recipe import Recipe


def needs_activations(recipe: Recipe) -> bool:
    """Whether anything in the recipe depends on what the layers see."""
    return recipe.permute or bool(inputs_needed(recipe))


def inputs_needed(recipe: Recipe) -> dict[str, str]:
    """What in the recipe needs the layers' inputs → the setting that does without them, such as `smooth=0`.

    A permutation is not among it: it can go by the weights' energy.
    """
    needs = (
        (recipe.act_scale == "static", "static activation scales", "`act_scale='per_token'`"),
        (recipe.smoothing > 0, f"smoothing (λ = {recipe.smoothing})", "`smooth=0`"),
        (recipe.rotation == "greedy", "a greedy rotation", "`rotation='hadamard'`"),
        (recipe.rounding == "gptq", "GPTQ", "`rounding='rtn'`"),
        (recipe.atm, "attention temperature matching", "`atm=False`"),
        (recipe.ohb, "output head balancing", "`ohb=False`"),
    )
    return {what: remedy for needed, what, remedy in needs if needed}
