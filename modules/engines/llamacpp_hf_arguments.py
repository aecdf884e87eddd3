"""From load options of llamacpp_HF to calls: those of llama.cpp, and transformers' for the tokenizer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.engines import hf_notes, llamacpp_arguments
from modules.engines.hf_arguments import TOKENIZER
from modules.engines.llamacpp_arguments import Build
from modules.errors import Words
from modules.events import Json, Note
from modules.options import Value

CONTEXT, BATCH = "llama_init_from_model", "llama_batch"
SHARED = "*llama-tokenizer"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


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
            "trust_remote_code": bool(options["trust_remote_code"]),
            "local_files_only": True,
        }
    return calls


def tokenizer_folder(path: Path) -> Path | None:
    """Where files of a tokenizer lie: beside the GGUF file, else in a folder that all models share.

    That is one named `…llama-tokenizer`, in the folder of models: the GGUF file's own, or the one above.
    """
    if _has_tokenizer(path.parent):
        return path.parent
    shared = (each for models in (path.parent, path.parent.parent) for each in sorted(models.glob(SHARED)))
    return next(filter(_has_tokenizer, shared), None)


def _has_tokenizer(folder: Path) -> bool:
    files = (folder / name for name in _VOCABULARIES)
    return (folder / "tokenizer_config.json").is_file() and any(file.is_file() for file in files)


def notes(path: Path, options: Mapping[str, Value], build: Build) -> Iterator[Note]:
    yield from llamacpp_arguments.notes(options, build)
    yield from hf_notes.of_tokenizer(options)
    if options["trust_remote_code"] and tokenizer_folder(path) is None:
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
    if "sentencepiece" in words or "tiktoken" in words:
        return {
            "en": "tokenizer.model is only read with `pip install sentencepiece protobuf`",
            "zh": "读取 tokenizer.model 需要 `pip install sentencepiece protobuf`",
        }
    return {"en": f"it cannot be read ({words})", "zh": f"无法读取（{words}）"}
