"""From load options to ExLlamaV2's calls, for both loaders: pure, so that it can be shown and tested without it.

`ExLlamaV2Config` is made by reading the model's folder; what stands here under its name is set afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER, About
from modules.formats.remote_code import code_elsewhere
from modules.options.option import Value

CONFIG, LOAD, AUTOSPLIT = "ExLlamaV2Config", "ExLlamaV2.load", "ExLlamaV2.load_autosplit"
CACHE, NEGATIVE, GENERATOR = "cache", "cache of the negative prompt", "ExLlamaV2DynamicGenerator"
ATTENTION = "scaled_dot_product_attention"
PAGE = 256
"""Tokens in a page of the dynamic generator's cache, whose size must be a multiple of it."""
PIECE = 512
"""Tokens of a prompt that a step reads beside answers under way."""
ROWS = 32
"""Sequences that are evaluated at once, if the cache has room for them."""

_ROPE_OF_5 = {
    "linear": {"scale_pos_emb": "factor"},
    "llama3": {
        "l3_rope_factor": "factor",
        "l3_rope_low_freq_factor": "low_freq_factor",
        "l3_rope_high_freq_factor": "high_freq_factor",
        "l3_rope_original_max_position_embeddings": "original_max_position_embeddings",
    },
    "yarn": {
        "yarn_rope_factor": "factor",
        "yarn_rope_original_max_position_embeddings": "original_max_position_embeddings",
    },
}
"""Fields of ExLlamaV2Config by the parameters of each kind of RoPE."""


@dataclass(frozen=True)
class Here:
    """What ExLlamaV2 finds: flash-attention, one that reads pages (2.5.7), xformers; how many GPUs, 0 if unknown.
    `unfit` is flash-attention that is installed, but cannot run on all GPUs: it needs Ampere or later."""

    flash: bool = False
    paged: bool = False
    xformers: bool = False
    gpus: int = 0
    unfit: bool = False


def arguments(path: Path, options: Mapping[str, Value], here: Here) -> dict[str, Json]:
    """The calls of ExLlamav2_HF that load `path`, in order: exactly what is passed, less the library's defaults."""
    context = context_length(path, options)
    calls = _common(path, options, here, context)
    if options["cfg_cache"]:
        calls[NEGATIVE] = dict(calls[CACHE])
    return {**calls, TOKENIZER: _tokenizer(path, options)}


def batching_arguments(path: Path, options: Mapping[str, Value], here: Here) -> dict[str, Json]:
    """The same of ExLlamav2. Its one cache is for all answers, and their negative prompts."""
    cells = -(-context_length(path, options) // PAGE) * PAGE
    calls = _common(path, options, here, cells)
    paged = pages(options, here)
    calls[CACHE]["max_seq_len"] *= 2 if options["cfg_cache"] and paged else 1
    calls[TOKENIZER] = _tokenizer(path, options)
    calls[GENERATOR] = {
        "paged": paged,
        "max_batch_size": ROWS,
        "max_q_size": 1,
        "max_chunk_size": min(PIECE, cells),
    }
    return calls


def context_length(path: Path, options: Mapping[str, Value]) -> int:
    """In tokens: max_seq_len or, if it is 0, the model's own as the other options stretch it."""
    return int(options["max_seq_len"]) or About(path).context_length({**options, "rope_freq_base": 0.0})


def uses_flash(options: Mapping[str, Value], here: Here) -> bool:
    return here.flash and not options["no_flash_attn"]


def pages(options: Mapping[str, Value], here: Here) -> bool:
    """Whether the cache can be shared out in pages, and so to several answers at once."""
    return here.paged and uses_flash(options, here)


def uses_xformers(options: Mapping[str, Value], here: Here) -> bool:
    return here.xformers and not options["no_xformers"] and not uses_flash(options, here)


def _common(path: Path, options: Mapping[str, Value], here: Here, length: int) -> dict[str, Json]:
    config = {
        "model_dir": str(path),
        "max_seq_len": length,
        **_positions(About(path), options),
        **_attention(options, here),
        **_experts(About(path), options),
    }
    load: dict[str, Json] = {AUTOSPLIT: {}} if options["autosplit"] else {LOAD: _split(options)}
    cache = {"class": _cache_class(options), "max_seq_len": length, "lazy": bool(options["autosplit"])}
    return {CONFIG: config, **_scores(options, here), **load, CACHE: cache}


def _split(options: Mapping[str, Value]) -> dict[str, Json]:
    """GB for each GPU; without that everything goes to the first."""
    shares = [float(each) for each in str(options["gpu_split"]).split(",") if each.strip()]
    return {"gpu_split": shares} if shares else {}


def _cache_class(options: Mapping[str, Value]) -> str:
    """ExLlamaV2Cache_8bit, which cuts off digits (FP8), is further from the truth than Q8, and the dynamic generator
    does not take it."""
    if options["cache_4bit"]:
        return "ExLlamaV2Cache_Q4"
    return "ExLlamaV2Cache_Q8" if options["cache_8bit"] else "ExLlamaV2Cache"


def _attention(options: Mapping[str, Value], here: Here) -> dict[str, Json]:
    """Without flash-attention and xformers ExLlamaV2's own SDPA must not be used, as it looks ahead: see
    `exllamav2_mended`."""
    wanted = {key: bool(options[key]) for key in ("no_flash_attn", "no_xformers", "no_sdpa")}
    wanted["no_flash_attn"] |= here.unfit
    wanted["no_sdpa"] |= _by_pytorch(options, here)
    return {key: True for key, given in wanted.items() if given}


def _scores(options: Mapping[str, Value], here: Here) -> dict[str, Json]:
    """What takes the place of that, unless PyTorch is to multiply matrices step by step."""
    fused = _by_pytorch(options, here) and not options["no_sdpa"]
    return {ATTENTION: {"attn_mask": "causal"}} if fused else {}


def _by_pytorch(options: Mapping[str, Value], here: Here) -> bool:
    return not uses_flash(options, here) and not uses_xformers(options, here)


def _positions(about: About, options: Mapping[str, Value]) -> dict[str, Json]:
    fields = _rope_of_5(about)
    if about.ropeless:
        return fields
    if float(options["alpha_value"]) > 1:
        fields["scale_alpha_value"] = float(options["alpha_value"])
    if float(options["compress_pos_emb"]) > 1:
        fields["scale_pos_emb"] = float(options["compress_pos_emb"])
    return fields


def _rope_of_5(about: About) -> dict[str, Json]:
    """What transformers 5 writes in a way that ExLlamaV2 0.3.2 does not read: it would take the usual base."""
    told: Any = about.text.get("rope_parameters")
    if not isinstance(told, dict) or "rope_theta" in about.text or "rope_scaling" in about.text:
        return {}
    fields: dict[str, Json] = {}
    if "rope_theta" in told:
        fields["rotary_embedding_base"] = float(told["rope_theta"])
    kind = str(told.get("rope_type", "default"))
    if kind in _ROPE_OF_5:
        fields |= {field: told[key] for field, key in _ROPE_OF_5[kind].items() if key in told}
        fields |= {"alt_rope_method": kind} if kind != "linear" else {}
    return fields


def experts(about: About) -> int:
    """How many the model has, 0 if it is no mixture of them."""
    nested = about.config.get("ffn_config")
    told = [about.text.get(key) for key in ("num_local_experts", "num_experts")]
    told.append(nested.get("moe_num_experts") if isinstance(nested, dict) else None)
    return next((int(each) for each in told if each), 0)


def _experts(about: About, options: Mapping[str, Value]) -> dict[str, Json]:
    wanted = int(options["num_experts_per_token"])
    return {"num_experts_per_token": min(wanted, experts(about))} if wanted and experts(about) > 1 else {}


def _tokenizer(path: Path, options: Mapping[str, Value]) -> dict[str, Json]:
    trusted = bool(options["trust_remote_code"]) and not code_elsewhere(path)
    return {"pretrained_model_name_or_path": str(path), "trust_remote_code": trusted, "local_files_only": True}
