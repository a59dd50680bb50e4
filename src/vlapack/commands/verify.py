"""`vlapack verify`: every checksum of a pack, and its format."""

from __future__ import annotations

from pathlib import Path

import tyro

from vlapack.console import emit_json, emit_text


def verify(pack: tyro.conf.Positional[Path], *, json: bool = False) -> int:
    """Check a pack: every tensor and file against its checksum, every shape against the recipe.

    Exit code 0 if the pack is whole, 2 with the name of what is damaged if not.

    Args:
        pack: The pack's folder.
        json: Write one JSON document to stdout instead of text.
    """
    from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
    from vlapack.packing.contents import check_pack
    from vlapack.packing.pack_bytes import bytes_of

    checkpoint = PackedCheckpoint.open(pack)
    check_pack(checkpoint)
    names = checkpoint.names()
    sizes = bytes_of(checkpoint)
    version = checkpoint.document["format_version"]
    if json:
        emit_json(
            {
                "pack": str(pack),
                "format_version": version,
                "fingerprint": checkpoint.fingerprint,
                "tensors": len(names),
                "bytes": sizes.file,
                "file_bytes": sizes.file,
                "held_bytes": sizes.held,
                "mapped_bytes": sizes.mapped,
                "whole": True,
            }
        )
    else:
        emit_text(
            f"{pack}: whole; format {version}, {len(names)} tensors; {sizes}; "
            f"fingerprint {checkpoint.fingerprint[:12]}",
        )
    return 0
