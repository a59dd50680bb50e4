"""`QuantizedLinear`: what stands in somebody else's model where a linear was; and its form, in words that JSON holds.

Tensors and form together are the layer: `form_of(layer)` and the `state_dict` go to a file, `from_form` brings it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.recipe.recipe import Recipe

FIELDS = ("weight_bits", "act_bits", "act_scale", "group_size", "dtype", "recipe", "tensors")


class QuantizedLinear(nn.Module):
    """An integer layer that still answers what others ask of a linear: features, and its weight's dtype and device.

    openpi asks `q_proj.weight.dtype` to know in which type it computes. So `weight` is one number, in the float type
    that the layer had and follows `model.to(…)`, seen as often as the weight has elements.

    Its `state_dict` has a pack's names, directly below the layer's own: `q_proj.weight_packed`, `q_proj.permutation`.
    """

    def __init__(
        self, packed: PackedLinear, dtype: torch.dtype, device: torch.device, recipe: Recipe | None = None
    ) -> None:
        """Stand for a float layer of this type; `recipe` is what made it."""
        super().__init__()
        self.packed = packed
        self.recipe = recipe
        self.in_features, self.out_features = packed.in_features, packed.out_features
        self.register_buffer("_float", torch.zeros(1, 1, dtype=dtype, device=device), persistent=False)
        self.register_state_dict_post_hook(_without_inner_name)  # type: ignore[no-untyped-call]

    @property
    def weight(self) -> Tensor:
        """[N, K] zeros of the layer's float type; the weight itself is `packed`."""
        stand_in: Tensor = self.get_buffer("_float")
        return stand_in.expand(self.out_features, self.in_features)

    @property
    def bias(self) -> Tensor | None:
        """[N]."""
        return self.packed.bias

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] → [..., N], in the type of the input, which is called as `nn.Linear` calls it."""
        y: Tensor = self.packed(input)
        return y

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[f"{prefix}packed.{name.removeprefix(prefix)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _without_inner_name(_layer: nn.Module, tensors: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    inner = f"{prefix}packed."
    for name in [name for name in tensors if name.startswith(inner)]:
        tensors[f"{prefix}{name.removeprefix(inner)}"] = tensors.pop(name)


def quantized_linears(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    """Yield the integer layers of a model with their dotted names."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            yield name, module


def form_of(layer: QuantizedLinear, recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Return what the tensors do not say of a layer, its recipe's number, and each tensor's dtype and shape."""
    packed = layer.packed
    return {
        "weight_bits": packed.weight_bits,
        "act_bits": packed.inputs.act_bits,
        "act_scale": "per_token" if packed.inputs.input_scale is None else "static",
        "group_size": packed.group_size,
        "dtype": str(layer.weight.dtype).removeprefix("torch."),
        "recipe": None if layer.recipe is None else recipes.index(layer.recipe),
        "tensors": {
            name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            for name, tensor in layer.state_dict().items()
        },
    }


def forms_of(model: nn.Module) -> dict[str, Any]:
    """Return the forms of a model's integer layers by their names, and the recipes that made them.

    Raises:
        InputError: the model has no integer layer.
    """
    layers = dict(quantized_linears(model))
    if not layers:
        raise InputError("the model has no quantized layer: call `vlapack.quantize_(model, …)` first")
    recipes = list(dict.fromkeys(layer.recipe for layer in layers.values() if layer.recipe is not None))
    return {
        "recipes": [recipe.to_dict() for recipe in recipes],
        "layers": {name: form_of(layer, recipes) for name, layer in layers.items()},
    }


def expected_tensors(name: str, form: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of each tensor of the layer `name`.

    Raises:
        InputError: the form lacks a field, has an unknown one, or one that cannot be read.
    """
    if not isinstance(form, Mapping) or form.keys() != set(FIELDS):
        raise InputError(f"layer {name}: its form must have {', '.join(FIELDS)}, not {_listed(form)}")
    try:
        return {
            str(kind): (_dtype(dtype), tuple(int(size) for size in shape))
            for kind, (dtype, shape) in form["tensors"].items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"layer {name}: its tensors cannot be read: {error}") from error


def from_form(
    name: str,
    form: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    linear: nn.Module,
    recipes: Sequence[Mapping[str, Any]],
) -> QuantizedLinear:
    """Build the layer that takes the place of `linear` in a model.

    Args:
        name: the layer's, for messages
        form: as `form_of` returned it
        tensors: by their names in the layer
        linear: of the same features; its dtype and device are kept, except that meta becomes the CPU
        recipes: as `forms_of` returned them

    Raises:
        InputError: form and tensors do not fit each other, or `linear` is none of these features
    """
    expected = expected_tensors(name, form)
    found = {kind: (tensor.dtype, tuple(tensor.shape)) for kind, tensor in tensors.items()}
    if found != expected:
        wrong = next(kind for kind in expected | found if expected.get(kind) != found.get(kind))
        raise InputError(f"{name}.{wrong}: found {found.get(wrong)}, its form says {expected.get(wrong)}")
    weight = getattr(linear, "weight", None)
    device = torch.device("cpu") if weight is None or weight.is_meta else weight.device
    try:
        packed = PackedLinear.from_tensors(
            {kind: tensor.to(device) for kind, tensor in tensors.items()},
            weight_bits=form["weight_bits"],
            group_size=form["group_size"],
            act_bits=form["act_bits"],
            act_scale=form["act_scale"],
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    wanted = (getattr(linear, "out_features", None), getattr(linear, "in_features", None))
    if wanted != (packed.out_features, packed.in_features):
        raise InputError(
            f"{name}: the quantized layer is {packed.out_features} x {packed.in_features}, and the model has a "
            f"{type(linear).__name__} of {wanted[0]} x {wanted[1]} there: it is another model"
        )
    dtype = _dtype(form["dtype"]) if weight is None else weight.dtype
    return QuantizedLinear(packed, dtype, device, _recipe(name, form["recipe"], recipes))


def _recipe(name: str, number: object, recipes: Sequence[Mapping[str, Any]]) -> Recipe | None:
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < len(recipes):
        raise InputError(f"layer {name}: recipe {number!r} of {len(recipes)}")
    return Recipe.from_dict(recipes[number])


def _dtype(name: object) -> torch.dtype:
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"{name!r} is no dtype")
    return dtype


def _listed(form: object) -> str:
    return ", ".join(map(str, form)) if isinstance(form, Mapping) else type(form).__name__
