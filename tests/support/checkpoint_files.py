"""Create small checkpoints in the layout of transformers, and read a folder's only record."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "max_position_embeddings": 2048, "torch_dtype": "bfloat16"}


def put(path: Path, content: bytes | str | dict[str, Any] = "") -> Path:
    """Write a file with `content`, a dictionary as JSON, and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def safetensors(*shape: int) -> bytes:
    """Return a .safetensors file with one BF16 tensor."""
    return tensors({"w": shape})


def tensors(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """Return a .safetensors file with tensors of these shapes, all BF16 zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(end)


def checkpoint(folder: Path, **files: dict[str, Any]) -> Path:
    """Create a small model for transformers; each keyword is a JSON file next to the weights."""
    put(folder / "model.safetensors", safetensors(4, 8))
    for name, content in {"config": CONFIG, **files}.items():
        put(folder / f"{name}.json", content)
    return folder


def only_record(folder: Path) -> ModelRecord:
    (record,) = Catalog(folder).models()
    return record


def problem_message(record: ModelRecord) -> str:
    """Return the English message of the record's problem, after checking that the Chinese one is Chinese."""
    assert record.problem is not None
    assert any("一" <= letter <= "鿿" for letter in record.problem.say("zh"))
    return record.problem.say("en")
