"""A tiny GPTQ model of the Llama type with random weights, in which every attention head has its own KV head."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.hf_folder import write_safetensors
from tests.support.pickled_weights import pickle_weights
from tests.support.quantized_folders import read_safetensors
from tests.support.quantized_packing import GROUP, Tensors, gptq, rounded_to_nearest

_HIDDEN, _INTERMEDIATE, _LAYERS, _VOCABULARY = 128, 256, 2, 49152
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _INTERMEDIATE,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": _VOCABULARY,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ATTENTION = {f"self_attn.{letter}_proj": (_HIDDEN, _HIDDEN) for letter in "qkvo"}
_MLP = {
    "mlp.gate_proj": (_INTERMEDIATE, _HIDDEN),
    "mlp.up_proj": (_INTERMEDIATE, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _INTERMEDIATE),
}


def tensors(act_order: bool = False) -> Tensors:
    """Return the model's tensors. With `act_order`, groups hold scattered inputs: the same ones for all projections of
    the same width."""
    return dict(_tensors(act_order))


@functools.cache
def _tensors(act_order: bool) -> Tensors:
    generator = np.random.default_rng(5)

    def normal(*shape: int) -> Any:
        return generator.normal(0, 0.3, shape).astype(np.float32)

    arrays: Tensors = {f"{name}.weight": normal(_VOCABULARY, _HIDDEN) for name in ("model.embed_tokens", "lm_head")}
    arrays["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    scattered = {width: generator.permutation(width) for width in (_HIDDEN, _INTERMEDIATE)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{prefix}.{norm}.weight"] = np.ones(_HIDDEN, np.float32)
        for name, shape in (_ATTENTION | _MLP).items():
            for kind, array in gptq(rounded_to_nearest(normal(*shape), 4, symmetric=False)).items():
                arrays[f"{prefix}.{name}.{kind}"] = array
            if act_order:
                arrays[f"{prefix}.{name}.g_idx"] = arrays[f"{prefix}.{name}.g_idx"][scattered[shape[1]]]
    return arrays


def write(folder: Path, tokenizer: Path, arrays: Tensors, file: str = "model.safetensors", **quantization: Any) -> Path:
    """Write a model folder with `quantization` as entries of its quantization config; without any, it has none."""
    folder.mkdir()
    for file_path in tokenizer.glob("tokenizer*"):
        shutil.copy(file_path, folder / file_path.name)
    quantization_config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False} | quantization
    (folder / "config.json").write_text(
        json.dumps(CONFIG | ({"quantization_config": quantization_config} if quantization else {}))
    )
    write_safetensors(folder / file, arrays)
    return folder


def split(folder: Path) -> None:
    """Split model.safetensors into two shards with an index, as large models have."""
    arrays, weight_map = read_safetensors(folder / "model.safetensors"), dict[str, str]()
    names = sorted(arrays)
    for shard in (0, 1):
        file, shard_names = f"model-0000{shard + 1}-of-00002.safetensors", names[shard::2]
        write_safetensors(folder / file, {name: arrays[name] for name in shard_names})
        weight_map |= dict.fromkeys(shard_names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def pickled(folder: Path, file: str) -> None:
    """Replace model.safetensors with a PyTorch pickle called `file`."""
    pickle_weights(folder / "model.safetensors", folder / file)
    (folder / "model.safetensors").unlink()
