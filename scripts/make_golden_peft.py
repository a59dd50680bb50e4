"""Write small adapters with PEFT's own code and keep what PEFT merges them to: tests/golden/peft.

PEFT needs an environment of its own, `pip install torch==2.13.0 peft==0.21.2`. Then, from the repository's root:

    peft-env/bin/python scripts/make_golden_peft.py tests/golden/peft

The base is a tree of a few tiny layers under the names that LeRobot's π0 has; `base.safetensors` holds it. Each adapter
has random parts instead of trained ones, and a folder as PEFT saves it. `merged.safetensors` in it holds the tensors
that differ from the base once PEFT has loaded the folder again and merged it.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

WIDTH = 8
VOCABULARY = 12
Q, V = r".*q_proj", ["q_proj", "v_proj"]
EXPERT_Q1 = "model.paligemma_with_expert.gemma_expert.model.layers.1.self_attn.q_proj"

CASES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": V},
    "alpha-fraction": {"target_modules": V, "lora_alpha": 6.5},
    "alpha-zero": {"target_modules": V, "lora_alpha": 0},
    "alpha-negative": {"target_modules": V, "lora_alpha": -3},
    "alpha-pattern-fraction": {"target_modules": V, "alpha_pattern": {"q_proj": 0.5, "v_proj": 6.5}},
    "alpha-pattern-zero": {"target_modules": V, "alpha_pattern": {"v_proj": 0}},
    "alpha-pattern-full-name": {"target_modules": V, "alpha_pattern": {EXPERT_Q1: 16}},
    "alpha-pattern-first-match": {
        "target_modules": V,
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3, "q_proj": 5, EXPERT_Q1: 7},
    },
    "alpha-pattern-part-of-a-name": {"target_modules": V, "alpha_pattern": {"proj": 9, "_proj": 11, "attn": 13}},
    "alpha-pattern-anchored": {"target_modules": V, "alpha_pattern": {"^q_proj": 9, r"^model\..*v_proj": 11}},
    "alpha-pattern-alternatives": {"target_modules": V, "alpha_pattern": {r"layers\.0\..*|v_proj": 4.25}},
    "rank-pattern": {"target_modules": V, "rank_pattern": {"v_proj": 2, r"gemma_expert\..*q_proj": 5}},
    "rank-and-alpha-pattern": {"target_modules": V, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "rslora": {"target_modules": V, "use_rslora": True, "rank_pattern": {"v_proj": 5}, "lora_alpha": 2.5},
    "dora": {"target_modules": V, "use_dora": True},
    "dora-rslora-patterns": {
        "target_modules": [*V, "fc1"],
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"fc1": 5},
        "alpha_pattern": {"fc1": 0.75, "layers.0.self_attn.v_proj": 0},
    },
    "dora-embedding": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "dora-convolution": {"target_modules": ["patch_embedding", "q_proj"], "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"], "alpha_pattern": {"embed_tokens": 3.5}},
    "convolution": {"target_modules": ["patch_embedding"]},
    "modules-to-save": {"target_modules": V, "modules_to_save": ["action_out_proj", "fc2"]},
    "modules-to-save-parent": {"target_modules": V, "modules_to_save": ["vision_tower.mlp"]},
    "modules-to-save-ending": {"target_modules": V, "modules_to_save": ["in_proj"]},
    "bias-all": {"target_modules": ["fc1"], "bias": "all"},
    "bias-lora-only": {"target_modules": ["fc1", "q_proj"], "bias": "lora_only"},
    "lora-bias": {"target_modules": ["fc1", "fc2"], "lora_bias": True, "alpha_pattern": {"fc2": 0.5}},
    "fan-in-fan-out": {"target_modules": V, "fan_in_fan_out": True},
    "one-expression": {"target_modules": rf".*gemma_expert{Q}", "lora_dropout": 0.1},
    "chosen-layers": {"target_modules": V, "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"target_modules": V, "exclude_modules": Q},
    "all-linear": {"target_modules": "all-linear", "use_rslora": True},
    "bfloat16": {"target_modules": V, "dtype": torch.bfloat16},
    "other-name": {"target_modules": V, "lora_alpha": 5, "adapter": "second"},
    "gaussian": {"target_modules": V, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": V, "init_lora_weights": "orthogonal"},
    "mica": {"target_modules": V, "init_lora_weights": "mica"},
}


def block() -> nn.Module:
    attention = nn.Module()
    for name in ("q_proj", "v_proj"):
        attention.add_module(name, nn.Linear(WIDTH, WIDTH, bias=False))
    layer = nn.Module()
    layer.add_module("self_attn", attention)
    return layer


def tower() -> nn.Module:
    model = nn.Module()
    model.add_module("layers", nn.ModuleList(block() for _ in range(2)))
    return model


class Base(nn.Module):
    """Names of LeRobot's π0, two layers a stack; nothing here is ever run."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        torch.manual_seed(0)
        language = tower()
        language.add_module("embed_tokens", nn.Embedding(VOCABULARY, WIDTH))
        mlp = nn.Module()
        mlp.add_module("fc1", nn.Linear(WIDTH, 2 * WIDTH))
        mlp.add_module("fc2", nn.Linear(2 * WIDTH, WIDTH))
        vision = nn.Module()
        vision.add_module("patch_embedding", nn.Conv2d(3, WIDTH, 2, 2))
        vision.add_module("mlp", mlp)
        inner = nn.Module()
        inner.add_module("language_model", language)
        inner.add_module("vision_tower", vision)
        paligemma, expert, both, policy = nn.Module(), nn.Module(), nn.Module(), nn.Module()
        paligemma.add_module("model", inner)
        expert.add_module("model", tower())
        both.add_module("paligemma", paligemma)
        both.add_module("gemma_expert", expert)
        policy.add_module("paligemma_with_expert", both)
        policy.add_module("action_in_proj", nn.Linear(WIDTH, WIDTH))
        policy.add_module("action_out_proj", nn.Linear(WIDTH, WIDTH))
        self.model = policy

    def get_input_embeddings(self) -> nn.Module:
        """Return what PEFT calls the embedding, whose tensors it then saves whole."""
        return self.model.paligemma_with_expert.paligemma.model.language_model.embed_tokens

    def get_output_embeddings(self) -> None:
        """None: none is tied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refuse; the tree is for its names."""
        raise NotImplementedError


@torch.no_grad()
def train(model: nn.Module, draw: torch.Generator) -> None:
    """Give everything that would have been trained random values."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, parameter in module.named_parameters():
                if "lora_" in name:
                    noise = torch.randn(parameter.shape, generator=draw)
                    parameter.copy_(parameter + noise if "magnitude" in name else noise)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" not in name:
            parameter.add_(torch.randn(parameter.shape, generator=draw))


def make(folder: Path, name: str, settings: dict[str, Any]) -> None:
    settings = {"r": 4, "lora_alpha": 8, **settings}
    dtype, adapter = settings.pop("dtype", torch.float32), settings.pop("adapter", "default")
    base = Base().state_dict()
    model = get_peft_model(Base(), LoraConfig(**settings), adapter_name=adapter)
    train(model, torch.Generator().manual_seed(sum(map(ord, name))))
    model.to(dtype).save_pretrained(folder)
    if adapter != "default":
        for file in (folder / adapter).iterdir():
            file.rename(folder / file.name)
        (folder / adapter).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
    # "all-linear" and regular expressions survive; sets come back in any order, and the golden files should not.
    config = json.loads((folder / "adapter_config.json").read_text())
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "BASE"}, indent=1))
    merged = PeftModel.from_pretrained(Base(), folder).merge_and_unload().state_dict()
    changed = {key: value for key, value in merged.items() if not torch.equal(value, base[key])}
    assert merged.keys() == base.keys(), name
    assert changed or name == "alpha-zero", name
    save_file(changed, folder / "merged.safetensors")
    print(f"{name}: {len(changed)} of {len(base)} tensors differ")


def main() -> None:
    """Write the base and every case, in the place of what is there."""
    root = Path(sys.argv[1])
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    save_file(Base().state_dict(), root / "base.safetensors")
    warnings.simplefilter("ignore")
    for name, settings in CASES.items():
        make(root / name, name, settings)


if __name__ == "__main__":
    main()
