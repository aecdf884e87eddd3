"""Convert the demo model's GGUF file to a Transformers folder, once, and keep it outside the repository.

`python -m tests.support.hf_folder <file.gguf> <folder>` writes one. It has its own GGUF reader: that of transformers
needs another package and 15 s, and its result cannot be saved without tricks. Weights are bfloat16; names and the order
of rows within the heads are those of transformers' LlamaForCausalLM. Both JSON configurations have the keys
that transformers 5 writes, and none of those that it replaced.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from modules.formats.gguf_tensors import TENSOR_TYPES
from tests.support.made_once import CACHE, made_once, version

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY, _CONTROL = 8, 9, 3
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
Metadata = dict[str, Any]
Floats = NDArray[np.float32]


def transformers_folder(gguf: Path) -> Path:
    """Return the folder converted from `gguf`; convert it if no earlier run has."""
    with gguf.open("rb") as file:
        head = hashlib.sha256(file.read(1 << 23)).hexdigest()  # covers all its metadata
    folder = CACHE / version([__file__], gguf.stat().st_size, head) / gguf.name.partition(".")[0]
    return made_once(folder, lambda part: convert(gguf, part))


def read_metadata(gguf: Path) -> Metadata:
    """Return all metadata of a GGUF file by key."""
    with gguf.open("rb") as file:
        return _Reader(file).metadata


def convert(gguf: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    with gguf.open("rb") as file:
        reader = _Reader(file)
        metadata, weights = reader.metadata, reader.weights()
        config = _config(metadata)
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", {key: config[key] for key in _SPECIAL_IDS})
        _write_json(folder / "tokenizer.json", _tokenizer(metadata))
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(metadata))
        write_safetensors(folder / "model.safetensors", {name: bfloat16(array) for name, array in weights})


# -- reading the GGUF --------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        assert file.read(4) == b"GGUF"
        self._number("I")
        tensors, entries = self._number("Q"), self._number("Q")
        self.metadata: Metadata = {self._text(): self._value(self._number("I")) for _ in range(entries)}
        self._tensors = [self._tensor_info() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        self._data = -(-file.tell() // alignment) * alignment

    def weights(self) -> Iterator[tuple[str, Floats]]:
        """Yield all tensors under their names in transformers."""
        heads = {kind: self.metadata[f"llama.attention.head_count{kind}"] for kind in ("", "_kv")}
        for name, shape, kind, offset in self._tensors:
            type_name, block, size = TENSOR_TYPES[kind]
            self._file.seek(self._data + offset)
            raw = self._file.read(int(np.prod(shape)) // block * size)
            array = _dequantize(raw, type_name).reshape(shape[::-1])
            part = name.split(".")[-2]
            if part in ("attn_q", "attn_k"):
                array = _reorder_rows(array, heads["_kv" if part == "attn_k" else ""])
            layer = f"model.layers.{name.split('.')[1]}." if name.startswith("blk.") else ""
            yield f"{layer}{_NAMES[part]}.weight", array

    def _tensor_info(self) -> tuple[str, list[int], int, int]:
        name = self._text()
        shape = [self._number("Q") for _ in range(self._number("I"))]
        return name, shape, self._number("I"), self._number("Q")

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack("<" + code, self._file.read(struct.calcsize("<" + code)))
        return value

    def _text(self) -> str:
        return self._file.read(self._number("Q")).decode()

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            item, count = self._number("I"), self._number("Q")
            return [self._value(item) for _ in range(count)]
        return self._number(_SCALARS[kind])


def _dequantize(raw: bytes, kind: str) -> Floats:
    """Dequantize blocks of 32 elements: a float16 scale, in Q4_1 also the minimum, then the elements."""
    if kind == "F32":
        return np.frombuffer(raw, "<f4")
    size = {"Q4_1": 20, "Q8_0": 34}[kind]
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, size)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if kind == "Q8_0":
        return blocks[:, 2:].copy().view(np.int8) * scale
    minimum = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return nibbles * scale + minimum


def _reorder_rows(array: Floats, heads: int) -> Floats:
    """Reorder rows for RoPE: llama.cpp rotates pairs of adjacent rows of a head, transformers pairs of its halves."""
    return array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


# -- writing the folder ------------------------------------------------------------------------------------------------

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _config(metadata: Metadata) -> dict[str, Any]:
    base = metadata["llama.rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "head_dim": metadata["llama.rope.dimension_count"],
        "max_position_embeddings": metadata["llama.context_length"],
        "rms_norm_eps": round(metadata["llama.attention.layer_norm_rms_epsilon"], 9),
        "vocab_size": metadata["llama.vocab_size"],
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer(metadata: Metadata) -> dict[str, Any]:
    """Return tokenizer.json: byte-level BPE with every digit on its own, like the pre-tokenizer "smollm"."""
    assert (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    kinds = metadata["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i, kind in enumerate(kinds) if kind == _CONTROL],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    special = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {f"{ours}_token": tokens[metadata[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in special.items()}
    return {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "is_local": True,
        "extra_special_tokens": [tokens[i] for i, kind in enumerate(kinds) if kind == _CONTROL],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": metadata["tokenizer.ggml.add_bos_token"],
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
        **named,
    }


def bfloat16(array: Floats) -> NDArray[np.uint16]:
    """Convert to raw bfloat16: the upper half of each float32, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(array, "<f4").view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


DTYPES = {"uint16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32"}
"""The safetensors dtype by numpy dtype. uint16 stands for bfloat16, which numpy lacks."""


def write_safetensors(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for array in arrays.values():
            file.write(array.tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
