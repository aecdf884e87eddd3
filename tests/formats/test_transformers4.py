"""Files that Transformers 5 writes say the same in the keys of version 4, or are refused by the key that has none.

tests/engines/legacy/test_reading.py compares the numbers of both versions.
"""

from __future__ import annotations

from typing import Any

import pytest

from modules.formats.transformers4 import (
    Inexpressible,
    differences,
    is_version_5_tokenizer,
    to_version_4,
    tokenizer_arguments,
)

PLAIN = {"rope_type": "default", "rope_theta": 5e5}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}
FULL, SLIDING = "full_attention", "sliding_attention"


def changes(**config: Any) -> dict[str, Any]:
    """Return what version 4 has to read otherwise."""
    return differences(config, to_version_4(config))


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (PLAIN, {"rope_theta": 5e5, "rope_scaling": None}),
        (PLAIN | {"rope_type": "linear", "factor": 2.0}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        (PLAIN | {"rope_type": "dynamic", "factor": 2.0}, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        (PLAIN | {"rope_type": "llama3"} | LLAMA3, {"rope_scaling": {"rope_type": "llama3"} | LLAMA3}),
        (
            PLAIN | {"rope_type": "longrope", "original_max_position_embeddings": 64} | LONG,
            {"rope_scaling": {"rope_type": "longrope"} | LONG, "original_max_position_embeddings": 64},
        ),
        (PLAIN | {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.5, "rope_scaling": None}),
        (PLAIN | {"mrope_section": [1, 2, 3]}, {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]}}),
        ({FULL: PLAIN, SLIDING: PLAIN}, {"rope_scaling": None}),
    ],
)
def test_rope_parameters_become_the_keys_of_version_4(rope: dict[str, Any], expected: dict[str, Any]) -> None:
    assert changes(model_type="llama", rope_parameters=rope) == {"rope_theta": 5e5} | expected


def test_an_architecture_with_other_names_gets_them() -> None:
    rope = PLAIN | {"partial_rotary_factor": 0.25}
    neox = changes(model_type="gpt_neox", rope_parameters=rope)
    assert (neox["rotary_emb_base"], neox["rotary_pct"]) == (5e5, 0.25)
    assert changes(model_type="qwen3_moe", num_local_experts=4, dtype="float16")["num_experts"] == 4
    phi = changes(model_type="phi3", rope_parameters=PLAIN | {"rope_type": "longrope"} | LONG)
    assert phi["rope_scaling"] == {"type": "longrope"} | LONG


def test_parameters_by_type_of_layer_are_translated_where_version_4_has_keys_for_them() -> None:
    rope = {FULL: PLAIN | {"rope_type": "linear", "factor": 8.0}, SLIDING: PLAIN | {"rope_theta": 1e4}}
    layers = [SLIDING, FULL, SLIDING, FULL]
    gemma = changes(model_type="gemma3_text", rope_parameters=rope, layer_types=layers, sliding_window=16)
    assert gemma == {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 2,
    }
    bases = changes(model_type="modernbert", rope_parameters={FULL: PLAIN, SLIDING: PLAIN | {"rope_theta": 1e4}})
    assert bases == {"global_rope_theta": 5e5, "local_rope_theta": 1e4}


def test_the_parts_of_a_multimodal_model_are_translated() -> None:
    text = {"model_type": "llama", "rope_parameters": PLAIN, "dtype": "bfloat16"}
    vision = {"model_type": "pixtral", "rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}}
    translated = to_version_4({"model_type": "llava", "text_config": text, "vision_config": vision})
    assert translated["text_config"]["rope_theta"] == 5e5
    assert translated["text_config"]["torch_dtype"] == "bfloat16"
    assert translated["vision_config"]["rope_theta"] == 1e4
    flat = to_version_4({"model_type": "qwen2_vl", "text_config": text | {"hidden_size": 64}})
    assert (flat["model_type"], flat["hidden_size"], flat["rope_theta"]) == ("qwen2_vl", 64, 5e5)
    assert flat["text_config"] is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": [FULL] * 2}, {"use_sliding_window": False}),
        ({"model_type": "llama", "layer_types": [FULL] * 2}, {}),
        ({"model_type": "llama", "sliding_window": 8, "layer_types": [FULL] * 2}, {"sliding_window": None}),
        ({"model_type": "mistral", "sliding_window": 8, "layer_types": [SLIDING] * 2}, {}),
        ({"model_type": "gemma2", "sliding_window": 8, "layer_types": [SLIDING, FULL]}, {}),
        (
            {"model_type": "cohere2", "sliding_window": 8, "layer_types": [SLIDING, SLIDING, FULL]},
            {"sliding_window_pattern": 3},
        ),
        (
            {"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 9, "layer_types": [SLIDING] * 2},
            {"use_sliding_window": True, "max_window_layers": 0},
        ),
    ],
)
def test_layers_with_a_window_stay_the_same_ones(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert changes(**config) == expected


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"rope_parameters": PLAIN | {"rope_type": "proportional"}}, "rope_parameters.rope_type=proportional"),
        ({"rope_parameters": PLAIN | {"rope_type": "yarn", "truncate": False}}, "rope_parameters.truncate=false"),
        (
            {"rope_parameters": {FULL: PLAIN, SLIDING: PLAIN | {"rope_theta": 1e4}}},
            f"rope_parameters={FULL}, {SLIDING}",
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {FULL: PLAIN, SLIDING: PLAIN | {"rope_type": "linear", "factor": 2.0}},
            },
            "rope_parameters.sliding_attention.rope_type=linear",
        ),
        ({"model_type": "qwen2", "sliding_window": 8, "layer_types": [FULL, SLIDING]}, "layer_types"),
        ({"model_type": "gemma2", "sliding_window": 8, "layer_types": [FULL, SLIDING]}, "layer_types"),
        ({"model_type": "cohere2", "sliding_window": 8, "layer_types": [SLIDING, FULL, FULL]}, "layer_types"),
        ({"model_type": "llama", "layer_types": ["linear_attention", FULL]}, f"layer_types={FULL}, linear_attention"),
        ({"dtype": "float16", "use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ],
)
def test_what_version_4_cannot_express_is_refused_by_its_key(config: dict[str, Any], key: str) -> None:
    with pytest.raises(Inexpressible) as refused:
        to_version_4({"model_type": "llama"} | config)
    assert refused.value.key == key


def test_files_of_version_4_stay_as_they_are() -> None:
    config = {"model_type": "llama", "rope_theta": 5e5, "torch_dtype": "float16", "rope_scaling": {"type": "su"}}
    assert to_version_4(config) == config


def test_remote_code_may_read_either_spelling() -> None:
    remote = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}, "layer_types": ["mamba"]}
    translated = to_version_4(remote | {"rope_parameters": PLAIN})
    assert translated["rope_parameters"] == PLAIN
    assert translated["rope_theta"] == 5e5


def test_a_tokenizers_special_tokens_get_the_names_of_version_4() -> None:
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>", {"content": "<b>"}]}
    assert is_version_5_tokenizer(new)
    assert tokenizer_arguments(new) == {"additional_special_tokens": ["<a>", "<b>"], "extra_special_tokens": {}}
    named = new | {"model_specific_special_tokens": {"image_token": "<image>"}}
    assert tokenizer_arguments(named)["extra_special_tokens"] == {"image_token": "<image>"}
    assert is_version_5_tokenizer({"tokenizer_class": "LlamaTokenizer", "backend": "tokenizers"})


def test_a_tokenizer_of_version_4_needs_no_arguments() -> None:
    for config in ({}, {"tokenizer_class": "LlamaTokenizer"}, {"extra_special_tokens": {"image_token": "<image>"}}):
        assert not is_version_5_tokenizer(config)
        assert tokenizer_arguments(config) == {}
