"""Record what openpi's own transforms make of some observations and chunks: the numbers `policy/` must reproduce.

    openpi-env/bin/pip install --no-deps openpi-client chex
    openpi-env/bin/pip install pillow sentencepiece toolz tqdm-loggable numpydantic "numpy<2"
    openpi-env/bin/python scripts/make_golden_policy.py \
        --tokenizer src/vlapack/assets/tiny-libero/tokenizer.model --out tests/golden/policy.npz

The environment is the one described in scripts/openpi_reference.py; vlapack need not be installed in it. The three
cases are π0 LIBERO (mean/std, delta actions), π0.5 LIBERO (quantiles, state unused) and tiny-libero (quantiles, state
in the prompt), with tiny-libero's tokenizer and pictures of 28 pixels, so that the file stays small.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import sentencepiece
from openpi import transforms
from openpi.models.model import ModelType
from openpi.models.tokenizer import PaligemmaTokenizer
from openpi.policies import libero_policy
from openpi.shared.normalize import NormStats

SIZE, MAX_LEN, HORIZON, ACTION_DIM = 28, 48, 5, 32
# name: model type, quantiles, state in the prompt, delta mask
CASES = {
    "pi0": (ModelType.PI0, False, False, transforms.make_bool_mask(6, -1)),
    "pi05": (ModelType.PI05, True, False, None),
    "tiny": (ModelType.PI05, True, True, None),
}
# Wide, tall, exact and tiny pictures; an instruction with underscores, a newline and spaces around it.
SHAPES = [((37, 53), (64, 31)), ((28, 28), (9, 5)), ((64, 64), (56, 56))]
PROMPTS = ["pick up the black bowl", "  open_the middle\ndrawer ", "stack 3 plates"]


def tokenizer(path: Path) -> PaligemmaTokenizer:
    """openpi's class with our model in place of the one that its constructor downloads."""
    made = PaligemmaTokenizer.__new__(PaligemmaTokenizer)
    made._max_len = MAX_LEN
    made._tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return made


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth enough to compress, with edges and noise enough to tell filters apart."""
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 5)[..., None] * np.array([1, 2, 3])
    block = rng.integers(0, 256, (1 + height // 8, 1 + width // 8, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return ((ramp + block) % 256).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    stats = {}
    for key, dim in (("state", 8), ("actions", 7)):
        low = rng.normal(size=dim)
        values = {"mean": rng.normal(size=dim), "std": rng.uniform(0.1, 2, dim), "q01": low, "q99": low + 1.5}
        stats[key] = NormStats(**values)
        arrays |= {f"stats/{key}/{name}": value for name, value in values.items()}
    for number, (shapes, prompt) in enumerate(zip(SHAPES, PROMPTS, strict=True)):
        observation = {
            "observation/image": picture(rng, *shapes[0]),
            "observation/wrist_image": picture(rng, *shapes[1]),
            "observation/state": rng.normal(size=8) * 1.2,
            "prompt": prompt,
        }
        chunk = rng.normal(size=(HORIZON, ACTION_DIM)).astype(np.float32)
        arrays |= {f"{number}/{key}": np.asarray(value) for key, value in observation.items()}
        arrays[f"{number}/chunk"] = chunk
        for name, (model_type, quantiles, discrete, mask) in CASES.items():
            forth = transforms.compose(
                [
                    libero_policy.LiberoInputs(model_type=model_type),
                    transforms.Normalize(stats, use_quantiles=quantiles),
                    transforms.ResizeImages(SIZE, SIZE),
                    transforms.TokenizePrompt(tokenizer(args.tokenizer), discrete_state_input=discrete),
                    transforms.PadStatesAndActions(ACTION_DIM),
                ]
            )
            back = transforms.compose(
                [
                    transforms.Unnormalize(stats, use_quantiles=quantiles),
                    transforms.AbsoluteActions(mask),
                    libero_policy.LiberoOutputs(),
                ]
            )
            inputs = forth(dict(observation))
            outputs = back({"state": inputs["state"], "actions": chunk.copy()})
            if name == "pi0":  # the pictures do not depend on the case
                arrays[f"{number}/images"] = np.stack(list(inputs["image"].values()))
            arrays |= {
                f"{number}/{name}/image_masks": np.asarray(list(inputs["image_mask"].values())),
                f"{number}/{name}/tokens": inputs["tokenized_prompt"],
                f"{number}/{name}/token_masks": inputs["tokenized_prompt_mask"],
                f"{number}/{name}/state": inputs["state"],
                f"{number}/{name}/actions": outputs["actions"],
            }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **arrays)
    print(f"{args.out}: {len(arrays)} arrays, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
