"""Determine the value of every option of a load, and the source of each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modules.core.errors import OptionError, UnknownOption, WebUIError
from modules.loaders.registry import Loader
from modules.options.load import OPTIONS
from modules.options.option import Option, Value, nearest

CONTEXT_KEYS = ("n_ctx", "max_seq_len")
"""The options of which a loader has one for the length of the context."""
BY_USER = ("form", "saved", "flag")
"""The sources of what the user has set."""


@dataclass(frozen=True)
class Setting:
    """The value of an option and its source: "default", "model", "saved", "flag" or "form".

    The planner adds "memory", for a context reduced to what fits, and "automatic", for a choice by what is free.
    """

    value: Value
    source: str


def resolve(
    loader: Loader,
    *,
    model: Mapping[str, object],
    saved: Mapping[str, object],
    flags: Mapping[str, object],
    form: Mapping[str, object],
) -> dict[str, Setting]:
    """Return the setting of every option of `loader`, from the source with the highest precedence that has a value.

    Sources are raw values by option key, in ascending precedence; None means no value. Options of other loaders are
    ignored. So are unknown keys in `model` and `saved`, which are read from disk; in `flags` and `form` they raise
    UnknownOption. Raises OptionError for an invalid value only if it would take effect, so that an invalid saved value
    can be corrected in the form.
    """
    _reject_unknown(flags)
    _reject_unknown(form)
    # The original saved an unset drop-down as the word "None".
    saved = {key: raw for key, raw in saved.items() if raw != "None"}
    sources = {"form": form, "flag": flags, "saved": saved, "model": model}
    return {key: _first_value(OPTIONS[key], sources) for key in loader.options}


def _reject_unknown(typed: Mapping[str, object]) -> None:
    for key in typed:
        if key not in OPTIONS:
            raise UnknownOption(key, nearest(key, OPTIONS))


def _first_value(option: Option, sources: Mapping[str, Mapping[str, object]]) -> Setting:
    for source, values_by_key in sources.items():
        if values_by_key.get(option.key) is not None:
            return Setting(option.parse(values_by_key[option.key]), source)
    return Setting(option.default, "default")


def drop_invalid(saved: Mapping[str, object]) -> tuple[dict[str, object], list[WebUIError]]:
    """Return `saved` without invalid values, and the errors of those values."""
    valid, problems = dict(saved), list[WebUIError]()
    for key in saved.keys() & OPTIONS.keys():
        try:
            if saved[key] is not None and saved[key] != "None":
                OPTIONS[key].parse(saved[key])
        except OptionError as error:
            problems.append(error)
            del valid[key]
    return valid, problems


def option_values(settings: Mapping[str, Setting]) -> dict[str, Value]:
    """Return the values without their sources, as engines take them."""
    return {key: setting.value for key, setting in settings.items()}
