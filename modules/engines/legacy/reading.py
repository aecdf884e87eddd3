"""Have Transformers 4.51 read the files of Transformers 5: what `legacy.arguments` says differently from the files.

Nothing is written to the model's folder. Afterwards the configuration is compared with config.json, because a key that
Transformers 4.51 does not read changes the model without an error.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import configuration_utils, modeling_rope_utils

from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.legacy.arguments import CONFIG_JSON, FAST_TOKENIZER, read_json
from modules.formats.transformers4 import Inexpressible, is_version_5

_CHANGES_NUMBERS = re.compile(
    r"rope|rotary|sliding|window|attn|attention|softcap|scal|multiplier|_factor|norm|tie_|bias|expert|head|act$|activation"
)
_HARMLESS = re.compile(
    r"^_|dropout|implementation|^output_|layer_types|rope_parameters|max_window_layers|use_bidirectional_attention|_local_experts"
    r"|quantization|_loss|coef$"
)
"""Keys that `_CHANGES_NUMBERS` finds although they concern training, or are translated to other keys."""


@contextlib.contextmanager
def reading_config(
    calls: Mapping[str, Json], path: Path, trusted: bool, architectures: Container[str]
) -> Iterator[None]:
    """Replace the keys of config.json that `calls` lists while Transformers reads it.

    Raises Inexpressible, before any weights are read, for a key that changes the model and is not read. `architectures`
    are those of the package, which itself refuses any other.
    """
    changes = calls.get(CONFIG_JSON)
    if not changes:
        yield
        return
    base: Any = transformers.PretrainedConfig
    read = base.__dict__["_dict_from_json_file"]

    def read_changed(cls: type, file: str) -> dict[str, Any]:
        content: dict[str, Any] = read.__get__(None, cls)(file)
        return content | changes if Path(file) == path / "config.json" else content

    base._dict_from_json_file = classmethod(read_changed)
    try:
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trusted, local_files_only=True)
        stated = read_json(path / "config.json")
        if is_version_5(stated) and config.model_type in architectures:
            check_config(config, stated | changes)
        yield
    finally:
        base._dict_from_json_file = read


def check_config(config: Any, stated: Mapping[str, Any]) -> None:
    """Raise Inexpressible for a key in `stated` that changes the model's numbers, and that `config` has otherwise."""
    source, without_windows = _source_code(type(config)), stated.get("use_sliding_window") is False
    for key, value in stated.items():
        if without_windows and key == "sliding_window":
            continue
        part = getattr(config, key, None)
        if isinstance(value, dict) and isinstance(part, transformers.PretrainedConfig):
            if key == "text_config":
                check_config(part, value)
            continue
        matters = _CHANGES_NUMBERS.search(key) and not _HARMLESS.search(key) and not _is_neutral(value)
        is_read = re.search(rf"\b{re.escape(key)}\b", source) and _agrees(part, value)
        if matters and not is_read:
            raise Inexpressible(key, None if isinstance(value, (dict, list)) else value)


def _is_neutral(value: object) -> bool:
    """Return whether a value leaves the numbers as they are, whatever its key means."""
    return value is not True and value in (None, False, 0, 1, "", [], {})


def _agrees(actual: object, stated: object) -> bool:
    if isinstance(stated, dict):
        # Classes rename "type", and complete what is not stated.
        pairs = ((key, value) for key, value in stated.items() if key not in ("type", "rope_type"))
        return isinstance(actual, dict) and all(actual.get(key) == value for key, value in pairs)
    return actual == stated


def _source_code(config_class: type) -> str:
    """Return the source code of a model's package, and of what all of them share."""
    files = [Path(inspect.getfile(module)) for module in (configuration_utils, modeling_rope_utils)]
    files += Path(inspect.getfile(config_class)).parent.glob("*.py")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def load_tokenizer(calls: Mapping[str, Json]) -> Any:
    """Load the tokenizer, from tokenizer.json alone if Transformers 4.51 does not know its class."""
    if FAST_TOKENIZER in calls:
        return _fast_tokenizer(calls[FAST_TOKENIZER])
    arguments = dict(calls[TOKENIZER])
    folder = Path(arguments["pretrained_model_name_or_path"])
    config = read_json(folder / "tokenizer_config.json")
    name = config.get("tokenizer_class")
    if name and not _is_known(str(name)) and "auto_map" not in config and (folder / "tokenizer.json").is_file():
        arguments.pop("use_fast")
        return _fast_tokenizer(arguments)
    return transformers.AutoTokenizer.from_pretrained(**arguments)


def _fast_tokenizer(arguments: Mapping[str, Json]) -> Any:
    # It warns that the class is another one than tokenizer_config.json names.
    logger = logging.getLogger("transformers.tokenization_utils_base")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return transformers.PreTrainedTokenizerFast.from_pretrained(**arguments)
    finally:
        logger.setLevel(level)


def _is_known(name: str) -> bool:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    find: Any = tokenizer_class_from_name
    return find(name) is not None or find(f"{name}Fast") is not None


def use_end_tokens(module: Any, path: Path) -> None:
    """Take the end-of-generation tokens from generation_config.json, which the packages do not read."""
    ends = read_json(path / "generation_config.json").get("eos_token_id")
    if type(ends) is int or (isinstance(ends, list) and ends and all(type(end) is int for end in ends)):
        module.generation_config.eos_token_id = ends
