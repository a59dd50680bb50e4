"""Quantize a small Llama of the real Transformers, save it by its own methods and by ours, and load it again.

In an environment with torch and transformers (5 or newer; with 4, the refusals are checked):

    PYTHONPATH=src transformers-env/bin/python scripts/check_transformers.py

Checks that logits and tensors come back bit for bit, in fp32 and bf16, with tied weights and without, as the whole
model and as its base, that saving again gives the same files, and that a folder which lacks tensors is refused.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

import vlapack
from vlapack import Recipe
from vlapack.errors import InputError

RECIPES = (
    Recipe(scope="", block=8, smooth=0.15, rounding="gptq"),
    Recipe(scope="", block=8, rounding="rtn", group_size=32, rotation="hadamard"),
    Recipe(scope="", block=8, rounding="rtn", weight_bits=8, act_scale="static", rotation="greedy"),
    Recipe(scope="", block=8, rounding="rtn", method="guide"),
)
BATCH = {"input_ids": torch.arange(18).view(2, 9), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
SUPPORTED = int(transformers.__version__.split(".")[0]) >= 5


def built(dtype: torch.dtype, tied: bool) -> Any:
    """Return a Llama of two layers with random weights."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        attention_bias=True,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def refused(what: str, call: Any) -> None:
    """Expect an InputError whose message has these words."""
    message = "nothing"
    try:
        call()
    except InputError as error:
        message = str(error)
    assert what in message, message


def check(dtype: torch.dtype, tied: bool, recipe: Recipe, folder: Path) -> None:
    """Go through what a user does with one model."""
    model = built(dtype, tied)
    vlapack.quantize_(model, recipe, [BATCH])
    logits = model(**BATCH).logits
    vlapack.save(model, folder / "ours")
    other = built(dtype, tied)
    vlapack.load_(other, folder / "ours")
    assert torch.equal(other(**BATCH).logits, logits)
    refused("vlapack.save", lambda: model.model.save_pretrained(folder / "part"))
    if not SUPPORTED:
        refused("vlapack.save", lambda: model.save_pretrained(folder / "theirs"))
        return
    model.save_pretrained(folder / "theirs")
    loaded = AutoModelForCausalLM.from_pretrained(folder / "theirs", dtype=dtype)
    assert torch.equal(loaded(**BATCH).logits, logits)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    base = AutoModel.from_pretrained(folder / "theirs", dtype=dtype)
    assert torch.equal(base(**BATCH)[0], model.model(**BATCH)[0])
    loaded.generate(**BATCH, max_new_tokens=3)
    loaded.save_pretrained(folder / "again")
    for name in ("config.json", "model.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / "theirs" / name).read_bytes(), name
    weights = load_file(folder / "theirs" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(weights, folder / "theirs" / "model.safetensors", {"format": "pt"})
    refused("the weights lack weight_scale", lambda: AutoModelForCausalLM.from_pretrained(folder / "theirs"))


def main() -> None:
    """Check every recipe, type and kind of head."""
    for dtype in (torch.float32, torch.bfloat16):
        for tied in (True, False):
            for recipe in RECIPES:
                with TemporaryDirectory() as folder:
                    check(dtype, tied, recipe, Path(folder))
    print(f"transformers {transformers.__version__}: {'saved and loaded' if SUPPORTED else 'refused, as it must be'}")


if __name__ == "__main__":
    main()
