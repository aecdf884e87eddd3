"""The receipt of a reply: all that it depended on, as JSON, so that it can be checked and repeated."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from modules.catalog.duplicates import read_sample
from modules.catalog.record import ModelRecord
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.config.presets import NEUTRAL
from modules.core.errors import OptionError
from modules.core.events import Done, Json
from modules.core.product import revision
from modules.core.prompt import Prompt
from modules.engines.llamacpp.draft_arguments import draft_path
from modules.engines.repetition import MAX_CACHED_TOKENS
from modules.loaders import generation_settings
from modules.options.generation import PARAMETERS
from modules.options.load import OPTIONS
from modules.runtime.loaded_model import LoadedModel

HASH_KIND = "blake2b-128 of 16 samples of 64 KiB from every weight file"
_NEUTRAL: Mapping[str, Json] = {**{key: option.default for key, option in PARAMETERS.items()}, **NEUTRAL}
_NOT_A_RECEIPT = {"en": "the receipt of a reply", "zh": "一条回复的生成记录"}


def receipt(
    templates: ChatTemplates,
    model: LoadedModel,
    prompt: Prompt,
    params: Mapping[str, Json],
    done: Done,
    now: float | None = None,
    template: ModelTemplate | None = None,
    template_kwargs: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """Return the receipt of the reply to `prompt` that has ended with `done`.

    `template` is the one around the reply, by default the model's. It was given the `template_kwargs`.
    Only what differs is listed: load options from their defaults, parameters from the values that turn them off. The
    first call for a model reads a megabyte of each of its files. Raises NoDefaultTemplate.
    """
    template = template or templates.of(model.record, model.info)
    stated = set(generation_settings.resolve({"custom_stopping_strings": params["custom_stopping_strings"]})["stop"])
    return {
        "version": revision(),
        "time": time.time() if now is None else now,
        "model": model_identity(model.record),
        "loader": model.loader.name,
        "options": {
            key: setting.value
            for key, setting in model.settings.items()
            # Others name machines, secrets and programs: a conversation may be sent to anybody.
            if setting.value != OPTIONS[key].default and OPTIONS[key].set_by == "anyone"
        },
        **_draft_identity(model),
        "loras": [{"name": lora.name, "weight": lora.weight} for lora in model.loras],
        "template": {
            "sha256": _sha256(template.for_tools(None)),
            "ours": template.is_ours,
            "name": template.file,
            "kwargs": dict(template_kwargs or {}),
            "notes": [dict(note.text) for note in templates.notes(template)],
        },
        "parameters": {
            key: params[key] for key, off in _NEUTRAL.items() if key != "seed" and key in params and params[key] != off
        },
        "stop": [stop for stop in params["stop"] if stop not in stated],
        "logit_bias": params["logit_bias"],
        "seed": done.seed,
        "prompt_sha256": _sha256(prompt.used_text(done.shortened)),
        "shortened": done.shortened >= 0,
        "tokens": {
            "prompt": done.prompt_tokens,
            "cached": done.cached_tokens,
            "completion": done.completion_tokens,
            **({"drafted": done.drafted_tokens, "accepted": done.accepted_tokens} if done.drafted_tokens else {}),
        },
        "seconds": {"prompt": done.prompt_seconds, "decode": done.decode_seconds},
        "reason": done.reason,
    }


def parameters_again(receipt: Json) -> dict[str, Json]:
    """Return the parameters of a generation that repeats the one of `receipt`, as far as they make it the same.

    It takes as many tokens of the prompt from the KV cache. Raises OptionError or UnknownOption for a receipt that is
    damaged, or that is of another version of the program with other parameters.
    """
    if not isinstance(receipt, Mapping):
        raise OptionError("receipt", type(receipt).__name__, _NOT_A_RECEIPT)
    fields: dict[str, Json] = {key: receipt.get(key) for key in ("parameters", "stop", "logit_bias", "tokens")}
    for key, kind in {"parameters": Mapping, "stop": list, "logit_bias": list, "tokens": Mapping}.items():
        if not isinstance(fields[key], kind):
            raise OptionError("receipt", key, _NOT_A_RECEIPT)
    cached, seed = fields["tokens"].get("cached"), receipt.get("seed")
    if any(type(number) is not int or number < 0 for number in (cached, seed)):
        raise OptionError("receipt", "seed", _NOT_A_RECEIPT)
    biases = dict(_bias(pair) for pair in fields["logit_bias"])
    raw = {**_NEUTRAL, **fields["parameters"], "seed": seed}
    return generation_settings.resolve(raw, fields["stop"], None, biases) | {MAX_CACHED_TOKENS: cached}


def template_kwargs_again(receipt: Json) -> dict[str, Json]:
    """Return the variables of the template that the receipt names; none for an older receipt."""
    template = receipt.get("template") if isinstance(receipt, Mapping) else None
    kwargs = template.get("kwargs") if isinstance(template, Mapping) else None
    return dict(kwargs) if isinstance(kwargs, Mapping) else {}


def model_identity(record: ModelRecord) -> dict[str, Json]:
    """Return what tells a model from others. Its hash is "" if a file cannot be read; HASH_KIND says what it is of."""
    files = tuple((path, status.st_size, status.st_mtime_ns) for path, status in record.files.items())
    return {
        "name": record.name,
        "format": record.format,
        "quantization": record.quantization,
        "size": record.size,
        "hash": _hash_files(files),
        "hash_kind": HASH_KIND,
        "files": [
            {"name": path.name, "size": size, "modified": modified // 1_000_000_000} for path, size, modified in files
        ],
    }


def _draft_identity(model: LoadedModel) -> dict[str, Json]:
    """Return what tells a draft model from others; nothing without one. It changes no answer but by rounding."""
    values = {key: setting.value for key, setting in model.settings.items()}
    path = draft_path(model.record.path, values)
    if path is None:
        return {}
    try:
        status = path.stat()
    except OSError:  # it was deleted after the load, or never there
        return {}
    files = ((path, status.st_size, status.st_mtime_ns),)
    return {"draft_model": {"name": values["model_draft"], "size": status.st_size, "hash": _hash_files(files)}}


@lru_cache(maxsize=16)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return a hash of the samples of all files; "" if there are none, or if one cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path, size, _ in files:
            digest.update(f"{path.name}\0{size}\0{read_sample(path)}\0".encode("utf-8", "surrogateescape"))
    except OSError:
        return ""
    return digest.hexdigest() if files else ""


def _bias(pair: Json) -> tuple[str, Json]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise OptionError("receipt", "logit_bias", _NOT_A_RECEIPT)
    return str(pair[0]), pair[1]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
