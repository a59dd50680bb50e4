"""The target `minilm`: how far sentence embeddings turn when the encoder is quantized.

Sentences that test, calibrate, and measure sensitivities are three text files of our own. A seed chooses which of the
second calibrate, and makes as many tokens again of other words in a few forms: GPTQ's Hessian needs more than the prose
alone has.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from common import minilm
from common.in_place import InPlace
from torch import Tensor, nn

from vlapack import Recipe
from vlapack.fingerprint import digest
from vlapack.quantize.calibration import LayerInputs, collect

TEST = Path(__file__).with_name("sentences.txt")
PROSE = Path(__file__).with_name("calibration.txt")
SENSITIVITY = Path(__file__).with_name("sensitivity.txt")
CALIBRATION = (120, 320)
"""Sentences that calibrate, of the prose and made up: about 8,000 tokens."""

FORMS = (
    "{who} {did} {what} {where}.",
    "{when}, {who} {did} {what}.",
    "{who} and {who} {did} {what} {when}.",
    "why did {who} {do} {what} {where}?",
    "{do} {what} {where}, then {do} {what}.",
    "it is {how} to {do} {what} {when}.",
    "{who} said that {who} {did} {what}.",
    "{what} {where} was {how}, but {who} {did} it anyway.",
    "if {who} {did} {what}, we would {do} {what} {when}.",
)
WORDS = {
    "who": "the old pilot|my cousin|a young engineer|the government|nobody|our neighbour's daughter|the research group|"
    "a tired waiter|the second robot|Maria|the company from Oslo|he|she|they|a famous painter|the crew|the blue team|"
    "an angry customer|the school|a flock of geese|Dr. Weber|the jury|my roommate|the captain|the left gripper",
    "did": "lifted|forgot|painted|bought|measured|described|stole|cleaned|moved|ignored|sold|rebuilt|carried|opened|"
    "compared|noticed|counted|published|dropped|explained|cancelled|heated|photographed|replaced|turned over",
    "do": "lift|forget|paint|buy|measure|describe|steal|clean|move|ignore|sell|rebuild|carry|open|compare|notice|count|"
    "publish|drop|explain|cancel|heat|photograph|replace|turn over",
    "what": "the green bottle|three wooden boxes|a letter from abroad|the results of the survey|the salad dressing|"
    "an expensive camera|the second drawer|the front wheel|a song about winter|the bedroom window|their own mistakes|"
    "a pair of boots|the ketchup|the annual budget|an electric guitar|the frozen peas|the emergency exit|a yellow book|"
    "the history of mathematics|two kilograms of rice|the orange juice|a broken mirror|the cookie box|her new theory|"
    "the milk",
    "where": "in the kitchen|on the wooden shelf|behind the hospital|next to the lamp|at the airport|under the table|"
    "in front of a large crowd|near the border|on the internet|inside the basket|between two plates|at the university|"
    "across the valley|on the left side of the tray|in a small village|above the sink|at home|outside the theatre",
    "when": "yesterday|last summer|before breakfast|in 2014|after a long discussion|every second week|at the same time|"
    "during the war|tonight|as usual|on her birthday|without warning|at the end of March|for the first time|"
    "half an hour later|once again|in the middle of the night",
    "how": "difficult|surprisingly cheap|dangerous|too late|not necessary|almost impossible|popular|forbidden|easy|"
    "quite useful|boring|illegal|good manners|very slow",
}


class Sentences:
    """Relative to the float encoder: 1 − mean cosine over the test sentences."""

    name = "minilm"
    preset = None

    def __init__(self) -> None:
        self.model, self._tokenize = minilm.load()
        self._layers = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        lines = TEST.read_text(encoding="utf-8").splitlines()
        self._test = [self._tokenize(line) for line in lines]
        self._expected = minilm.embed(self.model, self._test)
        self._prose = PROSE.read_text(encoding="utf-8").splitlines()
        self._packing = InPlace(self.model)
        self.seen = lru_cache(maxsize=1)(self._calibrate)  # rows come seed by seed
        self.identity = digest({"test": lines, "calibration": [CALIBRATION, self._prose, FORMS, WORDS]})

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Return 1 − mean cosine; the seed chooses the sentences that calibrate."""
        everything = replace(recipe, scope="", include=".", seed=seed)
        return self.measured(self._packing.quantized(everything, self.seen(seed)))

    def measured(self, model: nn.Module) -> dict[str, float]:
        """Return the same of a model that is quantized already."""
        return {"error": _turned(minilm.embed(model, self._test), self._expected)}

    def sensed(self, model: nn.Module) -> float:
        """Return the same over other sentences, which serve to choose a layer's bits and for nothing else."""
        sentences, expected = self._sensing
        return _turned(minilm.embed(model, sentences), expected)

    @cached_property
    def _sensing(self) -> tuple[list[Tensor], Tensor]:
        sentences = [self._tokenize(line) for line in SENSITIVITY.read_text(encoding="utf-8").splitlines()]
        return sentences, minilm.embed(self.model, sentences)

    def _calibrate(self, seed: int) -> Mapping[str, LayerInputs]:
        prose, made = CALIBRATION
        chosen = random.Random(seed).sample(self._prose, prose) + made_up(made, seed)
        sentences = [self._tokenize(sentence) for sentence in chosen]
        return collect(self.model, self._layers, self.model, minilm.batches(sentences), seed=seed)


def _turned(found: Tensor, expected: Tensor) -> float:
    """Return 1 − mean cosine of embeddings [sentences, width]."""
    return 1 - float(torch.cosine_similarity(found.double(), expected.double()).mean())


def made_up(count: int, seed: int) -> list[str]:
    """Return sentences put together at random."""
    draw = random.Random(seed)

    def fill(form: str) -> str:
        for kind, words in WORDS.items():
            while f"{{{kind}}}" in form:
                form = form.replace(f"{{{kind}}}", draw.choice(words.split("|")), 1)
        return form[0].upper() + form[1:]

    return [fill(draw.choice(FORMS)) for _ in range(count)]
