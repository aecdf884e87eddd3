"""Answer prompts by `llama_cpp.Llama`: a script, so that its threads and its model live in a process of their own.

Reads a JSON object from stdin: "path", "prompts", "max_tokens", "n_ctx", "threads", "flash_attn", "repacks". Writes as
JSON for every prompt its greedy answer and the log probabilities at the answer's first tokens; with "logits" true, also
the logits after every token of the prompt.
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
    asked = json.load(sys.stdin)
    if not asked["repacks"]:
        disable_repacking()
    print(json.dumps([_answer(asked, prompt) for prompt in asked["prompts"]]))


def disable_repacking() -> None:
    """Do as our engine where AMX is compiled in (`llamacpp.arguments.Build.repacks`); `Llama` has no option for it."""
    usual = native.llama_model_default_params

    def without_extra_buffers() -> Any:
        params = usual()
        params.use_extra_bufts = False
        return params

    native.llama_model_default_params = without_extra_buffers


def _answer(asked: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Answer with a newly loaded model, so that its cache is empty."""
    threads = asked["threads"]
    llama = Llama(
        asked["path"],
        n_ctx=asked["n_ctx"],
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=asked["flash_attn"],
        logits_all=bool(asked.get("logits")),
        verbose=False,
    )
    tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    logits = _logits(llama, tokens) if asked.get("logits") else []
    completion = llama.create_completion(tokens, max_tokens=asked["max_tokens"], temperature=0)
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
    every = llama.scores[: len(tokens)].tolist()
    llama.reset()
    return every


def _logprobs(llama: Llama, tokens: list[int]) -> list[list[float]]:
    """Return the TOP highest log probabilities at each of the first LOGPROBS tokens of the greedy answer."""
    llama.reset()
    rows = []
    for _ in range(LOGPROBS):
        llama.eval(tokens)
        logits = np.ctypeslib.as_array(native.llama_get_logits_ith(llama.ctx, -1), shape=(llama.n_vocab(),))
        wide = logits.astype(np.float64)
        logprobs = wide - np.logaddexp.reduce(wide)
        rows.append(sorted(logprobs.tolist(), reverse=True)[:TOP])
        tokens = [int(np.argmax(wide))]
    return rows


if __name__ == "__main__":
    main()
