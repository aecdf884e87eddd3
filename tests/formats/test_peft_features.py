"""The features of PEFT's adapters: none is unknown, and every engine has an answer to each."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from modules.formats.peft_features import (
    _PLAIN_KEYS,
    EXLLAMAV2,
    FEATURES,
    LLAMACPP,
    PEFT,
    VLLM,
    merges,
    merges_type,
    unsupported_features,
    used_features,
    without_adapter_name,
)
from modules.loaders.registry import LOADERS


def installed_peft(file: str) -> ast.Module:
    spec = importlib.util.find_spec("peft")
    assert spec is not None and spec.origin is not None
    return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))


def test_every_field_of_the_installed_lora_config_is_known() -> None:
    tree = installed_peft("tuners/lora/config.py")
    config = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "LoraConfig")
    fields = {
        node.target.id for node in config.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert len(fields) > 30
    assert fields - FEATURES.keys() <= _PLAIN_KEYS


def test_every_loader_names_a_known_lora_engine() -> None:
    engines = {loader.lora_engine for loader in LOADERS.values() if not loader.elsewhere}
    assert engines == {PEFT, LLAMACPP, EXLLAMAV2, VLLM}


@pytest.mark.parametrize(
    ("config", "features"),
    [
        ({"r": 8, "use_rslora": True, "target_modules": ["q_proj"], "bias": "none", "modules_to_save": None}, ()),
        ({"init_lora_weights": True, "use_dora": False, "rank_pattern": {}}, ()),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, ()),
        ({"enable_lora": None, "merge_weights": False, "bias": None}, ()),
        ({"use_dora": True, "rank_pattern": {"q_proj": 16}}, ("use_dora", "rank_pattern")),
        ({"modules_to_save": ["lm_head"], "bias": "all"}, ("modules_to_save", "bias")),
        ({"init_lora_weights": "pissa_niter_4"}, ("init_lora_weights",)),
        ({"use_a_later_method": True}, ("use_a_later_method",)),
    ],
)
def test_features_are_the_keys_that_ask_for_more_than_a_and_b(
    config: dict[str, object], features: tuple[str, ...]
) -> None:
    assert used_features(config) == features


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.q_proj.lora_A.default.weight", "m.q_proj.lora_A.weight"),
        ("m.q_proj.lora_B.cat.bias", "m.q_proj.lora_B.bias"),
        ("m.embed_tokens.lora_embedding_A.default", "m.embed_tokens.lora_embedding_A"),
        ("m.q_proj.lora_magnitude_vector.default.weight", "m.q_proj.lora_magnitude_vector.weight"),
        *((name, name) for name in ("m.q_proj.lora_A.weight", "m.q_proj.lora_B.bias", "m.lora_embedding_B", "m.w")),
    ],
)
def test_the_name_of_an_adapter_in_a_tensors_name_does_not_count(name: str, expected: str) -> None:
    assert without_adapter_name(name) == expected


def test_each_engine_refuses_what_it_would_ignore() -> None:
    features = ("rank_pattern", "use_dora", "modules_to_save", "use_a_later_method")
    assert unsupported_features(features, PEFT) == ("modules_to_save", "use_a_later_method")
    assert unsupported_features(features, LLAMACPP) == ("use_dora", "modules_to_save", "use_a_later_method")
    assert unsupported_features(features, EXLLAMAV2) == features


def test_what_acts_on_single_tokens_or_is_unknown_is_never_said_to_merge() -> None:
    assert merges(("modules_to_save", "use_dora", "target_parameters"))
    assert not merges(("alora_invocation_tokens",)) and not merges(("use_a_later_method",))
    assert merges_type("LOHA") and merges_type("IA3") and merges_type("VERA")
    assert not merges_type("PROMPT_TUNING") and not merges_type("XLORA")
