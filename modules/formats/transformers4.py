"""Translate config.json and tokenizer_config.json, as Transformers 5 writes them, to the keys of version 4.

Programs from before version 5 read the old keys only, and take a default where one is missing: a model with another
base of RoPE then writes nonsense. What the old keys cannot express is an error, `Inexpressible`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.core.errors import Words
from modules.formats.json_file import Json, first_integer
from modules.formats.rope_parameters import ALL_LAYERS, rope_parameters
from modules.system.format_errors import printable

_LAYERS_BY_TYPE = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "modernbert-decoder": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
}
"""Architectures of version 4 with a base for each type of layer; only full attention can be scaled."""
_SCALED = ("linear", "dynamic", "yarn", "longrope", "llama3")
_FLAT = ("qwen2_vl", "qwen2_5_vl")
"""Multimodal models whose language model has no `text_config` of its own in version 4."""
_PATTERNS = {"gemma3_text": 6, "cohere2": 4}
"""Architectures that attend fully in every n-th layer, and n if config.json does not say it."""
_SHARED_KEYS = ("rope_theta", "partial_rotary_factor", "rope_type")
_RENAMED = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "qwen3_moe": {"num_local_experts": "num_experts"},
    "qwen2_moe": {"num_local_experts": "num_experts"},
}
"""By architecture, keys that have another name in version 4."""


_OLDEST_SCALING = ("phi3", "olmo", "olmo2")
"""Architectures whose classes in version 4 require the first name of `rope_type`."""


class Inexpressible(ValueError):
    """Version 4 has no key that says what `key` does."""

    def __init__(self, key: str, value: object = None) -> None:
        self.key = key if value is None else f"{key}={value}"
        super().__init__(self.key)


def not_read(file: str, key: str, reader: str) -> Words:
    """Explain that `reader` cannot do what `key` in a model's `file` says."""
    key = printable(key)
    return {
        "en": f"its {file} says {key}, which {reader} does not support: the answers would be wrong. "
        "Use the loader Transformers.",
        "zh": f"其 {file} 中的 {key} 不受 {reader} 支持，强行加载会使回复出错。请改用加载器 Transformers。",
    }


# -- config.json -------------------------------------------------------------------------------------------------------


def is_version_5(config: Mapping[str, Any]) -> bool:
    """Return whether config.json has keys that early releases of version 4 do not read."""
    keys = ("rope_parameters", "dtype", "layer_types")
    written_by = str(config.get("transformers_version") or "").partition(".")[0]
    if any(config.get(key) is not None for key in keys) or (written_by.isdecimal() and int(written_by) >= 5):
        return True
    return any(is_version_5(part) for part in _nested(config).values())


def to_version_4(config: Mapping[str, Any]) -> Json:
    """Return config.json with the keys of version 4 added. Raises Inexpressible.

    The keys of version 5 stay, because classes of remote code may read them. `text_config` becomes None where version 4
    expects its content at the top.
    """
    if not is_version_5(config):
        return dict(config)
    result = dict(config)
    for name, part in _nested(config).items():
        result[name] = _encoder_to_version_4(part) if _is_encoder(name) else to_version_4(part)
    _rename_dtype(result)
    _translate_rope(result)
    _translate_layer_types(result)
    if result.get("use_bidirectional_attention"):
        raise Inexpressible("use_bidirectional_attention", result["use_bidirectional_attention"])
    for new, old in _RENAMED.get(_architecture(result), {}).items():
        if result.get(new) is not None:
            result.setdefault(old, result[new])
    if _architecture(result) in _FLAT and isinstance(result.get("text_config"), dict):
        result = {**result["text_config"], **result, "text_config": None}
    return result


def _encoder_to_version_4(config: Mapping[str, Any]) -> Json:
    """Translate the configuration of an encoder of images or sounds, whose positions no earlier key describes."""
    result = dict(config)
    _rename_dtype(result)
    if rope := rope_parameters(config).get(ALL_LAYERS):
        result.setdefault("rope_theta", rope["rope_theta"])
    return result


def differences(config: Mapping[str, Any], translated: Mapping[str, Any]) -> Json:
    """Return the keys of `translated` that `config` lacks or has another value for."""
    return {key: value for key, value in translated.items() if key not in config or config[key] != value}


def _nested(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the configurations of the parts of a multimodal model, by key."""
    names = [name for name in config if name.endswith("_config") and name != "quantization_config"]
    return {name: config[name] for name in names if isinstance(config[name], dict)}


def _is_encoder(name: str) -> bool:
    return "vision" in name or "audio" in name


def _architecture(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type") or "")


def _rename_dtype(config: Json) -> None:
    if config.get("dtype") is not None:
        config["torch_dtype"] = config["dtype"]


def _translate_rope(config: Json) -> None:
    if not isinstance(config.get("rope_parameters"), dict):
        return
    parameters = rope_parameters(config)
    rope = parameters.get(ALL_LAYERS) or _rope_by_layer_type(config, parameters)
    if rope is None:
        return
    config["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    _set_scaling(config, rope)


def _rope_by_layer_type(config: Json, parameters: dict[str, Json]) -> Json | None:
    """Return the parameters that all layers share; if they differ, set the keys of their architecture."""
    present = config.get("layer_types") or parameters
    by_type = {kind: rope for kind, rope in parameters.items() if kind in present}
    different = list(by_type.values())
    if different and all(rope == different[0] for rope in different):
        return different[0]
    keys = _LAYERS_BY_TYPE.get(_architecture(config))
    if keys is None or not set(by_type) <= set(keys):
        raise Inexpressible("rope_parameters", ", ".join(by_type))
    for kind, rope in by_type.items():
        config[keys[kind]] = rope["rope_theta"]
        if kind == "full_attention" and keys[kind] == "rope_theta":
            _set_scaling(config, rope)
        elif rope["rope_type"] != "default":
            raise Inexpressible(f"rope_parameters.{kind}.rope_type", rope["rope_type"])
    return None


def _set_scaling(config: Json, rope: Mapping[str, Any]) -> None:
    """Set `rope_scaling`; None for RoPE that is not scaled."""
    kind = rope["rope_type"]
    scaling = {key: value for key, value in rope.items() if key not in _SHARED_KEYS and value is not None}
    if scaling.get("mrope_section") and kind in ("default", "axial"):
        config["rope_scaling"] = {"type": "mrope", "mrope_section": scaling["mrope_section"]}
        return
    if kind not in ("default", *_SCALED):
        raise Inexpressible("rope_parameters.rope_type", kind)
    if scaling.get("truncate") is False:
        raise Inexpressible("rope_parameters.truncate", "false")
    scaling.pop("truncate", None)
    if kind == "default":
        config["rope_scaling"] = None
        return
    if kind == "longrope" and first_integer(scaling, "original_max_position_embeddings"):
        config["original_max_position_embeddings"] = scaling.pop("original_max_position_embeddings")
    key = "type" if _architecture(config) in _OLDEST_SCALING else "rope_type"
    config["rope_scaling"] = {key: kind, **scaling}


def _translate_layer_types(config: Json) -> None:
    """Express which layers attend within a window by the keys of version 4, or raise Inexpressible."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or config.get("auto_map"):
        return  # classes of remote code come with the model that they are for
    if not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise Inexpressible("layer_types", ", ".join(sorted(set(map(str, kinds)))))
    sliding, architecture = [kind == "sliding_attention" for kind in kinds], _architecture(config)
    if architecture in _PATTERNS:
        config["sliding_window_pattern"] = _pattern(config, sliding)
    elif architecture == "gemma2":
        if any(slides == bool(layer % 2) for layer, slides in enumerate(sliding)):
            raise Inexpressible("layer_types")
    elif not any(sliding):
        _turn_windows_off(config)
    elif not all(sliding) or not first_integer(config, "sliding_window"):
        raise Inexpressible("layer_types")
    elif "max_window_layers" in config or "use_sliding_window" in config:
        config |= {"use_sliding_window": True, "max_window_layers": 0}


def _turn_windows_off(config: Json) -> None:
    if "use_sliding_window" in config:
        config["use_sliding_window"] = False
    if "sliding_window" in config:
        config["sliding_window"] = None


def _pattern(config: Mapping[str, Any], sliding: list[bool]) -> int:
    """Return n if every n-th layer, and no other one, attends fully. Raises Inexpressible."""
    usual = first_integer(config, "sliding_window_pattern", "_sliding_window_pattern")
    first = sliding.index(False) + 1 if False in sliding else len(sliding) + 1
    for pattern in (usual or _PATTERNS[_architecture(config)], first):
        if all(slides == bool((layer + 1) % pattern) for layer, slides in enumerate(sliding)):
            return pattern
    raise Inexpressible("layer_types")


# -- tokenizer_config.json ---------------------------------------------------------------------------------------------

BACKENDS = ("TokenizersBackend", "SentencePieceBackend", "PythonBackend", "MistralCommonBackend")
"""Names that version 5 writes as `tokenizer_class` and version 4 does not have."""


def is_version_5_tokenizer(config: Mapping[str, Any]) -> bool:
    """Return whether Transformers 5 wrote this tokenizer_config.json."""
    tokens, name = config.get("extra_special_tokens"), config.get("tokenizer_class")
    return "backend" in config or isinstance(tokens, list) or name in BACKENDS


def tokenizer_arguments(config: Mapping[str, Any]) -> Json:
    """Return the arguments that replace what version 4 would read otherwise from this tokenizer_config.json."""
    tokens, named = config.get("extra_special_tokens"), config.get("model_specific_special_tokens")
    result: Json = {}
    if isinstance(tokens, list):
        result["additional_special_tokens"] = [_token_text(token) for token in tokens]
    if isinstance(tokens, list) or isinstance(named, dict):
        names = {**(tokens if isinstance(tokens, dict) else {}), **(named if isinstance(named, dict) else {})}
        result["extra_special_tokens"] = {name: _token_text(token) for name, token in names.items()}
    return result


def _token_text(token: object) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
