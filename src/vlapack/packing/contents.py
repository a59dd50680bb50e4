"""A check of a pack that reads all of it: what `verify` does, and everything for which loading would refuse it."""

from __future__ import annotations

from vlapack.checkpoints.finite import FiniteReader
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.policy.adapter import Adapter
from vlapack.policy.packed import check_tensor


def check_pack(checkpoint: PackedCheckpoint) -> None:
    """Check every tensor's checksum and values, and what stands around the network; opening has checked the rest.

    Raises:
        InputError: something is damaged, or a policy of it could not act; the message names it.
    """
    Adapter(checkpoint.config, checkpoint.normalization, checkpoint.tokenizer)
    with FiniteReader(checkpoint) as reader:
        for name in checkpoint.names():
            check_tensor(checkpoint, reader, name)
