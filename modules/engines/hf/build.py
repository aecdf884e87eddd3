"""Makes the engine of a folder of PyTorch weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from modules.core.events import Json, Note, Progress
from modules.engines.engine_protocol import Report
from modules.engines.hf.arguments import (
    Environment,
    ModelConfig,
    arguments,
    gptqmodel_kernel,
    model_call,
    uses_gptqmodel_on_cpu,
    uses_gptqmodel_on_gpus,
)
from modules.engines.hf.engine import Engine
from modules.engines.hf.environment import environment_with
from modules.engines.hf.gptqmodel import check_on_gpus, in_their_numbers
from modules.engines.hf.model import Model, loaded
from modules.engines.hf.notes import disk_note, notes
from modules.engines.hf.offload_folder import folder_until_we_end
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.lora_set import operation
from modules.engines.progress import whole_percents
from modules.options.option import Value
from modules.system import malloc


def engine(path: Path, options: Mapping[str, Value], environment: Environment, report: Report) -> Engine:
    config = ModelConfig(path)
    # Repacking layers, at the first step, left up to 550 MB over with 135 million weights.
    with (
        malloc.return_freed_memory()
        if uses_gptqmodel_on_cpu(config, options, environment)
        else contextlib.nullcontext()
    ):
        return _engine(path, config, options, environment, report)


def _engine(
    path: Path, config: ModelConfig, options: Mapping[str, Value], environment: Environment, report: Report
) -> Engine:
    calls = arguments(path, options, environment)
    _, args = model_call(calls)
    if "offload_folder" in args:
        args["offload_folder"] = str(folder_until_we_end(args["offload_folder"]))
    if uses_gptqmodel_on_cpu(config, options, environment):
        model = _packed_on_cpu(calls, report)
    elif uses_gptqmodel_on_gpus(config, options, environment):
        model = _packed_on_gpus(calls, report, compiles=not gptqmodel_kernel(config, options, environment))
    else:
        model = loaded(calls, whole_percents(report))
    vocabulary = TokenizerVocabulary(model.tokenizer, model.size, sorted(model.ends))
    said = (*notes(path, options, environment), *_left_on_disk(model.places))
    context = config.context_length(options)
    return with_loras(Engine(model, vocabulary, context, said), model, context)


def with_loras(made: Engine, model: Model, context: int) -> Engine:
    """`made` of that `model`, able to take LoRAs."""
    made.operations = {**made.operations, "apply_loras": _loras(model, context, made.forget)}
    return made


def _loras(model: Model, context: int, forget: Callable[[], None]) -> Callable[..., list[float]]:
    @cache
    def apply() -> Callable[..., list[float]]:
        from modules.engines.hf.lora import HfAdapters  # PEFT takes a second and 55 MB, which only who uses it pays

        return operation(HfAdapters(model, context, forget))

    return lambda adapters: apply()(adapters)


def _packed_on_cpu(calls: Mapping[str, Json], report: Report) -> Model:
    report(Progress("kernels", 0.0))  # gptqmodel's, before it reads the weights
    model = loaded(calls, whole_percents(report))
    if model_call(calls)[1]["dtype"] == "float32":
        in_their_numbers(model.module)
    return model


def _packed_on_gpus(calls: Mapping[str, Json], report: Report, compiles: bool) -> Model:
    if compiles:
        report(Progress("kernels", 0.0))
    model = loaded(calls, weights_then_kernels(report) if compiles else whole_percents(report))
    check_on_gpus(model.module)
    if not model.writes_apart:
        check_sound(model)  # Triton compiles its kernels at the first use, and may lack what it takes
    return model


def weights_then_kernels(report: Report) -> Callable[[float], None]:
    """Marlin's for a GPU are compiled once the weights are read."""
    percents = whole_percents(report)

    def advance(done: float) -> None:
        percents(done)
        if done >= 1:
            report(Progress("kernels", 0.0))

    return advance


def _left_on_disk(places: Sequence[str]) -> Iterator[Note]:
    if count := places.count("disk"):
        yield disk_note(count, len(places))


def check_sound(model: Model) -> None:
    """ValueError for a model that calculates nonsense: damaged scales, or numbers beyond float16, would give an answer
    of nothing but the first token."""
    tokens = model.encode("The") or [0]
    if not model.forward(tokens, model.fresh()).isfinite().all():
        raise ValueError("its logits are not finite")


def this_machine() -> Environment:
    """As PyTorch sees it, with what is free on each card: accelerate, too, reckons with that."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sizes = tuple(int(torch.cuda.mem_get_info(device)[0]) for device in range(count))
    return environment_with(sizes)
