"""What is fuzzed: for each kind a good folder, how a case of it is drawn, and what a user would do with it.

Only public functions are called. A case ends well if the work is done or refused with an InputError or a WorkError.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from fuzz.edits import BYTES, NODES, edits_of
from fuzz.files import JsonFile, TensorsFile, damage, taken_apart, write_all
from fuzz.messages import Messages
from fuzz.refusal import EXPECTED, Case, DisagreementError, refused
from hypothesis import strategies as st
from lerobot_folder import save, write_lerobot
from safetensors import safe_open
from safetensors.torch import save_file
from small import TOKENIZER, random_observations, small_policy, write_observations, write_random_checkpoint

from vlapack.checkpoints import lerobot, open_checkpoint
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.fingerprint import digest
from vlapack.observations.folder import open_source
from vlapack.packing.contents import check_pack
from vlapack.packing.make import make_pack
from vlapack.pi0.config import Pi0Config
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe, digest_document, read_recipe

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass
class Kind:
    """One kind of input.

    Attributes:
        name: what the corpus calls it.
        base: the good folder.
        try_it: does with an edited copy what a user does.
        finish: brings the rest of the copy in line with the edits, as an attacker would; told of the case.
    """

    name: str
    base: Path
    try_it: Callable[[Path], object]
    finish: Callable[[Path, dict[str, JsonFile], dict[str, TensorsFile]], None] | None = None

    @cached_property
    def cases(self) -> st.SearchStrategy[Case]:
        return st.fixed_dictionaries(
            {
                "kind": st.just(self.name),
                "edits": st.lists(edits_of(self.base), min_size=1, max_size=3),
                "sealed": st.sampled_from([True, True, True, False]),
            }
        )

    def prepare(self, case: Case, folder: Path) -> None:
        """Make an edited copy of the base at `folder`, which does not exist yet."""
        shutil.copytree(self.base, folder)
        outside = folder.with_name("outside")
        outside.mkdir(exist_ok=True)
        documents, tensors = taken_apart(folder, case["edits"])
        if self.finish is not None and case["sealed"]:
            damage(folder, [edit for edit in case["edits"] if edit["op"] in BYTES], outside)
            self.finish(folder, documents, tensors)
            damage(folder, [edit for edit in case["edits"] if edit["op"] in NODES], outside)
        else:
            write_all(folder, documents, tensors)
            damage(folder, case["edits"], outside)

    def run(self, folder: Path) -> bool:
        """Do it, and say whether it was done rather than refused; whatever is no refusal comes out."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return refused(lambda: self.try_it(folder)) is None

    def close(self) -> None:
        """Let go of what it holds: nothing."""


def seal_pack(folder: Path, documents: dict[str, JsonFile], tensors: dict[str, TensorsFile]) -> None:
    """Write the edits, and recompute every checksum and fingerprint of a pack, as who makes a hostile one does."""
    config = documents.pop("config.json", None)
    weights = tensors.pop("model.safetensors", None)
    write_all(folder, documents, tensors)
    if config is None:
        try:
            config = JsonFile(json.loads((folder / "config.json").read_bytes()))
        except ValueError:
            return  # its bytes were edited: nothing to seal
    path = folder / "model.safetensors"
    if weights is not None:
        sums = {name: hashlib.sha256(part).hexdigest() for name, (_, _, part) in weights.tensors.items()}
        path.write_bytes(weights.content({"format": "pt", "sha256": json.dumps(sums)}))
    document = config.document
    if isinstance(document.get("files"), dict):
        for name, stated in document["files"].items():
            if isinstance(stated, str) and stated[:1] != "\x01" and (folder / name).is_file():
                content = (folder / name).read_bytes()
                if name == path.name:
                    content = content[8 : 8 + int.from_bytes(content[:8], "little") % 2**40]
                document["files"][name] = hashlib.sha256(content).hexdigest()
    document.pop("checksum", None)
    try:
        meant = json.loads(config.text())
        if isinstance(document.get("fingerprint"), dict) and isinstance(meant["recipe"], dict):
            document["fingerprint"]["recipe"] = digest_document(meant["recipe"])
            meant = json.loads(config.text())
            fields = {key: value for key, value in meant["fingerprint"].items() if key != "hex"}
            document["fingerprint"]["hex"] = digest(fields)
        text = config.text()
        checksum = digest(json.loads(text))
        text = f'{text[:-1]}, "checksum": "{checksum}"}}'
    except (RecursionError, ValueError, KeyError, TypeError, AttributeError):
        text = config.text()
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))


def try_pack(folder: Path) -> None:
    """Verify and load, which must agree; and safetensors' own reader must take what they take."""
    verified = refused(lambda: check_pack(PackedCheckpoint.open(folder)))
    loaded: list[Policy] = []
    refusal = refused(lambda: loaded.append(Policy.from_pretrained(folder)))
    if (verified is None) != (refusal is None):
        raise DisagreementError(f"verify says {verified or 'whole'}, loading says {refusal or 'good'}")
    if verified is not None:
        raise verified
    with safe_open(folder / "model.safetensors", "np"):
        pass
    act(loaded[0])


def act(policy: Policy) -> None:
    policy.infer({**policy.example(), "prompt": "pick up the bowl"})


def try_checkpoint(folder: Path) -> None:
    policy = Policy.from_pretrained(folder)
    act(policy)


def try_statistics(folder: Path) -> None:
    config = small_policy()
    for kind in ("quantile", "mean_std"):
        try:
            stats = Normalization.load(folder / "norm_stats.json", kind)
            stats.require_dimensions(config)
        except EXPECTED:
            continue
        actions = stats.unnormalize("actions", np.zeros((4, config.architecture.action_dim)))
        if not np.isfinite(actions).all():
            raise DisagreementError(f"{kind}: statistics that were taken give actions that are not finite")


def try_recipe(folder: Path) -> None:
    recipe = read_recipe(folder / "recipe.json")
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def try_source(folder: Path) -> None:
    source = open_source(folder, small_policy())
    source.take(min(3, len(source)))


def seal_tables(folder: Path, documents: dict[str, JsonFile], tensors: dict[str, TensorsFile]) -> None:
    """Write the rows back into the tables that they stand for (`rows.json` beside each)."""
    write_all(folder, documents, tensors)
    for path in sorted(folder.rglob("*.rows.json")):
        try:
            rows = json.loads(path.read_bytes())
            for row in rows:
                for name, cell in row.items():
                    if isinstance(cell, dict) and "png" in cell:
                        row[name] = {"bytes": bytes.fromhex(cell["png"]), "path": None}
            save(path.with_name(path.name.removesuffix(".rows.json")), rows)
        except (
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            RecursionError,
            OverflowError,
            OSError,
            pyarrow.ArrowException,
        ):
            pass  # such rows make no table: the good one stays


def with_rows(folder: Path) -> Path:
    """Put beside each table of a data set its rows as JSON, by which its cells are edited."""
    for path in sorted(folder.rglob("*.parquet")):
        rows = pyarrow.parquet.read_table(path).to_pylist()
        for row in rows:
            for name, cell in row.items():
                if isinstance(cell, dict):
                    row[name] = {"png": cell["bytes"].hex()}
        path.with_name(f"{path.name}.rows.json").write_text(json.dumps(rows))
    return folder


def kinds(root: Path) -> list[Kind | Messages]:
    """Every kind, its good folder below `root`."""
    config = small_policy()
    checkpoint = write_random_checkpoint(root / "checkpoint", config)
    fresh = root / "pack"
    make_pack(open_checkpoint(checkpoint), preset("llm"), fresh, random_observations(2))
    statistics = root / "statistics"
    statistics.mkdir()
    shutil.copy(GOLDEN / "pack-format-1" / "norm_stats.json", statistics)
    recipes = root / "recipe"
    recipes.mkdir()
    (recipes / "recipe.json").write_text(json.dumps(preset("everything").to_dict()))
    observations = root / "observations"
    observations.mkdir()
    write_observations(observations, random_observations(3))
    table = with_rows(write_lerobot(root / "table", (3, 2), dtype="image"))
    video = write_lerobot(root / "video", (3, 2))
    return [
        Kind("pack", fresh, try_pack, seal_pack),
        Kind("first pack", Path(shutil.copytree(GOLDEN / "pack-format-1", root / "first")), try_pack, seal_pack),
        Kind("checkpoint", checkpoint, try_checkpoint),
        Kind("statistics", statistics, try_statistics),
        Kind("recipe", recipes, try_recipe),
        Kind("recorded", observations, try_source),
        Kind("table", table, try_source, seal_tables),
        Kind("video", video, try_source),
        *lerobot_kinds(root),
        Messages(checkpoint),
    ]


def lerobot_kinds(root: Path) -> list[Kind]:
    """LeRobot's folder, and an adapter with that as its base, in the golden policies' sizes."""
    with safe_open(GOLDEN / "lerobot" / "pi05" / "golden.safetensors", "pt") as file:
        stated = file.metadata()
    sizes = Pi0Config.from_dict(json.loads(stated["sizes"]))
    draw = torch.Generator().manual_seed(0)
    weights = {
        name.replace("paligemma.model.language_model.embed_tokens", "paligemma.lm_head"): torch.randn(
            shape, generator=draw
        )
        * 0.05
        for name, shape in json.loads(stated["weights"]).items()
    }

    def folder_of(name: str, at: Path) -> Path:
        shutil.copytree(GOLDEN / "lerobot" / name, at)
        (at / "golden.safetensors").unlink()
        shutil.copy(TOKENIZER, at / "tokenizer.model")
        return at

    def try_lerobot(folder: Path) -> None:
        with (
            mock.patch.object(lerobot, "VARIANTS", {"gemma_2b": sizes.llm, "gemma_300m": sizes.expert}),
            mock.patch.object(lerobot, "VISION", sizes.vision),
        ):
            act(Policy.from_pretrained(folder))

    plain = folder_of("pi05", root / "lerobot")
    save_file(weights, plain / "model.safetensors")
    adapter = folder_of("pi05-peft", root / "adapter")
    shutil.copytree(plain, adapter / "base")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
    return [Kind("lerobot", plain, try_lerobot), Kind("adapter", adapter, try_lerobot)]
