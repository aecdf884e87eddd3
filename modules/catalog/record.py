"""One model on disk, and its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.core.errors import ModelProblem
from modules.formats.gguf_header import GgufHeader
from modules.formats.model_shape import ModelShape
from modules.formats.server_file import SUFFIX, ServerFile
from modules.options.option import Value
from modules.system.directory_walk import Files


@dataclass(frozen=True)
class ModelRecord:
    """One model on disk. What its files do not state is 0 or "".

    `name` is the path below the folder of models; of a split GGUF file, its first part's. `format` is gguf,
    safetensors, pytorch, gptq, awq or exl2; also ggml, exl3, mlx, diffusers, original, tensorflow, flax or onnx,
    which no loader supports; "server" for a model elsewhere, which the file `server` describes. `size` is the bytes
    of the weights alone. `problem` is why the model will not load. `duplicate_of` is the name of another model with
    the same weights. `named_templates` are chat templates beside the one for plain conversations. `defaults` holds
    the load options that follow from the files. `header` is that of a GGUF file, with the size of all its parts;
    `shape` that of a folder of weights. `files` are the weight files. `task` is "" for a model that generates text,
    "embed" or "rank" for one that `formats.embedding` recognizes. `images` tells whether its files have all that it
    needs to read pictures.
    """

    name: str
    path: Path
    format: str
    size: int
    architecture: str = ""
    quantization: str = ""
    parameters: int = 0
    layers: int = 0
    context_length: int = 0
    chat_template: str = ""
    named_templates: Mapping[str, str] = field(default_factory=dict, hash=False)
    problem: ModelProblem | None = None
    duplicate_of: str = ""
    defaults: Mapping[str, Value] = field(default_factory=dict, hash=False)
    header: GgufHeader | None = field(default=None, compare=False, repr=False)
    shape: ModelShape | None = field(default=None, compare=False, repr=False)
    files: Files = field(default_factory=dict, compare=False, repr=False)
    task: str = ""
    server: ServerFile | None = None
    images: bool = False

    @property
    def state(self) -> str:
        """ "incomplete", "damaged" or "unsupported"; "" of a model that can be loaded."""
        return self.problem.state if self.problem else ""


def short_names(name: str) -> set[str]:
    """Return the other names of a model: without its folder, without `.gguf` or `.server.yaml`."""
    last = name.rpartition("/")[2]
    return {
        last,
        *(full[: -len(end)] for end in (".gguf", SUFFIX) for full in (name, last) if full.lower().endswith(end)),
    }


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that orders numbers by value ("7B" before "13B").

    Text and numbers alternate in it, so that only values of one type are compared.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
