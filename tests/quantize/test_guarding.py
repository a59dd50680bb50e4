"""`save_pretrained` of a quantized model: never a folder that loads with random weights."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import vlapack
from vlapack.errors import InputError
from vlapack.recipe.recipe import Recipe

RECIPE = Recipe(scope="", include=".", block=8, rounding="rtn")


class Foreign(nn.Module):
    """As LeRobot's policies: it has a `save_pretrained` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def save_pretrained(self, folder: str) -> None:
        raise AssertionError("it would have written a folder that nobody can load")


def test_a_foreign_save_pretrained_is_refused_with_the_remedy(tmp_path: Path) -> None:
    model = nn.Sequential(Foreign(), nn.Linear(8, 8))
    vlapack.quantize_(model, RECIPE)
    arrived = pickle.loads(pickle.dumps(model))
    loaded = nn.Sequential(Foreign(), nn.Linear(8, 8))
    vlapack.save(model, tmp_path / "saved")
    vlapack.load_(loaded, tmp_path / "saved")
    for quantized in (model, arrived, loaded):
        with pytest.raises(InputError, match=r"Foreign\.save_pretrained.*vlapack\.save"):
            quantized[0].save_pretrained(str(tmp_path / "x"))


def test_a_part_that_stayed_float_may_still_be_saved() -> None:
    model = nn.Sequential(Foreign(), nn.Linear(8, 8))
    vlapack.quantize_(model, RECIPE, filter_fn=lambda _, name: name == "1")
    assert torch.equal(model[0].linear.weight, model[0].linear.weight)
    with pytest.raises(AssertionError, match="would have written"):
        model[0].save_pretrained("x")


FAKE = {
    "__init__.py": "__version__ = '{version}'\nimport torch\nclass PreTrainedModel(torch.nn.Module): pass\n",
    "utils/__init__.py": "",
    "utils/quantization_config.py": "class QuantizationConfigMixin: pass\n",
    "quantizers/__init__.py": "",
    "quantizers/base.py": (
        "class HfQuantizer:\n    def __init__(self, config, **options): self.quantization_config = config\n"
    ),
    "quantizers/auto.py": (
        "KNOWN = []\n"
        "def register_quantization_config(name): return lambda cls: KNOWN.append(name) or cls\n"
        "register_quantizer = register_quantization_config\n"
    ),
}
FIRST_US = "import vlapack, sys; assert 'transformers' not in sys.modules and 'torch' not in sys.modules; "
FIRST_THEM = "import transformers.quantizers.auto; import vlapack; "
CHECK = """
import transformers.quantizers.auto as auto
assert auto.KNOWN == ['vlapack'] * 2, auto.KNOWN
from vlapack.quantize import in_transformers
from torch import nn
class Model(transformers.PreTrainedModel):
    def __init__(self):
        super().__init__(); self.linear = nn.Linear(8, 8); self.config = nn.Module()
    def save_pretrained(self, folder): print(sorted(self.config.quantization_config.layers))
from vlapack.recipe.recipe import Recipe
model = Model(); vlapack.quantize_(model, Recipe(scope='', include='.', block=8, rounding='rtn'))
model.save_pretrained('x')
"""


@pytest.mark.parametrize("order", [FIRST_US, FIRST_THEM])
@pytest.mark.parametrize("version", ["5.0.0", "4.57.6"])
def test_transformers_learns_of_the_format_whoever_is_imported_first(order: str, version: str, tmp_path: Path) -> None:
    for name, text in FAKE.items():
        (tmp_path / "transformers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "transformers" / name).write_text(text.replace("{version}", version))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {order}\nimport transformers{CHECK}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if version.startswith("5"):
        assert ended.stdout == "['linear']\n", ended.stderr
    else:
        assert ended.stderr.splitlines()[-1].count("vlapack.save(model, folder)") == 1, ended.stderr
