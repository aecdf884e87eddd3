"""Load a model by the calls of `exllamav2.arguments`, for both loaders that use ExLlamaV2."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from modules.core.events import Json, Progress
from modules.core.worker_errors import LoadFailed
from modules.engines.engine_protocol import Report
from modules.engines.exllamav2.arguments import (
    ATTENTION,
    AUTOSPLIT,
    CACHE,
    CONFIG,
    CONFIG_JSON,
    LOAD,
    NEGATIVE_CACHE,
    Environment,
    incompatibility,
)
from modules.engines.exllamav2.environment import AMPERE, KERNELS, installed
from modules.engines.exllamav2.patches import patch_attention
from modules.engines.progress import whole_percents


@dataclass(frozen=True)
class LoadedModel:
    """ExLlamaV2's objects. `caches` are the answer's and, if asked for, one for negative prompts.

    `ends` are the end-of-generation tokens that the model's files name.
    """

    model: Any
    config: Any
    caches: list[Any]
    ends: frozenset[int]


def import_exllamav2(report: Report) -> Environment:
    """Import ExLlamaV2 and return what it detected. Without installed or compiled kernels it compiles them first.

    Raises RuntimeError, OSError or ImportError if its kernels cannot be compiled or imported.
    """
    if not installed(KERNELS):
        if torch.version.cuda is None:
            raise RuntimeError("torch.version.cuda is None")
        report(Progress("kernels", 0.0))
    else:
        importlib.import_module(KERNELS)  # ExLlamaV2 itself would hide the cause of a failure behind a NameError
    attention = importlib.import_module("exllamav2.attn")
    gpus = range(torch.cuda.device_count())
    supported = all(torch.cuda.get_device_properties(gpu).major >= AMPERE for gpu in gpus)
    return Environment(
        flash=attention.has_flash_attn and supported,
        paged=attention.has_flash_attn_with_paged and supported,
        xformers=attention.has_xformers,
        gpus=len(gpus),
        flash_unsupported=attention.has_flash_attn and not supported,
    )


def load_model(calls: Mapping[str, Json], report: Report) -> LoadedModel:
    """Load the model and its caches. Raises ValueError if its logits are not finite."""
    library = importlib.import_module("exllamav2")
    with reading_config(calls.get(CONFIG_JSON, {})):
        config = _create_config(library, calls[CONFIG])
    # Calls that name neither mean flash-attention or xformers, which the model may turn out not to support.
    patch_attention(fused=ATTENTION in calls or "no_sdpa" not in calls[CONFIG])
    model = library.ExLlamaV2(config)
    report_fraction = whole_percents(report)

    def report_layers(done: int, total: int) -> None:
        report_fraction(done / total)

    if AUTOSPLIT in calls:
        caches = _create_caches(model, calls)
        model.load_autosplit(_as_one_cache(caches), callback=report_layers, **calls[AUTOSPLIT])
    else:
        model.load(callback=report_layers, **calls[LOAD])
        caches = _create_caches(model, calls)
    _check_logits(model, config)
    return LoadedModel(model, config, caches, frozenset(_end_tokens(config)))


def _create_caches(model: Any, calls: Mapping[str, Json]) -> list[Any]:
    return [create_cache(model, calls[name]) for name in (CACHE, NEGATIVE_CACHE) if name in calls]


def create_cache(model: Any, arguments: Mapping[str, Json]) -> Any:
    """Return an empty cache of the class that `arguments` name."""
    library, fields = importlib.import_module("exllamav2"), dict(arguments)
    return getattr(library, fields.pop("class"))(model, **fields)


def _as_one_cache(caches: list[Any]) -> Any:
    """Return the first cache, changed to allocate the others' memory layer by layer together with its own.

    `load_autosplit` finds out what fits where; a second cache made afterwards would find every GPU full.
    """
    allocators: list[Callable[[], Any]] = [cache.update_cache_tensors for cache in caches]
    caches[0].update_cache_tensors = lambda: [allocate() for allocate in allocators]
    return caches[0]


def _check_logits(model: Any, config: Any) -> None:
    """Evaluate eight tokens. Raises ValueError for logits that are not finite.

    It also tunes the kernels, for which the first answer would have to wait.
    """
    logits = model.forward(torch.arange(8)[None])[..., : config.vocab_size]
    if not logits.isfinite().all():
        raise ValueError("its logits are not finite")


def check_config(loader: str, path: Path) -> None:
    """Raise LoadFailed for a model that ExLlamaV2 would compute otherwise than its config.json says."""
    if (cause := incompatibility(path)) is not None:
        raise LoadFailed(loader, path.name, "", cause)


@contextlib.contextmanager
def reading_config(changes: Mapping[str, Json]) -> Iterator[None]:
    """Replace keys of config.json while ExLlamaV2 reads it."""
    module: Any = importlib.import_module("exllamav2.config")

    def load(file: Any) -> Any:
        content = json.load(file)
        return content | changes if Path(file.name).name == CONFIG_JSON else content

    module.json = SimpleNamespace(load=load)
    try:
        yield
    finally:
        module.json = json


def _create_config(library: Any, fields: Mapping[str, Json]) -> Any:
    config = library.ExLlamaV2Config()
    config.model_dir = fields["model_dir"]
    config.prepare()
    for field, value in fields.items():
        setattr(config, field, value)
    requested = config.no_flash_attn, config.no_xformers
    config.arch_compat_overrides(quiet=True)
    if (config.no_flash_attn, config.no_xformers) != requested:
        config.no_sdpa = True  # the model supports neither, and its own SDPA is wrong: see `exllamav2.patches`
    return config


def _end_tokens(config: Any) -> Iterator[int]:
    generation = getattr(config, "generation_config", {}).get("eos_token_id")
    for value in (generation, config.eos_token_id):
        yield from value if isinstance(value, list) else [] if value is None else [value]
