"""What a policy's layers see of recorded observations, learned with one block of the network in memory at a time.

A full π0.5 has 14 GB of weights in fp32. So the observations move through it abreast: all of them through one layer,
whose weights are then freed, then through the next. Between layers only their hidden states are kept, and their
keys and values. The action expert is the exception: its ten denoise steps feed back, so it is held whole. All of this
may be on a GPU; the token embedding, of which prompts need some rows, is on the CPU even then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from vlapack.machine.cpu import fast_bf16
from vlapack.machine.gpu import CPU
from vlapack.packing.parent import Parent
from vlapack.packing.stages import Passage, Stage, passages, stages
from vlapack.pi0.load import build, check_names, filled
from vlapack.plan.selected import Group
from vlapack.policy.policy import Policy
from vlapack.quantize.calibration import LayerInputs, collect
from vlapack.quantize.groups import Block
from vlapack.recipe.recipe import Recipe

Tick = Callable[[float, str], None]
"""Told after every observation: how much of the calibration is done, from 0 to 1, and in which block it was."""


def compute_dtype(parent: Parent, device: torch.device = CPU) -> torch.dtype:
    """bf16 where the parent stores its layers so and the device multiplies it fast, as GPUs do; else fp32."""
    stored = {dtype for name, (_, dtype) in parent.tensors.items() if name.endswith("_proj.weight")}
    fast = device.type != "cpu" or fast_bf16()
    return torch.bfloat16 if fast and torch.bfloat16 in stored else torch.float32


def stream(
    parent: Parent,
    groups: Sequence[Group],
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]],
    *,
    finished: Callable[[Group], bool] = lambda group: False,
    dtype: torch.dtype | None = None,
    device: torch.device = CPU,
    tick: Tick = lambda done, place: None,
) -> Iterator[Block]:
    """Run every observation's float action chunks, block by block, and yield each block's groups with their inputs.

    Groups that are finished are neither sampled nor yielded, and nothing runs after the last group that is not. A block
    is yielded when its weights have been freed; layers that never run come without inputs.

    Args:
        parent: the float checkpoint.
        groups: the layers that are quantized, as `select.groups` makes them.
        recipe: its seed draws the noise, and which tokens are kept.
        observations: in the layout's keys; each is one chunk, or two (`stages`).
        finished: tells the groups that an earlier run has packed.
        dtype: of the arithmetic; None: `compute_dtype(parent, device)`.
        device: where the network runs, and where the inputs are that are yielded.
        tick: is told how far it is.

    Raises:
        InputError: an observation that the policy cannot use, weights that do not fit the network, or a layer whose
            input holds a NaN or an infinity, or that no observation reaches.
    """
    model = build(parent.config.architecture)
    check_names(model, parent.tensors)
    policy = Policy(model, parent.config, normalization=parent.normalization, tokenizer=parent.tokenizer)
    dtype = dtype or compute_dtype(parent, device)
    abreast = passages(policy, observations, recipe.seed, device)
    read = parent.reader(device)
    way = stages(model, dtype)
    todo = [[group for group in groups if stage.holds(group[0].name) and not finished(group)] for stage in way]
    running = [[group[0].name for group in part if group[0].executed] for part in todo]
    end = max((number + 1 for number, names in enumerate(running) if names), default=0)
    forecast = Forecast(way[:end], abreast, tick)
    for number, (stage, part, names) in enumerate(zip(way, todo, running, strict=True)):
        inputs: Mapping[str, LayerInputs] = {}
        if number < end:
            with filled(model, stage.modules, read, dtype):
                inputs = collect(model, names, stage.run, forecast.through(stage), seed=recipe.seed)
        if part:
            yield part, inputs


class Forecast:
    """Hands out the passages of a stage, and tells how far all stages have come."""

    def __init__(self, way: Sequence[Stage], abreast: Sequence[Passage], tick: Tick) -> None:
        self._abreast = abreast
        self._tick = tick
        self._total = sum(stage.cost(passage) for stage in way for passage in abreast)
        self._done = 0

    def through(self, stage: Stage) -> Iterator[Passage]:
        """Yield every passage, and count it when it has been through the stage."""
        for passage in self._abreast:
            yield passage
            self._done += stage.cost(passage)
            self._tick(self._done / self._total, stage.modules[0])
