"""Build the engine of a folder of AWQ weights under autoawq."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modules.core.events import Json
from modules.core.worker_errors import LoadFailed
from modules.engines.autoawq.arguments import COMPILED_PACKAGES, CONFIG, KERNEL, LOAD, Plan, arguments
from modules.engines.autoawq.cpu_kernel import repack_model
from modules.engines.autoawq.fused_layers import FusedModel, fused_layers
from modules.engines.autoawq.notes import no_fused_layers_note, notes
from modules.engines.autoawq.package import AWQ_CAUSAL_LM_MODEL_MAP, AutoAWQForCausalLM, attn
from modules.engines.autoawq.patches import patch_fused_attention, patched_loading, use_cpu_kernels
from modules.engines.engine_protocol import Report
from modules.engines.hf import compiled_extensions
from modules.engines.hf.arguments import Environment
from modules.engines.hf.build import check_finite_logits, torch_environment, with_loras
from modules.engines.hf.engine import Engine
from modules.engines.hf.model import Model, max_memory_by_device
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.legacy.arguments import inexpressible
from modules.engines.legacy.reading import load_tokenizer, reading_config, use_end_tokens
from modules.engines.progress import whole_percents
from modules.formats.transformers4 import Inexpressible
from modules.options.option import Value
from modules.system import malloc

NAME = "AutoAWQ"


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    """Load the folder at `path` and return its engine. Raises LoadFailed for a format that nothing here computes."""
    environment = usable_packages(torch_environment())
    plan = Plan(path, options, environment)
    if plan.incompatibility is not None:
        raise LoadFailed(NAME, path.name, f"version {plan.version}, {plan.bits} bits", plan.incompatibility)
    try:
        model = load_model(arguments(path, options, environment), whole_percents(report))
    except Inexpressible as error:
        raise LoadFailed(NAME, path.name, error.key, inexpressible("config.json", error.key)) from error
    use_end_tokens(model.module, path)
    check_finite_logits(model)
    vocabulary = TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens))
    all_notes = [*notes(path, options, environment)]
    if plan.fused and not isinstance(model, FusedModel):
        all_notes.append(no_fused_layers_note())
    return with_loras(Engine(model, vocabulary, plan.context, all_notes), model, plan.context)


def usable_packages(environment: Environment) -> Environment:
    """Return `environment` without compiled packages that cannot be imported, such as those for another PyTorch.

    With them autoawq would fuse nothing, or call functions that do not exist.
    """
    usable = compiled_extensions.keep_importable(environment, COMPILED_PACKAGES)
    return usable if attn.FA_INSTALLED else dataclasses.replace(usable, packages=usable.packages - {"flash_attn"})


def load_model(calls: Mapping[str, Json], progress: Callable[[float], None]) -> Model:
    """Load a model by the calls of `autoawq.arguments`. `progress` gets the loaded fraction, 0 to 1."""
    tokenizer = load_tokenizer(calls)
    args = dict(calls[LOAD])
    path, trusted = Path(args["quant_path"]), bool(args["trust_remote_code"])
    args["torch_dtype"] = getattr(torch, args["torch_dtype"])
    if "max_memory" in args:
        args["max_memory"] = max_memory_by_device(args["max_memory"])
    with (
        reading_config(calls, path, trusted, AWQ_CAUSAL_LM_MODEL_MAP),
        patched_loading(calls[CONFIG], KERNEL in calls, progress),
        _frozen_garbage(),
    ):
        module: Any = AutoAWQForCausalLM.from_quantized(**args).model
    if KERNEL in calls:
        use_cpu_kernels()
        with malloc.return_freed_memory():
            repack_model(module)
    if not fused_layers(module):
        return Model(NAME, tokenizer, module)
    patch_fused_attention()
    return FusedModel(NAME, tokenizer, module)


@contextlib.contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Exclude all present objects from garbage collection.

    autoawq collects garbage after every layer; going through everything imported would take most of the load time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
