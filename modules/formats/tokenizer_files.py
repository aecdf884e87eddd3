"""Find the files of a transformers tokenizer that belongs to a GGUF file.

Standard library alone: the loader uses it, and so does whatever lists models.
"""

from __future__ import annotations

from pathlib import Path

_SHARED_FOLDER = "*llama-tokenizer"
"""Folders that hold a tokenizer for all models, and no model."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def tokenizer_folder(path: Path) -> Path | None:
    """Return the folder with the tokenizer's files: that of the GGUF file at `path`, else one shared by all models.

    The shared folder is called `…llama-tokenizer` and lies beside the GGUF file, or beside its folder.
    """
    if _has_tokenizer(path.parent):
        return path.parent
    shared = (folder for models in (path.parent, path.parent.parent) for folder in sorted(models.glob(_SHARED_FOLDER)))
    return next(filter(_has_tokenizer, shared), None)


def _has_tokenizer(folder: Path) -> bool:
    files = (folder / name for name in VOCABULARIES)
    return (folder / "tokenizer_config.json").is_file() and any(file.is_file() for file in files)
