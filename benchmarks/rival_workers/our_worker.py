"""vlapack as a contender of benchmarks/rivals.py: layers as a pack of `full` has them, in their fused form.

Weights are rounded to nearest, without calibration data, which costs the same time as any pack. Run in the project's
own environment, with `benchmarks` on its path.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import numpy as np
import torch
from rival_cases import Arrays, Case, load
from rival_serving import Contender, Task, serve
from torch import Tensor, nn

from vlapack import Recipe
from vlapack.linear import PackedLinear
from vlapack.ops import cpu_attention
from vlapack.ops.activation import ActivationStep
from vlapack.pi0.cache import Past
from vlapack.pi0.config import GemmaConfig, VisionConfig
from vlapack.pi0.fused.gemma import FusedGemma
from vlapack.pi0.fused.norms import Norm, Stream
from vlapack.pi0.fused.siglip import FusedSiglip
from vlapack.pi0.gemma import GemmaModel
from vlapack.pi0.positions import rotary_table
from vlapack.pi0.siglip import SiglipTransformer
from vlapack.plan.select import select
from vlapack.plan.selected import groups
from vlapack.quantize.groups import QuantizedGroup, quantize, weights_only
from vlapack.recipe.presets import preset

OURS = "vlapack"
GROUP = 128
PREFIX = "paligemma_with_expert."
PLACES = {
    "language": (f"{PREFIX}paligemma.model.language_model.layers.", "llm"),
    "expert": (f"{PREFIX}gemma_expert.model.layers.", "dit"),
    "vision": (f"{PREFIX}paligemma.model.vision_tower.vision_model.encoder.layers.", "vision"),
}
"""Kind → how a policy calls the layers, and the preset that packs them as `full` does."""
NAMES = {
    **{name: f"self_attn.{name}_proj" for name in "qkvo"},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
VISION_NAMES = {**NAMES, "o": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
Stack = Callable[[], Tensor]


def make(task: Task) -> Mapping[str, Callable[[], Contender]]:
    torch.set_num_threads(task.threads)
    if task.case.kind == "product":
        return {
            OURS: lambda: _product(task, None),
            f"{OURS}, groups of {GROUP}": lambda: _product(task, GROUP),
            f"{OURS}, product alone": lambda: _product(task, None, alone=True),
        }
    return {OURS: lambda: _layers(task, None), f"{OURS}, groups of {GROUP}": lambda: _layers(task, GROUP)}


def _says(group: int | None, eight: str = "") -> str:
    scales = "a scale per output" if group is None else f"groups of {group}"
    return f"int4{eight}, {scales}; activations int8, a scale per row, rotated"


def _product(task: Task, group: int | None, *, alone: bool = False) -> Contender:
    arrays = load(task.case, task.folder)
    weight = torch.tensor(arrays["weight"])
    recipe = Recipe(scope="", include=".", rounding="rtn", group_size=group)  # type: ignore[arg-type]
    (linear,) = _packed({"linear": weight}, recipe, {}).values()
    x = torch.tensor(arrays["x"]).bfloat16()
    linears = [linear, *(copy.deepcopy(linear) for _ in range(1, task.copies))]
    ready = linear.inputs(x)

    @torch.inference_mode()
    def run(turn: int) -> Tensor:
        layer = linears[turn % len(linears)]
        return layer(ready if alone else x)

    says = "int4 and int8 as they are, without the activation step" if alone else _says(group)
    return Contender(run, lambda: run(0).float().numpy(), says)


def _packed(
    weights: Mapping[str, Tensor], recipe: Recipe, biases: Mapping[str, Tensor], head_dim: int | None = None
) -> dict[str, PackedLinear]:
    """Pack linears by their names in a policy; neighbors that read one input share a step."""
    shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
    tensors = {f"{name}.weight": weight for name, weight in weights.items()}
    tensors |= {f"{name}.bias": bias for name, bias in biases.items()}
    found: dict[str, PackedLinear] = {}

    def write(group: Any, made: QuantizedGroup) -> None:
        tensors.update({name: tensor for name, tensor in made.tensors.items() if name in tensors})
        step: ActivationStep | None = None
        for layer in group:
            start = f"{layer.name}."
            of_layer = {name.removeprefix(start): one for name, one in made.tensors.items() if name.startswith(start)}
            if f"{start}bias" in tensors:
                of_layer["bias"] = tensors[f"{start}bias"]
            found[layer.name] = PackedLinear.from_tensors(
                of_layer, weight_bits=layer.weight_bits, group_size=layer.group_size, inputs=step
            )
            step = found[layer.name].inputs

    selected = select(shapes, recipe, head_dim=head_dim)
    quantize(lambda name: tensors[name], write, weights_only(groups(selected, recipe)), recipe)
    return found


def _layers(task: Task, group: int | None) -> Contender:
    case = task.case
    packed = _packed_layers(task, group)
    stacks = [_stack(task, packed if not number else copy.deepcopy(packed)) for number in range(task.copies)]

    @torch.inference_mode()
    def run(turn: int) -> Tensor:
        return stacks[turn % len(stacks)]()

    eight = {"language": " (keys and values int8)", "expert": " (two of 18 layers int8)"}.get(case.kind, "")
    return Contender(run, lambda: run(0).float().numpy(), _says(group, eight))


def _packed_layers(task: Task, group: int | None) -> dict[str, PackedLinear]:
    """Pack the first stack's layers, by their names in the stack."""
    case = task.case
    place, name = PLACES[case.kind]
    recipe = replace(preset(name), rounding="rtn", group_size=group)
    if case.kind == "language":  # the layers of the middle: the first three have more at 8 bits
        recipe = replace(recipe, overrides=tuple(one for one in recipe.overrides if r"\d+" in one[0]))
    arrays = [load(case, task.folder, index) for index in range(case.layers)]
    names = VISION_NAMES if case.kind == "vision" else NAMES
    called = {f"{place}{index}.{names[key]}": (index, key) for index in range(case.layers) for key in case.matrices}
    weights = {name: torch.tensor(arrays[index][key]) for name, (index, key) in called.items()}
    biases = {
        name: torch.tensor(arrays[index][f"{key}_bias"])
        for name, (index, key) in called.items()
        if f"{key}_bias" in arrays[index]
    }
    packed = _packed(weights, recipe, biases, case.head_dim)
    return {f"layers.{name.removeprefix(place)}": linear for name, linear in packed.items()}


def _stack(task: Task, packed: Mapping[str, PackedLinear]) -> Stack:
    case = task.case
    arrays = [load(case, task.folder, index) for index in range(case.layers)]
    with torch.device("meta"):
        model = _model(case)
    root = model.encoder if isinstance(model, SiglipTransformer) else model
    for name, linear in packed.items():
        root.set_submodule(name, linear)
    for norm, tensor in _norms(case, arrays):
        owner, _, leaf = norm.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
    x = torch.tensor(arrays[0]["x"]).bfloat16()
    if isinstance(model, SiglipTransformer):
        return _vision(model, x, case)
    return _expert(model, x, case, arrays) if case.kind == "expert" else _language(model, x, case)


def _model(case: Case) -> nn.Module:
    if case.kind == "vision":
        return SiglipTransformer(VisionConfig(case.width, case.layers, case.inner, case.heads, 14, 224))
    config = GemmaConfig(case.width, case.layers, case.inner, case.heads, 1, case.head_dim)
    return GemmaModel(config, cond_dim=case.width if case.kind == "expert" else None)


def _norms(case: Case, arrays: list[Arrays]) -> Iterator[tuple[str, Tensor]]:
    """Parameters of the norms, in bf16 as a policy in bf16 has them; an expert's come with the flow time."""
    ones, zeros = torch.ones(case.width).bfloat16(), torch.zeros(case.width).bfloat16()
    if case.kind == "vision":
        yield from (("post_layernorm.weight", ones), ("post_layernorm.bias", zeros))
    if case.kind == "language":
        yield "norm.weight", zeros
    for index, of_layer in enumerate(arrays):
        for norm, plain in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
            weight = torch.tensor(of_layer[norm])
            if case.kind == "language":
                yield f"layers.{index}.{plain}.weight", (weight - 1).bfloat16()
            elif case.kind == "vision":
                place = f"encoder.layers.{index}.layer_{norm}"
                yield f"{place}.weight", weight.bfloat16()
                yield f"{place}.bias", torch.tensor(of_layer[f"{norm}_shift"]).bfloat16()


def _language(model: GemmaModel, x: Tensor, case: Case) -> Stack:
    fused = FusedGemma(model)
    rope = rotary_table(torch.arange(case.rows)[None], case.head_dim, x.dtype)
    shape = (1, 1, case.rows, case.head_dim)

    def run() -> Tensor:
        # `FusedGemma.keys_values`, which keeps the stream to itself
        stream = Stream(x, case.rows)
        for layer in fused.layers:
            past = Past(x.new_empty(shape), x.new_empty(shape))
            layer.understand(stream, rope, None, past)
            if cpu_attention.lays_out(past.keys):
                cpu_attention.laid_out(past.keys, past.values, case.rows)
        stream.leave(Norm.of_gemma(model.norm, None), x.dtype)
        return stream.x

    return run


def _vision(model: SiglipTransformer, x: Tensor, case: Case) -> Stack:
    fused = FusedSiglip(model)

    def run() -> Tensor:
        stream = Stream(x, case.rows // case.pictures)
        for layer in fused.layers:
            layer.run(stream, case.pictures)
        stream.leave(Norm.of_layer(model.post_layernorm), x.dtype)
        return stream.x

    return run


def _expert(model: GemmaModel, x: Tensor, case: Case, arrays: list[Arrays]) -> Stack:
    fused = FusedGemma(model)
    rope = rotary_table(torch.arange(case.prefix, case.prefix + case.rows)[None], case.head_dim, x.dtype)
    norms = [
        torch.tensor(np.stack([of_layer[norm], of_layer[f"{norm}_shift"], of_layer[f"{norm}_gate"]]))
        for of_layer in arrays
        for norm in ("norm1", "norm2")
    ]
    last = torch.stack([torch.ones(case.width), torch.zeros(case.width), torch.zeros(case.width)])
    modulations = torch.stack([*norms, last])[None]
    pasts = []
    for of_layer in arrays:
        keys, values = (
            nn.functional.pad(torch.tensor(of_layer[name]).bfloat16(), (0, 0, 0, case.rows))[None, None]
            for name in ("keys", "values")
        )
        past = Past(keys, values, case.rows)
        if cpu_attention.lays_out(keys):
            past = past._replace(laid=cpu_attention.laid_out(keys, values, case.prefix))
        pasts.append(past)
    return lambda: fused.forward(x[None], rope, None, pasts, modulations, state_token=False)[0]


if __name__ == "__main__":
    serve(make, {"torch": torch.__version__}, torch.set_num_threads)
