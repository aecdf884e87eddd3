"""The form of a training run as JSON for the page's script, from the table of parameters."""

from __future__ import annotations

import json

from modules.app import App
from modules.catalog.background_scan import LIST_SECONDS
from modules.core.events import Json
from modules.lora.catalog import LoraRecord
from modules.options.option import Option
from modules.training.page_errors import BadParameterFile
from modules.training.parameters import GROUPS, PARAMETERS
from modules.training.publish import PARAMETERS_FILE
from modules.training.start import training_loader
from modules.ui.locales import translator

MAX_PARAMETERS = 200_000
"""Bytes of a file of parameters."""

_LISTED = {
    "dataset": "datasets",
    "eval_dataset": "datasets",
    "raw_text_file": "texts",
    "format": "formats",
    "instruction_template": "templates",
    "model": "models",
}
"""Parameters whose values are chosen from a list of names."""


def form_of(app: App, language: str) -> dict[str, Json]:
    """Return the fields by group, and the names to choose from."""
    tr = translator(language)
    groups = [
        {
            "name": group,
            "title": tr(f"tr_group_{group}"),
            "fields": [_field(option, language) for option in PARAMETERS.values() if option.group == group],
        }
        for group in GROUPS
    ]
    return {"groups": groups, "lists": lists(app), "owner": not app.flags.on("multi_user")}


def lists(app: App) -> dict[str, Json]:
    """Return the names that can be chosen, by list; of models, also those that cannot be trained."""
    data, loader = app.training.data, training_loader()
    models = app.selectable_models()
    trainable = [one.name for one in models if one.problem is None and not one.task and loader.supports(one)]
    return {
        "datasets": data.datasets.names(),
        "texts": data.datasets.text_names(),
        "formats": data.formats.names(),
        "templates": app.instruction_templates.names(),
        "models": trainable,
        "gguf": [one.name for one in models if one.header is not None and one.problem is None and not one.task],
        "others": [one.name for one in models if one.name not in trainable],
        "loras": [one.name for one in _loras(app) if (one.path / PARAMETERS_FILE).is_file()],
        "adapters": [one.name for one in _loras(app) if one.config is not None and one.problem is None],
    }


def _loras(app: App) -> list[LoraRecord]:
    return app.loras.catalog.all(LIST_SECONDS)


def _field(option: Option, language: str) -> dict[str, Json]:
    return {
        "key": option.key,
        "label": option.label[language],
        "help": option.help[language],
        "default": option.default,
        "kind": _kind(option),
        "choices": list(option.choices),
        "list": _LISTED.get(option.key, ""),
        "minimum": option.minimum,
        "maximum": option.maximum,
        "step": option.step,
    }


def _kind(option: Option) -> str:
    if isinstance(option.default, bool):
        return "check"
    if option.key in _LISTED:
        return "list"
    if option.choices:
        return "choice"
    if isinstance(option.default, str):
        return "lines" if option.multiline else "text"
    return "whole" if isinstance(option.default, int) else "number"


# -- parameters of other runs ---------------------------------------------------------------------------------------


def parsed_file(content: str) -> dict[str, object]:
    """Return the object in a file of parameters. Raises BadParameterFile."""
    try:
        values = json.loads(content)
        json.dumps(values, ensure_ascii=False).encode()  # half of a character could not be answered
    except (ValueError, RecursionError):
        raise BadParameterFile() from None
    if not isinstance(values, dict):
        raise BadParameterFile()
    return values
