"""A model with remote code: the files of another model, and a Python file that defines its classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "own"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def own_model(folder: Path, source: Path, repository: str = "", **config: Any) -> Path:
    """Make `folder` with the files of `source`; config.json refers to the code of `repository` ("owner/name--")."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    classes = {"AutoConfig": f"{repository}own.Config", "AutoModelForCausalLM": f"{repository}own.Model"}
    own = {"model_type": "own", "auto_map": classes, "architectures": ["Model"]}
    source_config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(source_config | own | config))
    (folder / "own.py").write_text(OWN_CODE)
    return folder
