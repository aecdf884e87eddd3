"""Compute logits with LoRAs by llama_cpp.Llama: a script, so that a crash of native code does not end the tests.

`python -m tests.support.llama_lora_reference <request.json>`. In each of its "jobs", "model" is a GGUF file, "adapters"
are GGUF files by name, and "sets" (optional) are weights of several adapters by the name of the set. The logits after
each of "tokens" are saved in "out" by the name of the adapter or the set; "none" are those before the first adapter is
applied, "removed" those after all adapters have been removed.
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
        _run(job)


def _run(job: dict[str, Any]) -> None:
    llama = Llama(job["model"], n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    logits = {"none": _logits(llama, job["tokens"])}
    adapters = {name: _open(llama, path) for name, path in job["adapters"].items()}
    for name, weights in ({adapter: {adapter: 1.0} for adapter in adapters} | job.get("sets", {})).items():
        handles = (native.llama_adapter_lora_p_ctypes * len(weights))(*(adapters[adapter] for adapter in weights))
        scales = (ctypes.c_float * len(weights))(*weights.values())
        assert native.llama_set_adapters_lora(llama.ctx, handles, len(weights), scales) == 0
        logits[name] = _logits(llama, job["tokens"])
    native.llama_set_adapters_lora(llama.ctx, None, 0, None)
    logits["removed"] = _logits(llama, job["tokens"])
    np.savez(job["out"], **logits)


def _open(llama: Llama, path: str) -> Any:
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
