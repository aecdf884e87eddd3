"""Adapters in llama.cpp's C interface: read one, put some in force, let go of one.

An adapter belongs to its model, which frees with itself those that are left; what is freed before that it forgets. One
that is in force must not be freed: the context does not notice.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from modules.engines.llamacpp.bindings import Model
from modules.engines.lora_set import Refusal


def read(model: Model, path: Path) -> Any:
    """The adapter in a GGUF file, without a change to `model`. Refusal in llama.cpp's words."""
    said = len(model.complaints)
    handle = native.llama_adapter_lora_init(model.handle, os.fsencode(path))
    if not handle:
        raise Refusal(" / ".join(dict.fromkeys(model.complaints[said:])) or "llama.cpp gives no reason")
    return handle


def put_in_force(model: Model, wanted: Sequence[tuple[Any, float]]) -> None:
    """Let these, with their weights, and no others act on what is evaluated from now on."""
    weights: dict[int, tuple[Any, float]] = {}
    for handle, weight in wanted:  # llama.cpp would pass over one that comes again
        before = weights[id(handle)][1] if id(handle) in weights else 0.0
        weights[id(handle)] = handle, before + weight
    count = len(weights)
    handles = (native.llama_adapter_lora_p_ctypes * count)(*(handle for handle, _ in weights.values()))
    scales = (ctypes.c_float * count)(*(weight for _, weight in weights.values()))
    status = native.llama_set_adapters_lora(model.context, handles, count, scales)
    if status:
        raise Refusal(f"llama_set_adapters_lora answered {status}")


def free(handle: Any) -> None:
    native.llama_adapter_lora_free(handle)
