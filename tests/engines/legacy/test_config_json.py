"""Transformers 4.51 gets config.json with the factors that Transformers 5 computes with."""

from __future__ import annotations

from typing import Any

import pytest

from modules.engines.legacy.config_json import legacy_config
from modules.formats.transformers4 import Inexpressible, differences

YARN = {"rope_type": "yarn", "factor": 4.0}
FACTORS = {"short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}


def changes(**config: Any) -> dict[str, Any]:
    return differences(config, legacy_config(config))


def test_yarn_keeps_its_factor_where_the_context_lengths_say_another() -> None:
    """Qwen2.5's instructions have the original length beside the same context length."""
    context = {"model_type": "qwen2", "max_position_embeddings": 32}
    same = changes(**context, rope_scaling=YARN | {"original_max_position_embeddings": 32})
    assert same == {"rope_scaling": YARN}
    longer = changes(**context, rope_scaling=YARN | {"original_max_position_embeddings": 16})
    assert longer == {"max_position_embeddings": 64}
    assert changes(**context, rope_scaling=YARN | {"original_max_position_embeddings": 8}) == {}
    assert changes(**context, rope_scaling=YARN) == {}
    with pytest.raises(Inexpressible, match=r"factor=1\.03"):
        changes(**context, rope_scaling={"rope_type": "yarn", "factor": 1.03, "original_max_position_embeddings": 16})


def test_longrope_keeps_its_factor_of_attention() -> None:
    config = {"model_type": "llama", "max_position_embeddings": 64, "original_max_position_embeddings": 32}
    by_ratio = changes(**config, rope_scaling={"type": "longrope"} | FACTORS)
    assert by_ratio == {}
    stated = changes(**config, rope_scaling={"type": "longrope", "factor": 4.0} | FACTORS)["rope_scaling"]
    assert stated["attention_factor"] == pytest.approx(1.1832, abs=1e-4)
    with pytest.raises(Inexpressible, match="factor"):
        changes(**config | {"model_type": "phi3"}, rope_scaling={"type": "longrope", "factor": 4.0} | FACTORS)


def test_the_language_model_of_a_multimodal_one_is_translated() -> None:
    rope = YARN | {"rope_theta": 5e5, "original_max_position_embeddings": 32}
    text = {"model_type": "llama", "max_position_embeddings": 32, "rope_parameters": rope}
    translated = legacy_config({"model_type": "llava", "text_config": text})["text_config"]
    assert (translated["rope_theta"], translated["rope_scaling"]) == (5e5, YARN)
