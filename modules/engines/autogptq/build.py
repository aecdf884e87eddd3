"""Load a GPTQ model and undo auto-gptq's global monkey patches; of auto-gptq 0.7.1."""

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
from modules.core.worker_errors import LoadFailed
from modules.engines.autogptq import weights
from modules.engines.autogptq.arguments import CUDA, EXLLAMA, EXLLAMAV2, KERNEL, LOAD, Plan, arguments
from modules.engines.autogptq.cpu_kernel import repack_model
from modules.engines.autogptq.notes import notes
from modules.engines.engine_protocol import Report
from modules.engines.hf import compiled_extensions
from modules.engines.hf.arguments import ModelConfig
from modules.engines.hf.build import check_finite_logits, torch_environment, with_loras
from modules.engines.hf.engine import Engine
from modules.engines.hf.model import Model, compute_logits_in_float32, max_memory_by_device
from modules.engines.hf.notes import disk_note
from modules.engines.hf.offload_folder import temporary_offload_folder
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.legacy import import_stubs
from modules.engines.legacy.arguments import inexpressible
from modules.engines.legacy.reading import load_tokenizer, reading_config, use_end_tokens
from modules.engines.progress import whole_percents
from modules.formats.transformers4 import Inexpressible
from modules.options.option import Value
from modules.system import malloc

import_stubs.prepare()

import auto_gptq.modeling._base as package  # noqa: E402
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig  # noqa: E402
from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP  # noqa: E402

from modules.engines.autogptq.fused_attention import injecting_our_attention  # noqa: E402

NAME = "AutoGPTQ"
package.logger.setLevel(logging.ERROR)  # its own handler would print warnings about missing kernels


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    """Load the folder at `path` and return its engine. Raises ValueError for a later version of the format."""
    environment = compiled_extensions.keep_importable(torch_environment(), (EXLLAMA, EXLLAMAV2, CUDA, "triton"))
    plan = Plan(path, options, environment)
    _check_format(plan)
    if plan.incompatibility is not None:
        raise LoadFailed(NAME, path.name, "", plan.incompatibility)
    calls = arguments(path, options, environment)
    try:
        with reading_config(calls, path, plan.trusted, GPTQ_CAUSAL_LM_MODEL_MAP):
            module = _load_module(calls[LOAD], whole_percents(report))
    except Inexpressible as error:
        raise LoadFailed(NAME, path.name, error.key, inexpressible("config.json", error.key)) from error
    use_end_tokens(module, path)
    if KERNEL in calls:
        with malloc.return_freed_memory():
            repack_model(module)
        if "disk" not in module.hf_device_map.values():
            compute_logits_in_float32(module)
    model = Model(NAME, load_tokenizer(calls), module)
    check_finite_logits(model)
    vocabulary = TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens))
    context = ModelConfig(path).max_context
    all_notes = (*notes(path, options, environment), *_runtime_notes(model))
    engine = with_loras(Engine(model, vocabulary, context, all_notes), model, context)
    if calls[LOAD]["inject_fused_attention"] or calls[LOAD]["inject_fused_mlp"]:
        engine.operations = {**engine.operations, "apply_loras": _refuse_loras}
    return engine


def _refuse_loras(adapters: list[Json]) -> list[float]:
    """Raise Unsupported for any adapter: the layers it would change are fused."""
    if not adapters:
        return []
    raise Unsupported(
        {
            "en": "LoRAs cannot be applied to the fused layers of this model. Load it with no_inject_fused_attention, "
            "and with no_inject_fused_mlp if triton is ticked.",
            "zh": "此模型的层已融合，无法应用 LoRA。请勾选“不使用融合注意力”后重新加载；"
            "若勾选了 Triton，还须勾选“不使用融合 MLP”。",
        }
    )


def _runtime_notes(model: Model) -> Iterator[Note]:
    """Yield the notes that only the loaded model can tell."""
    if count := model.devices.count("disk"):
        yield disk_note(count, len(model.devices), option="disk")


def _load_module(call: Mapping[str, Json], progress: Callable[[float], None]) -> Any:
    """Return the transformers model inside auto-gptq's; `call` holds the arguments of `from_quantized`."""
    args = dict(call)
    parent = args.pop("offload_folder", None)
    offload_folder = temporary_offload_folder(parent) if parent else None
    args["torch_dtype"] = getattr(torch, args["torch_dtype"])
    args["quantize_config"] = BaseQuantizeConfig(**args["quantize_config"])
    if "max_memory" in args:
        args["max_memory"] = max_memory_by_device(args["max_memory"])
    with _restored_init_functions(), _our_checkpoint_loading(offload_folder, progress), injecting_our_attention():
        return AutoGPTQForCausalLM.from_quantized(**args).model


@contextlib.contextmanager
def _restored_init_functions() -> Iterator[None]:
    """Restore the functions that `from_quantized` replaces by empty ones for good."""
    names = ("kaiming_uniform_", "uniform_", "normal_")
    originals = {name: getattr(torch.nn.init, name) for name in names}
    modeling_utils: Any = transformers.modeling_utils
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(torch.nn.init, name, function)
        modeling_utils._init_weights = True


@contextlib.contextmanager
def _our_checkpoint_loading(folder: Path | None, progress: Callable[[float], None]) -> Iterator[None]:
    """Have `from_quantized` load the weights by `autogptq.weights`.

    accelerate's `load_checkpoint_in_model`, which it calls, does not report missing tensors, writes everything to a
    temporary folder first, and cannot be told a folder for what stays on disk; where the output layer shares the
    embeddings' weights, it takes the one that was not loaded. auto-gptq 0.7.1 is the last version.
    """
    modeling, simple_dispatch = package.accelerate.utils.modeling, package.simple_dispatch_model
    original = modeling.load_checkpoint_in_model
    modeling.load_checkpoint_in_model = partial(weights.load_checkpoint, folder=folder, progress=progress)
    package.simple_dispatch_model = partial(weights.dispatch, simple_dispatch=simple_dispatch, folder=folder)
    try:
        yield
    finally:
        modeling.load_checkpoint_in_model, package.simple_dispatch_model = original, simple_dispatch


def _check_format(plan: Plan) -> None:
    """Raise ValueError for a later version of the format, which auto-gptq would read as its own and compute wrongly."""
    version = str(plan.quantization.get("checkpoint_format") or "gptq")
    if version != "gptq":
        raise ValueError(f"checkpoint_format={version}")
