"""One mistake, made once in Python and once on the command line: each user reads what they have to type."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from shop import Shop

from vlapack.checkpoints import SHIPPED, open_checkpoint
from vlapack.cli import main
from vlapack.errors import InputError
from vlapack.evaluate.contender import contender
from vlapack.evaluate.tasks import choose_init_states, choose_tasks
from vlapack.observations.folder import load_observations, open_source
from vlapack.packing.make import make_pack
from vlapack.packing.parent import Parent
from vlapack.policy import compiling
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.recipe.resolve import RecipeFlags, resolve
from vlapack.serve.access import check_access, tls_context
from vlapack.tune.space import Space

TINY = "tiny-libero"
OBSERVATIONS = SHIPPED[TINY] / "observations"
GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Mistake:
    """A mistake, and what both messages must hold.

    Attributes:
        call: makes it in Python
        words: make it on the command line
        field: what the Python user reads
        flag: what stands there for the other
    """

    call: Callable[[], object]
    words: tuple[str, ...]
    field: str
    flag: str


def quantized(*words: str) -> tuple[str, ...]:
    return ("quantize", TINY, "--preset", "full", "--out", "pack", *words)


MISTAKES = {
    "recipe: two sources": Mistake(
        lambda: resolve("llm", Path("mine.json"), RecipeFlags(), {}),
        ("inspect", "pi05_libero", "--preset", "llm", "--recipe", "mine.json"),
        "`recipe='mine.json'` and `preset='llm'` exclude each other",
        "--recipe mine.json and --preset llm exclude each other",
    ),
    "recipe: a value outside its rule": Mistake(
        lambda: resolve("llm", None, RecipeFlags(block_out=12), {}),
        ("inspect", "pi05_libero", "--preset", "llm", "--block-out", "12"),
        "(block_out was set by `block_out`)",
        "(block_out was set by --block-out)",
    ),
    "recipe: bits that do not parse": Mistake(
        lambda: resolve("llm", None, RecipeFlags(weight_overrides="fc2"), {}),
        ("inspect", "pi05_libero", "--preset", "llm", "--weight-overrides", "fc2"),
        "`weight_overrides='fc2'` does not parse",
        "--weight-overrides fc2 does not parse",
    ),
    "packing: no calibration data": Mistake(
        lambda: make_pack(open_checkpoint(TINY), preset("full"), Path("pack"), None),
        quantized("--weights-only"),
        "give `calib=DIR`, or `rounding='rtn'`",
        "give --calib DIR, or --rounding rtn",
    ),
    "packing: row blocks that mix heads": Mistake(
        lambda: make_pack(
            open_checkpoint(TINY),
            resolve("full", None, RecipeFlags(atm=True, row_rot="restore", block_out=256), {}).recipe,
            Path("pack"),
            [{}],
        ),
        quantized("--atm", "True", "--row-rot", "restore", "--block-out", "256"),
        "or less, `row_rot='0'`, or `atm=False`",
        "or less, --row-rot 0, or --atm False",
    ),
    "checkpoints: a tokenizer that is not there": Mistake(
        lambda: open_checkpoint(TINY, tokenizer=Path("absent.model")),
        quantized("--tokenizer", "absent.model"),
        "`tokenizer='absent.model'`: no such file",
        "--tokenizer absent.model: no such file",
    ),
    "checkpoints: a folder that does not say what it is": Mistake(
        lambda: open_checkpoint(GOLDEN / "orbax" / "pi05"),
        ("inspect", str(GOLDEN / "orbax" / "pi05"), "--preset", "llm"),
        "Give `config=NAME` or `config=FILE.json`",
        "Give --config NAME or --config FILE.json",
    ),
    "policy: a tokenizer that is none": Mistake(
        lambda: Policy.from_pretrained(TINY, tokenizer=Path(__file__)),
        ("compare", TINY, "--baseline", TINY, "--data", str(OBSERVATIONS), "--tokenizer", __file__),
        f"`tokenizer='{__file__}'`: not a SentencePiece model",
        f"--tokenizer {__file__}: not a SentencePiece model",
    ),
    "policy: no compiler": Mistake(
        lambda: compiling.compile_wanted(True, {}),
        ("bench", "--arch", "tiny_libero", "--compile"),
        "or leave `compile` out",
        "or leave --compile out",
    ),
    "observations: a renaming of recorded ones": Mistake(
        lambda: open_source(OBSERVATIONS, rename_map='{"a": null}'),
        quantized("--calib", str(OBSERVATIONS), "--rename-map", '{"a": null}'),
        "`rename_map` goes with LeRobot data sets",
        "--rename-map goes with LeRobot data sets",
    ),
    "observations: a renaming that is no object": Mistake(
        lambda: open_source(OBSERVATIONS, rename_map="[1]"),
        quantized("--calib", str(OBSERVATIONS), "--rename-map", "[1]"),
        """`rename_map='[1]'`: not an object of names; `rename_map='{"observation.images.front": "cam_high"}'`""",
        """--rename-map '[1]': not an object of names; --rename-map '{"observation.images.front": "cam_high"}'""",
    ),
    "observations: too few to calibrate": Mistake(
        lambda: load_observations(OBSERVATIONS, 5000),
        quantized("--calib-steps", "5000"),
        "fewer than `count=5000`: record more, or give `count=",
        "fewer than --calib-steps 5000: record more, or give --calib-steps ",
    ),
    "observations: too few to tune": Mistake(
        lambda: load_observations(OBSERVATIONS, 5000),
        ("tune", TINY, "--budget", "1GB", "--out", "tuned.json", "--observations", "5000"),
        "fewer than `count=5000`",
        "fewer than --observations 5000",
    ),
    "evaluate: no episode": Mistake(
        lambda: choose_init_states(0, None),
        ("eval", TINY, "--trials", "0"),
        "`trials=0`: each task needs",
        "--trials 0: each task needs",
    ),
    "evaluate: init states that are none": Mistake(
        lambda: choose_init_states(None, "0-x"),
        ("eval", TINY, "--init-states", "0-x"),
        "`init_states='0-x'`: '0-x' is neither",
        "--init-states 0-x: '0-x' is neither",
    ),
    "evaluate: ids of several suites": Mistake(
        lambda: choose_tasks("libero_goal,libero_10", "3", {}, lambda suite: 10),
        ("eval", TINY, "--suite", "libero_goal,libero_10", "--task-ids", "3"),
        "`task_ids='3'` needs exactly one `suite`",
        "--task-ids 3 needs exactly one --suite",
    ),
    "evaluate: statistics that are not there": Mistake(
        lambda: contender("policy", TINY, norm_stats=Path("absent")),
        ("eval", TINY, "--norm-stats", "absent"),
        "`norm_stats='absent'`: no such file",
        "--norm-stats absent: no such file",
    ),
    "serve: an open door": Mistake(
        lambda: check_access(host="0.0.0.0", api_key=None, insecure=False),
        ("serve", TINY, "--host", "0.0.0.0"),
        "or `insecure=True` if every machine",
        "or --insecure if every machine",
    ),
    "serve: half of what TLS needs": Mistake(
        lambda: tls_context(Path("cert.pem"), None),
        ("serve", TINY, "--cert", "cert.pem"),
        "`cert` and `key` belong together",
        "--cert and --key belong together",
    ),
    "bench: in a process of its own": Mistake(
        lambda: Policy.from_pretrained(TINY, norm_stats=Path("absent")),
        ("bench", "--policy", TINY, "--norm-stats", "absent"),
        "`norm_stats='absent'`: no such file",
        "--norm-stats absent: no such file",
    ),
    "tune: what the command has no flag for": Mistake(
        lambda: Space.of(Parent(open_checkpoint(TINY)), preset("quantvla")),
        ("tune", TINY, "--budget", "1GB", "--out", "tuned.json", "--preset", "quantvla"),
        "tune a preset with `atm=False` and `ohb=False`",
        "tune a preset with `atm=False` and `ohb=False`",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_the_language_of_whoever_made_it(shop: Shop, name: str) -> None:
    shop.monkeypatch.chdir(shop.folder)
    shop.monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    shop.monkeypatch.delenv("VLAPACK_API_KEY", raising=False)
    mistake = MISTAKES[name]
    with pytest.raises(InputError) as raised:
        mistake.call()
    assert mistake.field in str(raised.value)
    assert not re.search(r"(?<![\w-])--[a-z]", str(raised.value))
    assert main([*mistake.words]) == 2
    assert mistake.flag in shop.said()


def test_doctors_remedies_name_its_flags(shop: Shop) -> None:
    assert main(["doctor", TINY, "--norm-stats", "absent", "--json"]) == 1
    assert "--norm-stats absent: no such file" in shop.printed()
