"""A model of 0.8M seeded random weights with the demo model's tokenizer, as a GGUF file and as a Transformers folder.

For the mechanics of an engine: stops, caches, batching, cancellation, logprobs, grammars, settings. The text it
generates is meaningless but depends on all previous tokens, and both formats hold the same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.gguf_files import ARRAY, I32, As, Tensor, array, gguf
from tests.support.hf_folder import bfloat16, read_metadata
from tests.support.made_once import CACHE, made_once, version

HIDDEN, NETWORK, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD = 16, 48, 4, 4, 2, 4
CONTEXT = 2048
_SEED = 5
_SHAPES = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HIDDEN, HEADS * HEAD),
    "attn_k": (HIDDEN, KEY_VALUE_HEADS * HEAD),
    "attn_v": (HIDDEN, KEY_VALUE_HEADS * HEAD),
    "attn_output": (HEADS * HEAD, HIDDEN),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (HIDDEN, NETWORK),
    "ffn_up": (HIDDEN, NETWORK),
    "ffn_down": (NETWORK, HIDDEN),
}
"""By GGUF name within a layer; the fastest-varying dimension comes first."""


def tiny_gguf(demo: Path) -> Path:
    """Return the GGUF file, with the tokenizer of the GGUF file `demo`; create it if no earlier run has."""
    path = CACHE / version([__file__], demo.stat().st_size) / "tiny.gguf"
    return made_once(path, lambda part: part.write_bytes(tiny_gguf_bytes(read_metadata(demo))))


def tiny_gguf_bytes(demo: dict[str, Any]) -> bytes:
    """Return the contents of the file, with the tokenizer of these metadata."""
    tokenizer = {key: value for key, value in demo.items() if key.startswith("tokenizer.")}
    kinds = tokenizer["tokenizer.ggml.token_type"]
    tokenizer["tokenizer.ggml.token_type"] = As(ARRAY, array(I32, kinds))
    shapes = {"token_embd": (HIDDEN, len(kinds)), "output_norm": (HIDDEN,)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in _SHAPES.items()}
    tensors = [Tensor(f"{name}.weight", shape) for name, shape in shapes.items()]
    generator = np.random.default_rng(_SEED)
    contents = [_weights(generator, name, shape).tobytes() for name, shape in shapes.items()]
    return gguf(_facts(len(kinds)) | tokenizer, tensors, contents=contents)


def _facts(vocabulary: int) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": 0,
        "llama.context_length": CONTEXT,
        "llama.block_count": LAYERS,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": NETWORK,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_VALUE_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": vocabulary,
    }


def _weights(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return values that bfloat16 represents exactly. The layers outweigh the embeddings, because otherwise every token
    would repeat itself; the last norm makes the most likely token a few percent likely."""
    if name.endswith("norm"):
        return np.full(shape[::-1], 12.0 if name == "output_norm" else 1.0, np.float32)
    values = generator.normal(0, 0.05 if name == "token_embd" else 0.6, shape[::-1]).astype(np.float32)
    return (bfloat16(values).astype(np.uint32) << 16).view(np.float32)
