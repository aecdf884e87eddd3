"""Make the models of `gpu.py` from a seed: the same weights as a GGUF file in Q8_0 and as a Transformers folder.

A Q8_0 block is 32 integers of 8 bits and a scale. The scales are powers of two, so that bfloat16 represents every
weight exactly and both hold the same numbers. The vocabulary is that of single bytes, filled up with
tokens that no text contains. `python benchmarks/gpu_models.py FOLDER SIZE` writes one model.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.gguf_files import ALIGNMENT, ARRAY, I32, As, Tensor, array, gguf
from tests.support.hf_folder import convert

SEED = 23
F32, Q8_0 = 0, 8
BLOCK = 32
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_SPECIAL = ("<|unknown|>", "<|begin|>", "<|end|>", "<|padding|>")
_MERGE = ("t", "h")
_TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
CONTEXT = 4096


@dataclass(frozen=True)
class Size:
    """The shape of a Llama model; `head` is the size of a head."""

    layers: int
    hidden: int
    network: int
    heads: int
    key_value_heads: int
    vocabulary: int
    head: int = 64

    @property
    def parameters(self) -> int:
        attention = 2 * self.hidden * self.head * (self.heads + self.key_value_heads)
        return self.layers * (attention + 3 * self.hidden * self.network) + self.vocabulary * self.hidden


SIZES = {
    "billion": Size(layers=16, hidden=2048, network=8192, heads=32, key_value_heads=8, vocabulary=32000),
    "shallow": Size(layers=4, hidden=2048, network=8192, heads=32, key_value_heads=8, vocabulary=32000),
    "tiny": Size(layers=2, hidden=256, network=512, heads=4, key_value_heads=2, vocabulary=512),
}
"""The first is for speed and memory, the second for formats that are converted here, the third for a dry run."""


def write_model(folder: Path, name: str) -> None:
    """Write `<name>.gguf` and the Transformers folder `<name>` into `folder`."""
    size, file = SIZES[name], folder / f"{name}.gguf"
    shapes, generator = _shapes(size), np.random.default_rng(SEED)
    tensors, offset = [], 0
    for key, shape in shapes.items():
        tensors.append(Tensor(key, shape, F32 if len(shape) == 1 else Q8_0, offset))
        offset += _padded(4 * shape[0] if len(shape) == 1 else int(np.prod(shape)) // BLOCK * (2 + BLOCK))
    with file.open("wb") as output:
        output.write(gguf(_metadata(size), tensors, contents=[b""] * len(tensors)))
        for key, shape in shapes.items():
            content = _norm(key, shape) if len(shape) == 1 else _weights(generator, shape)
            output.write(content + bytes(_padded(len(content)) - len(content)))
    convert(file, folder / name)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by GGUF name, the fastest-varying dimension first."""
    queries, keys = size.heads * size.head, size.key_value_heads * size.head
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (size.hidden,),
        "attn_q": (size.hidden, queries),
        "attn_k": (size.hidden, keys),
        "attn_v": (size.hidden, keys),
        "attn_output": (queries, size.hidden),
        "ffn_norm": (size.hidden,),
        "ffn_gate": (size.hidden, size.network),
        "ffn_up": (size.hidden, size.network),
        "ffn_down": (size.network, size.hidden),
    }
    shapes = {"token_embd.weight": (size.hidden, size.vocabulary), "output_norm.weight": (size.hidden,)}
    return shapes | {
        f"blk.{number}.{name}.weight": shape for number in range(size.layers) for name, shape in layer.items()
    }


def _norm(name: str, shape: tuple[int, ...]) -> bytes:
    """Return the weights of a norm. The last one makes some tokens much likelier than others."""
    return np.full(shape, 4.0 if name == "output_norm.weight" else 1.0, np.float32).tobytes()


def _weights(generator: np.random.Generator, shape: tuple[int, ...]) -> bytes:
    """Return blocks of Q8_0 whose weights have a variance of about one by the number of inputs."""
    scale = 2.0 ** round(np.log2(1 / (32 * np.sqrt(shape[0]))))
    count = int(np.prod(shape)) // BLOCK
    blocks = np.empty((count, 2 + BLOCK), np.uint8)
    blocks[:, :2] = np.full(count, scale, np.float16).view(np.uint8).reshape(count, 2)
    # The sum of two bytes is nearly normal: -127 to 127, with a standard deviation of 52, halved again to 26.
    first, second = (generator.integers(-63, 64, (count, BLOCK), np.int8) for _ in range(2))
    blocks[:, 2:] = ((first + second) // 2).view(np.uint8)
    return blocks.tobytes()


def _metadata(size: Size) -> dict[str, Any]:
    tokens = [*_SPECIAL, *_byte_characters(), "".join(_MERGE)]
    kinds = [_CONTROL] * len(_SPECIAL) + [_NORMAL] * 257 + [_UNUSED] * (size.vocabulary - len(tokens))
    tokens += [f"<unused {number}>" for number in range(size.vocabulary - len(tokens))]
    return {
        "general.architecture": "llama",
        "general.name": "Random",
        "general.file_type": 7,
        "llama.context_length": CONTEXT,
        "llama.block_count": size.layers,
        "llama.embedding_length": size.hidden,
        "llama.feed_forward_length": size.network,
        "llama.attention.head_count": size.heads,
        "llama.attention.head_count_kv": size.key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": size.head,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": size.vocabulary,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": As(ARRAY, array(I32, kinds)),
        "tokenizer.ggml.merges": [" ".join(_MERGE)],  # llama.cpp refuses a file without merges
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": _TEMPLATE,
    }


def _byte_characters() -> list[str]:
    """Return the character by which GPT-2's byte-level BPE writes each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


if __name__ == "__main__":
    write_model(Path(sys.argv[1]), sys.argv[2])
