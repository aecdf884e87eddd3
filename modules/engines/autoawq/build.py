"""Makes the engine of a folder of AWQ weights under autoawq."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modules.core.errors import LoadFailed
from modules.core.events import Json
from modules.engines.autoawq.arguments import COMPILED_PACKAGES, CONFIG, KERNEL, LOAD, Plan, arguments
from modules.engines.autoawq.cpu_kernel import repack
from modules.engines.autoawq.fused_layers import FusedModel, fused_layers
from modules.engines.autoawq.notes import no_fused_layers_note, notes
from modules.engines.autoawq.package import AutoAWQForCausalLM, attn
from modules.engines.autoawq.patches import mended, see_each_token_once, use_kernels_of_torch
from modules.engines.engine_protocol import Report
from modules.engines.hf import compiled_extensions
from modules.engines.hf.arguments import TOKENIZER, Environment
from modules.engines.hf.build import check_finite_logits, torch_environment, with_loras
from modules.engines.hf.engine import Engine
from modules.engines.hf.model import Model, load_tokenizer, max_memory_by_device
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.progress import whole_percents
from modules.options.option import Value
from modules.system import malloc

NAME = "AutoAWQ"


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    environment = fitting(torch_environment())
    plan = Plan(path, options, environment)
    if plan.incompatibility is not None:
        raise LoadFailed(NAME, path.name, f"version {plan.version}, {plan.bits} bits", plan.incompatibility)
    model = loaded(arguments(path, options, environment), whole_percents(report))
    check_finite_logits(model)
    vocabulary = TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens))
    said = [*notes(path, options, environment)]
    if plan.fused and not isinstance(model, FusedModel):
        said.append(no_fused_layers_note())
    return with_loras(Engine(model, vocabulary, plan.context, said), model, plan.context)


def fitting(environment: Environment) -> Environment:
    """What was built for another PyTorch cannot be imported: autoawq then fuses nothing, or calls what is not there."""
    found = compiled_extensions.tried(environment, COMPILED_PACKAGES)
    return found if attn.FA_INSTALLED else dataclasses.replace(found, packages=found.packages - {"flash_attn"})


def loaded(calls: Mapping[str, Json], advance: Callable[[float], None]) -> Model:
    """What the calls give."""
    tokenizer = load_tokenizer(calls[TOKENIZER])
    args = dict(calls[LOAD])
    args["torch_dtype"] = getattr(torch, args["torch_dtype"])
    if "max_memory" in args:
        args["max_memory"] = max_memory_by_device(args["max_memory"])
    with mended(calls[CONFIG], KERNEL in calls, advance), _nothing_to_collect():
        module: Any = AutoAWQForCausalLM.from_quantized(**args).model
    if KERNEL in calls:
        use_kernels_of_torch()
        with malloc.return_freed_memory():
            repack(module)
    if not fused_layers(module):
        return Model(NAME, tokenizer, module)
    see_each_token_once()
    return FusedModel(NAME, tokenizer, module)


@contextlib.contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """It collects garbage after every layer, which takes most of the time if all that was imported is looked at."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
