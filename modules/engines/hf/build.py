"""Build the engine for a folder of PyTorch weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from modules.core.events import Json, Note, Progress
from modules.engines.engine_protocol import Report
from modules.engines.hf.arguments import (
    IMAGES,
    Environment,
    ModelConfig,
    arguments,
    gptqmodel_kernel,
    model_call,
    uses_gptqmodel_on_cpu,
    uses_gptqmodel_on_gpus,
)
from modules.engines.hf.attention import speed_up_grouped_queries
from modules.engines.hf.engine import Engine
from modules.engines.hf.environment import environment_with
from modules.engines.hf.gptqmodel import check_layers_on_gpus, disable_compilation, run_kernels_in_bfloat16
from modules.engines.hf.model import Model, load_model
from modules.engines.hf.model_folder import folder_for_transformers, in_folder
from modules.engines.hf.notes import disk_note, no_images_note, notes
from modules.engines.hf.offload_folder import temporary_offload_folder
from modules.engines.hf.packed_linear import pack_linear_layers
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.hf.saved_prompts import PromptFiles, state_facts
from modules.engines.lora_set import LoraSet
from modules.engines.progress import whole_percents
from modules.engines.prompt_cache.keeper import PromptKeeper
from modules.options.option import Value
from modules.system import malloc

if TYPE_CHECKING:
    from modules.engines.hf.vision import Vision


def engine(path: Path, options: Mapping[str, Value], environment: Environment, report: Report) -> Engine:
    """Load the model in the folder `path` and return its engine."""
    config = ModelConfig(path)
    # Repacking layers at the first step left up to 550 MB of heap behind with 135 million weights.
    repacks = uses_gptqmodel_on_cpu(config, options, environment)
    with malloc.return_freed_memory() if repacks else contextlib.nullcontext():
        return _build_engine(path, config, options, environment, report)


def _build_engine(
    path: Path, config: ModelConfig, options: Mapping[str, Value], environment: Environment, report: Report
) -> Engine:
    calls = in_folder(arguments(path, options, environment), folder_for_transformers(path))
    _, args = model_call(calls)
    if "offload_folder" in args:
        args["offload_folder"] = str(temporary_offload_folder(args["offload_folder"]))
    if uses_gptqmodel_on_cpu(config, options, environment):
        model = _load_quantized_on_cpu(calls, report)
    elif uses_gptqmodel_on_gpus(config, options, environment):
        model = _load_quantized_on_gpus(calls, report, compiles=not gptqmodel_kernel(config, options, environment))
    else:
        model = load_model(calls, whole_percents(report))
        speed_up_grouped_queries()
        if not model.is_encoder_decoder and not model.must_prefill_at_once(model.new_cache()):
            pack_linear_layers(model.module)  # T5 and Mamba look at weights at every token, which would unpack them
    vocabulary = TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens))
    vision, vision_notes = _open_vision(path, config, model)
    all_notes = (*notes(path, options, environment), *_offload_notes(model.devices), *vision_notes)
    context = config.context_length(options)
    if vision is None:
        engine = Engine(model, vocabulary, context, all_notes)
    else:
        from modules.engines.hf.vision_engine import VisionEngine

        engine = VisionEngine(model, vocabulary, context, all_notes, vision)
    engine = with_loras(engine, model, context)
    return _with_prompts(engine, path, state_facts(args, model.devices))


def _with_prompts(engine: Engine, path: Path, facts: Json) -> Engine:
    """Add the operation "keep_prompts", if the engine can save prompts; `facts` are those of `PromptKeeper`."""
    if engine.can_save_prompts:
        prompts = PromptKeeper(path, facts, lambda store: engine.use_files(PromptFiles(store) if store else None))
        apply = prompts.following(engine.operations["apply_loras"])
        engine.operations = {**engine.operations, "keep_prompts": prompts.keep, "apply_loras": apply}
    return engine


def _open_vision(path: Path, config: ModelConfig, model: Model) -> tuple[Vision | None, tuple[Note, ...]]:
    """Return what reads pictures for a vision model; None for a text model and, with a note, if it cannot be used."""
    if config.auto_class != IMAGES or "pixel_values" not in model.input_names:
        return None, ()
    if "cross_attention_mask" in model.input_names:  # its later forward passes would need one as well
        return None, (no_images_note(f"{config.fields['model_type']} models read text alone here."),)
    from modules.engines.hf.processor import NoProcessor, load_processor
    from modules.engines.hf.vision import Vision

    try:
        return Vision(load_processor(path, model.module.config, model.tokenizer), model), ()
    except NoProcessor as error:
        return None, (no_images_note(str(error)),)


def with_loras(engine: Engine, model: Model, context: int) -> Engine:
    """Add the operation "apply_loras" to the engine of `model`."""
    engine.operations = {**engine.operations, "apply_loras": _lora_operation(model, context, engine.forget)}
    return engine


def _lora_operation(model: Model, context: int, forget: Callable[[], None]) -> Callable[..., list[float]]:
    @cache
    def apply() -> Callable[..., list[float]]:
        from modules.engines.hf.lora import PeftAdapters  # importing PEFT takes a second and 55 MB

        return LoraSet(PeftAdapters(model, context, forget)).apply

    return lambda adapters: apply()(adapters)


def _load_quantized_on_cpu(calls: Mapping[str, Json], report: Report) -> Model:
    report(Progress("kernels", 0.0))  # gptqmodel compiles them before it reads the weights
    disable_compilation()
    model = load_model(calls, whole_percents(report))
    if model_call(calls)[1]["dtype"] == "float32":
        run_kernels_in_bfloat16(model.module)
    return model


def _load_quantized_on_gpus(calls: Mapping[str, Json], report: Report, compiles: bool) -> Model:
    if compiles:
        report(Progress("kernels", 0.0))
    model = load_model(calls, weights_then_kernels(report) if compiles else whole_percents(report))
    check_layers_on_gpus(model.module)
    if not model.is_encoder_decoder:
        check_finite_logits(model)  # Triton compiles its kernels at the first use, and may lack a compiler
    return model


def weights_then_kernels(report: Report) -> Callable[[float], None]:
    """Report percents of the weights, then the stage "kernels": Marlin's for a GPU are compiled after the weights."""
    percents = whole_percents(report)

    def advance(done: float) -> None:
        percents(done)
        if done >= 1:
            report(Progress("kernels", 0.0))

    return advance


def _offload_notes(devices: Sequence[str]) -> Iterator[Note]:
    if count := devices.count("disk"):
        yield disk_note(count, len(devices))


def check_finite_logits(model: Model) -> None:
    """Raise ValueError if the model's logits are not finite.

    Damaged scales, or values beyond the range of float16, would make an answer of nothing but the first token.
    """
    tokens = model.encode("The") or [0]
    if not model.forward(tokens, model.new_cache()).isfinite().all():
        raise ValueError("its logits are not finite")


def torch_environment() -> Environment:
    """Return the environment as PyTorch sees it, with the free bytes of every GPU, which accelerate uses as well."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sizes = tuple(int(torch.cuda.mem_get_info(device)[0]) for device in range(count))
    return environment_with(sizes)
