"""Build the engine that samples an EXL2 or GPTQ folder with transformers' samplers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_protocol import Report
from modules.engines.exllamav2.arguments import Environment, arguments, context_length
from modules.engines.exllamav2.build import check_config, load_model
from modules.engines.exllamav2.lora import ExLlamaAdapters
from modules.engines.exllamav2.notes import notes
from modules.engines.exllamav2_hf.model import ExLlamaModel
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.hf.engine import Engine
from modules.engines.hf.model import load_tokenizer
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.lora_set import LoraSet
from modules.options.option import Value


def engine(path: Path, options: Mapping[str, Value], environment: Environment, report: Report) -> Engine:
    """Load the folder at `path` and return its engine."""
    check_config("ExLlamav2_HF", path)
    calls = arguments(path, options, environment)
    tokenizer = load_tokenizer(calls[TOKENIZER])
    loaded = load_model(calls, report)
    model = ExLlamaModel(loaded, tokenizer)
    vocabulary = TokenizerVocabulary(tokenizer, model.vocab_size, sorted(model.eos_tokens))
    engine = Engine(model, vocabulary, context_length(path, options), notes(path, options, environment))

    def activate_loras(loras: list[object]) -> None:
        model.loras = loras
        model.caches.clear()

    apply_loras = LoraSet(ExLlamaAdapters(loaded.model, model, activate_loras)).apply
    engine.operations = {**engine.operations, "apply_loras": apply_loras}
    return engine
