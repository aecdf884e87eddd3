"""Makes the engine of a GGUF file under transformers' samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from modules.core.errors import Unsupported
from modules.core.events import Json, Note
from modules.engines.engine_protocol import Report
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.hf.engine import Engine
from modules.engines.hf.model import tokenizer_of
from modules.engines.llamacpp.arguments import CANNOT_SHIFT
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.engine import build
from modules.engines.llamacpp.lora import LlamaAdapters
from modules.engines.llamacpp.threadpool import ComputeThreads
from modules.engines.llamacpp_hf.arguments import (
    BATCH,
    CONTEXT,
    OTHER_VOCABULARY,
    arguments,
    notes,
    passed_over,
    unreadable,
)
from modules.engines.llamacpp_hf.grammar import LlamaVocabulary
from modules.engines.llamacpp_hf.model import LlamaModel
from modules.engines.llamacpp_hf.tokenizer import LlamaTokenizer, fits
from modules.engines.lora_set import operation
from modules.engines.progress import whole_percents
from modules.options.option import Value


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    torch.set_num_threads(1)  # samplers have little to do, and more threads would be in the way of llama.cpp's
    calls = arguments(path, options, build())
    native = Model(path, calls, whole_percents(report))
    tokenizer, found_out = _tokenizer(calls, path, native)
    sinks = calls.get("llama_memory_seq_add", {}).get("attention_sink_size")
    model = LlamaModel(native, tokenizer, calls[CONTEXT]["n_seq_max"], sinks)
    vocabulary = LlamaVocabulary(tokenizer, native, sorted(model.ends))
    if sinks is not None and not native.can_shift:
        found_out.append(CANNOT_SHIFT)
    said = (*notes(path, options, build()), *found_out)
    made = Engine(model, vocabulary, native.n_ctx - (sinks or 0), said)  # the sinks may lie beside a whole prompt
    own: dict[str, Callable[..., Json]] = {"logits": model.logits if BATCH in calls else _not_all}
    own["bind_threads"] = ComputeThreads(native.context, calls).bind
    own["apply_loras"] = operation(LlamaAdapters(native, model.slots.clear))
    made.operations = {**made.operations, **own}
    return made


def _tokenizer(calls: Mapping[str, Json], path: Path, model: Model) -> tuple[Any, list[Note]]:
    """transformers', if there are files of one that fits, else llama.cpp's; and what is to be said of that."""
    if TOKENIZER not in calls:
        return LlamaTokenizer(model), []
    folder = calls[TOKENIZER]["pretrained_model_name_or_path"]
    try:
        found = tokenizer_of(calls[TOKENIZER])
    except (OSError, ValueError, ImportError, KeyError) as error:
        return LlamaTokenizer(model), [passed_over(folder, unreadable(error))]
    if not fits(found, model):
        return LlamaTokenizer(model), [passed_over(folder, OTHER_VOCABULARY)]
    if folder != str(path.parent):
        found.chat_template = None  # one that many models share says nothing of this one's
    return found, []


def _not_all(tokens: list[int]) -> Json:
    raise Unsupported(
        {
            "en": "The logits of every token can be had once the model is loaded with logits_all.",
            "zh": "加载模型时勾选“全部应用Logit”（logits_all）后，才能读取每个词符的 logits。",
        }
    )
