"""Makes the engine of a GPTQ model under auto-gptq 0.7.1, whose traces on the libraries are wiped away again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from modules.core.errors import Unsupported
from modules.core.events import Json, Note
from modules.engines.autogptq import weights
from modules.engines.autogptq.arguments import CUDA, EXLLAMA, EXLLAMAV2, KERNEL, LOAD, Plan, arguments
from modules.engines.autogptq.cpu_kernel import quicken
from modules.engines.autogptq.notes import notes
from modules.engines.engine_protocol import Report
from modules.engines.hf import compiled_extensions
from modules.engines.hf.arguments import TOKENIZER, ModelConfig
from modules.engines.hf.build import check_finite_logits, torch_environment, with_loras
from modules.engines.hf.engine import Engine
from modules.engines.hf.model import Model, compute_logits_in_float32, load_tokenizer, max_memory_by_device
from modules.engines.hf.notes import disk_note
from modules.engines.hf.offload_folder import temporary_offload_folder
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.legacy import import_stubs
from modules.engines.progress import whole_percents
from modules.options.option import Value
from modules.system import malloc

import_stubs.prepare()

import auto_gptq.modeling._base as package  # noqa: E402
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig  # noqa: E402

from modules.engines.autogptq.fused_attention import ours_injected  # noqa: E402

package.logger.setLevel(logging.ERROR)  # it warns of kernels that are not there, and has a handler of its own


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    environment = compiled_extensions.tried(torch_environment(), (EXLLAMA, EXLLAMAV2, CUDA, "triton"))
    _check_format(Plan(path, options, environment))
    calls = arguments(path, options, environment)
    module = _module(calls[LOAD], whole_percents(report))
    if KERNEL in calls:
        with malloc.return_freed_memory():
            quicken(module)
        if "disk" not in module.hf_device_map.values():
            compute_logits_in_float32(module)
    model = Model("AutoGPTQ", load_tokenizer(calls[TOKENIZER]), module)
    check_finite_logits(model)
    vocabulary = TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens))
    context = ModelConfig(path).max_context
    said = (*notes(path, options, environment), *_found_out(model))
    made = with_loras(Engine(model, vocabulary, context, said), model, context)
    if calls[LOAD]["inject_fused_attention"] or calls[LOAD]["inject_fused_mlp"]:
        made.operations = {**made.operations, "apply_loras": _not_fused}
    return made


def _not_fused(adapters: list[Json]) -> list[float]:
    if not adapters:
        return []
    raise Unsupported(
        {
            "en": "LoRAs change layers that have been fused in this model. Load it with no_inject_fused_attention, and "
            "with no_inject_fused_mlp if triton is ticked.",
            "zh": "LoRA 所修改的层在此模型中已被融合。请勾选“不注入融合注意力”后重新加载；"
            "若勾选了 Triton，还须勾选“不注入融合MLP”。",
        }
    )


def _found_out(model: Model) -> Iterator[Note]:
    if count := model.devices.count("disk"):
        yield disk_note(count, len(model.devices), option="disk")


def _module(call: Mapping[str, Json], advance: Callable[[float], None]) -> Any:
    """The model of transformers inside auto-gptq's; `call` is what its `from_quantized` is given."""
    args = dict(call)
    folder = args.pop("offload_folder", None)
    own = temporary_offload_folder(folder) if folder else None
    args["torch_dtype"] = getattr(torch, args["torch_dtype"])
    args["quantize_config"] = BaseQuantizeConfig(**args["quantize_config"])
    if "max_memory" in args:
        args["max_memory"] = max_memory_by_device(args["max_memory"])
    with _libraries_as_they_were(), _our_reading(own, advance), ours_injected():
        return AutoGPTQForCausalLM.from_quantized(**args).model


@contextlib.contextmanager
def _libraries_as_they_were() -> Iterator[None]:
    """`from_quantized` puts functions that do nothing in the place of these, for good."""
    names = ("kaiming_uniform_", "uniform_", "normal_")
    before = {name: getattr(torch.nn.init, name) for name in names}
    initialises: Any = transformers.modeling_utils
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(torch.nn.init, name, function)
        initialises._init_weights = True


@contextlib.contextmanager
def _our_reading(folder: Path | None, advance: Callable[[float], None]) -> Iterator[None]:
    """Has `from_quantized` read the weights by `autogptq_weights`.

    accelerate's `load_checkpoint_in_model`, which it calls, is silent about what is missing, writes everything to a
    temporary folder first, and cannot be given a folder for what stays on disk; where the output shares the
    embeddings' weights, it takes the one that nobody has filled. auto-gptq 0.7.1 is the last version: none will differ.
    """
    modeling, dispatch = package.accelerate.utils.modeling, package.simple_dispatch_model
    before = modeling.load_checkpoint_in_model
    modeling.load_checkpoint_in_model = partial(weights.read_into, folder=folder, advance=advance)
    package.simple_dispatch_model = partial(weights.placed, usual=dispatch, folder=folder)
    try:
        yield
    finally:
        modeling.load_checkpoint_in_model, package.simple_dispatch_model = before, dispatch


def _check_format(plan: Plan) -> None:
    """auto-gptq would read a later format as if it were its own, and write nonsense."""
    said = str(plan.quantization.get("checkpoint_format") or "gptq")
    if said != "gptq":
        raise ValueError(f"checkpoint_format={said}")
