"""A script that computes log-likelihoods by llama.cpp's low-level calls alone, in a separate process.

It reads a JSON object from stdin: "path", "tokens", "first", "n_batch", "n_ubatch", and writes a list of numbers.
"""

from __future__ import annotations

import json
import sys

import llama_cpp.llama_cpp as native
import numpy as np


def main() -> None:
    request = json.load(sys.stdin)
    print(json.dumps(loglikelihoods(**request)))


def loglikelihoods(path: str, tokens: list[int], first: int, n_batch: int, n_ubatch: int) -> list[float]:
    native.llama_backend_init()
    model = native.llama_model_load_from_file(path.encode(), native.llama_model_default_params())
    params = native.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch = (
        1024,
        n_batch,
        n_ubatch,
        1,
        1,
    )
    params.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = native.llama_init_from_model(model, params)
    size = native.llama_vocab_n_tokens(native.llama_model_get_vocab(model))
    batch = native.llama_batch_init(n_batch, 0, 1)
    found = []
    for begin in range(0, len(tokens) - 1, n_batch):
        part = tokens[begin : min(begin + n_batch, len(tokens) - 1)]
        batch.n_tokens = len(part)
        for index, token in enumerate(part):
            batch.token[index], batch.pos[index], batch.n_seq_id[index], batch.seq_id[index][0] = (
                token,
                begin + index,
                1,
                0,
            )
            batch.logits[index] = True
        assert native.llama_decode(context, batch) == 0
        for index in range(len(part)):
            if begin + index + 1 >= first:
                pointer = native.llama_get_logits_ith(context, index)
                logits = np.ctypeslib.as_array(pointer, shape=(size,)).astype(np.float64)
                found.append(float(logits[tokens[begin + index + 1]] - np.logaddexp.reduce(logits)))
    return found
