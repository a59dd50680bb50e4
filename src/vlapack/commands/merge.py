"""`vlapack merge`: shards of one evaluation or sweep become one."""

from __future__ import annotations

from pathlib import Path

import tyro

from vlapack.commands.results import show_results


def merge(
    out: tyro.conf.Positional[Path],
    others: tyro.conf.Positional[tuple[Path, ...]] = (),
    *,
    partial: bool = False,
    json: bool = False,
) -> int:
    """Merge the shards in OUT/shards into OUT, and print what all of them show.

    Shards of another plan, missing shards or episodes, and episodes that two shards played with different results are
    errors. Merge again when more shards are there.

        # after `vlapack eval PACK --baseline CHECKPOINT --shard 1/8 --out DIR`, and 2/8 to 8/8 on any machine
        vlapack merge DIR

    Args:
        out: The output folder of the evaluation or sweep.
        others: Folders of more shards, such as those copied from another cluster.
        partial: Merge what is there, and say what is missing.
        json: Write summary.json to stdout instead of a table.
    """
    from vlapack.evaluate.conclusions import conclude_all
    from vlapack.evaluate.merge import merge as merge_shards

    plan, records = merge_shards(out, others, partial=partial)
    return show_results(conclude_all(plan, records, out), out, json=json)
