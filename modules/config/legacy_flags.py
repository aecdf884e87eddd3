"""Flags of the original web UI: those of today's version under our names, and those ignored with a warning.

Flags that protect something (`--admin-key`, `--ssl-keyfile`, ...) are left out on purpose:
they stay an error, so that the server does not start unprotected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.core.errors import Words

IGNORED_FLAGS: Mapping[str, str] = {
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
    # Loaders that were removed
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
    # The UI and the API
    "chat": "",
    "cai-chat": "",
    "notebook": "",
    "chat-buttons": "",
    "no-stream": "",
    "character": "",
    "extensions": "",
    "multimodal-pipeline": "",
    "share": "",
    "public-api": "",
    "public-api-id": "",
    "api-port": "--listen-port",
    "api-blocking-port": "--listen-port",
    "api-streaming-port": "--listen-port",
}
"""Ignored flags in their original spelling, and the flag to use instead; "" if there is none."""

RENAMED_FLAGS: Mapping[str, tuple[str, ...]] = {
    "ctx-size": ("n_ctx", "max_seq_len"),
    "gpu-layers": ("n-gpu-layers",),
    "batch-size": ("n_batch",),
    "no-kv-offload": ("no_offload_kqv",),
}
"""Flags of version 3 and later, and those they stand for: the context length is that of every loader.

Source: modules/shared.py of oobabooga/text-generation-webui.
"""

_BY_DASHES = {flag.replace("_", "-"): instead for flag, instead in IGNORED_FLAGS.items()}
_IGNORED = {"en": "{flag} is no longer supported and was ignored.", "zh": "{flag} 已不再支持，将被忽略。"}
_INSTEAD = {"en": " Use {instead}.", "zh": "请改用 {instead}。"}


def rename(arguments: Iterable[str]) -> list[str]:
    """Return the command-line arguments with renamed flags under our names, each with its value."""
    renamed: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        flag, equals, value = argument.partition("=")
        names = RENAMED_FLAGS.get(flag.removeprefix("--").replace("_", "-"), ()) if flag.startswith("--") else ()
        values = [value] if equals else [pending.pop(0)] if pending and not pending[0].startswith("--") else []
        if not names:
            renamed.append(argument)
            pending[:0] = [] if equals else values
        for name in names:
            renamed += [f"--{name}", *values]
    return renamed


def drop_ignored(arguments: Iterable[str]) -> tuple[list[str], tuple[Words, ...]]:
    """Return the command-line arguments without ignored flags, and a warning for each ignored flag.

    All arguments between an ignored flag and the next flag are dropped too, as values of the ignored one.
    """
    kept, warnings, dropping = [], {}, False
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.partition("=")[0]
            instead = _BY_DASHES.get(flag[2:].replace("_", "-"))
            dropping = instead is not None
            if instead is not None:
                warnings[flag] = _warning(flag, instead)
        if not dropping:
            kept.append(argument)
    return kept, tuple(warnings.values())


def _warning(flag: str, instead: str) -> Words:
    return {
        language: _IGNORED[language].format(flag=flag) + (_INSTEAD[language].format(instead=instead) if instead else "")
        for language in _IGNORED
    }
