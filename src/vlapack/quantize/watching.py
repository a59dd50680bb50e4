"""Watching what the layers of a running model read, no more of it at once than memory allows.

A sample of 8192 tokens per layer comes to several times a model's own size. So a watch has a budget: when what it holds
exceeds that, the layers furthest back are `deferred`, and their inputs come from another run of the same data. That
trades time for memory: n times the budget takes about n runs. The result is the same to the bit, since every layer
draws its own sample, and the model stays float until the last run is over. Samples are kept on the CPU wherever the
model is: a GPU that holds the model has no room for those of all its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from vlapack.machine.gpu import CPU
from vlapack.quantize.calibration import InputCollector, LayerInputs


class Watch:
    """Collects the inputs of some layers while a model runs; a context manager.

    Args:
        model: holds the layers
        layers: key of an input → the layer that is watched for it, in the order in which they are to be served
        memory: bytes of inputs that are held at most, except that one layer is always served; None: no limit
        options: of each `InputCollector`

    Attributes:
        deferred: the part of `layers` that did not fit
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, str], *, memory: int | None, **options: Any) -> None:
        """Begin with no input seen."""
        self.deferred: dict[str, str] = {}
        self._layers = layers
        self._memory = memory
        self._held = 0
        self._collectors = {key: InputCollector(layer, device=CPU, **options) for key, layer in layers.items()}
        self._modules = {key: model.get_submodule(layer) for key, layer in layers.items()}
        self._handles: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        """Hang a hook on every layer."""
        for key, module in self._modules.items():
            self._handles[key] = module.register_forward_pre_hook(self._hook(key), with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the hooks away."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def inputs(self) -> dict[str, LayerInputs]:
        """Return what was collected, by key, without what was deferred.

        Raises:
            InputError: a layer never saw a token.
        """
        return {key: collector.inputs() for key, collector in self._collectors.items()}

    def _hook(self, key: str) -> Any:
        def see(_module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            self._see(key, arguments[0] if arguments else named["input"])

        return see

    def _see(self, key: str, x: Tensor) -> None:
        collector = self._collectors[key]
        self._held -= collector.nbytes
        collector.update(x)
        self._held += collector.nbytes
        while self._memory is not None and self._held > self._memory and len(self._collectors) > 1:
            last = next(reversed(self._collectors))
            self._held -= self._collectors.pop(last).nbytes
            self._handles.pop(last).remove()
            self.deferred = {last: self._layers[last], **self.deferred}
