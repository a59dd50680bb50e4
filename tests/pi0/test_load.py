"""A checkpoint that does not fit is refused with the name of what does not fit."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import (
    EMBEDDING,
    EXPERT_HEAD,
    TIED_EMBEDDING,
    canonical_name,
    kept_in_fp32,
    linears,
    never_executed,
    openpi_tensors,
)

ACTION_OUT = "action_out_proj.weight"


@pytest.fixture
def weights(model):
    """As openpi's file has them: the embedding under the lm_head's name, the expert's unused lm_head too."""
    tensors = model.state_dict()
    tensors[TIED_EMBEDDING] = tensors.pop(EMBEDDING)
    tensors[EXPERT_HEAD] = torch.zeros(model.config.vocab_size, model.config.expert.width)
    return tensors


def load(config, weights, dtype=torch.float32):
    model = build(config)
    load_weights(model, weights.__getitem__, weights, dtype)
    return model


def test_what_was_saved_acts_the_same_when_loaded(model, batch, weights):
    loaded = load(model.config, weights)
    torch.testing.assert_close(loaded.sample_actions(**batch), model.sample_actions(**batch), rtol=0, atol=2e-6)
    assert not any(p.requires_grad for p in loaded.parameters() if not p.is_meta)


def test_the_embedding_may_have_its_own_name(config, weights):
    weights[EMBEDDING] = weights.pop(TIED_EMBEDDING)
    assert torch.equal(load(config, weights).get_parameter(EMBEDDING), weights[EMBEDDING])


def test_an_untied_lm_head_is_not_taken_for_the_embedding(config, weights):
    weights[EMBEDDING] = weights[TIED_EMBEDDING] + 1
    assert torch.equal(load(config, weights).get_parameter(EMBEDDING), weights[EMBEDDING])


def test_both_spellings_of_paligemma_load(config, weights):
    old = {name.replace("paligemma.model.", "paligemma."): value for name, value in weights.items()}
    assert set(old) != set(weights)
    assert torch.equal(load(config, old).get_parameter(EMBEDDING), weights[TIED_EMBEDDING])
    with pytest.raises(InputError, match="under two names"):
        load(config, weights | old)


def test_layers_that_never_run_stay_on_meta_and_are_not_read(config, weights):
    unread = never_executed(config)
    weights = {name: value for name, value in weights.items() if name.rpartition(".")[0] not in unread}
    loaded = load(config, weights)
    assert {name.rpartition(".")[0] for name, p in loaded.named_parameters() if p.is_meta} == unread


def test_a_mapped_tensor_of_the_right_dtype_is_not_copied(config, weights):
    loaded = load(config, weights)
    assert loaded.get_parameter(EMBEDDING).data_ptr() == weights[TIED_EMBEDDING].data_ptr()


def test_bf16_keeps_in_fp32_what_openpi_keeps(config, weights):
    loaded = load(config, weights, torch.bfloat16)
    kept = openpi_tensors(config)
    for name, parameter in loaded.named_parameters():
        if not parameter.is_meta and name != EMBEDDING:
            assert str(parameter.dtype) == f"torch.{kept[name][1]}", name


def test_missing_and_unexpected_tensors_are_named(config, weights):
    del weights[ACTION_OUT]
    weights["action_out_proj.wieght"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"lacks 1 tensor: action_out_proj\.weight.*no place for.*wieght"):
        load(config, weights)


def test_a_missing_embedding_is_named(config, weights):
    del weights[TIED_EMBEDDING]
    with pytest.raises(InputError, match=r"embed_tokens\.weight"):
        load(config, weights)


def test_a_wrong_shape_says_expected_and_found(config, weights):
    weights[ACTION_OUT] = weights[ACTION_OUT][:-1]
    with pytest.raises(InputError, match=r"action_out_proj\.weight: expected shape \[5, 12\], found \[4, 12\]"):
        load(config, weights)


def test_linears_are_all_linears_by_their_shape(model):
    found = {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linears(model.config) == found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.paligemma.language_model.layers.3", "a.paligemma.model.language_model.layers.3"),
        ("a.paligemma.model.language_model.layers.3", "a.paligemma.model.language_model.layers.3"),
        ("paligemma.vision_tower", "paligemma.model.vision_tower"),
        ("paligemma.multi_modal_projector.linear", "paligemma.model.multi_modal_projector.linear"),
        (TIED_EMBEDDING, TIED_EMBEDDING),
        ("paligemma_with_expert.gemma_expert.model.layers", "paligemma_with_expert.gemma_expert.model.layers"),
        ("language_model.layers", "language_model.layers"),
    ],
)
def test_both_spellings_mean_the_same(given, expected):
    assert canonical_name(given) == expected


def test_fp32_names_are_the_same_in_both_spellings():
    assert kept_in_fp32("paligemma_with_expert.paligemma.language_model.norm.weight")
    assert not kept_in_fp32("paligemma_with_expert.paligemma.model.language_model.layers.0.mlp.up_proj.weight")
