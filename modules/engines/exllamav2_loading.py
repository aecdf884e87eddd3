"""Loads a model by the calls of `exllamav2_arguments`, for both loaders that use ExLlamaV2."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modules.engines.base import Report
from modules.engines.exllamav2_arguments import AUTOSPLIT, CACHE, CONFIG, LOAD, Here
from modules.engines.exllamav2_machine import KERNELS, installed
from modules.engines.progress import whole_percents
from modules.events import Json, Progress


@dataclass(frozen=True)
class Loaded:
    """ExLlamaV2's objects. `ends` are the tokens that end an answer, as the model's files say."""

    model: Any
    config: Any
    cache: Any
    ends: frozenset[int]


def found(report: Report) -> Here:
    """Import ExLlamaV2, and see what it has found. It compiles its kernels unless they are installed, or were compiled
    before. RuntimeError, OSError, ImportError."""
    if not installed(KERNELS):
        if torch.version.cuda is None:
            raise RuntimeError("torch.version.cuda is None")
        report(Progress("kernels", 0.0))
    attention = importlib.import_module("exllamav2.attn")
    return Here(
        attention.has_flash_attn,
        attention.has_flash_attn_with_paged,
        attention.has_xformers,
        torch.cuda.device_count(),
    )


def loaded(calls: Mapping[str, Json], report: Report) -> Loaded:
    library = importlib.import_module("exllamav2")
    config = _config(library, calls[CONFIG])
    model = library.ExLlamaV2(config)
    advance = whole_percents(report)
    if AUTOSPLIT in calls:
        cache = new_cache(model, calls[CACHE])
        model.load_autosplit(cache, callback=_counted(advance), **calls[AUTOSPLIT])
    else:
        model.load(callback=_counted(advance), **calls[LOAD])
        cache = new_cache(model, calls[CACHE])
    return Loaded(model, config, cache, frozenset(_ends(config)))


def new_cache(model: Any, args: Mapping[str, Json]) -> Any:
    words = dict(args)
    return getattr(importlib.import_module("exllamav2"), words.pop("class"))(model, **words)


def _config(library: Any, fields: Mapping[str, Json]) -> Any:
    config = library.ExLlamaV2Config()
    config.model_dir = fields["model_dir"]
    config.prepare()
    for field, value in fields.items():
        setattr(config, field, value)
    before = config.no_flash_attn
    config.arch_compat_overrides(quiet=True)
    if config.no_flash_attn and not before:
        config.no_sdpa = True  # it has turned off what was to be used instead: see `exllamav2_arguments`
    return config


def _counted(advance: Callable[[float], None]) -> Callable[[int, int], None]:
    return lambda done, of: advance(done / of)


def _ends(config: Any) -> Iterator[int]:
    told = getattr(config, "generation_config", {}).get("eos_token_id")
    for each in (told, config.eos_token_id):
        yield from each if isinstance(each, list) else [] if each is None else [each]
