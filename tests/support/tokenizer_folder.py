"""Write the folder of a model with a tokenizer of two words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.checkpoint_files import checkpoint, put
from tests.support.template_table import SPECIAL_TOKENS


def write_tokenizer(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write a model's folder with a tokenizer of two words."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL_TOKENS, "extra_special_tokens": {}}
    config["extra_special_tokens"] = {"image_token": config.pop("image_token")}
    checkpoint(folder)
    model = {"type": "WordLevel", "vocab": {"<unk_token>": 0, "a": 1}, "unk_token": "<unk_token>"}
    put(folder / "tokenizer.json", json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    for name, content in files.items():
        put(folder / name, {**config, **content} if name == "tokenizer_config.json" else content)
    if "tokenizer_config.json" not in files:
        put(folder / "tokenizer_config.json", config)
    return folder
