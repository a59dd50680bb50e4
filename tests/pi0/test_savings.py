"""Every saving, alone: with it and without it the actions are openpi's, and what it saves is really saved."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from openpi_golden import PREFIX_INPUTS, TOLERANCE, Golden, sample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vlapack.errors import InputError
from vlapack.pi0.cache import Past
from vlapack.pi0.flow import Pi0
from vlapack.pi0.names import EMBEDDING, EXPERT, EXPERT_HEAD, TIED_EMBEDDING, never_executed, time_table
from vlapack.pi0.positions import euler_times
from vlapack.pi0.savings import Savings
from vlapack.pi0.stored import StoredEmbedding

NAMES = [field.name for field in dataclasses.fields(Savings)]
FUSED = "_scaled_dot_product_flash_attention_for_cpu"


def pair(golden: Golden, name: str) -> tuple[Pi0, Pi0]:
    """The network with all savings, and without one."""
    return golden.load(), golden.load(savings=Savings().without(name))


def calls(model: Pi0, name: str, batch: dict[str, Tensor]) -> list[tuple[int, ...]]:
    """The shapes of what a module is given during one chunk."""
    seen: list[tuple[int, ...]] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    sample(model, batch)
    return seen


@pytest.mark.parametrize("off", [(), *((name,) for name in NAMES), tuple(NAMES)], ids="-".join)
@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_actions_are_openpis_whatever_is_saved(golden: Golden, batch_name: str, off: tuple[str, ...]) -> None:
    batch = golden.batches[batch_name]
    model = golden.load(savings=Savings().without(*off))
    assert (sample(model, batch) - batch["actions"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("name", "tokens"), [("missing_cameras", 16), ("prompt_padding", 12 - 7)])
def test_what_nobody_has_is_not_in_the_prefix(golden: Golden, name: str, tokens: int) -> None:
    batch = golden.batches["libero"]
    with torch.no_grad():
        saved, whole = (
            model.embed_prefix(*(batch[key] for key in PREFIX_INPUTS)).layers[0].length for model in pair(golden, name)
        )
    assert whole - saved == tokens


def test_a_missing_camera_is_not_encoded(golden: Golden) -> None:
    vision = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
    saved, whole = (calls(model, vision, golden.batches["libero"]) for model in pair(golden, "missing_cameras"))
    assert ([shape[0] for shape in saved], [shape[0] for shape in whole]) == ([4], [6])


def test_of_the_last_layer_only_keys_and_values_are_loaded(golden: Golden) -> None:
    saved, whole = pair(golden, "last_layer")
    for name in never_executed(golden.config):
        assert saved.get_submodule(name).weight.is_meta
        assert calls(whole, name, golden.batches["libero"])


def test_the_experts_head_is_loaded_on_request_only(golden: Golden) -> None:
    saved, whole = pair(golden, "lm_heads")
    assert EXPERT_HEAD not in saved.state_dict()
    assert torch.equal(whole.state_dict()[EXPERT_HEAD], golden.weights[EXPERT_HEAD])


def test_the_layers_of_the_flow_time_are_let_go_of_and_their_table_kept(pi05: Golden) -> None:
    saved, whole = pair(pi05, "time_table")
    modules, nbytes = time_table(pi05.config)
    assert saved.time_table is not None
    assert saved.time_table.nbytes == nbytes
    for name in modules:
        assert all(parameter.is_meta for parameter in saved.get_submodule(name).parameters())
    assert len(calls(whole, f"{EXPERT}.norm.dense", pi05.batches["libero"])) == 10


def test_a_denoise_step_finds_its_time_in_the_table_and_no_other(pi05: Golden) -> None:
    saved, whole = pair(pi05, "time_table")
    batch = pi05.batches["libero"]
    with torch.no_grad():
        prefix = saved.embed_prefix(*(batch[key] for key in PREFIX_INPUTS))
        arguments = (prefix, batch["state"], batch["noise"], euler_times(10)[[2, 0]])
        torch.testing.assert_close(
            saved.denoise_step(*arguments), whole.denoise_step(*arguments), rtol=0, atol=TOLERANCE
        )
        with pytest.raises(InputError, match=r"flow times .*10 denoise steps.*time_table=False"):
            saved.denoise_step(*arguments[:3], torch.tensor([0.8, 0.55]))
    with pytest.raises(InputError, match="10 denoise steps"):
        saved.sample_actions(*(batch[key] for key in PREFIX_INPUTS), batch["state"], batch["noise"], num_steps=7)


def test_a_step_may_ask_for_a_time_of_another_step(golden: Golden) -> None:
    batch = golden.batches["libero"]

    def later(denoise: Any, x_t: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = denoise(x_t, torch.ones_like(t))
        return velocity

    saved, whole = (
        model.sample_actions(*(batch[key] for key in PREFIX_INPUTS), batch["state"], batch["noise"], step=later)
        for model in pair(golden, "time_table")
    )
    torch.testing.assert_close(saved, whole, rtol=0, atol=TOLERANCE)


def test_embedding_rows_come_from_where_the_file_has_them(golden: Golden) -> None:
    saved, whole = (model.llm.embed_tokens for model in pair(golden, "embedding_rows"))
    assert isinstance(saved, StoredEmbedding)
    assert saved.weight.data_ptr() == golden.weights[TIED_EMBEDDING].data_ptr()
    assert isinstance(whole, torch.nn.Embedding)


class Operations(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_attention_is_one_operator_or_several(golden: Golden) -> None:
    found = []
    for model in pair(golden, "fused_attention"):
        with Operations() as operations:
            sample(model, golden.batches["libero"])
        found.append(operations.names)
    assert (FUSED in found[0], FUSED in found[1]) == (True, False)
    assert ("_softmax" in found[0], "_safe_softmax" in found[1] or "_softmax" in found[1]) == (False, True)


def test_the_prefix_stays_where_it_is_while_steps_write_behind_it(golden: Golden) -> None:
    batch = golden.batches["libero"]
    saved, whole = pair(golden, "static_cache")
    with torch.no_grad():
        prefix = saved.embed_prefix(*(batch[key] for key in PREFIX_INPUTS))
        copied = whole.embed_prefix(*(batch[key] for key in PREFIX_INPUTS))
        before = [tensor.clone() for past in prefix.layers for tensor in past.prefix]
        ours, theirs = (
            [model.integrate(known, batch["state"], batch["noise"]) for _ in range(2)]
            for model, known in ((saved, prefix), (whole, copied))
        )
    assert prefix.layers[0].room == golden.config.suffix_length
    assert copied.layers[0].room == 0
    assert all(torch.equal(*both) for both in zip(before, (t for p in prefix.layers for t in p.prefix), strict=True))
    assert torch.equal(ours[0], ours[1])
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=TOLERANCE)


def test_what_is_differentiated_is_not_written_over() -> None:
    key = torch.randn(1, 1, 2, 4, requires_grad=True)
    past = Past.with_room((torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)), 2)
    keys, _ = past.followed_by(key, key.detach())
    assert keys.data_ptr() != past.keys.data_ptr()
    past.followed_by(2 * key, key.detach())
    keys.sum().backward()
    assert torch.equal(key.grad, torch.ones_like(key))
    with torch.no_grad():
        assert past.followed_by(key, key)[0] is past.keys


def test_pictures_and_prompt_are_encoded_once(golden: Golden) -> None:
    found = []
    for model in pair(golden, "prefix_once"):
        found.append(len(calls(model, EMBEDDING.removesuffix(".weight"), golden.batches["libero"])))
    assert found == [1, 10]


def test_an_unknown_saving_is_refused() -> None:
    with pytest.raises(InputError, match=r"no saving 'lm_head'; there are missing_cameras, .*, lm_heads"):
        Savings().without("lm_head")
