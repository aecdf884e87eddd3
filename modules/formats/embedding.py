"""Recognize models that turn texts into vectors or scores instead of continuing them.

Sources: PoolingType and MODEL_ARCH in llama.cpp's gguf-py; modules.json and config_sentence_transformers.json as
sentence-transformers writes them; the model cards of the families that were trained to be shortened.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from modules.formats.gguf_header import GgufHeader

EMBED, RANK = "embed", "rank"
"""What a model does if it does not generate text: vectors of texts, or scores of documents for a query."""

POOLING_MEAN, POOLING_CLS, POOLING_LAST, POOLING_RANK = 1, 2, 3, 4
"""GGUF's numbers of how the vectors of all tokens become one result; 0 is no pooling."""

_ENCODERS = frozenset(
    {
        *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert"),
        *("eurobert", "gemma-embedding", "llama-embed"),
    }
)
"""GGUF's architectures that cannot continue a text, whatever their pooling is."""

PIPELINE = "modules.json"
PIPELINE_SETTINGS = "config_sentence_transformers.json"

_CLASSIFIER = "ForSequenceClassification"
_SHORTENABLE = re.compile(
    r"nomic-embed-text-v(1\.5|2)|modernbert-embed|qwen3-embedding|embedding-?gemma|mxbai-embed|jina-embeddings-v[3-9]"
    r"|arctic-embed-(m-v1\.5|[ml]-v2)|gte-multilingual-base|kalm-embedding"
)


def gguf_task(header: GgufHeader) -> str:
    """Return EMBED or RANK; "" for a model that generates text.

    A decoder has a pooling type only if it was converted from an embedding model.
    """
    pooling = header.numbers.get("pooling_type", 0)
    if pooling == POOLING_RANK:
        return RANK
    pools = pooling in (POOLING_MEAN, POOLING_CLS, POOLING_LAST)
    return EMBED if pools or is_encoder(header) else ""


def is_encoder(header: GgufHeader) -> bool:
    """Return whether the model's tokens see those after them, too, so that it keeps no KV cache."""
    return header.architecture in _ENCODERS or header.numbers.get("attention.causal", True) is False


def checkpoint_task(config: Mapping[str, Any], files: Container[str]) -> str:
    """Return EMBED or RANK for a folder of weights; "" for any other model.

    `config` is its config.json, `files` are the names in the folder. A classifier with a single label ranks.
    """
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if any(name.endswith(_CLASSIFIER) for name in names):
        labels = config.get("id2label")
        return RANK if isinstance(labels, dict) and len(labels) == 1 else ""
    if config.get("is_encoder_decoder") is True or PIPELINE not in files:
        return ""
    return EMBED


def may_be_shortened(*names: str) -> bool:
    """Return whether a model of one of these names belongs to a family trained so that vectors may be cut (Matryoshka).

    Neither GGUF files nor most folders say it otherwise.
    """
    return any(_SHORTENABLE.search(re.sub(r"[_ ]", "-", name.lower())) for name in names)
