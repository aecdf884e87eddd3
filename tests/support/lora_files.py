"""Write small LoRAs, valid or broken, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.checkpoint_files import put, tensors
from tests.support.gguf_files import Tensor, gguf

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "user/tiny",
}
LAYER = "base_model.model.model.layers.0.self_attn."
SHAPES = {
    LAYER + "q_proj.lora_A.weight": (4, 64),
    LAYER + "q_proj.lora_B.weight": (64, 4),
    LAYER + "v_proj.lora_A.weight": (4, 64),
    LAYER + "v_proj.lora_B.weight": (32, 4),
}
ADAPTER = {
    "general.type": "adapter",
    "adapter.type": "lora",
    "general.architecture": "llama",
    "general.base_model.0.name": "Tiny",
    "adapter.lora.alpha": 8.0,
}
PAIR = (Tensor("blk.0.attn_q.weight.lora_a", (64, 4)), Tensor("blk.0.attn_q.weight.lora_b", (4, 64)))


def peft(folder: Path, shapes: Mapping[str, Sequence[int]] = SHAPES, **config: object) -> Path:
    """Write a folder as PEFT does, with tensors of zeros; keywords change its configuration."""
    put(folder / "adapter_config.json", CONFIG | config)
    put(folder / "adapter_model.safetensors", tensors(shapes))
    return folder


def adapter(path: Path, parts: Sequence[Tensor] = PAIR, **metadata: object) -> Path:
    """Write a GGUF adapter; a keyword such as general_type changes the metadata."""
    changed = {key.replace("_", ".", 1): value for key, value in metadata.items()}
    return put(path, gguf(ADAPTER | changed, parts))
