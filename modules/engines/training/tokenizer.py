"""Load the tokenizer of a base model, for a run and for previews of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from modules.core.errors import DamagedModel, WebUIError
from modules.core.events import Json


def load_tokenizer(arguments: Mapping[str, Json], model: str) -> Any:
    """Return the tokenizer of a model, called `model` in errors. Raises DamagedModel if its files cannot be used."""
    try:
        return transformers.AutoTokenizer.from_pretrained(**arguments)
    except WebUIError:
        raise
    except Exception as error:  # damaged files make transformers raise anything: KeyError, TypeError, Exception itself
        words = f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(": ")
        raise DamagedModel(
            model,
            {
                "en": f"the tokenizer cannot be used ({words}). Download tokenizer.json and tokenizer_config.json "
                "again.",
                "zh": f"词符化器无法使用（{words}）。请重新下载 tokenizer.json 和 tokenizer_config.json。",
            },
        ) from error
