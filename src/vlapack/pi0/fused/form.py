"""The fused form of a network: three stacks, made of the plain modules, and whether it still says what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from torch import nn

from vlapack.pi0.fused.gemma import FusedGemma
from vlapack.pi0.fused.products import Product
from vlapack.pi0.fused.siglip import FusedSiglip
from vlapack.pi0.gemma import GemmaModel
from vlapack.pi0.positions import RotaryTables
from vlapack.pi0.siglip import SiglipTransformer

EMBEDDING = "embed_tokens"
State = Literal["fits", "watched", "stale"]
Stack = Literal["vision", "llm", "expert"]


class Fused(Protocol):
    """A fused layer."""

    products: list[Product]


class FusedForm:
    """The fused stacks.

    Args:
        vision: the tower, with its weights, as the next two.
        llm: the language model.
        expert: the action expert.
        stop_early: see `GemmaModel.keys_values`.

    Attributes:
        vision: fused.
        llm: fused.
        expert: fused.
        rope: positions of both stacks.
    """

    def __init__(self, vision: SiglipTransformer, llm: GemmaModel, expert: GemmaModel, *, stop_early: bool) -> None:
        """Merge their products, one group of linears at a time."""
        self.vision = FusedSiglip(vision)
        self.llm = FusedGemma(llm, stop_early=stop_early)
        self.expert = FusedGemma(expert)
        self.rope = RotaryTables(llm.config.head_dim)
        self._plain: dict[Stack, _Plain] = {
            "vision": _Plain(vision, self.vision.layers),
            "llm": _Plain(llm, self.llm.layers),
            "expert": _Plain(expert, self.expert.layers),
        }

    def state(self, stack: Stack) -> State:
        """Whether one of the stacks says what the plain modules say."""
        return self._plain[stack].state


class _Plain:
    """What the plain modules of a stack were when they were fused."""

    def __init__(self, stack: nn.Module, layers: Iterable[Fused]) -> None:
        """Note the modules, and where their merged tensors lie."""
        # The token embedding is read before all of this, and may be watched or replaced.
        self._modules = [module for name, module in stack.named_modules() if not name.startswith(EMBEDDING)]
        self._children: list[tuple[Mapping[str, nn.Module | None], str, nn.Module | None]] = [
            (module._modules, name, child)
            for module in self._modules
            for name, child in module._modules.items()
            if name != EMBEDDING
        ]
        products = [product for layer in layers for product in layer.products]
        self._places = [place for product in products for merged in product.merged for place in merged.places]

    @property
    def state(self) -> State:
        """`stale` after a module was replaced or moved, `watched` while a hook hangs on one."""
        if any(children.get(name) is not child for children, name, child in self._children):
            return "stale"
        if not all(place.holds() for place in self._places):
            return "stale"
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)
        return "watched" if hooked else "fits"
