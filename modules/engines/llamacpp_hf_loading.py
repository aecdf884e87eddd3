"""Makes the engine of a GGUF file under transformers' samplers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modules.engines.base import Report
from modules.engines.hf_arguments import TOKENIZER
from modules.engines.hf_engine import Engine
from modules.engines.hf_model import tokenizer_of
from modules.engines.llamacpp import build
from modules.engines.llamacpp_arguments import CANNOT_SHIFT
from modules.engines.llamacpp_hf_arguments import BATCH, CONTEXT, arguments, notes, unfit
from modules.engines.llamacpp_hf_grammar import LlamaVocabulary
from modules.engines.llamacpp_hf_model import LlamaModel
from modules.engines.llamacpp_hf_tokenizer import LlamaTokenizer, fits
from modules.engines.llamacpp_native import Model
from modules.engines.progress import whole_percents
from modules.errors import Unsupported
from modules.events import Json, Note
from modules.options import Value


def engine(path: Path, options: Mapping[str, Value], report: Report) -> Engine:
    torch.set_num_threads(1)  # samplers have little to do, and more threads would be in the way of llama.cpp's
    calls = arguments(path, options, build())
    native = Model(path, calls, whole_percents(report))
    tokenizer = _tokenizer(calls, native)
    sinks = calls.get("llama_memory_seq_add", {}).get("attention_sink_size")
    model = LlamaModel(native, tokenizer, calls[CONTEXT]["n_seq_max"], sinks)
    vocabulary = LlamaVocabulary(tokenizer, native, sorted(model.ends))
    said = (*notes(path, options, build()), *_found_out(calls, native, tokenizer))
    made = Engine(model, vocabulary, native.n_ctx - (sinks or 0), said)  # the sinks may lie beside a whole prompt
    made.operations = {**made.operations, "logits": model.logits if BATCH in calls else _not_all}
    return made


def _tokenizer(calls: Mapping[str, Json], model: Model) -> Any:
    """transformers', if there are files of one that fits, else llama.cpp's."""
    made = tokenizer_of(calls[TOKENIZER]) if TOKENIZER in calls else None
    return made if made is not None and fits(made, model) else LlamaTokenizer(model)


def _found_out(calls: Mapping[str, Json], model: Model, tokenizer: Any) -> Iterator[Note]:
    """Notes on what only the model itself could tell."""
    if TOKENIZER in calls and isinstance(tokenizer, LlamaTokenizer):
        yield unfit(calls[TOKENIZER]["pretrained_model_name_or_path"])
    if "llama_memory_seq_add" in calls and not model.can_shift:
        yield CANNOT_SHIFT


def _not_all(tokens: list[int]) -> Json:
    raise Unsupported(
        {
            "en": "The logits of every token can be had once the model is loaded with logits_all.",
            "zh": "加载模型时勾选“全部应用Logit”（logits_all）后，才能读取每个词符的 logits。",
        }
    )
