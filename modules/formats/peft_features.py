"""The features of PEFT adapters beyond the matrices A and B, and the engines that apply each.

The list of LoRAs, the conversion to GGUF and the engines all ask here, so that no advice names a loader that would
refuse the adapter.

Sources: LoraConfig, PeftType and the merging layers of peft 0.21; lora.py of ExLlamaV2 0.3.2; llama-adapter.cpp;
lora/peft_helper.py of vLLM 0.32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PEFT, LLAMACPP, EXLLAMAV2, VLLM = "peft", "llama.cpp", "exllamav2", "vllm"
"""The engines that apply LoRAs, as rows of the loader registry name them."""


@dataclass(frozen=True)
class Feature:
    """The `engines` that apply it, and whether PEFT's merge_and_unload can put it into the weights of the model."""

    engines: frozenset[str] = frozenset()
    merges: bool = True


_NOWHERE = Feature()
_UNMERGEABLE = Feature(merges=False)
_PEFT_ONLY = Feature(frozenset({PEFT}))

FEATURES: Mapping[str, Feature] = {
    "rank_pattern": Feature(frozenset({PEFT, LLAMACPP, VLLM})),
    "alpha_pattern": Feature(frozenset({PEFT, LLAMACPP, VLLM})),
    "fan_in_fan_out": _PEFT_ONLY,
    "use_dora": _PEFT_ONLY,
    "lora_bias": _PEFT_ONLY,
    "use_qalora": Feature(frozenset({PEFT}), merges=False),
    # Whole tensors: they cannot be weighted, added to those of another LoRA or undone.
    **dict.fromkeys(("modules_to_save", "trainable_token_indices", "bias"), _NOWHERE),
    **dict.fromkeys(("target_parameters", "layer_replication", "kasa_config", "monteclora_config"), _NOWHERE),
    "init_lora_weights": _NOWHERE,
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "use_bdlora", "megatron_config"), _UNMERGEABLE),
}
"""Keys of adapter_config.json that ask for more than A and B of whole linear layers, if they are set."""

_PLAIN_KEYS = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
        *("runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
        *("enable_lora", "merge_weights"),  # of PEFT before 0.3
    }
)
"""Keys that describe A and B, or the training alone."""

_ADAPTER_NAME = re.compile(r"(\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))\.(?!weight$|bias$)[^.]+")

_HARMLESS_INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights. Training with any other one starts by changing the weights of the model, as PiSSA."""

# Learned tokens and attention prefixes: they act on the prompt, not on weights.
_PROMPT_TYPES = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"}
)
_ROUTED_TYPES = frozenset({"XLORA", "POLY"})  # they choose between adapters for each token


def used_features(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of an adapter_config.json that ask for more than A and B; also those that PEFT 0.21 lacks."""
    return tuple(key for key, value in config.items() if _is_used(key, value))


def _is_used(key: str, value: object) -> bool:
    if key == "bias":
        return value not in (None, "none")
    if key == "init_lora_weights":
        return value not in _HARMLESS_INITIALIZATIONS
    return bool(value) and key not in _PLAIN_KEYS


def unsupported_features(features: Iterable[str], engine: str) -> tuple[str, ...]:
    """Return those of `used_features` that an engine does not apply."""
    return tuple(key for key in features if engine not in FEATURES.get(key, _UNMERGEABLE).engines)


def merges(features: Iterable[str]) -> bool:
    """Whether PEFT can merge a LoRA with these `used_features` into its model."""
    return all(FEATURES.get(key, _UNMERGEABLE).merges for key in features)


def merges_type(peft_type: str) -> bool:
    """Whether PEFT can merge adapters of a type other than LORA into their model."""
    return peft_type not in _PROMPT_TYPES | _ROUTED_TYPES


def is_own_tensor(name: str) -> bool:
    """Whether a tensor of the file belongs to the LoRA itself.

    Others are weights of the model. PEFT saves them beside the LoRA where the embeddings or the output layer are among
    its targets (unchanged then, as "….base_layer.weight"), and where the vocabulary has been resized.
    """
    return ".lora_" in name


def without_adapter_name(tensor: str) -> str:
    """Return the name of a tensor as PEFT saves it: training code of others keeps the adapter's name in it.

    "….lora_A.default.weight" becomes "….lora_A.weight".
    """
    return _ADAPTER_NAME.sub(r"\1", tensor)


def is_base_weight(name: str) -> bool:
    """Whether a tensor is a weight of the model that PEFT has saved unchanged."""
    return name.endswith(".base_layer.weight")
