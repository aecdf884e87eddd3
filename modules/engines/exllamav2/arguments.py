"""Translate load options into ExLlamaV2's calls for both of its loaders, without importing it.

`ExLlamaV2Config` reads the model's folder first, with the keys listed here under config.json in place of the file's;
the fields listed under its name are set afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER, ModelConfig
from modules.formats.remote_code import class_in_other_repository
from modules.formats.rope_parameters import rope_parameters
from modules.formats.transformers4 import Inexpressible, differences, not_read, to_version_4
from modules.options.option import Value

CONFIG_JSON = "config.json"
CONFIG, LOAD, AUTOSPLIT = "ExLlamaV2Config", "ExLlamaV2.load", "ExLlamaV2.load_autosplit"
CACHE, NEGATIVE_CACHE, GENERATOR = "cache", "cache of the negative prompt", "ExLlamaV2DynamicGenerator"
ATTENTION = "scaled_dot_product_attention"
UNQUANTIZED_CACHE = "ExLlamaV2Cache"
PAGE_SIZE = 256
"""Tokens in a page of the dynamic generator's cache; the size of the cache is a multiple of it."""
PREFILL_CHUNK = 512
"""Tokens of a prompt that a step prefills while other requests are decoding."""
QUANTIZED_WINDOW_CHUNK = 64
"""Tokens of a text that are evaluated at once for their log-likelihoods if the cache is quantized."""
MAX_BATCH = 32
"""Sequences that a step decodes at most, if the cache has room for them."""

_TOP_LEVEL_KEYS = ("partial_rotary_factor", "sliding_window_pattern", "original_max_position_embeddings")
"""Keys that ExLlamaV2 does not look for in `text_config`."""


@dataclass(frozen=True)
class Environment:
    """The GPUs and packages that ExLlamaV2 can compute with.

    `flash` is flash-attention, `paged` a version that supports paged caches (2.5.7). `flash_unsupported` is
    flash-attention that is installed but does not run on all GPUs: it needs Ampere or later. `gpus` is their number,
    0 if unknown.
    """

    flash: bool = False
    paged: bool = False
    xformers: bool = False
    gpus: int = 0
    flash_unsupported: bool = False


def arguments(path: Path, options: Mapping[str, Value], environment: Environment) -> dict[str, Json]:
    """Return the calls by which ExLlamav2_HF loads `path`, in order, with what differs from the defaults."""
    context = context_length(path, options)
    calls = _common(path, options, environment, context)
    if options["cfg_cache"]:
        calls[NEGATIVE_CACHE] = dict(calls[CACHE])
    return {**calls, TOKENIZER: _tokenizer(path, options)}


def generator_arguments(path: Path, options: Mapping[str, Value], environment: Environment) -> dict[str, Json]:
    """Return the calls by which ExLlamav2 loads `path`. One cache holds all requests and their negative prompts."""
    cells = -(-context_length(path, options) // PAGE_SIZE) * PAGE_SIZE
    calls = _common(path, options, environment, cells)
    paged = uses_paged_cache(options, environment)
    calls[CACHE]["max_seq_len"] *= 2 if options["cfg_cache"] and paged else 1
    calls[TOKENIZER] = _tokenizer(path, options)
    calls[GENERATOR] = {
        "paged": paged,
        "max_batch_size": MAX_BATCH,
        "max_q_size": 1,
        "max_chunk_size": min(PREFILL_CHUNK, cells),
    }
    return calls


def context_length(path: Path, options: Mapping[str, Value]) -> int:
    """Return max_seq_len or, if it is 0, the model's own context length in tokens with RoPE scaling by `options`."""
    return int(options["max_seq_len"]) or ModelConfig(path).context_length({**options, "rope_freq_base": 0.0})


def uses_flash_attention(options: Mapping[str, Value], environment: Environment) -> bool:
    return environment.flash and not options["no_flash_attn"]


def uses_paged_cache(options: Mapping[str, Value], environment: Environment) -> bool:
    """Whether the cache is divided into pages, so that several requests can run at once."""
    return environment.paged and uses_flash_attention(options, environment)


def uses_xformers(options: Mapping[str, Value], environment: Environment) -> bool:
    return environment.xformers and not options["no_xformers"] and not uses_flash_attention(options, environment)


def _common(path: Path, options: Mapping[str, Value], environment: Environment, length: int) -> dict[str, Json]:
    config = {
        "model_dir": str(path),
        "max_seq_len": length,
        **_positions(ModelConfig(path), options),
        **_attention(options, environment),
        **_experts(ModelConfig(path), options),
    }
    cache = {"class": cache_class(options), "max_seq_len": length, "lazy": bool(options["autosplit"])}
    changes = {} if incompatibility(path) else config_changes(ModelConfig(path))
    read = {CONFIG_JSON: changes} if changes else {}
    return {**read, CONFIG: config, **_replaced_sdpa(options, environment), **_load(options), CACHE: cache}


def _load(options: Mapping[str, Value]) -> dict[str, Json]:
    if options["autosplit"]:
        return {AUTOSPLIT: {}}
    shares = gpu_split(options)
    return {LOAD: {"gpu_split": shares} if shares else {}}


def gpu_split(options: Mapping[str, Value]) -> list[float]:
    """Return the GiB for each GPU; if empty, everything goes to the first."""
    return [float(share) for share in str(options["gpu_split"]).split(",") if share.strip()]


def cache_class(options: Mapping[str, Value]) -> str:
    """Return the class of the KV cache.

    ExLlamaV2Cache_8bit (FP8, which truncates) is less accurate than Q8, and the dynamic generator does not accept it.
    """
    if options["cache_4bit"]:
        return "ExLlamaV2Cache_Q4"
    return "ExLlamaV2Cache_Q8" if options["cache_8bit"] else UNQUANTIZED_CACHE


def window_chunk(cache_class: str) -> int:
    """Return how many tokens of a text are evaluated at once for their log-likelihoods, with that class of cache.

    Tokens of one forward pass attend to each other exactly: what a quantized cache costs shows only between passes.
    """
    return PREFILL_CHUNK if cache_class == UNQUANTIZED_CACHE else QUANTIZED_WINDOW_CHUNK


def _attention(options: Mapping[str, Value], environment: Environment) -> dict[str, Json]:
    """Turn off ExLlamaV2's own SDPA where it would be used: it attends to later tokens (see `exllamav2.patches`)."""
    wanted = {key: bool(options[key]) for key in ("no_flash_attn", "no_xformers", "no_sdpa")}
    wanted["no_flash_attn"] |= environment.flash_unsupported
    wanted["no_sdpa"] |= _uses_pytorch_attention(options, environment)
    return {key: True for key, value in wanted.items() if value}


def _replaced_sdpa(options: Mapping[str, Value], environment: Environment) -> dict[str, Json]:
    """Name PyTorch's SDPA in place of ExLlamaV2's, unless no_sdpa asks for plain matrix products."""
    fused = _uses_pytorch_attention(options, environment) and not options["no_sdpa"]
    return {ATTENTION: {"attn_mask": "causal"}} if fused else {}


def _uses_pytorch_attention(options: Mapping[str, Value], environment: Environment) -> bool:
    return not uses_flash_attention(options, environment) and not uses_xformers(options, environment)


def _positions(config: ModelConfig, options: Mapping[str, Value]) -> dict[str, Json]:
    fields = _sliding_base(config)
    if config.lacks_rope:
        return fields
    if float(options["alpha_value"]) > 1:
        fields["scale_alpha_value"] = float(options["alpha_value"])
    if float(options["compress_pos_emb"]) > 1:
        fields["scale_pos_emb"] = float(options["compress_pos_emb"])
    return fields


def _sliding_base(config: ModelConfig) -> dict[str, Json]:
    """Return the base of RoPE in layers with a window, for which ExLlamaV2 has the usual one built in."""
    base = rope_parameters(config.text).get("sliding_attention", {}).get("rope_theta")
    return {} if base is None else {"rotary_embedding_base_alt": base}


def config_changes(config: ModelConfig) -> Json:
    """Return what ExLlamaV2 reads instead of config.json's own values. Raises Inexpressible.

    ExLlamaV2 0.3.2 is from before Transformers 5, and would take defaults for keys that have another name since.
    """
    translated = to_version_4(config.fields)
    text = translated.get("text_config")
    if isinstance(text, dict):
        translated = {key: text[key] for key in _TOP_LEVEL_KEYS if key in text} | translated
    scaling = translated.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("type") and scaling.get("rope_type"):  # which it refuses
        surplus = "rope_type" if scaling["type"] == "mrope" else "type"
        translated["rope_scaling"] = {key: value for key, value in scaling.items() if key != surplus}
    return differences(config.fields, translated)


def incompatibility(path: Path) -> Words | None:
    """Return why ExLlamaV2 would compute another model than config.json describes; None if it would not."""
    try:
        config_changes(ModelConfig(path))
    except Inexpressible as error:
        return not_read("config.json", error.key, "ExLlamaV2")
    return None


def expert_count(config: ModelConfig) -> int:
    """Return the number of experts of a mixture of experts, 0 for other models."""
    nested = config.fields.get("ffn_config")
    counts = [config.text.get(key) for key in ("num_local_experts", "num_experts")]
    counts.append(nested.get("moe_num_experts") if isinstance(nested, dict) else None)
    return next((int(count) for count in counts if count), 0)


def _experts(config: ModelConfig, options: Mapping[str, Value]) -> dict[str, Json]:
    wanted = int(options["num_experts_per_token"])
    return {"num_experts_per_token": min(wanted, expert_count(config))} if wanted and expert_count(config) > 1 else {}


def _tokenizer(path: Path, options: Mapping[str, Value]) -> dict[str, Json]:
    trusted = bool(options["trust_remote_code"]) and not class_in_other_repository(path)
    return {"pretrained_model_name_or_path": str(path), "trust_remote_code": trusted, "local_files_only": True}
