"""Where the files of a transformers tokenizer lie that belong to a GGUF file. Standard library alone: the loader asks
it, and whoever lists models."""

from __future__ import annotations

from pathlib import Path

_ENDING = "llama-tokenizer"
"""How a folder is called that holds a tokenizer for all models, and no model."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def tokenizer_folder(path: Path) -> Path | None:
    """Where files of a tokenizer lie: beside the GGUF file, else in a folder that all models share.

    That is one named `…llama-tokenizer`, in the folder of models: the GGUF file's own, or the one above.
    """
    if _has_tokenizer(path.parent):
        return path.parent
    shared = (each for models in (path.parent, path.parent.parent) for each in sorted(models.glob(f"*{_ENDING}")))
    return next(filter(_has_tokenizer, shared), None)


def _has_tokenizer(folder: Path) -> bool:
    files = (folder / name for name in VOCABULARIES)
    return (folder / "tokenizer_config.json").is_file() and any(file.is_file() for file in files)
