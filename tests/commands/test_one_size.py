"""A pack has one size of each kind: every command that says *file*, *held* or *mapped* says the same number."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest
from shop import Shop

from vlapack.cli import main
from vlapack.doctor.findings import policy_findings
from vlapack.packing.pack_bytes import PackBytes
from vlapack.policy.policy import Policy

RECIPES = {
    "8-bit embedding, folded": ["--preset", "everything", "--rounding", "rtn", "--weights-only"],
    "expert only": ["--preset", "dit", "--rounding", "rtn", "--weights-only"],
    "groups, row rotation, nothing folded": [
        *("--preset", "full-w4", "--rounding", "rtn", "--weights-only"),
        *("--group-size", "32", "--row-rot", "restore", "--fold", "False"),
    ],
}


@pytest.mark.parametrize("words", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("engine", ["", "reference"])
def test_every_command_says_the_same_of_one_pack(
    words: Sequence[str], engine: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", engine)
    pack = shop.folder / "pack"
    recipe = [word for word in words if word != "--weights-only"]

    assert shop.quantize("pack", *words) == 0
    texts = [shop.printed()]
    policy = Policy.from_pretrained(pack)
    expected = PackBytes((pack / "model.safetensors").stat().st_size, policy.held_bytes(), policy.mapped_bytes())

    for command in (["inspect", str(shop.parent), *recipe], ["verify", str(pack)]):
        assert main(command) == 0
        texts.append(shop.printed())
    texts += [finding.value for finding in policy_findings(str(pack), {}) if finding.name == "room"]
    assert len(texts) == 4
    assert [text for text in texts if str(expected) not in text] == []

    assert main(["inspect", str(shop.parent), *recipe, "--json"]) == 0
    planned = json.loads(shop.printed())["bytes"]
    assert shop.quantize("pack", *words, "--json") == 0
    made = json.loads(shop.printed())["bytes"]
    assert main(["verify", str(pack), "--json"]) == 0
    there = json.loads(shop.printed())
    for found in (
        planned,
        made,
        {kind: there[f"{kind}_bytes"] for kind in vars(expected)},
    ):
        assert {kind: found[kind] for kind in vars(expected)} == vars(expected)
    assert made["before"] == planned["before"]

    card = (pack / "README.md").read_text()
    total = re.search(r"\| \*\*file\*\* \| \S+ \| \*\*(\S+)\*\* \| \*\*(\S+)\*\* \|", card)
    assert total is not None
    assert total.groups() == (f"{made['before'] / 1e6:.3f}", f"{expected.file / 1e6:.3f}")
