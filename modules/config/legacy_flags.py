"""Flags of the original program that mean nothing here: each is answered by a sentence, and the start goes on.

Flags that protect something (`--gradio-auth-path`, `--admin-key`, `--ssl-keyfile`, ...) are left out on purpose: who
types one must not get a program that is open all the same, so they stay an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.core.errors import Words

GONE: Mapping[str, str] = {
    # GPTQ-for-LLaMa, AutoGPTQ and Transformers
    "model_type": "",
    "checkpoint": "",
    "monkey-patch": "",
    "pre_layer": "--gpu-memory",
    "gptq-pre-layer": "--gpu-memory",
    "gptq-bits": "--wbits",
    "gptq-model-type": "",
    "gptq-for-llama": "--loader AutoGPTQ",
    "autogptq": "--loader AutoGPTQ",
    "quant_attn": "",
    "warmup_autotune": "",
    "fused_mlp": "",
    "no-cache": "",
    "force-safetensors": "",
    "disk-cache-dir": "",
    "xformers": "",
    "sdp-attention": "",
    # llama.cpp
    "cache-capacity": "",
    "llama_cpp_seed": "",
    "n-gqa": "",
    "rms_norm_eps": "",
    # Loaders that are no more
    "deepspeed": "",
    "nvme-offload-dir": "",
    "local_rank": "",
    "flexgen": "",
    "percent": "",
    "compress-weight": "",
    "pin-weight": "",
    "rwkv-strategy": "",
    "rwkv-cuda-on": "",
    "hqq-backend": "",
    "cpp-runner": "",
    # The page and the API
    "chat": "",
    "cai-chat": "",
    "notebook": "",
    "chat-buttons": "",
    "no-stream": "",
    "character": "",
    "extensions": "",
    "multimodal-pipeline": "",
    "idle-timeout": "",
    "share": "",
    "public-api": "",
    "public-api-id": "",
    "api-port": "--listen-port",
    "api-blocking-port": "--listen-port",
    "api-streaming-port": "--listen-port",
}
"""The flag in its original spelling, and what to type instead, or "" if nothing takes its place."""

_BY_DASHES = {flag.replace("_", "-"): instead for flag, instead in GONE.items()}
_IGNORED = {"en": "{flag}: not supported any more; ignored.", "zh": "{flag}：已不再支持，将被忽略。"}
_INSTEAD = {"en": " Use {instead}.", "zh": "请改用 {instead}。"}


def sift(words: Iterable[str]) -> tuple[list[str], tuple[Words, ...]]:
    """`words` without the flags that are gone, and a sentence about each of these.

    All that stood between such a flag and the next one goes with it: how many values it took does not matter then.
    """
    kept, gone, dropping = [], {}, False
    for word in words:
        if word.startswith("--"):
            flag = word.partition("=")[0]
            instead = _BY_DASHES.get(flag[2:].replace("_", "-"))
            dropping = instead is not None
            if instead is not None:
                gone[flag] = _said(flag, instead)
        if not dropping:
            kept.append(word)
    return kept, tuple(gone.values())


def _said(flag: str, instead: str) -> Words:
    return {
        language: _IGNORED[language].format(flag=flag) + (_INSTEAD[language].format(instead=instead) if instead else "")
        for language in _IGNORED
    }
