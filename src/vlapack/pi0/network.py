"""The network of π0 and π0.5 (arXiv 2410.24164, 2504.16054): an action expert beside a vision-language model.

Parameter names and shapes are those of openpi's `PI0Pytorch`, without its two lm_heads, which acting never reads.
Its work is four methods: `see` (the vision tower), `understand` (the language model), `condition` (what the expert is
told of the flow time) and `velocity` (the expert). Nothing in them depends on the values of a tensor, and
nothing leaves the network's device, so that `torch.compile` takes each as one graph and CUDA can record it
(`capturable`). `rows`, which reads the token embedding, comes before them: that table may be a file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from vlapack.pi0.attention import backend
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.fused.form import FusedForm, Stack
from vlapack.pi0.gemma import GemmaModel
from vlapack.pi0.positions import number_tokens, rotary_table, sinusoidal_embedding
from vlapack.pi0.prefix import Prefix, suffix_mask
from vlapack.pi0.savings import Savings
from vlapack.pi0.siglip import SiglipTransformer


class Holder(nn.Module):
    """A module that only carries others, so that names have the dots of openpi's."""

    def __init__(self, **children: nn.Module) -> None:
        """Register each keyword under its name."""
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class Network(nn.Module):
    """The parts and how data goes through each. `flow.Pi0` makes a policy's network of it.

    Its modules define what it computes. `fuse` adds a second form of their stacks with far fewer kernels, which runs
    wherever nobody differentiates, watches or compiles the modules.
    """

    def __init__(self, config: Pi0Config, savings: Savings = Savings()) -> None:  # noqa: B008 - it is frozen
        """Allocate every parameter on the current default device; `load` or `init` give them their values."""
        super().__init__()
        self.config = config
        self.savings = savings
        self._fused: FusedForm | None = None
        self._generation = 0
        llm, expert = config.llm.width, config.expert.width
        adaptive = config.adaptive_norms
        self.paligemma_with_expert = Holder(
            paligemma=Holder(
                model=Holder(
                    vision_tower=Holder(vision_model=SiglipTransformer(config.vision)),
                    multi_modal_projector=Holder(linear=nn.Linear(config.vision.width, llm)),
                    language_model=GemmaModel(config.llm, vocab_size=config.vocab_size),
                )
            ),
            gemma_expert=Holder(model=GemmaModel(config.expert, cond_dim=expert if adaptive else None)),
        )
        self.action_in_proj = nn.Linear(config.action_dim, expert)
        self.action_out_proj = nn.Linear(expert, config.action_dim)
        if adaptive:
            self.time_mlp_in = nn.Linear(expert, expert)
            self.time_mlp_out = nn.Linear(expert, expert)
        else:
            self.state_proj = nn.Linear(config.action_dim, expert)
            self.action_time_mlp_in = nn.Linear(2 * expert, expert)
            self.action_time_mlp_out = nn.Linear(expert, expert)

    @property
    def vision(self) -> SiglipTransformer:
        """The SigLIP tower."""
        return self.get_submodule("paligemma_with_expert.paligemma.model.vision_tower.vision_model")  # type: ignore[return-value]

    @property
    def projector(self) -> nn.Module:
        """The linear that takes image tokens to the language model's width."""
        return self.get_submodule("paligemma_with_expert.paligemma.model.multi_modal_projector.linear")

    @property
    def llm(self) -> GemmaModel:
        """The language model."""
        return self.get_submodule("paligemma_with_expert.paligemma.model.language_model")  # type: ignore[return-value]

    @property
    def expert(self) -> GemmaModel:
        """The action expert."""
        return self.get_submodule("paligemma_with_expert.gemma_expert.model")  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the network computes; a token embedding that is read by row stays where its file is."""
        return self.vision.post_layernorm.weight.device  # a norm, since linears may be packed

    def fuse(self) -> None:
        """Build the fused form of the weights that are loaded; the linears' tensors become views of merged ones.

        It is dropped when the network is moved, pickled or copied, or when a module of it is replaced. Where a saving
        that it is built on is off, there is none.
        """
        self.unfuse()
        if self.savings.static_cache and self.savings.fused_attention:
            self._fused = FusedForm(self.vision, self.llm, self.expert, stop_early=self.savings.last_layer)

    def unfuse(self) -> None:
        """Run the modules themselves again."""
        self._fused = None
        self._generation += 1

    def generation(self) -> tuple[int, bool]:
        """Say whether what was captured of the network still is the network's.

        Returns:
            A number that changes when it was moved or fused, or a module of a fused one replaced: what was captured
            before reads memory that is no longer its own. And whether a hook hangs on a module of a fused one, which a
            captured run would not call.
        """
        states = set() if self._fused is None else {self._fused.state(stack) for stack in get_args(Stack)}
        if "stale" in states:
            self.unfuse()
        return self._generation, "watched" in states

    @property
    def is_fused(self) -> bool:
        """Whether there is a fused form."""
        return self._fused is not None

    def reserve(self, tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Prepare the fused form for as many tokens of pictures and prompt: a captured run allocates nothing.

        Returns:
            What such a run reads and does not hold; a longer prompt replaces it here.
        """
        if self._fused is None:
            return ()
        return self._fused.rope.reserve(tokens + self.config.suffix_length, dtype, self.device)

    def _fused_now(self, stack: Stack) -> FusedForm | None:
        """The fused form, if there is one and that stack of it may run."""
        if self._fused is None or torch.is_grad_enabled() or _under_autocast(self.device):
            return None
        state = self._fused.state(stack)
        if state == "stale":
            self.unfuse()
        return self._fused if state == "fits" else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.unfuse()
        module: nn.Module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return module

    def set_submodule(self, *arguments: Any, **options: Any) -> None:
        """Replace a module, whose memory the fused form would keep."""
        self.unfuse()
        super().set_submodule(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and `copy` take: the modules alone."""
        return self.__dict__ | {"_fused": None}

    @property
    def time_modules(self) -> list[str]:
        """Names of the modules that read nothing but the flow time: π0.5's time MLP and its adaptive norms' linears."""
        if not self.config.adaptive_norms:
            return []
        return ["time_mlp_in", "time_mlp_out", *(name for name, _ in self.named_modules() if name.endswith(".dense"))]

    def see(self, images: Tensor) -> Tensor:
        """Encode pictures [N, 3, image_size, image_size]: [N, patches, vision width]."""
        if (fused := self._fused_now("vision")) is not None:
            return fused.vision(images)
        with backend(fused=self.savings.fused_attention):
            features: Tensor = self.vision(images)
        return features

    def rows(self, tokens: Tensor) -> Tensor:
        """Look up the prompt's tokens [B, L] where their table is: [B, L, width], on the network's device."""
        # Any tensor of it: what is watched is wrapped, and has no weight of its own.
        table = next(chain(self.llm.embed_tokens.parameters(), self.llm.embed_tokens.buffers()))
        return self.llm.embed(tokens.to(table.device)).to(self.device)

    def join(self, features: Tensor, prompt: Tensor) -> Tensor:
        """Make the language model's input [B, T, width] of `see`'s features and the prompt's `rows` [B, L, width]."""
        image_tokens = self.projector(features).reshape(len(prompt), -1, self.config.llm.width)
        return torch.cat((image_tokens.to(prompt.dtype), prompt), dim=1)

    def understand(self, features: Tensor, prompt: Tensor, exists: Tensor | None) -> Prefix:
        """Run the language model for its keys and values.

        Args:
            features: [B · cameras, patches, vision width], from `see`.
            prompt: [B, L, width], from `rows`.
            exists: [B, T] boolean, which of the pictures' and the prompt's tokens exist; None when all do.
        """
        x = self.join(features, prompt)
        length, suffix = x.shape[1], self.config.suffix_length
        if (fused := self._fused_now("llm")) is not None:
            rope, behind = fused.rope.look_up(length, suffix, exists, x.dtype, x.device)
            return Prefix(fused.llm.keys_values(x, rope, exists, suffix), behind, None, exists)
        # The expert's tokens come next: one table has both.
        positions = number_tokens(length, suffix, exists, x.device)
        cos, sin = rotary_table(positions, self.config.llm.head_dim, x.dtype)
        room = suffix if self.savings.static_cache and not torch.is_grad_enabled() else 0
        with backend(fused=self.savings.fused_attention):
            layers = self.llm.keys_values(
                x,
                (cos[:, :length], sin[:, :length]),
                None if exists is None else exists[:, None, None, :],
                room=room,
                stop_early=self.savings.last_layer,
            )
        mask = suffix_mask(len(x), length, exists, config=self.config, device=x.device)
        return Prefix(layers, (cos[:, length:], sin[:, length:]), mask, exists)

    def condition(self, t: Tensor) -> Tensor:
        """What the expert is told of the flow times [B], and depends on nothing else.

        Returns:
            π0.5: the modulations of its norms, [B, norms, 3, width]. π0: the times' embedding, [B, width].
        """
        time = sinusoidal_embedding(t, self.config.expert.width).float()
        if not self.config.adaptive_norms:
            return time
        with _full_precision(t.device):
            time = silu(self.time_mlp_out(silu(self.time_mlp_in(time))))
        return self.expert.modulations(time)

    def velocity(self, prefix: Prefix, state: Tensor, x_t: Tensor, condition: Tensor) -> Tensor:
        """Predict the velocity as `denoise_step` does, for what `condition` [B or 1, …] says of the time.

        π0.5 also takes one of each action's own, [B, H, …].
        """
        with _full_precision(x_t.device):
            x = self._embed_suffix(state, x_t, condition)
        stream = x.to(prefix.layers[0].keys.dtype)
        out = self._expert_output(prefix, stream, condition if self.config.adaptive_norms else None)
        with _full_precision(x_t.device):
            velocity: Tensor = self.action_out_proj(out[:, -self.config.action_horizon :].float())
        return velocity

    def _expert_output(self, prefix: Prefix, stream: Tensor, modulations: Tensor | None) -> Tensor:
        fused = self._fused_now("expert") if prefix.layers[0].room == stream.shape[1] else None
        if fused is not None:
            state_token = not self.config.adaptive_norms
            return fused.expert.forward(
                stream, prefix.rope, prefix.exists, prefix.layers, modulations, state_token=state_token
            )
        with backend(fused=self.savings.fused_attention):
            out: Tensor = self.expert(stream, prefix.rope, prefix.seen(self.config), prefix.layers, modulations)
        return out

    def moved(self, x_t: Tensor, velocity: Tensor, dt: float) -> Tensor:
        """Take an Euler step: x_t + velocity · dt."""
        # As one kernel it rounds once less, which would change what the plain network has always given.
        return x_t + velocity * dt if self._fused is None else torch.add(x_t, velocity, alpha=dt)

    def _embed_suffix(self, state: Tensor, x_t: Tensor, condition: Tensor) -> Tensor:
        """Return the expert's input tokens [B, suffix_length, width]."""
        actions: Tensor = self.action_in_proj(x_t.float())
        if self.config.adaptive_norms:
            return actions
        mixed = torch.cat((actions, condition[:, None].expand_as(actions)), dim=-1)
        mixed = self.action_time_mlp_out(silu(self.action_time_mlp_in(mixed)))
        first = self.state_proj(state.float())
        return torch.cat((first[:, None], mixed), dim=1)


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Actions, times and velocities keep fp32 under autocast: they are few, and their error goes into every action."""
    if not torch.amp.is_autocast_available(device.type):  # meta
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _under_autocast(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
