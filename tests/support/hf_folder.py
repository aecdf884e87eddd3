"""The demo model as transformers takes it: a folder made from the GGUF file, once, and kept outside the repository.

`python -m tests.support.hf_folder <file.gguf> <folder>` writes one. It reads the GGUF by itself: transformers' own way
needs a package more, takes 15 s, and what it has read cannot be saved without tricks. Weights are bfloat16, names and
the order of rows within the heads are those of transformers' LlamaForCausalLM, and config.json says everything twice
where versions before 5 ask for it by another name.
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
    """Return the folder made from `gguf`; make it if no earlier run has."""
    with gguf.open("rb") as file:
        head = hashlib.sha256(file.read(1 << 23)).hexdigest()  # more than all its metadata
    folder = CACHE / version([__file__], gguf.stat().st_size, head) / gguf.name.partition(".")[0]
    return made_once(folder, lambda part: convert(gguf, part))


def read_metadata(gguf: Path) -> Metadata:
    """Return all metadata of the file by key."""
    with gguf.open("rb") as file:
        return _Reader(file).metadata


def convert(gguf: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    with gguf.open("rb") as file:
        reader = _Reader(file)
        facts, weights = reader.metadata, reader.weights()
        config = _config(facts)
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", {key: config[key] for key in _ENDS})
        _write_json(folder / "tokenizer.json", _tokenizer(facts))
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(facts))
        write_safetensors(folder / "model.safetensors", {name: bfloat16(array) for name, array in weights})


# -- reading the GGUF --------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        assert file.read(4) == b"GGUF"
        self._number("I")
        tensors, entries = self._number("Q"), self._number("Q")
        self.metadata: Metadata = {self._text(): self._value(self._number("I")) for _ in range(entries)}
        self._tensors = [self._described() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        self._data = -(-file.tell() // alignment) * alignment

    def weights(self) -> Iterator[tuple[str, Floats]]:
        """Every tensor under its name in transformers."""
        heads = {kind: self.metadata[f"llama.attention.head_count{kind}"] for kind in ("", "_kv")}
        for name, shape, kind, offset in self._tensors:
            type_name, block, size = TENSOR_TYPES[kind]
            self._file.seek(self._data + offset)
            raw = self._file.read(int(np.prod(shape)) // block * size)
            array = _dequantise(raw, type_name).reshape(shape[::-1])
            part = name.split(".")[-2]
            if part in ("attn_q", "attn_k"):
                array = _halves(array, heads["_kv" if part == "attn_k" else ""])
            layer = f"model.layers.{name.split('.')[1]}." if name.startswith("blk.") else ""
            yield f"{layer}{_NAMES[part]}.weight", array

    def _described(self) -> tuple[str, list[int], int, int]:
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


def _dequantise(raw: bytes, kind: str) -> Floats:
    """Blocks of 32 elements: a half-float scale, in Q4_1 the smallest value too, then the elements."""
    if kind == "F32":
        return np.frombuffer(raw, "<f4")
    size = {"Q4_1": 20, "Q8_0": 34}[kind]
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, size)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if kind == "Q8_0":
        return blocks[:, 2:].copy().view(np.int8) * scale
    least = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return nibbles * scale + least


def _halves(array: Floats, heads: int) -> Floats:
    """llama.cpp turns neighbouring rows of a head against each other, transformers one half against the other."""
    return array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


# -- writing the folder ------------------------------------------------------------------------------------------------

_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _config(facts: Metadata) -> dict[str, Any]:
    base = facts["llama.rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.rope.dimension_count"],
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        "vocab_size": facts["llama.vocab_size"],
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "rope_theta": base,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer(facts: Metadata) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE that takes each digit by itself, as the pre-tokenizer "smollm" does."""
    assert (facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    kinds = facts["tokenizer.ggml.token_type"]
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i, kind in enumerate(kinds) if kind == _CONTROL],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytewise],
        },
        "post_processor": None,
        "decoder": bytewise,
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
            "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(facts: Metadata) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    special = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {f"{ours}_token": tokens[facts[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in special.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": facts["tokenizer.ggml.add_bos_token"],
        "model_max_length": facts["llama.context_length"],
        "chat_template": facts["tokenizer.chat_template"],
        **named,
    }


def bfloat16(array: Floats) -> NDArray[np.uint16]:
    """The upper half of each float, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(array, "<f4").view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


DTYPES = {"uint16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32"}
"""What safetensors calls the arrays of numpy that we keep them in; numpy has no bfloat16."""


def write_safetensors(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        head[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    about = json.dumps(head).encode()
    about += b" " * (-len(about) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(about)) + about)
        for array in arrays.values():
            file.write(array.tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
