"""A script that answers a prompt with a picture by mtmd's own helpers alone, in a separate process.

It reads a JSON object from stdin: "model", "projector", "text" with mtmd's default marker, "images" as paths, "n_ctx",
"n_batch", "tokens". It writes, as JSON, the tokens of the greedy answer and the log probabilities before the first.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp.llama_cpp as native
import llama_cpp.mtmd_cpp as mtmd
import numpy as np

TOP = 10


def main() -> None:
    request = json.load(sys.stdin)
    native.llama_backend_init()
    model = native.llama_model_load_from_file(request["model"].encode(), native.llama_model_default_params())
    params = native.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = request["n_ctx"], request["n_batch"], request["n_batch"]
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = 1
    context = native.llama_init_from_model(model, params)
    vision_params = mtmd.mtmd_context_params_default()
    vision_params.use_gpu, vision_params.n_threads = False, 1
    vision = mtmd.mtmd_init_from_file(request["projector"].encode(), model, vision_params)
    position = _evaluate(vision, context, request)
    print(json.dumps(_answer(model, context, position, request["tokens"])))


def _evaluate(vision: Any, context: Any, request: dict[str, Any]) -> int:
    bitmaps = [mtmd.mtmd_helper_bitmap_init_from_file(vision, path.encode(), False) for path in request["images"]]
    raw = request["text"].encode()
    text = mtmd.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
    chunks = mtmd.mtmd_input_chunks_init()
    array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
    assert mtmd.mtmd_tokenize(vision, chunks, ctypes.byref(text), array, len(bitmaps)) == 0
    position = native.llama_pos(0)
    status = mtmd.mtmd_helper_eval_chunks(
        vision, context, chunks, 0, 0, request["n_batch"], True, ctypes.byref(position)
    )
    assert status == 0
    return position.value


def _answer(model: Any, context: Any, position: int, count: int) -> dict[str, Any]:
    vocabulary = native.llama_model_get_vocab(model)
    size = native.llama_vocab_n_tokens(vocabulary)
    tokens: list[int] = []
    first: dict[int, float] = {}
    for _ in range(count):
        logits = np.ctypeslib.as_array(native.llama_get_logits_ith(context, -1), (size,)).astype(np.float64)
        logprobs = logits - (np.log(np.exp(logits - logits.max()).sum()) + logits.max())
        first = first or {int(token): float(logprobs[token]) for token in np.argsort(-logits)[:TOP]}
        tokens.append(int(logits.argmax()))
        token, at = (native.llama_token * 1)(tokens[-1]), (native.llama_pos * 1)(position)
        batch = native.llama_batch_get_one(token, 1)
        batch.pos = at
        assert native.llama_decode(context, batch) == 0
        position += 1
    return {"tokens": tokens, "logprobs": first}


if __name__ == "__main__":
    main()
