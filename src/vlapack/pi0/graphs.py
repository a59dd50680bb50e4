"""Acting with captured runs: one for pictures and prompt, one for all denoise steps, replayed for every chunk.

Eagerly a chunk of π0.5 is thousands of launches, which take the CPU longer than the GPU needs for the work. A captured
run is one launch. The runs are captured when a batch of their shape first comes, and the most recently used are kept.

Each step's flow time is a constant of the run that takes them all. Where a caller steers the flow step by step, it gets
a run of one step instead, whose time is copied in.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from vlapack.console import say
from vlapack.pi0.buffers import BATCHES, Buffers, Shape
from vlapack.pi0.capture import Capture, Captured, CudaCapture
from vlapack.pi0.flow import Pi0, Step
from vlapack.pi0.prefix import Seen, look

MOST_SHAPES = 12
"""Shapes whose runs are kept. One of π0.5 holds about 20 MB an observation, besides what all of them share."""
MOST_PROMPTS = 32
"""Prompts whose rows are kept on the device, at most 0.8 MB each: a robot says the same one at every chunk."""
DIFFERENTIATED = "differentiated steps: eager"
"""What is said of a chunk whose steps the plain modules took, since nothing else can be differentiated."""
STEERED = f"graph ({DIFFERENTIATED})"
SAID_SECONDS = 2.0
"""Longer captures are said."""

Value = TypeVar("Value")


def _unwatched(part: str) -> AbstractContextManager[None]:
    return nullcontext()


class Recent(OrderedDict[Hashable, Value]):
    """A mapping that keeps the most recently used entries."""

    def __init__(self, most: int) -> None:
        """Keep `most` entries."""
        super().__init__()
        self._most = most

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the entry, made if it is not there; the one not used for longest goes first."""
        if key not in self:
            while len(self) >= self._most:
                self.popitem(last=False)
            self[key] = make()
        self.move_to_end(key)
        return self[key]


class Runs:
    """The captured runs of one shape; but for the first, those that are used."""

    def __init__(self, model: Pi0, shape: Shape, capture: Capture) -> None:
        """Capture the first."""
        self._capture = capture
        self.buffers = Buffers(model, shape)
        self.encode: Captured = capture(self.buffers.encode)
        self.buffers.prefix = self.encode.outputs

    @cached_property
    def follow(self) -> Captured:
        """All steps."""
        return self._capture(self.buffers.follow)

    @cached_property
    def step(self) -> Captured:
        """One step's velocity."""
        return self._capture(self.buffers.step)

    @cached_property
    def step_by_action(self) -> Captured:
        """One step's velocity where actions have times of their own."""
        return self._capture(self.buffers.step_by_action)

    def captured(self, *, steered: bool) -> None:
        """Capture what a chunk needs besides."""
        _ = self.step if steered else self.follow
        if steered and self.buffers.conditions is not None:
            _ = self.step_by_action


class Runner:
    """Samples actions as `Pi0.sample_actions` does, by captured runs where it can.

    Where it cannot, it runs eagerly and `how` says so. One chunk runs at a time.

    Attributes:
        how: How the last chunk ran: `graph`, or `eager` and in brackets the reason; `graph (differentiated steps:
            eager)` where steps were differentiated, which the plain modules do, without a graph.
        watch: Is entered around each part of a captured chunk, `encode` and `denoise`; who measures puts a clock here.
    """

    def __init__(self, model: Pi0, capture: Capture) -> None:
        """Capture nothing yet; the model must have its weights and its `time_table`.

        Where it is moved or a module of it replaced, what was captured is forgotten. Nobody may write over its weights.
        """
        self.how = "eager (no chunk yet)"
        self.watch: Callable[[str], AbstractContextManager[None]] = _unwatched
        self._model = model
        self._capture = capture
        self._runs: Recent[Runs] = Recent(MOST_SHAPES)
        self._prompts: Recent[Tensor] = Recent(MOST_PROMPTS)
        self._failure: str | None = None
        self._lock = threading.Lock()
        self._generation, _ = model.generation()

    @torch.no_grad()
    def prepare(self, shape: Shape) -> None:
        """Capture the runs of a shape before a batch of it comes, which then does not wait a second or two for that."""
        with self._lock:
            if (reason := self._unfit(shape.batch, None)) is not None:
                self.how = f"eager ({reason})"
                return
            try:
                self._runs_of(shape, steered=False)
            except torch.OutOfMemoryError:
                self._runs.pop(shape, None)
                raise
            except Exception as error:
                self._give_up(error)

    @torch.no_grad()
    def sample_actions(  # noqa: PLR0917 - as of Pi0
        self,
        images: Tensor,
        image_masks: Tensor,
        tokens: Tensor,
        token_masks: Tensor,
        state: Tensor,
        noise: Tensor,
        *,
        num_steps: int | None = None,
        step: Step | None = None,
    ) -> Tensor:
        """Do what `Pi0.sample_actions` does.

        Args:
            images: As there.
            image_masks: As there; on the CPU, like all masks and tokens, since shapes depend on them.
            tokens: As there.
            token_masks: As there.
            state: As there.
            noise: As there.
            num_steps: As there; the runs are for the network's own number, another runs eagerly.
            step: As there. A denoise step that is differentiated runs eagerly.

        Returns:
            [B, H, action_dim] on the model's device, in memory of its own.

        Raises:
            InputError: as there.
        """
        model = self._model

        def eagerly() -> Tensor:
            return model.sample_actions(
                images, image_masks, tokens, token_masks, state, noise, num_steps=num_steps, step=step
            )

        with self._lock:
            reason = self._unfit(len(noise), num_steps)
            if reason is None:
                seen = look(images, image_masks, tokens, token_masks, config=model.config, savings=model.savings)
                shape = Shape.around(seen, model.config.max_token_len)
                try:
                    runs = self._runs_of(shape, steered=step is not None)
                except torch.OutOfMemoryError:  # eagerly it takes no less; another shape, or a later time, may fit
                    self._runs.pop(shape, None)
                    raise
                except Exception as error:
                    # If the observation is to blame, this raises, and says why.
                    actions = eagerly()
                    self._give_up(error)
                    return actions
                self.how = "graph"
                with self.watch("encode"):
                    runs.buffers.fill(seen, self._rows(seen), state, noise)
                    runs.encode.replay()
                with self.watch("denoise"):
                    if step is not None:
                        return self._steered(runs, state, noise, step)
                    runs.follow.replay()
                    followed: Tensor = runs.follow.outputs[: len(noise)].clone()  # the next replay writes over it
                    return followed
            self.how = f"eager ({reason})"
            return eagerly()

    def _runs_of(self, shape: Shape, *, steered: bool) -> Runs:
        """The runs of a shape, captured where they are not; what takes long is said."""
        if not self._runs:
            say("preparing the GPU: kernels that this card has not run yet are compiled first, and kept")
        start = time.perf_counter()
        runs = self._runs.get_or_make(shape, lambda: Runs(self._model, shape, self._capture))
        runs.captured(steered=steered)
        if (seconds := time.perf_counter() - start) > SAID_SECONDS:
            say(f"captured for a batch of {shape.batch}, {shape.cameras} cameras, in {seconds:.0f} s")
        return runs

    def _unfit(self, count: int, num_steps: int | None) -> str | None:
        """Say why a chunk cannot be captured, or None."""
        table = self._model.time_table
        generation, watched = self._model.generation()
        if generation != self._generation:
            self._runs.clear()
            self._prompts.clear()
            self._generation = generation
        if self._failure is not None:
            return self._failure
        if watched:
            return "a hook watches the network"
        if table is None or not self._model.savings.prefix_once:
            return "a saving that the captured runs need is off"
        if num_steps not in (None, len(table)):
            return f"{num_steps} steps, not {len(table)}"
        return None if 0 < count <= BATCHES[-1] else f"{count} observations, more than {BATCHES[-1]}"

    def _give_up(self, error: Exception) -> None:
        """Run eagerly from now on, and say it once."""
        first = str(error).strip().partition("\n")[0]
        self._failure = f"capture failed: {type(error).__name__}: {first}"[:300]
        self.how = f"eager ({self._failure})"
        self._runs.clear()
        say(f"warning: the network could not be captured as a graph and runs several times slower ({self._failure})")

    def _rows(self, seen: Seen) -> list[Tensor]:
        """The rows of each observation's tokens, from those kept."""
        found = []
        for tokens in seen.tokens.cpu():
            look_up = partial(self._model.rows, tokens[None])
            found.append(self._prompts.get_or_make((tokens.dtype, tokens.numpy().tobytes()), look_up)[0])
        return found

    def _steered(self, runs: Runs, state: Tensor, noise: Tensor, step: Step) -> Tensor:
        """Take the steps that `step` makes of them, each of which may replay the run as often as it likes."""
        model, buffers, count = self._model, runs.buffers, len(noise)
        device = buffers.x_t.device
        state = state.to(device)

        def velocity(x_t: Tensor, condition: Tensor) -> Tensor:
            by_action = condition.dim() > buffers.condition.dim()
            place = buffers.conditions if by_action else buffers.condition
            if torch.is_grad_enabled() or place is None or len(condition) > len(place):
                self.how = STEERED if torch.is_grad_enabled() else self.how
                return model.velocity(buffers.prefix.first(count), state, x_t, condition)
            buffers.x_t[:count].copy_(x_t)
            place[: len(condition)].copy_(condition)
            run = runs.step_by_action if by_action else runs.step
            run.replay()
            found: Tensor = run.outputs[:count].clone()
            return found

        return model.follow(velocity, noise.to(device), step=step)


def runner(model: Pi0) -> Runner | None:
    """Return what captures CUDA graphs of a network on a GPU; elsewhere None: there is nothing to gain."""
    return Runner(model, CudaCapture(model.device)) if model.device.type == "cuda" else None
