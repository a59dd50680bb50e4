"""How a policy's network runs: by captured graphs on a GPU, and eagerly elsewhere and where a graph will not do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vlapack.machine.gpu import CPU
from vlapack.pi0.buffers import BATCHES, PROMPT_STEP, Shape, prompt_slots
from vlapack.pi0.compiled import fuse_where_it_pays, is_compiled
from vlapack.pi0.flow import Pi0, Step
from vlapack.pi0.graphs import Runner, runner
from vlapack.policy.inputs import Inputs

EAGER, COMPILED = "eager", "compiled"


class Acting:
    """Samples action chunks from a network, wherever it is; what comes back is on the CPU.

    Attributes:
        graphs: what captures and replays, or None where the network runs as Python says.
    """

    def __init__(self, model: Pi0) -> None:
        """Capture nothing yet.

        Args:
            model: the network, ready to act
        """
        self._model = model
        self.graphs: Runner | None = None if is_compiled(model) else runner(model)

    @property
    def how(self) -> str:
        """How the last chunk ran: `graph`, `eager` (in brackets why, where a graph was possible), or `compiled`."""
        if self.graphs is not None:
            return self.graphs.how
        return COMPILED if is_compiled(self._model) else EAGER

    @property
    def takes_pixels(self) -> bool:
        """Whether pictures are best given as uint8: four times fewer bytes go to a card, which scales them."""
        return self.graphs is not None

    def sample(
        self, inputs: Inputs, noise: Tensor, *, num_steps: int | None = None, step: Step | None = None
    ) -> Tensor:
        """Do what `Pi0.sample_actions` does: [B, H, action_dim] normalized actions, fp32 on the CPU.

        Args:
            inputs: B observations
            noise: [B, H, action_dim]
            num_steps: as there
            step: as there
        """
        options: dict[str, Any] = {"num_steps": num_steps, "step": step}
        if self.graphs is not None:
            return self.graphs.sample_actions(*inputs.network, noise, **options).to(CPU)
        return self._model.sample_actions(*inputs.network, noise, **options).to(CPU)

    @torch.no_grad()
    def sample_noises(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Sample one chunk per noise [S, H, action_dim] for one observation, whose prefix is computed once."""
        count = len(noise)
        prefix = self._model.embed_prefix(*inputs.network[:4]).repeat(count)
        return self._model.integrate(prefix, inputs.state.repeat(count, 1), noise).to(CPU)

    def prepare(self, inputs: Inputs, batches: Iterable[int]) -> None:
        """Capture ahead what a server will be asked, so that no robot waits for it; nothing to do without graphs.

        Args:
            inputs: one observation as they will be: its cameras, and its prompt's length
            batches: how many come at a time; each is rounded up to one that is captured
        """
        if self.graphs is None:
            return
        cameras, words = int(inputs.image_masks.sum()), int(inputs.token_masks.sum())
        most = self._model.config.max_token_len
        # A state that is written into the prompt changes its length from one observation to the next.
        lengths = (words, words - PROMPT_STEP, words + PROMPT_STEP) if self._model.config.adaptive_norms else (words,)
        prompts = dict.fromkeys(prompt_slots(min(length, most), most) for length in lengths)
        for batch in sorted({next(size for size in BATCHES if size >= min(count, BATCHES[-1])) for count in batches}):
            for prompt in prompts:
                self.graphs.prepare(Shape(batch, cameras, prompt, inputs.images.dtype))

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle takes: graphs stay in their process, and the next one captures its own."""
        return {"model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned; a network travels as its modules alone, and is fused again."""
        model = state["model"]
        if not is_compiled(model):
            fuse_where_it_pays(model)
        self.__init__(model)  # type: ignore[misc]
