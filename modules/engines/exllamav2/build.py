"""Loads a model by the calls of `exllamav2_arguments`, for both loaders that use ExLlamaV2."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modules.core.events import Json, Progress
from modules.engines.engine_protocol import Report
from modules.engines.exllamav2.arguments import ATTENTION, AUTOSPLIT, CACHE, CONFIG, LOAD, NEGATIVE_CACHE, Environment
from modules.engines.exllamav2.environment import AMPERE, KERNELS, installed
from modules.engines.exllamav2.patches import look_back
from modules.engines.progress import whole_percents


@dataclass(frozen=True)
class Loaded:
    """ExLlamaV2's objects. `caches` are one, and one for negative prompts if that was asked for; `ends` are the tokens
    that end an answer, as the model's files say."""

    model: Any
    config: Any
    caches: list[Any]
    ends: frozenset[int]


def found(report: Report) -> Environment:
    """Import ExLlamaV2, and see what it has found. It compiles its kernels unless they are installed, or were compiled
    before. RuntimeError, OSError, ImportError."""
    if not installed(KERNELS):
        if torch.version.cuda is None:
            raise RuntimeError("torch.version.cuda is None")
        report(Progress("kernels", 0.0))
    else:
        importlib.import_module(KERNELS)  # ExLlamaV2 would hide why that fails behind a NameError
    attention = importlib.import_module("exllamav2.attn")
    gpus = range(torch.cuda.device_count())
    runs = all(torch.cuda.get_device_properties(gpu).major >= AMPERE for gpu in gpus)
    return Environment(
        flash=attention.has_flash_attn and runs,
        paged=attention.has_flash_attn_with_paged and runs,
        xformers=attention.has_xformers,
        gpus=len(gpus),
        unfit=attention.has_flash_attn and not runs,
    )


def loaded(calls: Mapping[str, Json], report: Report) -> Loaded:
    """ValueError for a model that calculates nonsense."""
    library = importlib.import_module("exllamav2")
    config = _config(library, calls[CONFIG])
    # Where neither is in the calls, flash-attention or xformers was to be used, and the model may not suit that.
    look_back(fused=ATTENTION in calls or "no_sdpa" not in calls[CONFIG])
    model = library.ExLlamaV2(config)
    advance = whole_percents(report)
    if AUTOSPLIT in calls:
        caches = _caches(library, model, calls)
        model.load_autosplit(_as_one(caches), callback=_counted(advance), **calls[AUTOSPLIT])
    else:
        model.load(callback=_counted(advance), **calls[LOAD])
        caches = _caches(library, model, calls)
    _check_sound(model, config)
    return Loaded(model, config, caches, frozenset(_ends(config)))


def _caches(library: Any, model: Any, calls: Mapping[str, Json]) -> list[Any]:
    wanted = [dict(calls[name]) for name in (CACHE, NEGATIVE_CACHE) if name in calls]
    return [getattr(library, words.pop("class"))(model, **words) for words in wanted]


def _as_one(caches: list[Any]) -> Any:
    """The first, which has the others take their memory as it takes its own: layer by layer, while it is found out what
    fits where. Made afterwards, a second one would find each GPU full."""
    each = [cache.update_cache_tensors for cache in caches]
    caches[0].update_cache_tensors = lambda: [take() for take in each]
    return caches[0]


def _check_sound(model: Any, config: Any) -> None:
    """It also has kernels tuned, for which the first answer would wait."""
    logits = model.forward(torch.arange(8)[None])[..., : config.vocab_size]
    if not logits.isfinite().all():
        raise ValueError("its logits are not finite")


def _config(library: Any, fields: Mapping[str, Json]) -> Any:
    config = library.ExLlamaV2Config()
    config.model_dir = fields["model_dir"]
    config.prepare()
    for field, value in fields.items():
        setattr(config, field, value)
    wanted = config.no_flash_attn, config.no_xformers
    config.arch_compat_overrides(quiet=True)
    if (config.no_flash_attn, config.no_xformers) != wanted:
        config.no_sdpa = True  # it has turned off what was to be used instead: see `exllamav2_mended`
    return config


def _counted(advance: Callable[[float], None]) -> Callable[[int, int], None]:
    return lambda done, of: advance(done / of)


def _ends(config: Any) -> Iterator[int]:
    told = getattr(config, "generation_config", {}).get("eos_token_id")
    for each in (told, config.eos_token_id):
        yield from each if isinstance(each, list) else [] if each is None else [each]
