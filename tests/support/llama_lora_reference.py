"""Compute logits with LoRAs by llama_cpp.Llama: a script, so that a crash of native code does not end the tests.

`python -m tests.support.llama_lora_reference <request.json>`. In every one of its "jobs", "model" is a GGUF file,
"adapters" are GGUF files by their names, and "sets" (optional) are weights of several adapters, by the set's name. The
logits after each of "tokens" are saved in "out" by the name of the adapter or the set; "none" is before all of them,
"removed" after.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from llama_cpp import Llama

from modules.engines.llamacpp.library import installed_build
from tests.support.llama_reference import disable_repacking


def main() -> None:
    if not installed_build().repacks:
        disable_repacking()
    for job in json.loads(Path(sys.argv[1]).read_text())["jobs"]:
        _do(job)


def _do(asked: dict[str, Any]) -> None:
    llama = Llama(asked["model"], n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    found = {"none": _logits(llama, asked["tokens"])}
    adapters = {name: _opened(llama, path) for name, path in asked["adapters"].items()}
    for name, weights in ({each: {each: 1.0} for each in adapters} | asked.get("sets", {})).items():
        handles = (native.llama_adapter_lora_p_ctypes * len(weights))(*(adapters[each] for each in weights))
        scales = (ctypes.c_float * len(weights))(*weights.values())
        assert native.llama_set_adapters_lora(llama.ctx, handles, len(weights), scales) == 0
        found[name] = _logits(llama, asked["tokens"])
    native.llama_set_adapters_lora(llama.ctx, None, 0, None)
    found["removed"] = _logits(llama, asked["tokens"])
    np.savez(asked["out"], **found)


def _opened(llama: Llama, path: str) -> Any:
    adapter = native.llama_adapter_lora_init(llama._model.model, os.fsencode(path))
    assert adapter, f"llama.cpp refuses {path}"
    return adapter


def _logits(llama: Llama, tokens: list[int]) -> Any:
    native.llama_memory_clear(native.llama_get_memory(llama.ctx), True)
    llama.reset()
    llama.eval(tokens)
    return llama.scores[: len(tokens)].copy()


if __name__ == "__main__":
    main()
