"""Stand in for the interpreter that `vlapack doctor --against` is given: openpi or LeRobot at tiny-libero's sizes.

Both hard-code their networks' sizes and fetch PaliGemma's tokenizer; those are patched where they are read, and nothing
else. The environments are those of scripts/openpi_reference.py, with openpi-client, orbax-checkpoint==0.11.13 and chex
beside it, and of scripts/lerobot_reference.py. From the repository's root:

    echo '#!/bin/sh' > tiny-openpi
    echo 'PYTHONPATH=src:scripts exec openpi-env/bin/python scripts/tiny_environment.py "$@"' >> tiny-openpi
    chmod +x tiny-openpi
    vlapack doctor tiny-libero --against ./tiny-openpi
"""

from __future__ import annotations

import dataclasses
import functools
import runpy
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import sentencepiece
import torch

from vlapack.pi0.config import Pi0Config

TOKENIZER = Path(__file__).parents[1] / "src/vlapack/assets/tiny-libero/tokenizer.model"


def openpi(sizes: Pi0Config, patches: ExitStack) -> None:
    """Make `tiny_libero` a configuration of openpi's, from its `pi05_libero`."""
    from openpi import transforms
    from openpi.models_pytorch import preprocessing_pytorch
    from openpi.shared import download
    from openpi.training import config as configs
    from openpi_reference import patched_sizes

    size = sizes.vision.image_size
    real = configs.get_config("pi05_libero")
    tiny = dataclasses.replace(
        real,
        name="tiny_libero",
        model=dataclasses.replace(
            real.model,
            max_token_len=sizes.max_token_len,
            action_horizon=sizes.action_horizon,
            discrete_state_input=True,
        ),
        data=dataclasses.replace(real.data, assets=configs.AssetsConfig(asset_id="tiny_libero")),
    )
    resize, prepare, fetch = (
        transforms.ResizeImages,
        preprocessing_pytorch.preprocess_observation_pytorch,
        download.maybe_download,
    )

    def maybe_download(url: str, **options: Any) -> Path:
        return TOKENIZER if url.startswith("gs://") else fetch(url, **options)

    for owner, name, patch in (
        (configs, "get_config", {"tiny_libero": tiny}.__getitem__),
        (transforms, "ResizeImages", lambda height, width: resize(size, size)),
        (
            preprocessing_pytorch,
            "preprocess_observation_pytorch",
            functools.partial(prepare, image_resolution=(size, size)),
        ),
        (download, "maybe_download", maybe_download),
    ):
        patches.enter_context(mock.patch.object(owner, name, patch))
    patches.enter_context(patched_sizes(sizes))


class SentencePiece:
    """What LeRobot's tokenizer step calls, on tiny-libero's vocabulary instead of PaliGemma's."""

    def __init__(self) -> None:
        self._model = sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER.read_bytes())

    def __call__(self, texts: list[str], *, max_length: int, **_: Any) -> dict[str, torch.Tensor]:
        rows = [self._model.encode(text, add_bos=True)[:max_length] for text in texts]
        tokens = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        masks = torch.tensor([[1] * len(row) + [0] * (max_length - len(row)) for row in rows])
        return {"input_ids": tokens, "attention_mask": masks}


def lerobot(sizes: Pi0Config, patches: ExitStack) -> None:
    """Let LeRobot's gemma_2b and gemma_300m have tiny-libero's sizes."""
    from lerobot_reference import patched_sizes

    patches.enter_context(patched_sizes(sizes))
    patches.enter_context(mock.patch("transformers.AutoTokenizer.from_pretrained", return_value=SentencePiece()))


def main(arguments: list[str]) -> None:
    """Do what an interpreter does with `-c CODE`, or with the script of `doctor` under these patches."""
    if arguments[0] == "-c":
        exec(arguments[1], {})
        return
    from vlapack.checkpoints.configs import POLICIES

    sys.argv = arguments
    with ExitStack() as patches:
        {"openpi": openpi, "lerobot": lerobot}[arguments[1]](POLICIES["tiny_libero"].architecture, patches)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
