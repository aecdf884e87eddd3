"""What any engine on Transformers takes of memory besides the weights.

Source: our `hf.kv_cache`. What libraries take was measured on Linux with torch and transformers 5.23
(benchmarks/estimate_hf.py).
"""

from __future__ import annotations

from modules.engines.hf.arguments import DEFAULT_CONTEXT
from modules.engines.hf.limits import kv_buffer_length
from modules.engines.hf.rope import context_factor
from modules.engines.memory import Options
from modules.formats.model_shape import ModelShape

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

_LIBRARIES_BYTES = 328_000_000  # torch, transformers and what a tokenizer imports, beyond a worker without them
_TOKEN_BYTES = 960  # per token of the vocabulary
_REST_BYTES = 22_000_000  # threads, pages of the libraries that only a generation touches


def context_length(shape: ModelShape, options: Options) -> int:
    """Return the context length in tokens, with RoPE scaling by `options`."""
    own = shape.context_length or DEFAULT_CONTEXT
    if not shape.rope_scale:
        return own
    alpha, compression = float(options["alpha_value"]), float(options["compress_pos_emb"])
    return int(own * context_factor(alpha, compression, shape.rope_scale))


def library_bytes(shape: ModelShape) -> int:
    """Return the bytes of torch and transformers in use, and of the tokenizer."""
    return _LIBRARIES_BYTES + _TOKEN_BYTES * shape.vocab_size + _REST_BYTES


def cache_bytes(shape: ModelShape, width: int, chunk: int, tokens: int) -> int:
    """Return the bytes of keys and values for `tokens`, with the spare room of their buffers.

    `width` are the bytes of a number, `chunk` the tokens that are prefilled at once.
    """
    token = 2 * shape.kv_heads * shape.head_dim * width
    if shape.sliding_window_layers and shape.sliding_window:  # such layers are not ours and have no spare room
        in_windows = min(tokens, shape.sliding_window + chunk) * shape.sliding_window_layers
        return token * (in_windows + tokens * (shape.attention_layers - shape.sliding_window_layers))
    return token * _buffer_tokens(tokens, chunk) * shape.attention_layers


def _buffer_tokens(tokens: int, chunk: int) -> int:
    """Return for how many tokens the buffers are allocated once `tokens` have been prefilled in chunks."""
    allocated = 0
    for end in (*range(chunk, tokens, chunk), tokens):
        if end > allocated:
            allocated = kv_buffer_length(end)
    return allocated


def activation_bytes(shape: ModelShape, width: int, chunk: int, tokens: int) -> int:
    """Return the bytes of the intermediate results of one chunk after `tokens`.

    They are those of the feed-forward network, and of attention with keys and values repeated for all heads.
    """
    network = chunk * (3 * shape.intermediate_size + 6 * shape.hidden_size) * width
    repeated = 2 * shape.heads * shape.head_dim * tokens * width
    return network + repeated + chunk * tokens * width + 3 * 4 * shape.vocab_size
