"""From load options of llamacpp_HF to calls: those of llama.cpp, and transformers' for the tokenizer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Json, Note
from modules.engines.hf import notes as hf_notes
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.llamacpp import arguments as llamacpp_arguments
from modules.engines.llamacpp.arguments import Build
from modules.formats.remote_code import code_elsewhere
from modules.formats.tokenizer_files import tokenizer_folder
from modules.options.option import Value

CONTEXT, BATCH = "llama_init_from_model", "llama_batch"


def arguments(path: Path, options: Mapping[str, Value], build: Build) -> dict[str, Json]:
    """The calls that load `path`, in order: exactly what is passed, less the libraries' defaults.

    The tokenizer's is made only if what it gives fits the model's vocabulary.
    """
    calls = llamacpp_arguments.arguments(path, options, build)
    if options["cfg_cache"]:
        args = calls[CONTEXT]
        args |= {"n_seq_max": 2, "kv_unified": False, "n_ctx": 2 * args["n_ctx"]}  # n_ctx is shared out to both
    if options["logits_all"]:
        calls[BATCH] = {"logits": "every token"}
    if folder := tokenizer_folder(path):
        calls[TOKENIZER] = {
            "pretrained_model_name_or_path": str(folder),
            "trust_remote_code": bool(options["trust_remote_code"]) and not code_elsewhere(folder),
            "local_files_only": True,
        }
    return calls


def notes(path: Path, options: Mapping[str, Value], build: Build) -> Iterator[Note]:
    yield from llamacpp_arguments.notes(options, build)
    yield from hf_notes.of_tokenizer(options)
    folder = tokenizer_folder(path)
    if options["trust_remote_code"] and folder is not None:
        yield hf_notes.of_own_code(folder)
    elif options["trust_remote_code"]:
        yield Note(
            "trust_remote_code",
            {
                "en": "No effect: no tokenizer files lie beside the model; the GGUF file's own tokenizer is used.",
                "zh": "无效：模型旁没有词符化器文件，将使用 GGUF 文件自带的词符化器。",
            },
        )


OTHER_VOCABULARY: Words = {"en": "it does not fit this model's vocabulary", "zh": "与此模型的词表不符"}


def passed_over(folder: str, why: Words) -> Note:
    """That the tokenizer in `folder` is not used. It stands beside an option on tokenizers."""
    return Note(
        "no_use_fast",
        {
            "en": f"The tokenizer in {folder} is not used, but the GGUF file's own: {why['en']}.",
            "zh": f"未使用 {folder} 中的词符化器，已改用 GGUF 文件自带的词符化器：{why['zh']}。",
        },
    )


def unreadable(error: Exception) -> Words:
    words = str(error).strip().partition("\n")[0].rstrip(".")
    return {"en": f"it cannot be read ({words})", "zh": f"无法读取（{words}）"}
