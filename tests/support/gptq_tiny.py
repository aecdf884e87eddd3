"""A tiny GPTQ model of the Llama type with random weights, in which every head has its own keys and values."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.hf_folder import write_safetensors
from tests.support.pickled_weights import pickle_weights
from tests.support.quantised_folders import read_safetensors
from tests.support.quantised_packing import GROUP, Tensors, gptq, rounded_to_nearest

_HIDDEN, _WIDE, _LAYERS, _WORDS = 128, 256, 2, 49152
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _WIDE,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": _WORDS,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ATTENTION = {f"self_attn.{each}_proj": (_HIDDEN, _HIDDEN) for each in "qkvo"}
_NETWORK = {"mlp.gate_proj": (_WIDE, _HIDDEN), "mlp.up_proj": (_WIDE, _HIDDEN), "mlp.down_proj": (_HIDDEN, _WIDE)}


def tensors(act_order: bool = False) -> Tensors:
    """With `act_order` the groups of inputs lie scattered, the same for all layers that read the same."""
    return dict(_tensors(act_order))


@functools.cache
def _tensors(act_order: bool) -> Tensors:
    draw = np.random.default_rng(5)

    def normal(*shape: int) -> Any:
        return draw.normal(0, 0.3, shape).astype(np.float32)

    found: Tensors = {f"{name}.weight": normal(_WORDS, _HIDDEN) for name in ("model.embed_tokens", "lm_head")}
    found["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    scattered = {width: draw.permutation(width) for width in (_HIDDEN, _WIDE)}
    for layer in range(_LAYERS):
        place = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{place}.{norm}.weight"] = np.ones(_HIDDEN, np.float32)
        for name, shape in (_ATTENTION | _NETWORK).items():
            for kind, array in gptq(rounded_to_nearest(normal(*shape), 4, symmetric=False)).items():
                found[f"{place}.{name}.{kind}"] = array
            if act_order:
                found[f"{place}.{name}.g_idx"] = found[f"{place}.{name}.g_idx"][scattered[shape[1]]]
    return found


def write(folder: Path, tokenizer: Path, arrays: Tensors, file: str = "model.safetensors", **said: Any) -> Path:
    """`said` is of the quantisation; without any, the folder says nothing of it."""
    folder.mkdir()
    for each in tokenizer.glob("tokenizer*"):
        shutil.copy(each, folder / each.name)
    about = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False} | said
    (folder / "config.json").write_text(json.dumps(CONFIG | ({"quantization_config": about} if said else {})))
    write_safetensors(folder / file, arrays)
    return folder


def split(folder: Path) -> None:
    """Divide the one file of weights into two with an index, as large models have."""
    arrays, index = read_safetensors(folder / "model.safetensors"), dict[str, str]()
    names = sorted(arrays)
    for part in (0, 1):
        file, own = f"model-0000{part + 1}-of-00002.safetensors", names[part::2]
        write_safetensors(folder / file, {name: arrays[name] for name in own})
        index |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()


def pickled(folder: Path, file: str) -> None:
    """Replace the file of weights by one of PyTorch's."""
    pickle_weights(folder / "model.safetensors", folder / file)
    (folder / "model.safetensors").unlink()
