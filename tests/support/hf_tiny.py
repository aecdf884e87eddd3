"""Tiny models with random weights, one for each kind of cache and of positions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.support.forked import forked

_SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 49152}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
_HYBRID = _SIZE | {"num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 8, "mamba_d_head": 8}
_HYBRID |= {"mamba_d_state": 8, "mamba_n_groups": 1, "attn_layer_indices": [1, 3]}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 48}
_FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 4.0, 8.0, 16.0]}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 49152}

_BART = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_BART |= {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 49152}

KINDS = {
    "llama": ("Llama", _SIZE | _HEADS),
    "window": ("Mistral", _SIZE | _HEADS | {"sliding_window": 24}),
    "long": ("Phi3", _SIZE | _HEADS | {"rope_parameters": _LONG | _FACTORS, "original_max_position_embeddings": 48}),
    "mixed": ("Gemma3Text", _SIZE | _HEADS | {"sliding_window": 24, "query_pre_attn_scalar": 8}),
    "state": ("Mamba", {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "vocab_size": 49152}),
    "hybrid": ("Bamba", _HYBRID),
    "alibi": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 49152}),
    "learned": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 49152}),
    "t5": ("T5", _T5 | {"decoder_start_token_id": 0}),
    "bart": (
        "Bart",
        _BART | {"max_position_embeddings": 128, "decoder_start_token_id": 2, "forced_eos_token_id": None},
    ),
}
"""The transformers name of the architecture, and the sizes in its configuration, by the kind used in tests."""
REFUSED = {
    "rwkv": ("Rwkv", {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 49152}),
    "minimax": ("MiniMax", _SIZE | _HEADS | {"num_local_experts": 2}),
}
"""Those that cannot use our KV cache: the first takes none, the second only one of its own kind."""


def tiny_models(folder: Path, tokenizer: Path, names: Sequence[str] = tuple(KINDS)) -> dict[str, Path]:
    """Write the named models below `folder`, with the tokenizer files of the folder `tokenizer`."""
    forked(_write, folder, names)
    for name in names:
        for file in tokenizer.glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return {name: folder / name for name in names}


def _write(folder: Path, names: Sequence[str]) -> None:
    import torch
    import transformers

    torch.manual_seed(3)
    for name in names:
        kind, size = (KINDS | REFUSED)[name]
        config = getattr(transformers, f"{kind}Config")(**size, **_ENDS)
        ending = {
            "T5": "ForConditionalGeneration",
            "Bart": "ForConditionalGeneration",
            "GPT2": "LMHeadModel",
            "Gemma3Text": "ForCausalLM",
        }
        cls = getattr(transformers, kind.replace("Gemma3Text", "Gemma3") + ending.get(kind, "ForCausalLM"))
        model = cls(config)
        for weight in model.parameters():  # large enough that distant tokens affect the logits
            torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(folder / name)
