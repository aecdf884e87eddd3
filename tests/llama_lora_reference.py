"""What llama.cpp makes of an adapter: a script, so that a crash of native code is no end of the tests.

`python -m tests.llama_lora_reference <what.json>`: of each of "jobs", "model" is a GGUF file, "adapters" are GGUF files
by their names. The logits after each of "tokens" are saved in "out", by the adapter's name; "none" is before, and
"removed" after all.
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


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text())["jobs"]:
        _do(job)


def _do(asked: dict[str, Any]) -> None:
    llama = Llama(asked["model"], n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    found = {"none": _logits(llama, asked["tokens"])}
    for name, path in asked["adapters"].items():
        adapter = native.llama_adapter_lora_init(llama._model.model, os.fsencode(path))
        assert adapter, f"llama.cpp refuses {path}"
        handles = (native.llama_adapter_lora_p_ctypes * 1)(adapter)
        assert native.llama_set_adapters_lora(llama.ctx, handles, 1, (ctypes.c_float * 1)(1.0)) == 0
        found[name] = _logits(llama, asked["tokens"])
    native.llama_set_adapters_lora(llama.ctx, None, 0, None)
    found["removed"] = _logits(llama, asked["tokens"])
    np.savez(asked["out"], **found)


def _logits(llama: Llama, tokens: list[int]) -> Any:
    native.llama_memory_clear(native.llama_get_memory(llama.ctx), True)
    llama.reset()
    llama.eval(tokens)
    return llama.scores[: len(tokens)].copy()


if __name__ == "__main__":
    main()
