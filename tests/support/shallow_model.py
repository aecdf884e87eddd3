"""The demo model cut down to its first layers, and its LoRAs cut down in the same way.

For comparing numbers with another implementation on the same weights: all kinds of layers, in real shapes and with
trained values, at a third of the work of the full model. The text it generates is meaningless.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.hf_folder import write_safetensors
from tests.support.made_once import CACHE, made_once, version
from tests.support.quantized_folders import read_safetensors

LAYERS = 4
_LAYER = re.compile(r"\blayers\.(\d+)\.")


def shallow_folder(model: Path) -> Path:
    """Return a copy of the model folder `model` with only the first layers; create it if no earlier run has."""
    return _first_layers("shallow", model, _cut_model)


def shallow_loras(loras: Path) -> Path:
    """Return a copy of the LoRAs in `loras` for only the first layers; create it if no earlier run has."""
    return _first_layers("shallow-loras", loras, _cut_loras)


def _first_layers(kind: str, source: Path, write: Callable[[Path, Path], None]) -> Path:
    folder = CACHE / kind / version([__file__], str(source)) / source.name
    return made_once(folder, lambda part: write(source, part))


def _cut_model(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}, indent=1))
    _cut_weights(source / "model.safetensors", folder)


def _cut_loras(source: Path, folder: Path) -> None:
    for lora in sorted(path for path in source.iterdir() if path.is_dir()):
        shutil.copytree(lora, folder / lora.name, ignore=shutil.ignore_patterns("*.safetensors"))
        _cut_weights(lora / "adapter_model.safetensors", folder / lora.name)


def _cut_weights(file: Path, folder: Path) -> None:
    weights = read_safetensors(file)
    kept = {name: array for name, array in weights.items() if not _is_deep(name)}
    assert len(kept) < len(weights)
    write_safetensors(folder / file.name, kept)


def _is_deep(name: str) -> bool:
    layer = _LAYER.search(name)
    return layer is not None and int(layer[1]) >= LAYERS
