"""One action chunk by openpi's or LeRobot's own classes, in their own environment: what each stage of theirs computed.

`python reference.py openpi|lerobot REQUEST ANSWER` runs where vlapack is not installed, so nothing of it is imported
here. REQUEST and ANSWER are `.npz` files; `doctor.request` and `doctor.stages` say what they hold. What cannot be
tried ends with an exception, whose last line the caller shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import inspect
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
NOT_LOADED = ("Could not load state dict", "Returning model without loading")
MOST_LETTERS = 400


class Recorder:
    """Listens to a `PI0Pytorch`, openpi's or LeRobot's: they name their methods alike.

    Attributes:
        pictures: [cameras, 3, S, S], of the cameras that exist
        found: the stages of the network, as `doctor.stages` names them
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.pictures = np.empty(0)
        self.found: Arrays = {}
        self._velocities: list[np.ndarray] = []
        self._signature = inspect.signature(model.denoise_step)
        self._denoise = model.denoise_step
        model.denoise_step = self._denoise_step

    def prepared(self, images: list[Any], masks: list[Any], tokens: Any, token_masks: Any) -> None:
        """Keep what goes into the network."""
        self.see(images, masks)
        self.found["pictures"] = self.pictures
        self.found["tokens"] = array(tokens[0][token_masks[0].bool()])

    def see(self, images: list[Any], masks: list[Any]) -> None:
        """Keep the pictures of the cameras that exist."""
        seen = [array(image[0]) for image, mask in zip(images, masks, strict=True) if bool(mask[0])]
        self.pictures = np.stack([p if p.shape[0] == 3 else p.transpose(2, 0, 1) for p in seen])

    def _denoise_step(self, *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        if not self._velocities:
            exist = given["prefix_pad_masks"][0].bool()
            layers = [(k[0][:, exist], v[0][:, exist]) for k, v in layers_of(given["past_key_values"])]
            self.found["keys"] = np.stack([array(keys) for keys, _ in layers])
            self.found["values"] = np.stack([array(values) for _, values in layers])
        velocity = self._denoise(*args, **kwargs)
        self._velocities.append(array(velocity[0]))
        return velocity

    def finish(self, chunk: Any, actions: Any) -> Arrays:
        """Return all stages."""
        return {
            **self.found,
            "velocities": np.stack(self._velocities),
            "chunk": array(chunk[0]),
            "actions": np.asarray(actions),
        }


def layers_of(cache: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of every layer, whatever this version of transformers calls them."""
    if hasattr(cache, "layers"):
        yield from ((layer.keys, layer.values) for layer in cache.layers)
    elif hasattr(cache, "key_cache"):
        yield from zip(cache.key_cache, cache.value_cache, strict=True)
    else:
        yield from cache


def array(tensor: Any) -> np.ndarray:
    """Copy a tensor; bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    copied: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy().copy()
    return copied


def openpi(request: dict[str, Any], arrays: Arrays) -> Arrays:
    """Act as openpi's `create_trained_policy` does, in fp32."""
    from openpi.models_pytorch import gemma_pytorch
    from openpi.policies import policy_config
    from openpi.training import config as configs

    config = configs.get_config(request["config"])
    # Theirs rounds to bfloat16 when it loads. In fp32 what remains is how the two differ, not how they round.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
    wrapped = gemma_pytorch.PaliGemmaWithExpertModel
    cast = wrapped.to_bfloat16_for_selected_params
    wrapped.to_bfloat16_for_selected_params = lambda self, precision="float32": cast(self, "float32")
    policy = policy_config.create_trained_policy(config, request["checkpoint"], pytorch_device="cpu")
    torch.set_float32_matmul_precision("highest")  # PI0Pytorch's constructor asks for "high"
    model = policy._model
    recorder = Recorder(model)
    chunks = []

    def preprocess(*args: Any, _real: Callable[..., Any] = model._preprocess_observation, **kwargs: Any) -> Any:
        images, masks, tokens, token_masks, state = prepared = _real(*args, **kwargs)
        recorder.prepared(images, masks, tokens, token_masks)
        recorder.found["state"] = array(state[0])
        return prepared

    def sample(*args: Any, **kwargs: Any) -> Any:
        chunks.append(types.MethodType(type(model).sample_actions, model)(*args, **kwargs))
        return chunks[-1]

    model._preprocess_observation = preprocess
    policy._sample_actions = sample
    actions = policy.infer(nested(request, arrays, "picture"), noise=arrays["noise"])["actions"]
    answer = recorder.finish(chunks[0], actions)

    def only_see(*args: Any, **kwargs: Any) -> Any:
        raise Seen

    model.embed_prefix = only_see
    with contextlib.suppress(Seen):
        policy.infer(nested(request, arrays, "resized"), noise=arrays["noise"])
    return {**answer, "resized": recorder.pictures}


class Seen(Exception):  # noqa: N818 - it says what happened, and nothing is wrong
    """The pictures were prepared, and nothing more was wanted."""


def nested(request: dict[str, Any], arrays: Arrays, pictures: str) -> dict[str, Any]:
    """Build an observation under openpi's keys."""
    observation: dict[str, Any] = {"prompt": request["prompt"]}
    for number, field in enumerate(request["fields"]):
        *outer, last = field["path"]
        place = observation
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = arrays[f"{pictures if field['picture'] else 'vector'}.{number}"].copy()
    return observation


def lerobot(request: dict[str, Any], arrays: Arrays) -> Arrays:
    """Act as LeRobot does: its processors from the folder, its policy in fp32."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    folder = request["checkpoint"]
    config = PreTrainedConfig.from_pretrained(folder)
    config.device, config.dtype, config.compile_model = "cpu", "float32", False
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # where the weights do not fit it says so there, and goes on without them
        policy = get_policy_class(config.type).from_pretrained(folder, config=config).eval()
    told = " ".join(said.getvalue().split())
    if lost := [told.index(text) for text in NOT_LOADED if text in told]:
        raise RuntimeError(f"LeRobot does not load these weights: {told[min(lost) :][:MOST_LETTERS]}")
    before, after = make_pre_post_processors(
        config,
        pretrained_path=folder,
        preprocessor_overrides=on_cpu(folder, "policy_preprocessor.json"),
        postprocessor_overrides=on_cpu(folder, "policy_postprocessor.json"),
    )
    recorder = Recorder(policy.model)
    chunks = []
    noise = torch.from_numpy(arrays["noise"])[None]
    real = policy.model.sample_actions
    signature = inspect.signature(real)

    def sample(*args: Any, **kwargs: Any) -> Any:
        kwargs["noise"] = noise  # here, since LeRobot 0.4's `predict_action_chunk` takes none
        given = list(signature.bind(*args, **kwargs).arguments.values())
        recorder.prepared(*given[:4])
        chunks.append(real(*args, **kwargs))
        return chunks[-1]

    policy.model.sample_actions = sample
    batch = before(flat(request, arrays, "picture"))
    with torch.no_grad():
        chunk = policy.predict_action_chunk(batch)
    recorder.found["state"] = array(batch["observation.state"][0])
    answer = recorder.finish(chunks[0], array(after(chunk)[0]))
    recorder.see(*policy._preprocess_images(before(flat(request, arrays, "resized"))))
    return {**answer, "resized": recorder.pictures}


def on_cpu(folder: str, file: str) -> dict[str, Any]:
    """Override the saved device, in processors that have one: LeRobot refuses an override without its step."""
    with open(os.path.join(folder, file), encoding="utf-8") as opened:
        return {"device_processor": {"device": "cpu"}} if "device_processor" in opened.read() else {}


def flat(request: dict[str, Any], arrays: Arrays, pictures: str) -> dict[str, Any]:
    """Build an observation under LeRobot's keys: pictures as floats [3, H, W] in 0-1, the state as one vector."""
    observation: dict[str, Any] = {"task": [request["prompt"]]}
    vectors = []
    cameras = iter(request["cameras"])
    for number, field in enumerate(request["fields"]):
        if field["picture"]:
            pixels = torch.from_numpy(arrays[f"{pictures}.{number}"])
            observation[next(cameras)] = (pixels if pixels.shape[0] == 3 else pixels.permute(2, 0, 1)).float() / 255
        else:
            vectors.append(arrays[f"vector.{number}"])
    observation["observation.state"] = torch.from_numpy(np.concatenate(vectors)).float()
    return observation


def versions(package: str) -> str:
    """Say what computed this."""
    found = []
    for name in (package, "torch", "transformers"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # a source folder on PYTHONPATH
            found.append(name)
    return ", ".join(found)


def main(package: str, request_file: str, answer_file: str) -> None:
    """Read the request, act, and write the answer."""
    # This folder's modules are not theirs.
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != os.path.dirname(__file__)]
    with np.load(request_file, allow_pickle=False) as file:
        arrays = dict(file)
    request = json.loads(str(arrays.pop("request")))
    # Both compile their networks if they are let: minutes, and other roundings.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    answer: dict[str, Any] = {"openpi": openpi, "lerobot": lerobot}[package](request, arrays)
    np.savez(answer_file, about=np.array(versions(package)), **answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
