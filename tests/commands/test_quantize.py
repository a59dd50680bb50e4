"""`vlapack quantize`, `verify` and `clean`: what they print, and what they leave."""

from __future__ import annotations

import json
import re

from shop import CALIBRATED, DIT, Shop, die
from small import random_tensors, small_policy

from vlapack.checkpoints.pack.writer import PackWriter, partial_path
from vlapack.cli import main
from vlapack.files import claimed


def test_json_keeps_its_contract(shop: Shop) -> None:
    assert shop.quantize("pack", *CALIBRATED, "--json") == 0
    document = json.loads(shop.printed())
    assert set(document) >= {"pack", "fingerprint", "layers", "seconds", "peak_rss_bytes", "bytes", "weight_error"}
    assert set(document["weight_error"]) == {"mean", "max", "worst_layer"}
    assert (document["pack"], document["layers"]) == (str(shop.folder / "pack"), 14)
    assert document["bytes"]["before"] == sum(t.nbytes for t in random_tensors(small_policy().architecture).values())
    weights = shop.contents("pack")["model.safetensors"]
    assert document["bytes"]["after"] == len(weights) - 8 - int.from_bytes(weights[:8], "little")
    assert main(["verify", str(shop.folder / "pack"), "--json"]) == 0
    assert json.loads(shop.printed())["fingerprint"] == document["fingerprint"]


def test_the_same_pack_again_is_nothing_to_do(shop: Shop) -> None:
    assert shop.quantize("pack", *DIT) == 0
    before = shop.contents("pack")
    shop.printed()
    assert shop.quantize("pack", *DIT) == 0
    assert "is this very pack already" in shop.printed()
    assert shop.contents("pack") == before


def test_the_guides_variables_make_the_guides_pack(shop: Shop) -> None:
    """PACKDIR says where, DRYRUN only lists, DEBUG says one line per layer with its scales."""
    variables = {
        "SCOPE": "paligemma_with_expert.gemma_expert.model.",
        "CALIB_STEPS": "4",
        "DEBUG": "1",
        "PACKDIR": str(shop.folder / "guide"),
    }
    for name, value in variables.items():
        shop.monkeypatch.setenv(f"OPENPI_DUQUANT_{name}", value)
    words = ["quantize", str(shop.parent), "--calib", str(shop.observations)]
    shop.monkeypatch.setenv("OPENPI_DUQUANT_DRYRUN", "1")
    assert main(words) == 0
    assert "down_proj" in shop.printed()
    assert list(shop.folder.iterdir()) == []
    shop.monkeypatch.setenv("OPENPI_DUQUANT_DRYRUN", "0")
    assert main(words) == 0
    assert len(re.findall(r"W4A8 block 16 row block 16 scales \S+ error", shop.said())) == 14
    config = json.loads(shop.contents("guide")["config.json"])
    assert (config["recipe"]["method"], config["recipe"]["block"]) == ("guide", 16)
    scheme = config["quantization_config"]["config_groups"]["group_0"]["input_activations"]
    assert (scheme["strategy"], scheme["dynamic"]) == ("tensor", False)


def test_verify_names_what_is_damaged(shop: Shop) -> None:
    assert shop.quantize("pack", "--preset", "dit-fast") == 0
    path = shop.folder / "pack/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(shop.folder / "pack")]) == 2
    assert "are damaged" in shop.said()
    assert main(["verify", str(shop.folder)]) == 2


def test_clean_lists_first_removes_when_told_and_spares_what_is_in_use(shop: Shop) -> None:
    shop.interrupt((PackWriter, "finish", die), "pack", *DIT)
    (shop.folder / "download.partial").mkdir()  # not ours
    shop.printed()

    def states(*words: str) -> list[str]:
        assert main(["clean", str(shop.folder), "--json", *words]) == 0
        return [row["state"] for row in json.loads(shop.printed())["leftovers"]]

    assert states() == ["left"]
    with claimed(partial_path(shop.folder / "pack")):
        assert states("--yes") == ["in use"]
    assert states("--yes") == ["removed"]
    assert states() == []
    assert (shop.folder / "download.partial").exists()
