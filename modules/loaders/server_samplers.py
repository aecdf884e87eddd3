"""The generation parameters that servers of each kind understand.

They ignore unknown fields in silence, so that nothing else is sent to them: what is missing here is not shown, and
refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.core.product import PRODUCT

SCHEMA = "json_schema"
"""Among the samplers of a server: JSON schemas are enforced. Where grammars are, schemas are as well."""

_COMMON = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", SCHEMA})
_BIASES = frozenset({"custom_token_bans", "logit_bias"})
_HUGGING_FACE = (
    _COMMON
    | _BIASES
    | {
        *("top_k", "min_p", "repetition_penalty", "do_sample", "ban_eos_token", "min_length", "skip_special_tokens"),
        "grammar_string",
    }
)
_OPENAI = _COMMON | _BIASES | {"do_sample"}
_LLAMA = (
    _COMMON
    | _BIASES
    | {
        *("top_k", "min_p", "typical_p", "top_n_sigma", "xtc_threshold", "xtc_probability"),
        *("repetition_penalty", "repetition_penalty_range"),
        *("dynamic_temperature", "dynatemp_low", "dynatemp_high", "dynatemp_exponent"),
        *("mirostat_mode", "mirostat_tau", "mirostat_eta"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers"),
        *("ban_eos_token", "grammar_string"),
    }
)

SERVER_SAMPLERS: Mapping[str, frozenset[str]] = {
    "vllm": _HUGGING_FACE | {"add_bos_token"},
    "sglang": _HUGGING_FACE,
    "text-studio": _LLAMA,  # at most: those of its model's loader
    "llama-server": _LLAMA,
    "ollama": _COMMON | {"top_k", "min_p", "typical_p", "repetition_penalty", "repetition_penalty_range"},
    "lm-studio": _OPENAI | {"top_k", "repetition_penalty"},
    "openai": _OPENAI,
}
"""Keys of `options.generation`, and of the API alone `logit_bias` and SCHEMA, by the kind of server."""

SERVER_NAMES: Mapping[str, str] = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "text-studio": PRODUCT,
    "llama-server": "llama-server",
    "ollama": "Ollama",
    "lm-studio": "LM Studio",
    "openai": "OpenAI API",
}
"""Names of the kinds, as they are shown."""
