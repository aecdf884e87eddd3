"""A tiny Qwen3 with random weights that ranks, as llama.cpp's converter writes Qwen3-Reranker: a GGUF file.

The two rows of its classifier are those of the output layer for "yes" and "no", and a template joins both texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.formats.embedding import POOLING_RANK
from tests.support.forked import forked
from tests.support.gguf_files import ARRAY, I32, As, Tensor, array, gguf
from tests.support.hf_folder import read_metadata

TEMPLATE = "Judge the document. Query: {query} Document: {document} Answer:"
HIDDEN, NETWORK, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD, CONTEXT = 32, 64, 2, 4, 2, 8, 256
_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Floats = NDArray[np.float32]


def tiny_reranker(path: Path, demo: Path, prompts: list[list[int]]) -> list[float]:
    """Write the model, with the tokenizer of `demo`. Return the chance of "yes" after each of `prompts`, by torch."""
    tokenizer = {key: value for key, value in read_metadata(demo).items() if key.startswith("tokenizer.")}
    kinds = tokenizer["tokenizer.ggml.token_type"]
    weights, chances = forked(_make, len(kinds), prompts)
    tensors = [Tensor(name, weight.shape[::-1]) for name, weight in weights.items()]
    facts: dict[str, Any] = {
        "general.architecture": "qwen3",
        "general.file_type": 0,
        "qwen3.context_length": CONTEXT,
        "qwen3.block_count": LAYERS,
        "qwen3.embedding_length": HIDDEN,
        "qwen3.feed_forward_length": NETWORK,
        "qwen3.attention.head_count": HEADS,
        "qwen3.attention.head_count_kv": KEY_VALUE_HEADS,
        "qwen3.attention.key_length": HEAD,
        "qwen3.attention.value_length": HEAD,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen3.rope.freq_base": 10000.0,
        "qwen3.pooling_type": POOLING_RANK,
        "qwen3.classifier.output_labels": ["yes", "no"],
    }
    names = {"tokenizer.ggml.token_type": As(ARRAY, array(I32, kinds)), "tokenizer.chat_template.rerank": TEMPLATE}
    contents = [weight.tobytes() for weight in weights.values()]
    path.write_bytes(gguf(facts | tokenizer | names, tensors, contents=contents))
    return chances


def _make(vocabulary: int, prompts: list[list[int]]) -> tuple[dict[str, Floats], list[float]]:
    import torch
    import transformers

    torch.manual_seed(11)
    config = transformers.Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=NETWORK,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
    )
    model = transformers.Qwen3Model(config).eval()
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    classifier = torch.randn(2, HIDDEN) * 0.3
    weights = {_name(name): weight.detach().numpy() for name, weight in model.named_parameters()}
    with torch.inference_mode():
        hidden = [model(torch.tensor([prompt])).last_hidden_state[0, -1] for prompt in prompts]
        chances = [float((classifier @ state).softmax(0)[0]) for state in hidden]
    return {**weights, "cls.output.weight": classifier.numpy()}, chances


def _name(name: str) -> str:
    prefix = ""
    if name.startswith("layers."):
        _, layer, name = name.split(".", 2)
        prefix = f"blk.{layer}."
    return f"{prefix}{_NAMES[name.removesuffix('.weight')]}.weight"
