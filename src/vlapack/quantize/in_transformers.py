"""Quantized models through Transformers' own `save_pretrained` and `from_pretrained`, by its registries.

Imported when Transformers is (see `quantize.registering`). The folder is Transformers' own: its `config.json` has a
`quantization_config` with the form of every integer layer, and the weights have a pack's names. Transformers builds the
model on meta; stand-ins with those names take the place of the linears, receive the tensors, and become layers.

Transformers 4 casts every floating tensor of a quantized model to the model's type, scales too. There nothing is
written or read, and the error names `vlapack.save`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from vlapack.errors import InputError
from vlapack.quantize.guarding import ADOPTERS, guard_saving
from vlapack.quantize.quantized_linear import expected_tensors, forms_of, from_form

METHOD = "vlapack"
FORMAT_VERSION = 1
OLDEST = 5


def is_supported() -> bool:
    """Whether this version of Transformers leaves scales as they are stored."""
    return int(transformers.__version__.split(".")[0]) >= OLDEST


@register_quantization_config(METHOD)
class VlapackConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The `quantization_config` of a model's `config.json`.

    Args:
        recipes: that made the layers
        layers: the form of each integer layer, by its dotted name
        format_version: of the two above
        unknown: anything else is refused

    Raises:
        InputError: an unknown field, or another format
    """

    def __init__(
        self,
        recipes: list[dict[str, Any]] | None = None,
        layers: dict[str, Any] | None = None,
        format_version: int = FORMAT_VERSION,
        **unknown: Any,
    ) -> None:
        """Check the fields."""
        unknown.pop("quant_method", None)
        if unknown:
            raise InputError(f"quantization_config: unknown fields {', '.join(unknown)}; a newer vlapack may read them")
        if format_version != FORMAT_VERSION:
            raise InputError(
                f"quantization_config: format_version {format_version!r}, this vlapack reads {FORMAT_VERSION}"
            )
        if not isinstance(layers, dict) or not layers:
            raise InputError("quantization_config: no layers; quantize a model by `vlapack.quantize_`, then save it")
        self.quant_method = METHOD
        self.format_version = format_version
        self.recipes = recipes or []
        self.layers = layers


class _StandIn(nn.Module):
    """Receives the tensors of one layer under their names."""

    def __init__(self, linear: nn.Module, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        super().__init__()
        object.__setattr__(self, "linear", linear)  # what it stands for, and no part of the model any more
        for name, (dtype, shape) in tensors.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))


@register_quantizer(METHOD)
class VlapackQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads what `save_pretrained` wrote of a model that `quantize_` took."""

    requires_calibration = True  # that is: only quantized folders are loaded

    def validate_environment(self, *_arguments: Any, **_options: Any) -> None:
        """Refuse Transformers 4.

        Raises:
            InputError: it is.
        """
        if not is_supported():
            raise InputError(
                f"transformers {transformers.__version__} rounds the scales of quantized models: install "
                f"transformers>={OLDEST}, or use `vlapack.save` and `vlapack.load_`"
            )

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, **_options: Any
    ) -> None:
        stored = _stored_names(checkpoint_files)
        for name, form in self.quantization_config.layers.items():
            place = _place(model, name)
            tensors = expected_tensors(name, form)
            missing = [kind for kind in tensors if stored is not None and not _is_stored(f"{place}.{kind}", stored)]
            if missing:
                raise InputError(f"layer {name}: the weights lack {', '.join(missing)}; copy the folder again")
            model.set_submodule(place, _StandIn(model.get_submodule(place), tensors))

    def _process_model_after_weight_loading(self, model: nn.Module, **_options: Any) -> nn.Module:
        for name, form in self.quantization_config.layers.items():
            place = _place(model, name)
            found: Any = model.get_submodule(place)
            buffers = dict(found.named_buffers())
            layer = from_form(name, form, buffers, found.linear, self.quantization_config.recipes)
            model.set_submodule(place, layer)
        guard_saving(model)
        return model

    def is_serializable(self, *_arguments: Any, **_options: Any) -> bool:
        """`save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Integers have no gradient."""
        return False


def adopt(model: nn.Module) -> bool:
    """Let a model be saved by its own `save_pretrained`, if it is one of Transformers' and that works."""
    if not is_supported() or not isinstance(model, transformers.PreTrainedModel):
        return False
    config = VlapackConfig(**forms_of(model))
    model.config.quantization_config = config
    model.hf_quantizer = VlapackQuantizer(config, pre_quantized=True)
    return True


ADOPTERS.append(adopt)


def _place(model: nn.Module, name: str) -> str:
    """Return where the layer `name` is in a model, which may be the base of the one that was saved, or its head."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    modules = {module for module, _ in model.named_modules()}
    for place in (name, name.removeprefix(prefix), prefix + name):
        if place in modules:
            return place
    raise InputError(f"layer {name}: {type(model).__name__} has no layer of this name; it was saved from another model")


def _stored_names(files: list[str] | None) -> set[str] | None:
    """Return the names of the tensors in safetensors files; None where there are none to look into."""
    if not files or not all(str(file).endswith(".safetensors") for file in files):
        return None
    names: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    return names


def _is_stored(name: str, stored: set[str]) -> bool:
    """Whether a tensor is there, be it without the name of the base model or with it."""
    return name in stored or any(other.endswith(f".{name}") or name.endswith(f".{other}") for other in stored)
