"""Print the RoPE that the installed Transformers computes for model folders: a script.

`python -m tests.support.rope_probe <folder>…` prints a JSON object: by the folder's name the inverse frequencies and
the factor of attention. With version 4 of Transformers the folders are read as AutoGPTQ and AutoAWQ read them, and a
refused one has the key as text; "tokens" has what the tokenizer of the first folder makes of TEXT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TEXT = "<|im_start|>user\nWhat is the capital of France? 123<|im_end|>\n"


def main() -> None:
    import transformers

    old = transformers.__version__.startswith("4.")
    folders = [Path(argument) for argument in sys.argv[1:]]
    result: dict[str, Any] = {folder.name: (_read_by_4(folder) if old else _rope(folder)) for folder in folders}
    result["tokens"] = (_tokenizer_of_4 if old else transformers.AutoTokenizer.from_pretrained)(folders[0]).encode(TEXT)
    print("\n" + json.dumps(result))


def _rope(folder: Path) -> Any:
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary: Any = LlamaRotaryEmbedding(transformers.AutoConfig.from_pretrained(folder))
    return [rotary.inv_freq.tolist(), rotary.attention_scaling]


def _plan(folder: Path) -> Any:
    from modules.engines.hf.arguments import Environment
    from modules.engines.legacy.arguments import LegacyPlan

    return LegacyPlan(folder, {"trust_remote_code": False, "no_use_fast": False}, Environment())


def _read_by_4(folder: Path) -> Any:
    from modules.engines.legacy.reading import reading_config
    from modules.formats.transformers4 import Inexpressible

    try:
        with reading_config(_plan(folder).config_changes, folder, False, {"llama"}):
            return _rope(folder)
    except Inexpressible as error:
        return error.key


def _tokenizer_of_4(folder: Path) -> Any:
    from modules.engines.legacy.reading import load_tokenizer

    return load_tokenizer(_plan(folder).tokenizer)


if __name__ == "__main__":
    main()
