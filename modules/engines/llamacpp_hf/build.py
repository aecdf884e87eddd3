"""Build the engine that samples a GGUF model with transformers' samplers."""

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
from modules.engines.hf.model import load_tokenizer
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp.lora import LlamaAdapters
from modules.engines.llamacpp.notes import CANNOT_SHIFT_NOTE
from modules.engines.llamacpp.threadpool import ComputeThreads
from modules.engines.llamacpp_hf.arguments import BATCH, CONTEXT, arguments
from modules.engines.llamacpp_hf.model import LlamaModel
from modules.engines.llamacpp_hf.notes import (
    VOCABULARY_MISMATCH,
    notes,
    tokenizer_not_used_note,
    unreadable,
)
from modules.engines.llamacpp_hf.tokenizer import LlamaTokenizer, matches_vocabulary
from modules.engines.llamacpp_hf.vocabulary import LlamaVocabulary
from modules.engines.lora_set import LoraSet
from modules.engines.progress import whole_percents
from modules.options.option import Value


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    """Load the GGUF file at `path` and return its engine."""
    torch.set_num_threads(1)  # samplers need little work, and more threads would slow those of llama.cpp down
    build = installed_build()
    calls = arguments(path, options, build)
    native = Model(path, calls, whole_percents(report))
    tokenizer, runtime_notes = _load_tokenizer(calls, path, native)
    attention_sink_size = calls.get("llama_memory_seq_add", {}).get("attention_sink_size")
    model = LlamaModel(native, tokenizer, calls[CONTEXT]["n_seq_max"], attention_sink_size)
    vocabulary = LlamaVocabulary(tokenizer, native, sorted(model.eos_tokens))
    if attention_sink_size is not None and not native.can_shift:
        runtime_notes.append(CANNOT_SHIFT_NOTE)
    all_notes = (*notes(path, options, build), *runtime_notes)
    context = native.n_ctx - (attention_sink_size or 0)  # attention sinks may take cells beside a whole prompt
    engine = Engine(model, vocabulary, context, all_notes)
    operations: dict[str, Callable[..., Json]] = {
        "logits": model.all_logits if BATCH in calls else _refuse_logits,
        "bind_threads": ComputeThreads(native.context, calls).bind,
        "apply_loras": LoraSet(LlamaAdapters(native, model.prefix_cache.clear)).apply,
    }
    engine.operations = {**engine.operations, **operations}
    return engine


def _load_tokenizer(calls: Mapping[str, Json], path: Path, model: Model) -> tuple[Any, list[Note]]:
    """Return transformers' tokenizer if its files exist and match the model, else llama.cpp's; and notes on that."""
    if TOKENIZER not in calls:
        return LlamaTokenizer(model.vocabulary), []
    folder = calls[TOKENIZER]["pretrained_model_name_or_path"]
    try:
        tokenizer = load_tokenizer(calls[TOKENIZER])
    except (OSError, ValueError, ImportError, KeyError) as error:
        return LlamaTokenizer(model.vocabulary), [tokenizer_not_used_note(folder, unreadable(error))]
    if not matches_vocabulary(tokenizer, model.vocabulary):
        return LlamaTokenizer(model.vocabulary), [tokenizer_not_used_note(folder, VOCABULARY_MISMATCH)]
    if folder != str(path.parent):
        tokenizer.chat_template = None  # a folder that several models share says nothing about this model's template
    return tokenizer, []


def _refuse_logits(tokens: list[int]) -> Json:
    raise Unsupported(
        {
            "en": "The logits of every token are available once the model is loaded with logits_all.",
            "zh": "加载模型时勾选“计算所有词符的 logits”后，才能读取每个词符的 logits。",
        }
    )
