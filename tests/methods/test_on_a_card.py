"""The mathematics on a card: the CPU's numbers, nothing of the two sides mixed, and no wait for a column or a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tagged_device import CARD, MixedDevicesError, TaggedDevice
from torch import Tensor

from vlapack.methods import gptq
from vlapack.methods.gptq import gptq_weight, hessian_factor
from vlapack.methods.permute import zigzag
from vlapack.methods.precision import full_precision
from vlapack.methods.rotate import greedy, rotation, row_rotation
from vlapack.methods.round import round_weight, static_scale
from vlapack.methods.smooth import smoothing_scale


def draw(*shape: int) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    made[:, ::5] *= 9
    return made


def rounded(x: Tensor, weight: Tensor, group_size: int | None) -> tuple[Tensor, ...]:
    return gptq_weight(weight, hessian_factor(x), 4, group_size=group_size)


BUILDERS: dict[str, Callable[[Tensor, Tensor], tuple[Any, ...]]] = {
    "gptq": lambda x, w: rounded(x, w, None),
    "gptq in groups": lambda x, w: rounded(x, w, 32),
    "round-to-nearest": lambda x, w: round_weight(w, 4, group_size=32),
    "zigzag": lambda x, w: (zigzag(x.abs().amax(0), 8),),
    "smoothing": lambda x, w: (smoothing_scale(x.abs().amax(0), w.abs().amax(0), 0.15),),
    "greedy": lambda x, w: (greedy(x, 8, seed=3),),
    "hadamard": lambda x, w: (rotation("hadamard", w, 8, shared=True),),
    "svd": lambda x, w: (rotation("svd_hadamard", w, 8, shared=False),),
    "rows": lambda x, w: (row_rotation(w, 4, "svd"), row_rotation(w, 4, "hadamard")),
}
READS_AT_MOST = 6
"""Of any of these, whatever the sizes."""


@pytest.mark.parametrize("what", BUILDERS)
def test_a_card_finds_what_the_cpu_finds_and_is_not_waited_for(what: str) -> None:
    reads = []
    for tokens, outputs, channels in ((37, 12, 40), (150, 300, 296)):
        x, weight = draw(tokens, channels), draw(outputs, channels)
        expected = BUILDERS[what](x, weight)
        with TaggedDevice() as card:
            found = BUILDERS[what](x.to(CARD), weight.to(CARD))
            assert {part.device for part in found} == {CARD}
            reads.append(sum(card.reads.values()))
        assert all(map(torch.equal, found, expected))
    assert max(reads) <= READS_AT_MOST
    assert reads[0] == reads[1]


@pytest.mark.parametrize("percentile", [0.001, 50, 99.9, 100])
def test_the_percentile_is_the_same_element_on_both_sides(percentile: float) -> None:
    x = draw(63, 41)
    with TaggedDevice():
        assert static_scale(x.to(CARD), percentile, 8) == static_scale(x, percentile, 8)


def test_tensors_of_both_sides_are_found() -> None:
    """The instrument itself: what a card would refuse, it refuses, and what is read is counted where it is read."""
    x, weight = draw(20, 16), draw(4, 16)
    with TaggedDevice() as card:
        factor = hessian_factor(x.to(CARD))
        assert card.read_in("methods/gptq.py")
        with pytest.raises(MixedDevicesError):
            gptq_weight(weight, factor, 4)
        with pytest.raises(TypeError, match="can't convert cuda"):
            x.to(CARD).numpy()
        assert (x.to(CARD) * torch.tensor(2.0)).device == CARD
        assert x.device.type == "cpu"


@pytest.fixture
def openpis_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("openpis_precision")
def test_no_product_of_gptq_is_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """openpi's constructor allows it in the whole process; afterwards that is as it was."""
    seen = []

    def noted(*arguments: object, run: Callable[..., object] = gptq.choose_scale) -> object:
        seen.append(torch.get_float32_matmul_precision())
        return run(*arguments)

    monkeypatch.setattr(gptq, "choose_scale", noted)
    rounded(draw(20, 16), draw(4, 16), None)
    rounded(draw(20, 16), draw(4, 16), None)
    assert seen == ["highest"] * 2
    assert torch.get_float32_matmul_precision() == "high"
    with pytest.raises(ZeroDivisionError), full_precision():
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == "high"
