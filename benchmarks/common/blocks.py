"""A π0.5 network as a row of blocks, and the blocks of a trained one tuned one after the other.

Each block of the trained network reads what its own blocks before it leave, and is tuned to give what the teacher's
block gives on the teacher's way: it may make up for errors that came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from common.descent import Descent, Rates
from common.teacher import AT_ONCE, Draws, Seen, prefix_from
from common.trained import Student
from torch import Tensor

from vlapack.pi0.cache import KeysValues, Past
from vlapack.pi0.flow import Pi0
from vlapack.pi0.gemma import Modulation
from vlapack.pi0.names import EXPERT, LLM, PROJECTOR, VISION
from vlapack.pi0.positions import number_tokens, rotary_table

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""(what some rows of the block before gave, [B, …]; their numbers) → what this block gives, next block's input first"""


@dataclass(frozen=True)
class Block:
    """A part of a network.

    Attributes:
        name: of it.
        inside: what the names of its parameters begin with.
        run: computes it.
        samples: rows per observation: one, or in the expert one for each point of the flow.
    """

    name: str
    inside: tuple[str, ...]
    run: Run
    samples: int = 1


class Way:
    """A network's blocks in their order, and how far all rows have come in them.

    Args:
        model: π0.5.
        seen: the observations.
        draws: points of the flow for the expert, [S, N, …].

    Attributes:
        x: what the next block reads, all rows.
        blocks: all of them.
    """

    def __init__(self, model: Pi0, seen: Seen, draws: Draws) -> None:
        self._model, self._seen = model, seen
        self._x_t, self._t = draws.x_t.transpose(0, 1).flatten(0, 1), draws.t.T.flatten()
        self._samples = len(draws.t)
        self._past: list[KeysValues] = []
        self.x = seen.patches
        self.blocks = [*self._vision(), *self._language(), *self._expert()]

    @torch.no_grad()
    def outputs(self, block: Block) -> tuple[Tensor, ...]:
        """Return what a block gives for all rows."""
        rows = torch.arange(len(self.x)).split(AT_ONCE * block.samples)
        return tuple(torch.cat(of) for of in zip(*(block.run(self.x[some], some) for some in rows), strict=True))

    @torch.no_grad()
    def advance(self, block: Block, outputs: Sequence[Tensor]) -> None:
        """Go on behind a block, whose outputs are known."""
        self.x = outputs[0]
        if block.name.startswith("language"):
            self._past.append((outputs[-2], outputs[-1]))
            if len(self._past) == len(self._model.llm.layers):
                self.x = self._model.action_in_proj(self._x_t)

    def _vision(self) -> Iterator[Block]:
        vision, model = self._model.vision, self._model

        def layer(index: int, x: Tensor, _rows: Tensor) -> tuple[Tensor, ...]:
            return (vision.encoder.layers[index](x.flatten(0, 1)).view_as(x),)

        def join(x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            features = vision.post_layernorm(x.flatten(0, 1))
            return (model.join(features, model.rows(self._seen.tokens[rows])),)

        for index in range(len(vision.encoder.layers)):
            yield Block(f"vision {index}", (f"{VISION}.encoder.layers.{index}.",), partial(layer, index))
        yield Block("projector", (f"{VISION}.post_layernorm.", f"{PROJECTOR}."), join)

    def _language(self) -> Iterator[Block]:
        model = self._model
        last = len(model.llm.layers) - 1

        def layer(index: int, x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            exists = self._seen.exists[rows]
            positions = number_tokens(x.shape[1], 0, exists, x.device)
            rope = rotary_table(positions, model.config.llm.head_dim, x.dtype)
            y, keys_values = model.llm.advance(index, x, rope, exists[:, None, None, :])
            return keys_values if index == last else (y, *keys_values)

        for index in range(last + 1):
            yield Block(f"language {index}", (f"{LLM}.layers.{index}.",), partial(layer, index))

    def _expert(self) -> Iterator[Block]:
        model, expert = self._model, self._model.expert

        def modulations(rows: Tensor) -> list[Modulation]:
            of_norms = model.condition(self._t[rows])[:, :, :, None].unbind(1)
            return [(factor, shift, gate) for factor, shift, gate in (one.unbind(1) for one in of_norms)]

        def layer(index: int, x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            of_rows = rows // self._samples
            past = [(keys[of_rows], values[of_rows]) for keys, values in self._past[index : index + 1]]
            prefix = prefix_from(model.config, past, self._seen.exists[of_rows])
            told = modulations(rows)[2 * index : 2 * index + 2]
            y, _ = expert.layers[index](x, prefix.rope, prefix.seen(model.config), Past(*past[0]), tuple(told))
            return (y,)

        def out(x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            return (model.action_out_proj(expert.norm(x, modulations(rows)[-1])[0]),)

        for index in range(len(expert.layers)):
            inside = (f"{EXPERT}.layers.{index}.",)
            yield Block(f"expert {index}", inside, partial(layer, index), self._samples)
        yield Block("velocity", (f"{EXPERT}.norm.", "action_out_proj."), out, self._samples)


def tune_blocks(
    student: Student,
    ways: tuple[Way, Way],
    split: tuple[Tensor, Tensor],
    rates: Rates,
    *,
    seed: int,
    done: Collection[str],
) -> Iterator[tuple[str, list[float]]]:
    """Tune the student's blocks one after the other; what lowers no loss on the held-out observations is put back.

    Args:
        student: changed in place.
        ways: the student's and the teacher's, both at their beginning.
        split: the observations that train, and those held out.
        rates: how long and how fast.
        seed: of the order of observations.
        done: the blocks that an earlier run has tuned, which are passed through as they are.

    Yields:
        Every block's name when it is done, and the losses on the held-out observations before and after each epoch.
    """
    ours, theirs = ways
    for block, of_teacher in zip(ours.blocks, theirs.blocks, strict=True):
        targets = theirs.outputs(of_teacher)
        in_basis = [*targets[:-1], targets[-1] @ student.basis()] if block.name.startswith("language") else targets
        if block.name not in done:
            descent = Descent(
                student,
                [name for name in student.trained if name.startswith(block.inside)],
                partial(_loss, block, ours.x, in_basis, [target.square().mean() for target in in_basis]),
                (_rows(split[0], block.samples), _rows(split[1], block.samples)),
                rates,
                rows=rates.batch * block.samples,
                seed=seed,
            )
            while descent.left:
                descent.epoch()
            descent.finish()
            yield block.name, descent.losses
        ours.advance(block, ours.outputs(block))
        theirs.advance(of_teacher, targets)


def _rows(observations: Tensor, samples: int) -> Tensor:
    return (observations[:, None] * samples + torch.arange(samples)).flatten()


def _loss(
    block: Block, x: Tensor, targets: Sequence[Tensor], sizes: Sequence[Tensor], rows: Tensor, _draw: object
) -> Tensor:
    """Return the sum of the outputs' relative squared errors on some rows."""
    outputs = block.run(x[rows], rows)
    errors = [(found - target[rows]).square().mean() for found, target in zip(outputs, targets, strict=True)]
    return torch.stack([error / size for error, size in zip(errors, sizes, strict=True)]).sum()
