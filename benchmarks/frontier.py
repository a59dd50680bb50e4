"""How many bytes does which error cost? The frontier of tiny-libero, as `vlapack quantize --max-error` draws it.

    python benchmarks/frontier.py [--calib OBSERVATIONS]          # minutes

The picture goes to docs/pictures/frontier-tiny-libero.svg, its points to benchmarks/results/frontier-tiny-libero.json,
and both into docs/fidelity.md.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import tyro
from common import short_tables
from common.results import ROOT, stamp

from vlapack import open_checkpoint
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, stdout
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, open_source
from vlapack.packing.parent import Parent
from vlapack.recipe.presets import preset
from vlapack.tune.picture import picture
from vlapack.tune.target import Target
from vlapack.tune.tuning import tune

PARENT = "tiny-libero"
BASE = "everything"
RESULT = ROOT / "benchmarks" / "results" / "frontier-tiny-libero.json"


def main(
    *,
    calib: Path = SHIPPED_OBSERVATIONS,
    bound: float = 0.01,
    observations: int = 64,
    work: Path = ROOT / "outputs" / "frontier",
    result: Path = RESULT,
    drawing: Path = short_tables.PICTURE,
) -> int:
    """Measure.

    Args:
        calib: What is calibrated and compared on.
        bound: Of the median error.
        observations: How many of them, at most.
        work: A folder for what is finished.
        result: The JSON file.
        drawing: The picture.
    """
    source = open_source(calib)
    frames = [frame.observation for frame in source.take(min(observations, len(source)))]
    parent = Parent(open_checkpoint(PARENT))
    tuned = tune(parent, preset(BASE), Target("error", bound), frames, work, survey=True)
    document = {
        "question": "How many bytes does which error cost?",
        "parent": PARENT,
        "weights": parent.fingerprint(preset(BASE), None).weights,
        **stamp(),
        **tuned.to_dict(),
    }
    result.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    drawing.write_text(picture(tuned), encoding="utf-8")
    stdout.print(short_tables.frontier(document), markup=False, soft_wrap=True)
    if result == RESULT:
        short_tables.write_tables()
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
