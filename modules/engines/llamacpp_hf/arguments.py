"""Translate load options of llamacpp_HF into calls of llama.cpp, and of Transformers for the tokenizer.

Neither is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.llamacpp import arguments as llamacpp_arguments
from modules.engines.llamacpp.arguments import Build
from modules.formats.remote_code import class_in_other_repository
from modules.formats.tokenizer_files import tokenizer_folder
from modules.options.option import Value

CONTEXT, BATCH = "llama_init_from_model", "llama_batch"


def arguments(path: Path, options: Mapping[str, Value], build: Build) -> dict[str, Json]:
    """Return the calls that load `path`, in order, with exactly the arguments that differ from the defaults.

    The engine uses the tokenizer only if it matches the model's vocabulary.
    """
    calls = llamacpp_arguments.arguments(path, options, build)
    if options["cfg_cache"]:
        args = calls[CONTEXT]
        args |= {
            "n_seq_max": 2,
            "kv_unified": False,
            "n_ctx": 2 * args["n_ctx"],
        }  # llama.cpp divides n_ctx between both
    if options["logits_all"]:
        calls[BATCH] = {"logits": "every token"}
    if folder := tokenizer_folder(path):
        calls[TOKENIZER] = {
            "pretrained_model_name_or_path": str(folder),
            "trust_remote_code": bool(options["trust_remote_code"]) and not class_in_other_repository(folder),
            "local_files_only": True,
        }
    return calls
