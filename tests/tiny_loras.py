"""Tiny random models of several architectures, each as a GGUF file in full precision with an adapter that PEFT made.

`python -m tests.tiny_loras <folder>` writes <architecture>/model.gguf, the adapter <architecture>/loras/cat, and
<architecture>/logits.npz: after each of TOKENS in float32, "none" without and "cat" with the adapter.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from modules.lora_gguf import interleaved
from modules.lora_names import HEADS, gguf_name, reordered
from tests.gguf_files import Tensor, gguf

TOKENS = [5, 90, 33, 7, 64, 12, 118, 2, 77, 41, 19, 100]
_WORDS, _HIDDEN, _LAYERS, _Q, _KV, _HEAD, _NETWORK, _EPSILON = 128, 64, 2, 4, 2, 16, 96, 1e-6

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
"""Our name for each, and transformers'."""

_SIZE = {"hidden_size": _HIDDEN, "intermediate_size": _NETWORK, "num_hidden_layers": _LAYERS, "vocab_size": _WORDS}
_HEADS = {"num_attention_heads": _Q, "num_key_value_heads": _KV, "head_dim": _HEAD, "query_pre_attn_scalar": _HEAD}
_REST = {"max_position_embeddings": 256, "rms_norm_eps": _EPSILON, "bos_token_id": 1, "eos_token_id": 2}
_TIED = ("gemma", "gemma2")  # llama.cpp takes them in no other way
_NORMS = {"input_layernorm": "attn_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}
_TWO = {"post_attention_layernorm": "ffn_norm"}
_FOUR = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def main() -> None:
    for name in KINDS:
        _make(Path(sys.argv[1]) / name, name)


def _make(folder: Path, name: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    folder.mkdir(parents=True)
    model = _model(name)
    (folder / "model.gguf").write_bytes(_gguf(architecture(name), model.state_dict()))
    with torch.no_grad():
        none = model(torch.tensor([TOKENS])).logits[0].numpy()
        modules = ["q_proj", "k_proj", "lm_head"] if name == "llama" else "all-linear"  # the latter without lm_head
        peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=modules))
        for each, weight in peft.named_parameters():
            if "lora_B" in each:
                torch.nn.init.normal_(weight, std=0.3)
        peft.save_pretrained(folder / "loras" / "cat")
        np.savez(folder / "logits.npz", none=none, cat=peft.eval()(torch.tensor([TOKENS])).logits[0].numpy())


def architecture(name: str) -> str:
    """What llama.cpp calls it."""
    return "llama" if name == "mistral" else name


def _model(name: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(7)
    kind = KINDS[name]
    config_kind = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    config = config_kind(**_SIZE, **_HEADS, **_REST, pad_token_id=0, tie_word_embeddings=name in _TIED)
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation="eager")
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.2)
    return model.eval()


def _gguf(arch: str, weights: dict[str, Any]) -> bytes:
    own = {name: each for name, each in weights.items() if not (arch in _TIED and name.startswith("lm_head"))}
    arrays = dict(_named(arch, name, each.float().numpy()) for name, each in own.items())
    tensors = [Tensor(name, each.shape[::-1]) for name, each in arrays.items()]
    content = gguf(_facts(arch), tensors)
    data = b"".join(each.tobytes() + bytes(-each.nbytes % 32) for each in arrays.values())
    return content[: -len(data)] + data


def _named(arch: str, name: str, array: Any) -> tuple[str, Any]:
    """A tensor as llama.cpp has it."""
    module, _, kind = name.rpartition(".")
    if found := gguf_name(arch, module):
        if reordered(arch, found):
            heads = _Q if found.split(".")[-2] == "attn_q" else _KV
            array = np.frombuffer(interleaved(array.tobytes(), len(array), heads), "<f4").reshape(array.shape)
        return found.replace(".weight", f".{kind}"), array
    if module == "model.embed_tokens":
        return "token_embd.weight", array
    if arch.startswith("gemma"):
        array = array + 1
    if module == "model.norm":
        return "output_norm.weight", array
    names = _NORMS | (_FOUR if arch in ("gemma2", "gemma3") else _TWO)
    return f"blk.{name.split('.')[2]}.{names[module.rpartition('.')[2]]}.weight", array


def _facts(arch: str) -> dict[str, Any]:
    own = {
        "context_length": 256,
        "embedding_length": _HIDDEN,
        "block_count": _LAYERS,
        "feed_forward_length": _NETWORK,
        HEADS["attn_q"]: _Q,
        HEADS["attn_k"]: _KV,
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "attention.layer_norm_rms_epsilon": _EPSILON,
        "attention.sliding_window": 200,
        "rope.dimension_count": _HEAD,
        "rope.freq_base": 1e6 if arch == "gemma3" else 1e4,
        "vocab_size": _WORDS,
    }
    capped = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0} if arch == "gemma2" else {}
    facts = {f"{arch}.{key}": each for key, each in (own | capped).items()}
    return {"general.architecture": arch, "tokenizer.ggml.model": "no_vocab"} | facts


if __name__ == "__main__":
    main()
