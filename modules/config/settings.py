"""`settings.yaml`: what the interface itself is set to. Read at start; an unknown key is an error that names it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.config.presets import Presets
from modules.config.yaml_file import YamlFile, plain
from modules.core.errors import SettingsError, UnknownOption, WebUIError
from modules.loaders.generation_settings import PARAMETERS
from modules.loaders.registry import LOADERS
from modules.options.option import Option, Value, nearest, parse_all

log = logging.getLogger(__name__)

FORMATS = tuple(dict.fromkeys(each for loader in LOADERS.values() for each in loader.formats))
AUTO = "auto"


def _loader_for(model_format: str) -> Option:
    takers = (loader.name for loader in LOADERS.values() if model_format in loader.formats)
    return Option(
        f"loader_{model_format}",
        f"loader_{model_format}",
        AUTO,
        {"en": f"Loader for {model_format}", "zh": f"{model_format} 的加载器"},
        {
            "en": f"What loads {model_format} models for which nothing is saved; auto takes the best that runs here.",
            "zh": f"未保存设置的 {model_format} 模型用什么加载；auto 表示可用的最佳加载器。",
        },
        choices=(AUTO, *takers),
    )


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
    Option(
        "autoload_model",
        "autoload_model",
        False,
        {"en": "Autoload the model", "zh": "自动加载模型"},
        {"en": "Load a model as soon as it is picked.", "zh": "在菜单中选中模型后立即加载。"},
    ),
    Option(
        "preset",
        "preset",
        "",
        {"en": "Preset", "zh": "预设"},
        {"en": "The preset whose parameters the page begins with.", "zh": "页面启动时采用的预设。"},
        example="min_p",
    ),
    Option(
        "hf_endpoint",
        "hf_endpoint",
        "",
        {"en": "Download endpoint", "zh": "下载站点"},
        {
            "en": "Where models are downloaded from; several separated by commas.",
            "zh": "从哪里下载模型；多个用逗号分隔。",
        },
        example="https://hf-mirror.com",
    ),
    Option(
        "download_connections",
        "download_connections",
        4,
        {"en": "Connections", "zh": "下载连接数"},
        {
            "en": "Over how many connections a large file is downloaded, and how many small ones at a time.",
            "zh": "下载大文件同时使用的连接数，也是同时下载的小文件数。",
        },
        minimum=1,
        maximum=8,
    ),
    Option(
        "downloads_at_once",
        "downloads_at_once",
        1,
        {"en": "Downloads at once", "zh": "同时下载数"},
        {"en": "How many downloads run at once; the others queue.", "zh": "同时进行的下载任务数，其余排队。"},
        minimum=1,
        maximum=4,
    ),
    *map(_loader_for, FORMATS),
)

INTERFACE: Mapping[str, Option] = {option.key: option for option in _INTERFACE}


@dataclass(frozen=True)
class Settings:
    """The interface's settings, and the defaults of generation parameters that stand above those of the table."""

    language: str = "auto"
    theme: str = "auto"
    system_message: str = ""
    autoload_model: bool = False
    preset: str = ""
    hf_endpoint: str = ""
    download_connections: int = 4
    downloads_at_once: int = 1
    loaders: Mapping[str, str] = field(default_factory=dict)  # by format, where one is preferred
    generation: Mapping[str, Value] = field(default_factory=dict)


class SettingsStore:
    """Owner of settings.yaml: `current` is what it says, with the changes that the UI has made since the start.

    Raises SettingsError if the file is invalid, or missing although it is `required`.
    """

    def __init__(self, path: Path, presets: Presets, required: bool = False) -> None:
        self._path, self._presets = path, presets
        self.current = read(path, required)

    def set(self, key: str, value: bool | str) -> Path | None:
        """Change one setting, now and in the file. Return the backup path if the old file was invalid, else None."""
        backup = remember(self._path, key, value)
        self.current = dataclasses.replace(self.current, **{key: value})  # type: ignore[arg-type]
        return backup

    def generation_defaults(self) -> dict[str, Value]:
        """Return the generation parameters that the UI starts with where they differ from the table's defaults.

        Parameters in settings.yaml outrank those of the preset. A preset that cannot be read is logged and skipped.
        """
        name = self.current.preset
        try:
            preset = self._presets.read(name).values if name else {}
        except WebUIError as error:
            log.warning("%s", error)
            preset = {}
        return {**preset, **self.current.generation}


def read(path: Path, required: bool = False) -> Settings:
    """The settings in `path`. A missing file means the defaults, unless `required`. SettingsError names the fault."""
    if required and not path.exists():
        raise SettingsError(str(path), {"en": "there is no such file", "zh": "文件不存在"})
    return _settled(str(path), YamlFile(path).read())


def remember(path: Path, key: str, value: Value) -> Path | None:
    """Have `path` say so from now on, all else as it is; where it was kept if it was no YAML. SettingsError."""
    return YamlFile(path).change(lambda content: content.update({key: plain(value)}))


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
    loaders = {each: str(interface.pop(f"loader_{each}", AUTO)) for each in FORMATS}
    preferred = {each: name for each, name in loaders.items() if name != AUTO}
    return Settings(**interface, loaders=preferred, generation=generation)  # type: ignore[arg-type]
