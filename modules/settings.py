"""`settings.yaml`: what the interface itself is set to. Read at start; an unknown key is an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from modules.errors import SettingsError, UnknownOption, WebUIError, both
from modules.options import Option, Value, nearest, parse_all
from modules.sampling import PARAMETERS

_INTERFACE = (
    Option(
        "language",
        "language",
        "auto",
        {"en": "Language", "zh": "语言"},
        {"en": "Language of the page; auto follows the browser.", "zh": "页面语言；auto 表示跟随浏览器。"},
        choices=("auto", "zh", "en"),
    ),
    Option(
        "theme",
        "theme",
        "auto",
        {"en": "Theme", "zh": "主题"},
        {"en": "Dark or light; auto follows the system.", "zh": "深色或浅色；auto 表示跟随系统。"},
        choices=("auto", "dark", "light"),
    ),
    Option(
        "system_message",
        "system_message",
        "",
        {"en": "System message", "zh": "系统消息"},
        {"en": "What the model is told before every conversation.", "zh": "每次对话开始前告诉模型的话。"},
        example="You are a helpful assistant.",
    ),
)

INTERFACE: Mapping[str, Option] = {option.key: option for option in _INTERFACE}


@dataclass(frozen=True)
class Settings:
    """The interface's settings, and the defaults of generation parameters that stand above those of the table."""

    language: str = "auto"
    theme: str = "auto"
    system_message: str = ""
    generation: Mapping[str, Value] = field(default_factory=dict)


def read(path: Path, required: bool = False) -> Settings:
    """The settings in `path`. A missing file means the defaults, unless `required`. SettingsError names the fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise SettingsError(str(path), {"en": "there is no such file", "zh": "文件不存在"}) from None
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), both(str(error))) from error
    return _settled(str(path), _mapping(str(path), text))


def _mapping(path: str, text: str) -> Mapping[str, object]:
    try:
        found = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise SettingsError(path, _place(error)) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date but is none
        raise SettingsError(path, both(str(error))) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingsError(path, {"en": "expected lines of `key: value`", "zh": "应为“键: 值”形式的行"})
    return {str(key): value for key, value in found.items()}


def _place(error: yaml.MarkedYAMLError) -> Mapping[str, str]:
    mark, problem = error.problem_mark, error.problem or "not YAML"
    if mark is None:
        return both(problem)
    line, column = mark.line + 1, mark.column + 1
    return {
        "en": f"line {line}, column {column}: {problem}",
        "zh": f"第 {line} 行第 {column} 列：{problem}",
    }


def _settled(path: str, found: Mapping[str, object]) -> Settings:
    known = {**INTERFACE, **PARAMETERS}
    try:
        for key in found:
            if key not in known:
                raise UnknownOption(key, nearest(key, known))
        interface = parse_all(INTERFACE, {key: found[key] for key in found if key in INTERFACE})
        generation = parse_all(PARAMETERS, {key: found[key] for key in found if key in PARAMETERS})
    except WebUIError as error:
        raise SettingsError(path, {"en": error.say("en"), "zh": error.say("zh")}) from error
    texts = {key: str(value) for key, value in interface.items()}
    return Settings(**texts, generation=generation)
