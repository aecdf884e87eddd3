"""The draft model of a GGUF model: which file it is, and the calls that load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.options.load_llamacpp import ON
from modules.options.option import Value

ALL_LAYERS = 256
"""The end of the slider of gpu_layers_draft, which stands for all layers, as any negative number does."""
MAX_FOLDERS = 4
"""Folders in which the file is looked for: that of the model, and those above it up to the folder of all models."""
_LONG_POSITIONS = ("rope_freq_base", "rope_freq_scale")
"""Arguments that suit the large model alone."""


def draft_path(path: Path, options: Mapping[str, Value]) -> Path | None:
    """Return the file that `model_draft` names, which may not exist; None without the option.

    The name is relative to the folder of all models, or to that of the model at `path`.
    """
    name = str(options.get("model_draft", ""))
    if not name:
        return None
    candidates = [folder / name for folder in list(path.parents)[:MAX_FOLDERS]]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


def draft_options(options: Mapping[str, Value], n_ctx: int) -> dict[str, Value]:
    """Return the options of the draft model of a model with `options` that has `n_ctx` cells."""
    return {
        **options,
        "model_draft": "",
        "mmproj": "none",
        "tensor_split": "",
        "rpc": "",
        "kv_unified": ON,
        "n_gpu_layers": draft_gpu_layers(options),
        "n_ctx": int(options["ctx_size_draft"]) or n_ctx,
    }


def draft_gpu_layers(options: Mapping[str, Value]) -> int:
    """Return how many layers go to GPUs; -1 for all."""
    layers = int(options["gpu_layers_draft"])
    if options["cpu"]:
        return 0
    return -1 if layers < 0 or layers >= ALL_LAYERS else layers


def draft_calls(path: Path, options: Mapping[str, Value], calls: Mapping[str, Json]) -> dict[str, Json]:
    """Return the calls that load the draft model beside the model at `path`, which `calls` load; none without one.

    All its sequences share one KV cache. An n_ctx of 0 stands for as many cells as the large model has.
    """
    draft = draft_path(path, options)
    if draft is None:
        return {}
    model = {key: value for key, value in calls["llama_model_load_from_file"].items() if key != "tensor_split"}
    context = {key: value for key, value in calls["llama_init_from_model"].items() if key not in _LONG_POSITIONS}
    n_ctx = int(options["ctx_size_draft"]) or context["n_ctx"]
    return {
        "llama_model_load_from_file": {**model, "path_model": str(draft), "n_gpu_layers": draft_gpu_layers(options)},
        "llama_init_from_model": {**context, "n_ctx": n_ctx, "kv_unified": True},
        "common_params_speculative": {"n_max": int(options["draft_max"])},
    }
