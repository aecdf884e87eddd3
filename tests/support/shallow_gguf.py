"""The demo model cut down to its first layers as a GGUF file: real shapes and quantized weights at a third of the work.

For tests that depend on llama.cpp's arithmetic but not on meaningful text. LoRAs for these layers come from
tests/support/shallow_model.py, which cuts the Transformers folder in the same way.
"""

from __future__ import annotations

from pathlib import Path

from modules.formats.gguf_header import read_tensors
from modules.formats.gguf_tensors import TENSOR_TYPES
from tests.support.gguf_files import ALIGNMENT, ARRAY, I32, As, Tensor, array, gguf
from tests.support.hf_folder import read_metadata
from tests.support.made_once import CACHE, made_once, version
from tests.support.shallow_model import LAYERS


def shallow_gguf(demo: Path) -> Path:
    """Return the file cut from the GGUF file `demo`; create it if no earlier run has."""
    path = CACHE / version([__file__], LAYERS, demo.stat().st_size) / "shallow.gguf"
    return made_once(path, lambda part: part.write_bytes(_cut(demo)))


def _cut(demo: Path) -> bytes:
    metadata = read_metadata(demo) | {"llama.block_count": LAYERS}
    metadata["tokenizer.ggml.token_type"] = As(ARRAY, array(I32, metadata["tokenizer.ggml.token_type"]))
    _, entries = read_tensors(demo)
    kept = [entry for entry in entries if not _is_deep(entry.name)]
    assert len(kept) < len(entries)
    content = demo.read_bytes()
    data = len(content) - max(entry.offset + entry.size + -entry.size % ALIGNMENT for entry in entries)
    contents = [content[data + entry.offset :][: entry.size] for entry in kept]
    kinds = {name: kind for kind, (name, *_) in TENSOR_TYPES.items()}
    return gguf(metadata, [Tensor(entry.name, entry.shape, kinds[entry.type]) for entry in kept], contents=contents)


def _is_deep(name: str) -> bool:
    return name.startswith("blk.") and int(name.split(".")[1]) >= LAYERS
