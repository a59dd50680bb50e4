"""Figures that are typed into a page by hand, and why no result has them."""

from __future__ import annotations


def _on(page: str, *phrases: str) -> set[tuple[str, str]]:
    return {(page, phrase) for phrase in phrases}


TYPED: dict[str, set[tuple[str, str]]] = {
    "what the DuQuant scripts guide says, quoted": {
        *_on("guide.md", "1-2 minutes", "2-3 minutes", "3-5 minutes", "5-10 minutes", "15-20 minutes", "30-60 seconds"),
        *_on("guide.md", "20 %", "40 %", "60 %", "0 %"),
        *_on("guide.zh.md", "20 %", "40 %", "60 %", "0 %"),
        *_on("faq.md", "0 %"),
    },
    "a limit or a default of the code": {
        *_on("checkpoints.md", "1 GiB"),
        *_on("gpu.md", "20 s", "30 s"),
        *_on("pack-format.md", "8 MB"),
        *_on("presets.md", "3 %"),
        *_on("serve.md", "64 KB", "5 ms", "1 MB", "30 MB", "500 times", "100 ms"),
        *_on("tune.md", "1.5 times", "8 %", "1.5 %", "90 %", "1.2 times"),
        *_on("evaluation.md", "10 %", "80 %", "10 points"),
        *_on("diagnose.md", "5 %", "15 %"),
        *_on("report.md", "4 %", "80 %", "10 points"),
    },
    "a question or an example, not an answer": {
        *_on("evaluation.md", "3 points"),
        *_on("fidelity.md", "1 %"),
        *_on("presets.md", "8 GB"),
        *_on("report.md", "2,000 pairs"),
        *_on("sweeps.md", "5 episodes", "32 episodes"),
        *_on("tune.md", "1 %", "1.5 GB", "2.4 GB"),
    },
    "a level of confidence, or the name of a percentile": {
        *_on("card", "95 %"),
        *_on("diagnose.md", "95 %"),
        *_on("evaluation.md", "95 %", "5 %"),
        *_on("fidelity.md", "95 %"),
        *_on("realtime.md", "95 %"),
        *_on("sweeps.md", "95 %"),
        *_on("tune.md", "95 %"),
    },
    "arithmetic that anyone can repeat": {
        *_on("compare.md", "4.5 %"),
        *_on("evaluation.md", "80 pairs", "15 points", "72 %"),
        *_on("evaluation.md", "2 points", "5 points", "5 and 10 points", "20 %", "30 %"),
        *_on("fidelity.md", "4.5 %", "60 pairs", "400 episodes", "95.5 to 98.6 %"),
        *_on("gpu.md", "1 GB", "157 MB"),
        *_on("kernels.md", "16 times"),
    },
    "what a processor has, by its maker": {
        *_on("gpu.md", "256 MB"),
        *_on("kernels.md", "8 KB", "16 KB"),
    },
    "of a training run whose records are not kept": _on("card", "3 mm"),
}
"""Why → (page, figure)."""
