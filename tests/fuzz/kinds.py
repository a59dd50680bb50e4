"""What is fuzzed: for each kind a good folder, how a case of it is drawn, and what a user would do with it.

Only public functions are called. A case ends well if the work is done or refused with an InputError or a WorkError.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from fuzz import edits as editing
from hypothesis import strategies as st
from lerobot_folder import save, write_lerobot
from safetensors import safe_open
from safetensors.torch import save_file
from small import TOKENIZER, random_observations, small_policy, write_observations, write_random_checkpoint

from vlapack.checkpoints import lerobot, open_checkpoint
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.errors import InputError, WorkError
from vlapack.fingerprint import digest
from vlapack.observations.folder import open_source
from vlapack.packing.contents import check_pack
from vlapack.packing.make import make_pack
from vlapack.pi0.config import Pi0Config
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe, digest_document, read_recipe
from vlapack.serve.metrics import Metrics
from vlapack.serve.service import Service
from vlapack.serve.wire import pack

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = (InputError, WorkError)
Case = dict[str, Any]


class DisagreementError(AssertionError):
    """Two readers of the same file, one of which refuses what the other takes."""


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
    finish: Callable[[Path, dict[str, editing.JsonFile], dict[str, editing.TensorsFile]], None] | None = None

    @cached_property
    def cases(self) -> st.SearchStrategy[Case]:
        return st.fixed_dictionaries(
            {
                "kind": st.just(self.name),
                "edits": st.lists(editing.edits_of(self.base), min_size=1, max_size=3),
                "sealed": st.sampled_from([True, True, True, False]),
            }
        )

    def prepare(self, case: Case, folder: Path) -> None:
        """Make an edited copy of the base at `folder`, which does not exist yet."""
        shutil.copytree(self.base, folder)
        outside = folder.with_name("outside")
        outside.mkdir(exist_ok=True)
        documents, tensors = editing.taken_apart(folder, case["edits"])
        if self.finish is not None and case["sealed"]:
            editing.damage(folder, [edit for edit in case["edits"] if edit["op"] in editing.BYTES], outside)
            self.finish(folder, documents, tensors)
            editing.damage(folder, [edit for edit in case["edits"] if edit["op"] in editing.NODES], outside)
        else:
            editing.write_all(folder, documents, tensors)
            editing.damage(folder, case["edits"], outside)

    def run(self, folder: Path) -> bool:
        """Do it, and say whether it was done rather than refused; whatever is no refusal comes out."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return refused(lambda: self.try_it(folder)) is None

    def close(self) -> None:
        """Let go of what it holds: nothing."""


def refused(work: Callable[[], object]) -> InputError | WorkError | None:
    try:
        work()
    except EXPECTED as error:
        return error
    return None


def seal_pack(folder: Path, documents: dict[str, editing.JsonFile], tensors: dict[str, editing.TensorsFile]) -> None:
    """Write the edits, and recompute every checksum and fingerprint of a pack, as who makes a hostile one does."""
    config = documents.pop("config.json", None)
    weights = tensors.pop("model.safetensors", None)
    editing.write_all(folder, documents, tensors)
    if config is None:
        try:
            config = editing.JsonFile(json.loads((folder / "config.json").read_bytes()))
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


def seal_tables(folder: Path, documents: dict[str, editing.JsonFile], tensors: dict[str, editing.TensorsFile]) -> None:
    """Write the rows back into the tables that they stand for (`rows.json` beside each)."""
    editing.write_all(folder, documents, tensors)
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


class Acting(Policy):
    """A policy whose network is asked nothing: what comes before it is what a message meets."""

    def act(self, inputs: Any, noise: torch.Tensor) -> np.ndarray:
        return np.zeros((len(noise), *self.noise_shape))


class Messages:
    """A server's service, and messages for it."""

    name = "message"

    def __init__(self, checkpoint: Path) -> None:
        self._loop = asyncio.new_event_loop()
        service = Service(Acting.from_pretrained(checkpoint), metrics=Metrics(policy="small", engine="", version=""))
        self._service = service
        self._running = self._loop.create_task(service.run())
        self._good: dict[str, Any] = {**random_observations(1)[0], "noise": np.zeros((4, 32), np.float32)}

    @cached_property
    def cases(self) -> st.SearchStrategy[Case]:
        keys = st.sampled_from([*self._good, "more", "observation/image/b"])
        value = st.fixed_dictionaries(
            {"op": st.just("value"), "key": keys, "value": st.sampled_from(sorted(MESSAGE_VALUES))}
        )
        text = st.fixed_dictionaries({"op": st.just("json"), "key": keys, "value": editing.values()})
        array = st.fixed_dictionaries(
            {
                "op": st.just("array"),
                "key": keys,
                "dtype": st.sampled_from(
                    ["<f4", "<f8", "|u1", "<i8", "|b1", "<U9", "<f2", "|O", ">f4", "<U999999", "x"]
                ),
                "shape": st.lists(st.integers(-1, 40), max_size=4),
                "bytes": st.one_of(st.none(), st.integers(0, 10_000)),
            }
        )
        raw = st.fixed_dictionaries(
            {
                "op": st.sampled_from(["flip", "cut", "append", "prepend", "insert", "empty"]),
                "place": st.integers(0, 7000),
                "count": st.integers(1, 40),
            }
        )
        junk = st.fixed_dictionaries({"op": st.just("junk"), "hex": st.binary(max_size=60).map(bytes.hex)})
        delete = st.fixed_dictionaries({"op": st.just("delete"), "key": keys})
        edit = st.one_of(value, value, text, array, array, raw, junk, delete)
        return st.fixed_dictionaries({"kind": st.just(self.name), "edits": st.lists(edit, min_size=1, max_size=3)})

    def prepare(self, case: Case, folder: Path) -> None:
        folder.mkdir()
        message: dict[Any, Any] = dict(self._good)
        for edit in case["edits"]:
            match edit["op"]:
                case "value":
                    message[edit["key"]] = MESSAGE_VALUES[edit["value"]]
                case "json":
                    try:
                        message[edit["key"]] = json.loads(editing.text_of(edit["value"]))
                    except (ValueError, RecursionError):
                        message[edit["key"]] = editing.text_of(edit["value"])
                case "array":
                    size = edit["bytes"]
                    if size is None:
                        size = max(0, int(np.prod(edit["shape"])) * 4)
                    fields = {
                        b"__ndarray__": True,
                        b"data": bytes(size),
                        b"dtype": edit["dtype"],
                        b"shape": edit["shape"],
                    }
                    message[edit["key"]] = fields
                case "delete":
                    message.pop(edit["key"], None)
        try:
            content = pack(message)
        except (ValueError, TypeError, OverflowError, RecursionError):
            content = pack(self._good)
        for edit in case["edits"]:
            if edit["op"] == "junk":
                content = bytes.fromhex(edit["hex"])
            elif "place" in edit:
                content = editing.edited(content, edit)
        (folder / "message").write_bytes(content)

    def run(self, folder: Path) -> bool:
        content = (folder / "message").read_bytes()
        answer = self._service.answer(content, connection=0, number=0)
        return refused(lambda: self._loop.run_until_complete(answer)) is None

    def close(self) -> None:
        self._running.cancel()
        self._loop.run_until_complete(asyncio.gather(self._running, return_exceptions=True))
        self._loop.close()


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


MESSAGE_VALUES: Mapping[str, Any] = {
    "nothing": None,
    "true": True,
    "picture": np.zeros((32, 32, 3), np.uint8),
    "grey picture": np.zeros((32, 32), np.uint8),
    "channels first": np.zeros((3, 32, 32), np.uint8),
    "floats above one": np.full((32, 32, 3), 1.5, np.float32),
    "nan picture": np.full((32, 32, 3), np.nan, np.float32),
    "empty picture": np.zeros((0, 32, 3), np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "a line": np.zeros((1, 20000, 3), np.uint8),
    "batch": np.zeros((2, 32, 32, 3), np.uint8),
    "bool picture": np.zeros((32, 32, 3), bool),
    "picture of lists": np.zeros((32, 32, 3), np.uint8).tolist(),
    "ragged": [[1, 2], [3]],
    "nested": _nested(100),
    "deeply nested": _nested(400),
    "empty lists": [[] for _ in range(1000)],
    "lists of lists": [[[] for _ in range(1000)] for _ in range(100)],
    "list of text": ["a", "b"],
    "mixed": [1, "a", None],
    "dictionary": {"a": {"b": 1}},
    "keys of bytes": {b"a": 1},
    "state": np.zeros(8),
    "short state": np.zeros(3),
    "huge state": np.full(8, 1e308),
    "nan state": np.full(8, np.nan),
    "whole numbers": [2**63] * 8,
    "list of none": [None] * 8,
    "scalar": np.float32(1),
    "scalar text": np.str_("pick up"),
    "text": "pick up",
    "spaces": "   ",
    "empty text": "",
    "surrogate bytes": b"\xed\xa0\x80",
    "bytes": b"pick up",
    "control": "\x00\x1b[31m\r\n",
    "long text": "pick up " * 600,
    "endless text": "a" * 100_000,
    "emoji": "\N{ROBOT FACE}" * 1000,
    "noise": np.zeros((4, 32), np.float32),
    "double noise": np.full((4, 32), 1e300),
    "infinite noise": np.full((4, 32), np.inf, np.float32),
}


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
