from __future__ import annotations

import dataclasses
import json

import pytest

from vlapack.errors import InputError
from vlapack.pi0.config import CONFIGS, GemmaConfig, Pi0Config, VisionConfig


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_survives_json(name):
    assert Pi0Config.from_dict(json.loads(json.dumps(CONFIGS[name].to_dict()))) == CONFIGS[name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.pop("expert"), "missing key expert"),
        (lambda d: d["llm"].pop("head_dim"), "architecture.llm: missing key head_dim"),
        (lambda d: d["vision"].update(widht=3), "architecture.vision: unknown key widht"),
        (lambda d: d["llm"].update(depth="18"), "architecture.llm.depth"),
        (lambda d: d.update(vision=7), "architecture.vision"),
        (lambda d: d.update(variant="pi0_fast"), "pi0_fast"),
    ],
)
def test_a_wrong_document_is_refused_by_the_name_of_its_key(change, named):
    document = CONFIGS["tiny"].to_dict()
    change(document)
    with pytest.raises(InputError, match=named):
        Pi0Config.from_dict(document)


def test_sizes_of_which_no_network_can_be_built_are_refused():
    tiny = CONFIGS["tiny"]
    with pytest.raises(InputError, match=f"multiple of patch_size, {tiny.vision.patch_size}"):
        dataclasses.replace(tiny.vision, image_size=101)
    with pytest.raises(InputError, match="at least 1"):
        dataclasses.replace(tiny, action_horizon=0)
    for field, size in (
        ("action_horizon", 1025),
        ("max_token_len", 10**9),
        ("num_cameras", 10**9),
        ("vocab_size", 2**63),
    ):
        with pytest.raises(InputError, match=f"{field} is {size}; it must be at least 1 and at most"):
            dataclasses.replace(tiny, **{field: size})
    with pytest.raises(InputError, match="depth is 1000000"):
        dataclasses.replace(tiny.llm, depth=10**6)
    with pytest.raises(InputError, match="even"):
        dataclasses.replace(tiny.llm, head_dim=33)
    with pytest.raises(InputError, match=r"llm\.depth is 4 and expert\.depth is 3"):
        dataclasses.replace(tiny, expert=dataclasses.replace(tiny.expert, depth=3))


def test_the_sizes_are_those_of_the_published_networks():
    assert CONFIGS["pi05_libero"].action_horizon == 10
    assert (CONFIGS["pi0"].max_token_len, CONFIGS["pi05"].max_token_len) == (48, 200)
    assert CONFIGS["pi05"].vision == VisionConfig(1152, 27, 4304, 16, 14, 224)
    assert CONFIGS["pi05"].expert == GemmaConfig(1024, 18, 4096, 8, 1, 256)
