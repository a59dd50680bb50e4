"""A check of a pack that reads all of it: what `verify` does, and everything for which loading would refuse it."""

from __future__ import annotations

from vlapack.checkpoints.finite import FiniteReader
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.errors import InputError
from vlapack.policy.adapter import Adapter


def check_pack(checkpoint: PackedCheckpoint) -> None:
    """Check every tensor's checksum and values, and what stands around the network; opening has checked the rest.

    Raises:
        InputError: something is damaged, or a policy of it could not act; the message names it.
    """
    config = checkpoint.config
    adapter = Adapter(config, checkpoint.normalization, checkpoint.tokenizer)
    try:
        adapter.inputs({**adapter.example(), "prompt": "move"}, config)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: no observation of this robot fits its network: {error}") from error
    with FiniteReader(checkpoint) as reader:
        for name in checkpoint.names():
            if name in checkpoint.contents.ruled:
                reader.read(name)
                continue
            checkpoint.weights.check(name)
            if checkpoint.dtype(name).is_floating_point:
                reader.mapped(name)
