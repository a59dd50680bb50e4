"""A float policy beside every layer packed at every choice: what each choice does to its chunks, alone or together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlapack.fingerprint import digest
from vlapack.machine.allocator import map_large_blocks
from vlapack.machine.cpu import fast_bf16
from vlapack.machine.gpu import CPU
from vlapack.packing.parent import Parent
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import EMBEDDING, EMBEDDING_MODULE
from vlapack.pi0.stored import StoredEmbedding, StoredLinear
from vlapack.policy.differences import deviations, draws
from vlapack.policy.policy import Policy
from vlapack.progress import progress
from vlapack.tune.allocate import FLOAT_BITS, Bits, Chosen, label, named
from vlapack.tune.folder import TuningFolder
from vlapack.tune.sensitivity import Choices, probing, robot_units, sample

DIRECTIONS = 2
"""Samples of ‖Δ‖² per observation: each is one more direction on the way back, for the price of one forward pass."""
SPREAD_FRAMES = 8
"""Observations, the first ones, that are also acted on from other noises. They show how far the policy's own chunks
spread; from the others one chunk each suffices."""


class Trial:
    """Runs observations, each with noise of its own; finished ones are kept in the work folder.

    Args:
        parent: the float checkpoint; its weights are held as its file stores them.
        choices: of `load_candidates`.
        observations: in the layout's keys.
        work: where what is finished is kept.
        seed: of noise and directions, which are drawn on the CPU.
        device: where the policy runs, and where the choices are.

    Attributes:
        policy: the float policy.
        inputs: of the observations, as the network reads them.
        noise: [N, 1, H, action_dim], one for each observation.

    Raises:
        InputError: an observation that the policy cannot use.
    """

    def __init__(
        self,
        parent: Parent,
        choices: Choices,
        observations: Sequence[Mapping[str, Any]],
        work: TuningFolder,
        *,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        """Load the float policy."""
        map_large_blocks()
        self._choices = choices
        self._work = work
        self._device = device
        self._seed = seed
        self.policy = _float_policy(parent, device)
        self.inputs = [self.policy.observe(observation) for observation in observations]
        self._originals = {name: self.policy.model.get_submodule(name) for name in choices}
        architecture = parent.config.architecture
        shape = (architecture.action_horizon, architecture.action_dim)
        draw = torch.Generator().manual_seed(seed)
        self.noise = torch.randn((len(observations), 1, *shape), generator=draw)
        signs = torch.randint(0, 2, (len(observations), DIRECTIONS, *shape), generator=draw) * 2.0 - 1.0
        self._directions = signs * robot_units(self.policy, self.inputs[0])

    def sensitivity(self, numbers: Sequence[int]) -> dict[str, dict[Chosen, float]]:
        """Return what every choice adds to the squared relative error of the chunk, to first order.

        Args:
            numbers: of the observations to measure on.

        Returns:
            Module name → bits → mean ‖Δ‖² / mean ‖a‖², over robot dimensions.
        """
        choices = {name: [label(choice) for choice in of] for name, of in self._choices.items()}
        pieces = [f"samples/{digest(choices)[:16]}-{number:04d}" for number in numbers]
        done = sum(map(self._work.has, pieces))
        with (
            probing(self.policy.model, self._choices, self._device) as probes,
            progress("measuring", len(numbers), done=done) as advance,
        ):
            for number, piece in zip(numbers, pieces, strict=True):
                if not self._work.has(piece):
                    network = (self.policy.model, probes, self.inputs[number])
                    chunk, sums = sample(*network, self.noise[number], self._directions[number])
                    self._work.keep(piece, {"chunk": chunk, "sums": sums})
                    advance()
        found = [self._work.load(piece) for piece in pieces]
        size = np.mean([self._square(number, one["chunk"]) for number, one in zip(numbers, found, strict=True)])
        errors = iter((torch.cat([one["sums"] for one in found]).square().mean(0) / float(size)).tolist())
        return {name: {bits: next(errors) for bits in of_module} for name, of_module in self._choices.items()}

    def error(self, bits: Bits, numbers: Sequence[int]) -> float:
        """Return the relative error √(Σ ‖Δ‖² / Σ ‖a‖²) of the chunks under an assignment, as it really is."""
        floats = [self._actions({}, number) for number in numbers]
        packed = [self._actions(bits, number) for number in numbers]
        difference, size = np.stack(packed) - np.stack(floats), np.stack(floats)
        return float(np.linalg.norm(difference) / np.linalg.norm(size))

    def deviations(self, bits: Bits, numbers: Sequence[int], title: str = "comparing") -> np.ndarray:
        """Return how far the chunks of an assignment are from the float ones, [N]: what `vlapack compare` calls so.

        Args:
            bits: the assignment; layers that it does not name stay float.
            numbers: of the observations, always in the same order: their noises are drawn in it.
            title: of the bar.
        """
        noises = self._noises(numbers)
        expected = self._expected(numbers, noises)
        first = {number: noise[:1] for number, noise in zip(numbers, noises, strict=True)}
        found = self._chunks(bits, first, f"compared/{digest(named(bits))[:16]}", title)
        return deviations(expected, np.stack([found[number][0] for number in numbers]))

    def deviations_of(self, policy: Policy, numbers: Sequence[int], title: str = "comparing") -> np.ndarray:
        """Return how far another policy's chunks are from the float ones, from the same noises as in `deviations`."""
        noises = self._noises(numbers)
        expected = self._expected(numbers, noises)
        found = []
        with progress(title, len(noises)) as advance:
            for number, noise in zip(numbers, noises, strict=True):
                found.append(policy.act(self.inputs[number], noise[:1])[0])
                advance()
        return deviations(expected, np.stack(found))

    def spread(self, numbers: Sequence[int]) -> np.ndarray:
        """Return how far the float policy's chunks under other noises are from those under the first.

        Returns:
            [N, 7], of the first N ≤ `SPREAD_FRAMES` observations.
        """
        expected = self._expected(numbers, self._noises(numbers))
        others = np.stack(expected[:SPREAD_FRAMES])
        return np.stack([deviations(expected, others[:, other]) for other in range(1, others.shape[1])], axis=1)

    def milliseconds(self, bits: Bits, numbers: Sequence[int]) -> float:
        """Return the median time of the chunks that `deviations` ran, of the network alone."""
        piece = f"compared/{digest(named(bits))[:16]}"
        return float(np.median([float(self._work.load(f"{piece}-{number:04d}")["ms"]) for number in numbers]))

    @property
    def timeless(self) -> list[str]:
        """Names of the modules of which a loaded policy has only a table."""
        return self.policy.model.time_modules

    @property
    def steps(self) -> int:
        """Denoise steps of a chunk."""
        return self.policy.config.architecture.num_steps

    def module(self, name: str, choice: Chosen) -> nn.Module:
        """Return a layer as it is, or as one of its choices."""
        return self._originals[name] if choice == FLOAT_BITS else self._choices[name][choice]

    def rows(self, number: int) -> dict[str, int]:
        """Return the rows that the layers of each part multiply at a time for one observation."""
        inputs = self.inputs[number]
        architecture = self.policy.config.architecture
        patches = int(inputs.image_masks.sum()) * architecture.vision.num_patches
        suffix = architecture.suffix_length
        return {
            "vision": patches,
            "projector": patches,
            "llm": patches + int(inputs.token_masks.sum()),
            "expert": suffix,
            "action": suffix,
        }

    def _noises(self, numbers: Sequence[int]) -> list[Tensor]:
        """Draw each observation's noises, in the order of the numbers; of later ones only the first is kept."""
        drawn = zip(range(len(numbers)), draws(self._seed, self.policy.noise_shape), strict=False)
        return [noise if place < SPREAD_FRAMES else noise[:1] for place, noise in drawn]

    def _expected(self, numbers: Sequence[int], noises: Sequence[Tensor]) -> list[np.ndarray]:
        """The float policy's chunks of each observation under its noises, [S, H, A]."""
        pieces = [f"floats/{number:04d}" for number in numbers]
        done = sum(map(self._work.has, pieces))
        if done < len(pieces):
            with progress("float chunks", len(pieces), done=done) as advance:
                for number, noise, piece in zip(numbers, noises, pieces, strict=True):
                    if not self._work.has(piece):
                        chunk = self.policy.acting.sample_noises(self.inputs[number], noise)
                        self._work.keep(piece, {"chunk": chunk})
                        advance()
        # Work that an earlier version began has eight chunks of every observation.
        return [
            self._robot(number, self._work.load(piece)["chunk"][: len(noise)])
            for number, noise, piece in zip(numbers, noises, pieces, strict=True)
        ]

    def _actions(self, bits: Bits, number: int) -> np.ndarray:
        """The robot's actions of one observation; layers that `bits` does not name stay float."""
        noise = {number: self.noise[number]}
        return self._chunks(bits, noise, f"chunks/{digest(named(bits))[:16]}")[number]

    def _chunks(
        self, bits: Bits, noises: Mapping[int, Tensor], piece: str, title: str | None = None
    ) -> dict[int, np.ndarray]:
        """The robot's actions [1, H, A] of some observations, each from its noise [1, H, action_dim]."""
        missing = [number for number in noises if not self._work.has(f"{piece}-{number:04d}")]
        model = self.policy.model
        done = len(noises) - len(missing)
        with (
            self.placed(bits) if missing else nullcontext(),
            progress(title, len(noises), done=done) if missing and title else nullcontext(_nothing) as advance,
        ):
            for number in missing:
                start = time.perf_counter()
                chunk = model.sample_actions(*self.inputs[number].network, noises[number]).to(CPU)
                spent = torch.tensor((time.perf_counter() - start) * 1e3)
                self._work.keep(f"{piece}-{number:04d}", {"chunk": chunk, "ms": spent})
                advance()
        chunks = {number: self._work.load(f"{piece}-{number:04d}")["chunk"] for number in noises}
        return {number: self._robot(number, chunk) for number, chunk in chunks.items()}

    @contextmanager
    def placed(self, bits: Bits) -> Iterator[None]:
        """Put an assignment's layers in place, and its table of flow times, as a loaded policy has one."""
        model = self.policy.model
        try:
            for name in self._choices:
                model.set_submodule(name, self.module(name, bits.get(name, FLOAT_BITS)))
            model.time_table = model.conditions()
            yield
        finally:
            model.time_table = None
            for name, original in self._originals.items():
                model.set_submodule(name, original)

    def _robot(self, number: int, chunk: Tensor) -> np.ndarray:
        state = self.inputs[number].robot_state.repeat(len(chunk), axis=0)
        return self.policy.robot_actions(chunk.numpy(), state)

    def _square(self, number: int, chunk: Tensor) -> float:
        return float(np.square(self._robot(number, chunk)).sum())


def _nothing() -> None:
    """Show nothing."""


def _float_policy(parent: Parent, device: torch.device) -> Policy:
    """Load the parent onto a device, every linear and the embedding as narrow as its file holds them.

    A sample of ‖Δ‖² is worth one digit, so the ways back multiply in bf16 where that is fast. All other products
    widen their weight, 20 times an observation in the expert: in one place, as fresh pages took a quarter of the time.
    """
    model = build(parent.config.architecture)
    # A prompt reads some tens of its rows: on the CPU they stay in the file.
    table = parent.mapped(EMBEDDING) if device.type == "cpu" else parent.read(EMBEDDING).to(device)
    model.set_submodule(EMBEDDING_MODULE, StoredEmbedding(table))
    load_weights(model, parent.read, [name for name in parent.tensors if name != EMBEDDING], device=device)
    stored = [module for module in model.modules() if isinstance(module, StoredLinear)]
    workspace = torch.empty(max((module.weight.numel() for module in stored), default=0), device=device)
    for module in stored:
        module.narrow_gradient = device.type != "cpu" or fast_bf16()
        module.workspace = workspace
    return Policy(model, parent.config, normalization=parent.normalization, tokenizer=parent.tokenizer)
