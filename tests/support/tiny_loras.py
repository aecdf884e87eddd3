"""Tiny random models of several architectures, each as a GGUF file in float32 with two adapters made by PEFT.

For each kind: <kind>/model.gguf, the adapters <kind>/loras/cat and dog, and <kind>/logits.npz: the float32 logits after
each of TOKENS, without an adapter as "none" and with each of SETS by its name. `python -m tests.support.tiny_loras
<folder> [<kind>...]` writes the given kinds, or all KINDS.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.lora.gguf_conversion import interleaved
from modules.lora.tensor_names import HEADS, gguf_name, has_interleaved_heads
from tests.support.gguf_files import ARRAY, I32, As, Tensor, array, gguf

TOKENS = [5, 90, 33, 7, 64, 12, 118, 2, 77, 41, 19, 100]
SETS = {
    "cat": {"cat": 1.0},
    "dog": {"dog": 1.0},
    "half a cat": {"cat": 0.5},
    "both": {"cat": 1.0, "dog": 1.0},
    "both, weighted": {"cat": 0.5, "dog": 2.0},
    "no cat": {"cat": 0.0, "dog": 1.0},
}
"""Adapter weights, by the name of the combination."""
_VOCABULARY, _HIDDEN, _LAYERS, _Q, _KV, _HEAD, _INTERMEDIATE, _EPSILON = 128, 64, 2, 4, 2, 16, 96, 1e-6

KINDS = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
    "phi3": "Phi3",
}
"""By kind, the prefix of the class names in transformers."""

_SIZE = {
    "hidden_size": _HIDDEN,
    "intermediate_size": _INTERMEDIATE,
    "num_hidden_layers": _LAYERS,
    "vocab_size": _VOCABULARY,
}
_HEADS = {"num_attention_heads": _Q, "num_key_value_heads": _KV, "head_dim": _HEAD, "query_pre_attn_scalar": _HEAD}
_OTHER = {"max_position_embeddings": 256, "rms_norm_eps": _EPSILON, "bos_token_id": 1, "eos_token_id": 2}
_TIED = ("gemma", "gemma2")  # llama.cpp requires it for these
_NORMS = {"input_layernorm": "attn_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}
_TWO = {"post_attention_layernorm": "ffn_norm"}
_FOUR = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write(folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> None:
    for name in kinds:
        _make(folder / name, name)


def _make(folder: Path, name: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    folder.mkdir(parents=True)
    model = _model(name)
    (folder / "model.gguf").write_bytes(_gguf(architecture(name), model.state_dict()))
    with torch.no_grad():
        logits = {"none": _logits(model)}
        modules = ["q_proj", "k_proj", "lm_head"] if name == "llama" else "all-linear"  # the latter without lm_head
        cat = LoraConfig(r=4, lora_alpha=8, target_modules=modules)
        dog = LoraConfig(r=2, lora_alpha=3, target_modules=["o_proj", "down_proj"])
        peft: Any = get_peft_model(model, cat, adapter_name="cat")
        peft.add_adapter("dog", dog)
        for parameter, weight in peft.named_parameters():
            if "lora_B" in parameter:
                torch.nn.init.normal_(weight, std=0.3)
        peft.save_pretrained(folder / "loras")  # Writes one folder per adapter, with its name.
        logits |= {name: _logits(_weighted(peft.eval(), weights)) for name, weights in SETS.items()}
    np.savez(folder / "logits.npz", **logits)


def _logits(model: Any) -> Any:
    import torch

    return model(torch.tensor([TOKENS])).logits[0].numpy()


def _weighted(peft: Any, weights: dict[str, float]) -> Any:
    """Apply exactly these adapters with these weights."""
    peft.base_model.set_adapter(list(weights))
    for module in peft.modules():
        if hasattr(module, "set_scale"):
            for name in module.scaling:
                module.set_scale(name, weights.get(name, 0.0))
    return peft


def architecture(name: str) -> str:
    """Return the architecture's name in llama.cpp."""
    return "llama" if name == "mistral" else name


def _model(name: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(7)
    kind = KINDS[name]
    config_kind = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    config = config_kind(**_SIZE, **_HEADS, **_OTHER, pad_token_id=0, tie_word_embeddings=name in _TIED)
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def _gguf(arch: str, weights: dict[str, Any]) -> bytes:
    stored = {name: weight for name, weight in weights.items() if not (arch in _TIED and name.startswith("lm_head"))}
    arrays = dict(_gguf_tensor(arch, name, weight.float().numpy()) for name, weight in stored.items())
    tensors = [Tensor(name, array.shape[::-1]) for name, array in arrays.items()]
    content = gguf(_metadata(arch), tensors)
    data = b"".join(array.tobytes() + bytes(-array.nbytes % 32) for array in arrays.values())
    return content[: -len(data)] + data


def _gguf_tensor(arch: str, name: str, array: Any) -> tuple[str, Any]:
    """Convert a tensor's name and values to those of llama.cpp."""
    module, _, kind = name.rpartition(".")
    if target := gguf_name(arch, module):
        if has_interleaved_heads(arch, target):
            heads = _Q if target.split(".")[-2] == "attn_q" else _KV
            array = np.frombuffer(interleaved(array.tobytes(), len(array), heads), "<f4").reshape(array.shape)
        return target.replace(".weight", f".{kind}"), array
    if module == "model.embed_tokens":
        return "token_embd.weight", array
    if arch.startswith("gemma"):
        array = array + 1
    if module == "model.norm":
        return "output_norm.weight", array
    names = _NORMS | (_FOUR if arch in ("gemma2", "gemma3") else _TWO)
    return f"blk.{name.split('.')[2]}.{names[module.rpartition('.')[2]]}.weight", array


def _metadata(arch: str) -> dict[str, Any]:
    size = {
        "context_length": 256,
        "embedding_length": _HIDDEN,
        "block_count": _LAYERS,
        "feed_forward_length": _INTERMEDIATE,
        HEADS["attn_q"]: _Q,
        HEADS["attn_k"]: _KV,
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "attention.layer_norm_rms_epsilon": _EPSILON,
        "attention.sliding_window": 200,
        "rope.dimension_count": _HEAD,
        "rope.freq_base": 1e6 if arch == "gemma3" else 1e4,
        "vocab_size": _VOCABULARY,
    }
    softcapping = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0} if arch == "gemma2" else {}
    prefixed = {f"{arch}.{key}": value for key, value in (size | softcapping).items()}
    return {"general.architecture": arch} | _vocabulary() | prefixed


def _vocabulary() -> dict[str, Any]:
    """Return a BPE tokenizer without usable merges: the printable ASCII characters, and words such as <99>."""
    control, letter, word = 3, 1, 4
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<unk>", "<s>", "</s>", *letters, *(f"<{number}>" for number in range(3 + len(letters), _VOCABULARY))]
    kinds = [control] * 3 + [letter] * len(letters) + [word] * (_VOCABULARY - 3 - len(letters))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": As(ARRAY, array(I32, kinds)),
        "tokenizer.ggml.merges": ["~ ~"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:] or tuple(KINDS))
