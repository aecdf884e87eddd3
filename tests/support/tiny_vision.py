"""Vision models of seeded random weights with the demo model's tokenizer: a GGUF file with its mmproj file beside it.

Three kinds, which place pictures differently: "llama" at one position for each cell of the KV cache; "qwen2vl" in
three dimensions (M-RoPE), so that a picture takes fewer positions than cells; "gemma3", whose cells of a picture look
at each other in both directions. The answers are meaningless, but depend on every pixel.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from modules.core.paths import ROOT
from tests.support.gguf_files import ARRAY, I32, As, Tensor, array, gguf
from tests.support.hf_folder import read_metadata
from tests.support.made_once import CACHE, made_once, version
from tests.support.tiny_model import CONTEXT, HEAD, HEADS, HIDDEN, KEY_VALUE_HEADS, LAYERS, NETWORK

KINDS = ("llama", "qwen2vl", "gemma3")
WIDTH, DEPTH, PATCH = 16, 2, 14  # of the vision part
IMAGE_SIZE = {"llama": 56, "qwen2vl": 56, "gemma3": 112}
PROJECTOR = {"llama": "mlp", "qwen2vl": "qwen2vl_merger", "gemma3": "gemma3"}
_SEED = 7

HAS_MTMD = any(
    any((Path(folder) / "llama_cpp" / "lib").glob("*mtmd*")) for folder in (ROOT / "overlays" / "llamacpp", *sys.path)
)
"""Whether the installed llama-cpp-python was built with mtmd."""

Shapes = dict[str, tuple[int, ...]]


def tiny_vision(demo: Path, kind: str) -> Path:
    """Return the GGUF file, with the tokenizer of the GGUF file `demo`; create both if no earlier run has."""
    folder = CACHE / version([__file__], demo.stat().st_size) / f"tiny-{kind}"

    def write(part: Path) -> None:
        part.mkdir()
        (part / "model.gguf").write_bytes(_text_model(read_metadata(demo), kind))
        (part / "mmproj.gguf").write_bytes(projector(kind))

    return made_once(folder, write) / "model.gguf"


def _text_model(demo: dict[str, Any], kind: str) -> bytes:
    tokenizer = {key: value for key, value in demo.items() if key.startswith("tokenizer.")}
    kinds = tokenizer["tokenizer.ggml.token_type"]
    tokenizer["tokenizer.ggml.token_type"] = As(ARRAY, array(I32, kinds))
    facts = {
        "context_length": CONTEXT,
        "block_count": LAYERS,
        "embedding_length": HIDDEN,
        "feed_forward_length": NETWORK,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_VALUE_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HEAD,
        "rope.freq_base": 10000.0,
        "vocab_size": len(kinds),
    }
    if kind == "qwen2vl":
        facts["rope.dimension_sections"] = As(ARRAY, array(I32, (1, 1, 0, 0)))
    head = {"general.architecture": kind, "general.name": f"Tiny {kind}", "general.file_type": 0}
    shapes: Shapes = {"token_embd.weight": (HIDDEN, len(kinds)), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _text_layer(kind).items()}
    return _file(head | {f"{kind}.{key}": value for key, value in facts.items()} | tokenizer, shapes)


def _text_layer(kind: str) -> Shapes:
    layer: Shapes = {
        "attn_norm.weight": (HIDDEN,),
        "attn_q.weight": (HIDDEN, HEADS * HEAD),
        "attn_k.weight": (HIDDEN, KEY_VALUE_HEADS * HEAD),
        "attn_v.weight": (HIDDEN, KEY_VALUE_HEADS * HEAD),
        "attn_output.weight": (HEADS * HEAD, HIDDEN),
        "ffn_norm.weight": (HIDDEN,),
        "ffn_gate.weight": (HIDDEN, NETWORK),
        "ffn_up.weight": (HIDDEN, NETWORK),
        "ffn_down.weight": (NETWORK, HIDDEN),
    }
    if kind == "gemma3":
        layer |= {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
        layer |= {"post_attention_norm.weight": (HIDDEN,), "post_ffw_norm.weight": (HIDDEN,)}
    return layer


def projector(kind: str, output: int = HIDDEN) -> bytes:
    """Return an mmproj file for text models with embeddings of size `output`."""
    size = IMAGE_SIZE[kind]
    facts = {
        "image_size": size,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": 2 * WIDTH,
        "block_count": DEPTH,
        "projection_dim": output,
        "attention.head_count": 2,
        "attention.layer_norm_epsilon": 1e-5,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    head = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.file_type": 0,
        "clip.has_vision_encoder": True,
        "clip.projector_type": PROJECTOR[kind],
        "clip.use_gelu": True,
    }
    shapes: Shapes = {"v.patch_embd.weight": (PATCH, PATCH, 3, WIDTH)}
    for layer in range(DEPTH):
        shapes |= {f"v.blk.{layer}.{name}": shape for name, shape in _VISION_LAYER.items()}
    shapes |= {"v.post_ln.weight": (WIDTH,), "v.post_ln.bias": (WIDTH,)}
    if kind != "qwen2vl":
        shapes["v.position_embd.weight"] = (WIDTH, (size // PATCH) ** 2)
    if kind == "llama":
        shapes |= {"mm.0.weight": (WIDTH, WIDTH), "mm.0.bias": (WIDTH,)}
        shapes |= {"mm.2.weight": (WIDTH, output), "mm.2.bias": (output,)}
    if kind == "qwen2vl":
        shapes |= {"v.patch_embd.weight.1": (PATCH, PATCH, 3, WIDTH)}
        shapes |= {"mm.0.weight": (4 * WIDTH, 4 * WIDTH), "mm.0.bias": (4 * WIDTH,)}
        shapes |= {"mm.2.weight": (4 * WIDTH, output), "mm.2.bias": (output,)}
    if kind == "gemma3":
        shapes |= {"mm.input_projection.weight": (output, WIDTH), "mm.soft_emb_norm.weight": (WIDTH,)}
    return _file(head | {f"clip.vision.{key}": value for key, value in facts.items()}, shapes)


_VISION_LAYER: Shapes = {
    **{f"attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")},
    **{f"attn_{name}.bias": (WIDTH,) for name in ("q", "k", "v", "out")},
    **{f"ln{number}.{name}": (WIDTH,) for number in (1, 2) for name in ("weight", "bias")},
    "ffn_up.weight": (WIDTH, 2 * WIDTH),
    "ffn_up.bias": (2 * WIDTH,),
    "ffn_down.weight": (2 * WIDTH, WIDTH),
    "ffn_down.bias": (WIDTH,),
}


def _file(metadata: dict[str, Any], shapes: Shapes) -> bytes:
    generator = np.random.default_rng(_SEED)
    contents = [_weights(generator, name, shape) for name, shape in shapes.items()]
    return gguf(metadata, [Tensor(name, shape) for name, shape in shapes.items()], contents=contents)


def _weights(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> bytes:
    """Return 32-bit floats. Embeddings of pictures are as small as those of tokens, so that both count."""
    if name.endswith(("norm.weight", "ln.weight", "ln1.weight", "ln2.weight")):
        return np.full(shape, 6.0 if name == "output_norm.weight" else 1.0, np.float32).tobytes()
    small = name.startswith(("token_embd", "mm.2", "mm.input"))
    return generator.normal(0, 0.05 if small else 0.4, shape).astype(np.float32).tobytes()
