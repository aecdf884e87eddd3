"""Tiny BERTs with random weights, each as a Transformers folder and as a GGUF file with the same weights.

One computes vectors, one ranks. GGUF names and metadata are those that llama.cpp's converter writes.
"""

from __future__ import annotations

import json
import string
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from modules.formats.embedding import POOLING_CLS, POOLING_MEAN, POOLING_RANK
from tests.support.forked import forked
from tests.support.gguf_files import ALIGNMENT, ARRAY, I32, As, Tensor, array, entry, gguf
from tests.support.made_once import CACHE, made_once, version

HIDDEN, NETWORK, LAYERS, HEADS, CONTEXT = 32, 64, 2, 4, 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "cat", "sat", "on", "mat", "dog", "ran", "to", "house", "and", "paris", "is", "in", "france")
VOCABULARY = (*_SPECIAL, *_WORDS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase))
CLS, SEP = 2, 3
_IDS = {"padding": 0, "unknown": 1, "cls": CLS, "bos": CLS, "seperator": SEP, "eos": SEP, "mask": 4}
_CONTROL, _NORMAL = 3, 1
_NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
"""GGUF's names of tensors by those of transformers, within a layer and outside."""


def tiny_berts() -> Path:
    """Return a folder with models called tiny-mean, tiny-cls and tiny-rank, each as a folder and as NAME.gguf.

    Create it if no earlier run has. Read-only.
    """
    return made_once(CACHE / version([__file__]) / "berts", _write_all)


def _write_all(folder: Path) -> None:
    folder.mkdir()
    numbers = {"mean": POOLING_MEAN, "cls": POOLING_CLS, "rank": POOLING_RANK}
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    for kind, number in numbers.items():
        target = folder / f"tiny-{kind}"
        forked(_write, target, kind == "rank")
        if kind in modes:
            write_pipeline(target, {modes[kind]: True})
        weights = _read(target / "model.safetensors")
        (folder / f"tiny-{kind}.gguf").write_bytes(_gguf(weights, number))


def _write(folder: Path, ranks: bool) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    torch.manual_seed(7)
    size = {"hidden_size": HIDDEN, "intermediate_size": NETWORK, "num_hidden_layers": LAYERS}
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        **size,
        **({"num_labels": 1} if ranks else {}),
    )
    cls = transformers.BertForSequenceClassification if ranks else transformers.BertModel
    model = cls(config)
    for name, weight in model.named_parameters():
        if "LayerNorm" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    if ranks:  # llama.cpp takes every token for one of the first type
        types = model.bert.embeddings.token_type_embeddings.weight
        types.data[1] = types.data[0]
    model.save_pretrained(folder)
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **names}
    _write_json(folder / "tokenizer_config.json", settings)


def write_pipeline(folder: Path, pooling: Mapping[str, Any], width: int = HIDDEN) -> None:
    """Write the files of sentence-transformers into the folder of a model, with these settings of the pooling."""
    package = "sentence_transformers.models"
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{package}.{name}"}
        for index, (name, path) in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **pooling})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _read(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    return load_file(path)


def _gguf(weights: Mapping[str, NDArray[Any]], pooling: int) -> bytes:
    named = {_name(name): weight for name, weight in weights.items() if pooling == POOLING_RANK or "pooler" not in name}
    tensors = [Tensor(name, weight.shape[::-1]) for name, weight in named.items()]
    contents = [weight.astype("<f4").tobytes() for weight in named.values()]
    kinds = [_CONTROL if token in _SPECIAL else _NORMAL for token in VOCABULARY]
    return gguf(
        {
            "general.architecture": "bert",
            "general.name": "Tiny BERT",
            "general.file_type": 0,
            "bert.context_length": CONTEXT,
            "bert.block_count": LAYERS,
            "bert.embedding_length": HIDDEN,
            "bert.feed_forward_length": NETWORK,
            "bert.attention.head_count": HEADS,
            "bert.attention.layer_norm_epsilon": 1e-12,
            "bert.attention.causal": False,
            "bert.pooling_type": pooling,
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": [_phantom(token) for token in VOCABULARY],
            "tokenizer.ggml.token_type": As(ARRAY, array(I32, kinds)),
            "tokenizer.ggml.token_type_count": 2,
            **{f"tokenizer.ggml.{name}_token_id": number for name, number in _IDS.items()},
        },
        tensors,
        contents=contents,
    )


def _phantom(token: str) -> str:
    """Return a word piece as GGUF has it: with the beginnings of words marked instead of their continuations."""
    if token in _SPECIAL:
        return token
    return token.removeprefix("##") if token.startswith("##") else f"\u2581{token}"


def _name(name: str) -> str:
    name = name.removeprefix("bert.")
    prefix = ""
    if name.startswith("encoder.layer."):
        layer, name = name.removeprefix("encoder.layer.").split(".", 1)
        prefix = f"blk.{layer}."
    stem, _, suffix = name.rpartition(".")
    return prefix + _NAMES.get(name, f"{_NAMES.get(stem, stem)}.{suffix}")


def with_pooling(gguf_file: bytes, architecture: str, pooling: int) -> bytes:
    """Return a GGUF file with a pooling type added to its metadata."""
    added = entry(f"{architecture}.pooling_type", pooling)
    filler = -(len(added) + len(entry("f", ""))) % ALIGNMENT  # keeps the tensors aligned
    added += entry("f", "x" * filler)
    tensors, entries = struct.unpack_from("<QQ", gguf_file, 8)
    return gguf_file[:8] + struct.pack("<QQ", tensors, entries + 2) + added + gguf_file[24:]
