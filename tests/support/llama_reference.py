"""A script that answers prompts with `llama_cpp.Llama`, in a separate process for its threads and its model.

It reads a JSON object from stdin: "path", "prompts", "max_tokens", "n_ctx", "threads", "flash_attn", "repacks". For
every prompt it writes, as JSON, the greedy answer and the logprobs at the answer's first tokens; with "logits" true,
also the logits after every token of the prompt.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from llama_cpp import Llama

LOGPROBS = 8
TOP = 5


def main() -> None:
    request = json.load(sys.stdin)
    if not request["repacks"]:
        disable_repacking()
    print(json.dumps([_answer(request, prompt) for prompt in request["prompts"]]))


def disable_repacking() -> None:
    """Disable repacked weights, for which `Llama` has no option.

    Our engine does the same where AMX is compiled in but does not work (`llamacpp.arguments.Build.repacks`).
    """
    original = native.llama_model_default_params

    def without_extra_buffers() -> Any:
        params = original()
        params.use_extra_bufts = False
        return params

    native.llama_model_default_params = without_extra_buffers


def _answer(request: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Load the model, so that its cache is empty, and answer the prompt."""
    threads = request["threads"]
    llama = Llama(
        request["path"],
        n_ctx=request["n_ctx"],
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=request["flash_attn"],
        logits_all=bool(request.get("logits")),
        verbose=False,
    )
    tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    logits = _logits(llama, tokens) if request.get("logits") else []
    completion = llama.create_completion(tokens, max_tokens=request["max_tokens"], temperature=0)
    return {
        "text": completion["choices"][0]["text"],
        "reason": completion["choices"][0]["finish_reason"],
        "prompt_tokens": len(tokens),
        "logprobs": _logprobs(llama, tokens),
        "logits": logits,
    }


def _logits(llama: Llama, tokens: list[int]) -> Any:
    llama.reset()
    llama.eval(tokens)
    logits = llama.scores[: len(tokens)].tolist()
    llama.reset()
    return logits


def _logprobs(llama: Llama, tokens: list[int]) -> list[list[float]]:
    """Return the TOP highest logprobs at each of the first LOGPROBS tokens of the greedy answer."""
    llama.reset()
    rows = []
    for _ in range(LOGPROBS):
        llama.eval(tokens)
        logits = np.ctypeslib.as_array(native.llama_get_logits_ith(llama.ctx, -1), shape=(llama.n_vocab(),))
        precise = logits.astype(np.float64)
        logprobs = precise - np.logaddexp.reduce(precise)
        rows.append(sorted(logprobs.tolist(), reverse=True)[:TOP])
        tokens = [int(np.argmax(precise))]
    return rows


if __name__ == "__main__":
    main()
