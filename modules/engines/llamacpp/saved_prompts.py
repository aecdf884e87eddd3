"""Save what the KV cache of llama.cpp holds to files, and say on what its keys and values depend."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping

import llama_cpp
import llama_cpp.llama_cpp as native

from modules.core.events import Json
from modules.engines.llamacpp.arguments import DRAFT
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.image_cells import has_images
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.slots import SavedPrefix

_WITHOUT_EFFECT = {
    "llama_model_load_from_file": ("path_model", "load_mode"),
    "llama_init_from_model": ("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch"),
}
"""Arguments by calls that change neither keys and values nor how they are saved, except for rounding."""
_OTHER_CALLS = ("llama_numa_init", "ggml_backend_load", "mtmd_init_from_file", DRAFT)
_META_BYTES = 128
MAX_COPY_WHILE_LOADED = 512 << 20
"""Bytes of a slot's state that are copied while the model stays loaded: a request that arrives waits for that copy.

One core copies some 5 GB/s.
"""


def state_facts(calls: Mapping[str, Json], model: Model) -> Json:
    """Return on what the state of a prompt depends besides the tokens, the model's file and the LoRAs."""
    facts: dict[str, Json] = {
        call: {name: value for name, value in args.items() if name not in _WITHOUT_EFFECT.get(call, ())}
        for call, args in calls.items()
        if call not in _OTHER_CALLS
    }
    if facts["llama_init_from_model"]["kv_unified"]:  # else a state tells how many streams there are
        del facts["llama_init_from_model"]["n_seq_max"]
    return {**facts, "llama_cpp": llama_cpp.__version__, "long_rope": _uses_long_rope(model)}


def _uses_long_rope(model: Model) -> bool:
    """Whether the context is so long that models with two sets of RoPE factors use the second one."""
    trained = _metadata(model, f"{_metadata(model, 'general.architecture')}.rope.scaling.original_context_length")
    return trained.isdigit() and model.n_ctx > int(trained)


def _metadata(model: Model, key: str) -> str:
    """Return a value of the model's metadata as a text; "" without one."""
    buffer = ctypes.create_string_buffer(_META_BYTES)
    length = native.llama_model_meta_val_str(model.handle, key.encode(), buffer, _META_BYTES)
    return buffer.value.decode(errors="replace") if length > 0 else ""


def save_prompts(cache: KVCache, model: Model, seconds: float, at_end: bool) -> Iterator[None]:
    """Save the prompts of `cache` that are worth it, those used last first, in small steps.

    Nothing else may be done with the model between two steps. Pictures are not among the tokens, so prompts with
    pictures are left out.
    """
    store, deadline = cache.store, time.monotonic() + seconds
    if store is None:
        return
    store.drop_missing()
    for rank, held in enumerate(cache.contents()):
        size = held.state.size if isinstance(held, SavedPrefix) else model.state_size(held.number)
        is_quick = isinstance(held, SavedPrefix) or at_end or size <= MAX_COPY_WHILE_LOADED
        if has_images(held.cells) or size > cache.max_saved_bytes or not is_quick:
            continue
        if not store.is_worth_writing(held.cells, size, at_end, deadline - time.monotonic(), model.can_truncate):
            continue
        state = held.state if isinstance(held, SavedPrefix) else model.save_state(held.number)
        if state.size:
            yield from store.write(held.cells[:], None, state.size, [state.data], rank, model.can_truncate)
