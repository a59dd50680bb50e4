"""The policy configurations that have names: openpi's π0 and π0.5 ones, and that of the shipped policy.

An openpi folder holds weights only; what they mean stands in `openpi/training/config.py` under the name the policy was
trained with. This table carries over the part of each entry that inference needs. A policy trained under a name of
one's own is described by a JSON file, in full or as changes to a named one:

    {"base": "pi05_libero", "name": "my_kitchen", "asset_id": "my_kitchen", "architecture": {"action_horizon": 20}}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlapack.checkpoints.features import LayoutName
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.files import from_home
from vlapack.pi0.config import CONFIGS

# openpi's make_bool_mask: joints as differences, grippers absolute.
LIBERO_DELTA = (True,) * 6 + (False,)
DROID_DELTA = (True,) * 7 + (False,)
ALOHA_DELTA = ((True,) * 6 + (False,)) * 2

LIBERO_ASSETS = "physical-intelligence/libero"
ALOHA_RESET = {"reset_pose": [0, -1.5, 1.5, 0, 0, 0]}

# Autoregressive policies: their actions are tokens, and this network has no decoder for those.
FAST = (
    "pi0_fast_droid",
    "pi0_fast_libero",
    "pi0_fast_libero_low_mem_finetune",
    "pi0_fast_full_droid_finetune",
    "pi0_fast_droid_jointpos_polaris",
    "paligemma_binning_droid",
    "paligemma_binning_droid_jointpos",
    "paligemma_fast_droid",
    "paligemma_fast_specialist_droid",
    "paligemma_vq_droid",
)
FAST_NAME = re.compile(r"pi0[-_]?fast|(^|[-_])fast([-_]|$)")
LORA = ("pi0_libero_low_mem_finetune",)
"""Configurations whose weights openpi keeps with adapters beside them."""


def _entry(
    name: str,
    layout: LayoutName,
    asset_id: str,
    delta_mask: tuple[bool, ...] = (),
    *,
    discrete_state_input: bool | None = None,
    default_prompt: str | None = None,
    policy_metadata: Mapping[str, Any] | None = None,
    **sizes: int,
) -> PolicyConfig:
    """One of openpi's entries; the variant, and with it openpi's defaults, follows from the name's beginning."""
    pi05 = name.startswith("pi05")
    return PolicyConfig(
        name=name,
        architecture=replace(CONFIGS["pi05" if pi05 else "pi0"], **sizes),  # type: ignore[arg-type]  # sizes are ints
        layout=layout,
        discrete_state_input=pi05 if discrete_state_input is None else discrete_state_input,
        normalization="quantile" if pi05 else "mean_std",
        asset_id=asset_id,
        delta_mask=delta_mask,
        default_prompt=default_prompt,
        policy_metadata=dict(policy_metadata or {}),
    )


def _table(entries: Iterable[PolicyConfig]) -> dict[str, PolicyConfig]:
    return {entry.name: entry for entry in entries}


POLICIES: dict[str, PolicyConfig] = _table(
    [
        _entry("pi0_libero", "libero", LIBERO_ASSETS, LIBERO_DELTA),
        _entry("pi0_libero_low_mem_finetune", "libero", LIBERO_ASSETS, LIBERO_DELTA),
        _entry("pi05_libero", "libero", LIBERO_ASSETS, discrete_state_input=False, action_horizon=10),
        _entry("pi0_droid", "droid", "droid", action_horizon=10),
        _entry("pi05_droid", "droid", "droid", action_horizon=15),
        _entry("pi05_full_droid_finetune", "droid", "droid", DROID_DELTA, action_horizon=16),
        _entry("pi05_droid_finetune", "droid", "droid", action_horizon=16),
        _entry("pi05_droid_jointpos_polaris", "droid", "droid", DROID_DELTA, action_horizon=15),
        _entry("pi0_droid_jointpos_polaris", "droid", "droid", DROID_DELTA, action_horizon=10, max_token_len=100),
        _entry("pi0_droid_jointpos_100k_polaris", "droid", "droid", DROID_DELTA, action_horizon=10, max_token_len=100),
        _entry("paligemma_diffusion_droid", "droid", "droid", action_horizon=10, action_dim=8),
        _entry("pi0_aloha", "aloha", "trossen", ALOHA_DELTA, policy_metadata=ALOHA_RESET),
        _entry("pi05_aloha", "aloha", "trossen", ALOHA_DELTA, policy_metadata=ALOHA_RESET),
        _entry(
            "pi0_aloha_towel",
            "aloha",
            "trossen",
            ALOHA_DELTA,
            default_prompt="fold the towel",
            policy_metadata=ALOHA_RESET,
        ),
        _entry(
            "pi0_aloha_tupperware",
            "aloha",
            "trossen",
            ALOHA_DELTA,
            default_prompt="open the tupperware and put the food on the plate",
            policy_metadata=ALOHA_RESET,
        ),
        _entry("pi0_aloha_pen_uncap", "aloha", "trossen", ALOHA_DELTA, default_prompt="uncap the pen"),
        _entry("pi05_aloha_pen_uncap", "aloha", "trossen", ALOHA_DELTA, default_prompt="uncap the pen"),
        _entry("pi0_aloha_sim", "aloha", "lerobot/aloha_sim_transfer_cube_human", default_prompt="Transfer cube"),
        PolicyConfig(
            name="tiny_libero",
            architecture=CONFIGS["tiny"],
            layout="libero",
            discrete_state_input=True,
            normalization="quantile",
            asset_id="tiny_libero",
        ),
    ]
)


def policy_config(name_or_path: str | Path) -> PolicyConfig:
    """The configuration of a name in the table, or of a JSON file.

    Raises:
        InputError: an unknown name (with the nearest ones), a kind of policy that this network does not run, or a file
            that is no policy configuration.
    """
    text = str(name_or_path)
    if text in POLICIES:
        return POLICIES[text]
    if text.endswith(".json"):
        document = read_json(from_home(text))
        try:
            return config_from_document(document)
        except InputError as error:
            raise InputError(f"{text}: {error}") from error
    refuse_fast(text, f"configuration {text!r}")
    near = difflib.get_close_matches(text, POLICIES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(POLICIES)}"
    raise InputError(f"there is no configuration {text!r} ({hint}); a file's name ends in .json")


def refuse_fast(name: str, place: str) -> None:
    """Raise an InputError where `name` is one of π0-FAST or its kin; `place` says where the name stood."""
    if name in FAST or FAST_NAME.search(name.lower()):
        raise InputError(
            f"{place}: an autoregressive policy (π0-FAST and its kin), which decodes its actions as tokens; "
            "vlapack runs the flow-matching policies π0 and π0.5"
        )


def config_from_document(document: Mapping[str, Any]) -> PolicyConfig:
    """A configuration from its JSON form, in full or as changes to a named one (`base`)."""
    if not isinstance(document, Mapping) or "base" not in document:
        return PolicyConfig.from_dict(document)
    changes = {key: value for key, value in document.items() if key != "base"}
    if (name := str(document["base"])).endswith(".json"):  # a file may be its own base
        raise InputError(f"policy configuration: base is {name!r:.200}; it must be a name: {', '.join(POLICIES)}")
    base = policy_config(name).to_dict()
    if isinstance(changes.get("architecture"), Mapping):
        changes["architecture"] = base["architecture"] | changes["architecture"]
    return PolicyConfig.from_dict(base | changes)
