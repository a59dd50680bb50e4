"""How many bits? The short tables of docs/fidelity.md, from what several benchmarks have measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common.results import ROOT, read_rows, write_between

from vlapack.recipe.choice import as_choice
from vlapack.recipe.presets import PRESETS

RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "pictures" / "frontier-tiny-libero.svg"
DOCS = ROOT / "docs" / "fidelity.md"
MISSING = "Not measured yet."
POLICY = "tiny-libero"
NETWORKS = {
    POLICY: "deviation of chunks",
    "language": "KL of the next byte",
    "minilm": "1 − cosine",
}
"""Targets of presets.json, and the errors that are given for them."""
BY_NAMES = ("llm k, v and first layer", "first layer and k, v")
"""The mix that helps on every network, as π0's layers are called and as others are."""
EIGHT = [[".", 8]]

Rows = Sequence[Mapping[str, Any]]


def write_tables() -> None:
    """Write all of them into the docs."""
    measured = read_rows(RESULTS / "presets.json")
    write_between(DOCS, "frontier", of_result("frontier-tiny-libero.json", frontier))
    write_between(DOCS, "max error", of_result("max_error.json", kept))
    write_between(DOCS, "bits", bits([row for name in NETWORKS for row in of_target(measured, name)]))
    claims, played = read_rows(RESULTS / "claims.json"), result("closed_loop_large.json")
    write_between(DOCS, "beside the others", beside(claims, POLICY, of_target(measured, POLICY), played))


def result(name: str) -> Mapping[str, Any] | None:
    """Return a result's document; None: nothing is measured yet."""
    file = RESULTS / name
    found: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found


def of_result(name: str, text: Callable[[Mapping[str, Any]], str]) -> str:
    """Return what a result's document says, or that there is none."""
    document = result(name)
    return MISSING if document is None else text(document)


def of_target(rows: Rows, target: str) -> list[Mapping[str, Any]]:
    """Return the rows on one network."""
    return [row for row in rows if row["target"] == target]


def frontier(document: Mapping[str, Any]) -> str:
    """Return the picture and, in a sentence, the point that was chosen."""
    chosen = next(point for point in document["points"] if point["name"] == document["chosen"])
    layers = ", ".join(f"{count} at {choice}" for choice, count in chosen["layers"].items())
    measured = chosen["measured"]
    return (
        f"![Bytes held against the error of a chunk, for tiny-libero]({PICTURE.parent.name}/{PICTURE.name})\n\n"
        f"At `--max-error {100 * document['target']['value']:g}%` the pack holds {chosen['held_bytes'] / 1e6:.2f} MB "
        f"(layers by bits: {layers}). On {measured['frames']} observations kept back its chunks deviate by "
        f"{100 * measured['median']:.2f} % in the median and {100 * measured['p95']:.1f} % at the 95 % point."
    )


def kept(document: Mapping[str, Any]) -> str:
    """Return, in a sentence for each bound, whether the promised error holds on observations never seen."""
    sentences = []
    for bound in dict.fromkeys(row["bound"] for row in document["rows"]):
        runs = [row for row in document["rows"] if row["bound"] == bound]
        medians = [100 * row["unseen"]["median"] for row in runs]
        allowed = sum(median <= 100 * document["allowance"] * bound for median in medians)
        held, spread = fmean(row["held_bytes"] for row in runs), f"{min(medians):.2f}-{max(medians):.2f} %"
        sentences.append(
            f"`--max-error {100 * bound:g}%` was tried {len(runs)} times, with other seeds and observations. On "
            f"{runs[0]['unseen']['frames']} observations that a run never saw, the median was at most "
            f"{document['allowance']:g} times the bound in {allowed} of them ({spread}). "
            f"The packs hold {held / 1e6:.2f} MB on average."
        )
    return "\n".join(sentences)


def uniform_and_full() -> dict[str, tuple[str, list[list[Any]]]]:
    """Return uniform bits and the preset `full`: label → its name in the large run, its overrides in presets.json."""
    full = [[pattern, as_choice(choice).to_json()] for pattern, choice in PRESETS["full"].overrides]
    return {"W4A8 (`full-w4`)": ("full-w4", []), "W4/8A8 (`full`)": ("full", full), "W8A8": ("w8a8", EIGHT)}


def bits(rows: Rows) -> str:
    """Return, network by network, what uniform bits, `full` and the mix by names cost and keep, in Markdown."""
    lines = ["| network, error | bits | π0.5 holds | median | 95 % | mean | flips |", "|---" * 7 + "|"]
    for target in dict.fromkeys(row["target"] for row in rows):
        there = of_target(rows, target)
        compared = {
            label: [row for row in there if row["overrides"] == overrides]
            for label, (_, overrides) in uniform_and_full().items()
        }
        if not compared["W4/8A8 (`full`)"]:
            compared["W4/8A8, by names"] = [row for row in there if row["mix"] in BY_NAMES]
        for label, of_bits in compared.items():
            if of_bits:
                lines.append(f"| {target}, {NETWORKS[target]} | {label} | {' | '.join(_cells(of_bits))} |")
    return "\n".join(lines)


def _cells(rows: Rows) -> list[str]:
    def mean(field: str) -> float:
        return fmean(row[field] for row in rows)

    if "median" not in rows[0]:  # networks whose error is a mean
        return ["", "", "", f"{100 * mean('error'):.3g} %", ""]
    return [
        f"{mean('full_size_bytes_held') / 1e9:.2f} GB",
        f"{100 * mean('median'):.2f} %",
        f"{100 * mean('error'):.1f} %",
        "",
        f"{mean('flips'):.0f} of {mean('actions'):.0f}",
    ]


def beside(claims: Rows, policy: str, rows: Rows, played: Mapping[str, Any] | None) -> str:
    """Return what others say of their packs and the same measures of ours, in Markdown.

    Args:
        claims: theirs.
        policy: ours.
        rows: of presets.json on it.
        played: the large run's document; None: there is none. It counts if it is this policy's.
    """
    lines = ["| whose | policy | change | success (float) | cosine, mean | minimum |", "|---" * 6 + "|"]
    for claim in claims:
        success = _success(claim["success_rate"], claim["float_success_rate"]) if "success_rate" in claim else ""
        cosine = f"{claim['cosine']:.4f}" if "cosine" in claim else ""
        whose = f"[{claim['who']}]({claim['source']})"
        lines.append(f"| {whose} | {claim['policy']} | {claim['change']} | {success} | {cosine} |  |")
    players: dict[str, Mapping[str, Any]] = {}
    if played is not None and Path(played["policy"]).name == policy:
        players = {row["policy"]: row for row in played["rows"] if row["success_rate"] is not None}
    for label, (player, overrides) in uniform_and_full().items():
        of_bits = [row for row in rows if row["overrides"] == overrides and "cosine_mean" in row]
        mean = f"{fmean(row['cosine_mean'] for row in of_bits):.4f}" if of_bits else MISSING
        least = f"{min(row['cosine_min'] for row in of_bits):.4f}" if of_bits else ""
        success = _success(*in_pairs(players[player])) if player in players else MISSING
        lines.append(f"| vlapack | {policy}, libero_spatial | {label} | {success} | {mean} | {least} |")
    return "\n".join(lines)


def in_pairs(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the success of a policy of the large run, and the float policy's in the same pairs, not in all of its."""
    rate: float = row["success_rate"]
    return rate, rate + row["drop"]


def _success(rate: float, of_float: float) -> str:
    return f"{100 * rate:.4g} % ({100 * of_float:.4g} %)"
