"""LeRobot's golden folders with their weights, as tests open them, and edits to them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small import TOKENIZER

from vlapack.checkpoints import lerobot
from vlapack.pi0.config import Pi0Config
from vlapack.policy.policy import Policy
from vlapack.robots.layouts import layout_of

GOLDEN = Path(__file__).parent / "golden" / "lerobot"
SEED = 6
PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"

SPEC = importlib.util.spec_from_file_location("seeded", Path(__file__).parents[1] / "scripts" / "seeded.py")
seeded = importlib.util.module_from_spec(SPEC)
sys.modules["seeded"] = seeded  # dataclasses look their module up
SPEC.loader.exec_module(seeded)


def use_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let LeRobot's names of sizes mean the golden policies'."""
    sizes = Pi0Config.from_dict(json.loads(header("pi05")["sizes"]))
    monkeypatch.setattr(lerobot, "VARIANTS", {"gemma_2b": sizes.llm, "gemma_300m": sizes.expert})
    monkeypatch.setattr(lerobot, "VISION", sizes.vision)


def header(kind: str) -> dict[str, str]:
    with safe_open(GOLDEN / kind / "golden.safetensors", "pt") as file:
        return file.metadata()


def weights(kind: str) -> dict[str, torch.Tensor]:
    """The seeded weights under LeRobot's names, as its 0.6 saves them: embedding and head, equal but not tied."""
    shapes = json.loads(header(kind)["weights"])
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    drawn = {name: name if not name.endswith("embed_tokens.weight") else head for name in shapes}
    return {
        name: seeded.seeded_tensor(source.removeprefix("model."), tuple(shapes[name]), SEED)
        for name, source in drawn.items()
    }


def folder_of(kind: str, place: Path) -> Path:
    folder = Path(shutil.copytree(GOLDEN / kind, place / kind))
    save_file(weights(kind), folder / "model.safetensors")
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    return folder


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def example(policy: Policy) -> dict[str, Any]:
    return layout_of(policy.config).example()


def edit_step(folder: Path, name: str, change: Callable[[dict[str, Any]], Any], file: str = PRE) -> None:
    """Change the configuration of one step."""
    document = json.loads((folder / file).read_text())
    for step in document["steps"]:
        if step["registry_name"] == name:
            change(step["config"])
    (folder / file).write_text(json.dumps(document))


def edit_steps(folder: Path, change: Callable[[list[Any]], Any], file: str = PRE) -> None:
    """Change the list of steps."""
    document = json.loads((folder / file).read_text())
    change(document["steps"])
    (folder / file).write_text(json.dumps(document))


def named(steps: list[Any], name: str) -> Any:
    return next(step for step in steps if step["registry_name"] == name)
