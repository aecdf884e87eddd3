"""Notes on llamacpp_HF options that have no effect, or another one than their names suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.hf import notes as hf_notes
from modules.engines.llamacpp import notes as llamacpp_notes
from modules.engines.llamacpp.arguments import Build
from modules.formats.tokenizer_files import tokenizer_folder
from modules.options.option import Value


def notes(path: Path, options: Mapping[str, Value], build: Build) -> Iterator[Note]:
    yield from llamacpp_notes.notes(path, options, build)
    yield from hf_notes.tokenizer_notes(options)
    folder = tokenizer_folder(path)
    if options["trust_remote_code"] and folder is not None:
        yield hf_notes.remote_code_note(folder)
    elif options["trust_remote_code"]:
        yield Note(
            "trust_remote_code",
            {
                "en": "No effect: no tokenizer files beside the model; the GGUF file's own tokenizer is used.",
                "zh": "无效：模型文件夹中没有词符化器文件，将使用 GGUF 文件自带的词符化器。",
            },
        )


VOCABULARY_MISMATCH: Words = {"en": "it does not match this model's vocabulary", "zh": "与此模型的词表不符"}


def tokenizer_not_used_note(folder: str, why: Words) -> Note:
    """Make the note that the tokenizer in `folder` is not used, at an option about tokenizers."""
    return Note(
        "no_use_fast",
        {
            "en": f"The GGUF file's own tokenizer is used instead of the one in {folder}: {why['en']}.",
            "zh": f"未使用 {folder} 中的词符化器，已改用 GGUF 文件自带的词符化器：{why['zh']}。",
        },
    )


def unreadable(error: Exception) -> Words:
    """Return the reason for a tokenizer that raised `error`, by the first line of its message."""
    words = str(error).strip().partition("\n")[0].rstrip(".")
    return {"en": f"it cannot be read ({words})", "zh": f"无法读取（{words}）"}
