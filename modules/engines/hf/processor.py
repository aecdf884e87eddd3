"""Load the processor of a vision model: what turns a prompt and its pictures into the input of the model.

It is made of parts, as the class of the model's processor asks for them, instead of by `AutoProcessor`: that would load
the tokenizer a second time, and needs torchvision for the videos that many of these models read as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

from modules.core.errors import ModelProblem
from modules.formats.json_file import read_json

_STATING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files that may name the class of the processor, in the order in which transformers reads them."""
_FAULTS = (ImportError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What transformers raises for files that are missing, damaged or of another version."""


class NoProcessor(Exception):
    """The processor of a model cannot be loaded; the message says why."""


def load_processor(folder: Path, config: Any, tokenizer: Any) -> Any:
    """Return the processor of the model with the transformers `config` in `folder`, which uses `tokenizer`.

    It reads pictures, but neither videos nor sound. Raises NoProcessor.
    """
    try:
        return _load(folder, config, tokenizer)
    except _FAULTS as error:
        package = next((name for name in ("torchvision", "num2words") if name in str(error).lower()), "")
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NoProcessor(f"It needs a package: pip install {package}" if package else reason) from error


def _load(folder: Path, config: Any, tokenizer: Any) -> Any:
    cls = _processor_class(folder, config)
    if cls is None:
        raise NoProcessor(f"transformers has none for {config.model_type}")
    if "image_processor" not in cls.get_attributes():
        raise NoProcessor(f"{cls.__name__} reads no images")
    _do_without_video_packages(cls)
    images: Any = AutoImageProcessor
    parts = {"tokenizer": tokenizer, "image_processor": images.from_pretrained(folder, local_files_only=True)}
    stated, arguments = cls.get_processor_dict(folder, local_files_only=True)
    arguments.pop("local_files_only", None)
    attributes = [parts.get(name) for name in cls.get_attributes()]
    return _with_missing_parts(cls).from_args_and_dict(attributes, stated, **arguments)


def _processor_class(folder: Path, config: Any) -> Any:
    """Return the class that a file of the model names, else the one for its kind of model; None if there is neither."""
    stated = (processor_class_from_name(name) for name in _stated_names(folder))
    found = next((cls for cls in stated if cls is not None), None)
    if found is None and type(config) in PROCESSOR_MAPPING:
        found = PROCESSOR_MAPPING[type(config)]
    return found


def _stated_names(folder: Path) -> Iterator[str]:
    for file in _STATING_FILES:
        if (folder / file).is_file():
            try:
                name = read_json(folder / file).get("processor_class")
            except ModelProblem as error:
                raise ValueError(f"{file} is damaged") from error
            if isinstance(name, str):
                yield name


def _with_missing_parts(cls: Any) -> Any:
    """Return `cls` as a class whose processors may lack parts, such as that for videos."""

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else cls.check_argument_for_proper_class(self, name, part)

    return type(cls.__name__, (cls,), {"check_argument_for_proper_class": check})


def _do_without_video_packages(cls: Any) -> None:
    """Let SmolVLM's class be used without num2words, which only spells how many frames a video has."""
    module = sys.modules[cls.__module__]
    if getattr(module, "num2words", module) is None:
        setattr(module, "num2words", str)  # noqa: B010
