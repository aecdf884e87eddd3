"""Settings of the interface: `settings.yaml`, read at start.

The file of today's text-generation-webui is read too: what we know of it is used, and its other keys stay in the file.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.config.presets import Presets
from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import SettingsError, WebUIError, Words, both
from modules.loaders.generation_settings import PARAMETERS, as_text
from modules.loaders.registry import LOADERS
from modules.options.option import Option, Value, nearest, parse_all

log = logging.getLogger(__name__)

FORMATS = tuple(dict.fromkeys(model_format for loader in LOADERS.values() for model_format in loader.formats))
AUTO = "auto"
FONT_SIZES = ("small", "normal", "large", "huge")


def _loader_for(model_format: str) -> Option:
    supporting = (loader.name for loader in LOADERS.values() if model_format in loader.formats)
    return Option(
        f"loader_{model_format}",
        f"loader_{model_format}",
        AUTO,
        {"en": f"Loader for {model_format}", "zh": f"{model_format} 的加载器"},
        {
            "en": f"Default loader for {model_format} models; auto = the best one that is available.",
            "zh": f"{model_format} 模型的默认加载器；auto 表示可用的最佳加载器。",
        },
        choices=(AUTO, *supporting),
    )


CHAT_COMMAND = (
    'Write the next message of "<|character|>" in the conversation below. '
    "Write that message only, without the name in front of it.\n\n<|prompt|>"
)
"""The default of the setting chat-instruct_command."""
PROMPT_PLACEHOLDER = "<|prompt|>"


def _without_prompt(command: str) -> Words | None:
    if PROMPT_PLACEHOLDER in command or not command:
        return None
    return {
        "en": f"a text with {PROMPT_PLACEHOLDER}, which stands for the conversation",
        "zh": f"含 {PROMPT_PLACEHOLDER} 的文本（该处填入对话内容）",
    }


_INTERFACE = (
    Option(
        "language",
        "language",
        "auto",
        {"en": "Language", "zh": "语言"},
        {"en": "Language of the page; auto = the browser's language.", "zh": "页面语言；auto 表示跟随浏览器。"},
        choices=("auto", "zh", "en"),
    ),
    Option(
        "theme",
        "theme",
        "auto",
        {"en": "Theme", "zh": "主题"},
        {"en": "Dark or light; auto = as set in the system.", "zh": "深色或浅色；auto 表示跟随系统。"},
        choices=("auto", "dark", "light"),
    ),
    Option(
        "font_size",
        "font_size",
        "normal",
        {"en": "Text size", "zh": "字号"},
        {"en": "Size of all text on the page.", "zh": "页面上所有文字的大小。"},
        choices=FONT_SIZES,
    ),
    Option(
        "system_message",
        "system_message",
        "",
        {"en": "System message", "zh": "系统消息"},
        {"en": "Instructions placed before every conversation.", "zh": "放在每次对话之前的指令。"},
        example="You are a helpful assistant.",
    ),
    Option(
        "mode",
        "mode",
        "instruct",
        {"en": "Mode", "zh": "模式"},
        {
            "en": "Mode of new conversations. instruct: the model answers as trained. chat-instruct: it is told to "
            "play a character. chat: it continues a script, which suits base models.",
            "zh": "新对话的模式。instruct：模型训练时的问答格式；chat-instruct：指示模型扮演角色；"
            "chat：续写剧本，适合基座模型。",
        },
        choices=("instruct", "chat-instruct", "chat"),
    ),
    Option(
        "character",
        "character",
        "",
        {"en": "Character", "zh": "角色"},
        {
            "en": "Character of new conversations in the modes chat and chat-instruct: the name of its file.",
            "zh": "chat 和 chat-instruct 模式下新对话的角色：填角色文件名。",
        },
        example="Assistant",
    ),
    Option(
        "name1",
        "name1",
        "You",
        {"en": "Your name", "zh": "用户"},
        {
            "en": "Name under which you appear in conversations with characters.",
            "zh": "与角色对话时您使用的名字。",
        },
    ),
    Option(
        "user_bio",
        "user_bio",
        "",
        {"en": "About you", "zh": "描述"},
        {"en": "What characters know about you.", "zh": "让角色了解您的自我介绍。"},
        multiline=True,
    ),
    Option(
        "start_with",
        "start_with",
        "",
        {"en": "Start reply with", "zh": "回复开头"},
        {"en": "Text with which every reply begins.", "zh": "每条回复都以此文本开头。"},
        example="Sure thing!",
        multiline=True,
    ),
    Option(
        "chat-instruct_command",
        "chat-instruct_command",
        CHAT_COMMAND,
        {"en": "Command for chat-instruct mode", "zh": "chat-instruct 模式的指令"},
        {
            "en": "<|character|> stands for the name of the character, <|prompt|> for the conversation.",
            "zh": "<|character|> 会换成角色名，<|prompt|> 会换成对话内容。",
        },
        multiline=True,
        excess=_without_prompt,
    ),
    Option(
        "chat_template_str",
        "chat_template_str",
        "",
        {"en": "Chat template", "zh": "聊天模板"},
        {
            "en": "Jinja template for the modes chat and chat-instruct, with the variables messages, name1, name2 "
            "and user_bio. Leave empty to use the built-in one.",
            "zh": "chat 和 chat-instruct 模式的 Jinja 模板，可用变量 messages、name1、name2、user_bio；"
            "留空则用内置模板。",
        },
        multiline=True,
    ),
    Option(
        "instruction_template_str",
        "instruction_template_str",
        "",
        {"en": "Instruction template", "zh": "指令模板"},
        {
            "en": "Jinja template for models without one of their own; empty = Alpaca.",
            "zh": "用于不带模板的模型的 Jinja 模板；留空则为 Alpaca。",
        },
        multiline=True,
    ),
    Option(
        "autoload_model",
        "autoload_model",
        False,
        {"en": "Autoload the model", "zh": "自动加载模型"},
        {"en": "Load a model as soon as it is selected.", "zh": "选中模型后立即加载。"},
    ),
    Option(
        "preset",
        "preset",
        "",
        {"en": "Preset", "zh": "预设"},
        {"en": "Preset that is selected when the page opens.", "zh": "页面启动时采用的预设。"},
        example="min_p",
    ),
    Option(
        "hf_endpoint",
        "hf_endpoint",
        "",
        {"en": "Download site", "zh": "下载站点"},
        {
            "en": "Site that models are downloaded from; separate several by commas.",
            "zh": "下载模型的站点；多个用逗号分隔。",
        },
        example="https://hf-mirror.com",
    ),
    Option(
        "download_connections",
        "download_connections",
        4,
        {"en": "Connections", "zh": "下载连接数"},
        {
            "en": "Connections per large file, and number of small files downloaded at a time.",
            "zh": "每个大文件使用的连接数，也是同时下载的小文件数。",
        },
        minimum=1,
        maximum=8,
    ),
    Option(
        "downloads_at_once",
        "downloads_at_once",
        1,
        {"en": "Simultaneous downloads", "zh": "同时下载数"},
        {
            "en": "Number of downloads that run at a time; the others are queued.",
            "zh": "同时进行的下载任务数，其余排队。",
        },
        minimum=1,
        maximum=4,
    ),
    *map(_loader_for, FORMATS),
)

INTERFACE: Mapping[str, Option] = {option.key: option for option in _INTERFACE}
OPTIONS: Mapping[str, Option] = {**INTERFACE, **PARAMETERS}
"""Everything that settings.yaml may contain."""


_MISSPELLED = 0.9
"""Similarity from which an unknown key may be a misspelled one: the original's max_new_tokens_min is not."""

_ORIGINAL: Mapping[str, Option] = {
    "dark_theme": Option("dark_theme", "", False, both("dark_theme"), both("dark_theme")),
    "custom_system_message": dataclasses.replace(INTERFACE["system_message"], key="custom_system_message"),
}
"""Keys of the original that have another name here."""
ALIASES: Mapping[str, str] = {"dark_theme": "theme", "custom_system_message": "system_message"}
"""The names of these here."""


@dataclass(frozen=True)
class Settings:
    """Settings of the interface, and generation parameters that override the defaults of the table."""

    language: str = "auto"
    theme: str = "auto"
    system_message: str = ""
    font_size: str = "normal"
    mode: str = "instruct"
    character: str = ""
    name1: str = "You"
    user_bio: str = ""
    start_with: str = ""
    chat_instruct_command: str = CHAT_COMMAND
    chat_template_str: str = ""
    instruction_template_str: str = ""
    autoload_model: bool = False
    preset: str = ""
    hf_endpoint: str = ""
    download_connections: int = 4
    downloads_at_once: int = 1
    loaders: Mapping[str, str] = field(default_factory=dict)  # default loader by format, if not "auto"
    generation: Mapping[str, Value] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()  # keys of the file that are not used

    def notice(self, path: Path) -> Words | None:
        """Return a sentence that lists the unknown keys of the file at `path`; None if there are none."""
        if not self.unknown:
            return None
        meant = {key: nearest(key, OPTIONS, cutoff=_MISSPELLED) for key in self.unknown}
        en = ", ".join(f"{key} (did you mean {meant[key]}?)" if meant[key] else key for key in self.unknown)
        zh = "、".join(f"{key}（是否想用 {meant[key]}？）" if meant[key] else key for key in self.unknown)
        return {
            "en": f"{path}: kept, but not used: {en}.",
            "zh": f"{path}：以下设置保留在文件中，但不起作用：{zh}。",
        }


class SettingsStore:
    """Owner of settings.yaml: `current` is what it says, with the changes that the UI has made since the start.

    Raises SettingsError if the file is invalid, or missing although it is `required`.
    """

    def __init__(self, path: Path, presets: Presets, required: bool = False) -> None:
        self.path, self._presets = path, presets
        self.current = read(path, required)

    @property
    def notice(self) -> Words | None:
        """A sentence that lists the unknown keys of the file; None if there are none."""
        return self.current.notice(self.path)

    def set(self, key: str, value: bool | str) -> Path | None:
        """Change one setting, now and in the file. Return the backup path if the old file was invalid, else None."""
        backup = save_setting(self.path, key, value)
        self.current = dataclasses.replace(self.current, **{_field(key): value})  # type: ignore[arg-type]
        return backup

    def reload(self) -> None:
        """Read the file again. Raises SettingsError, and then `current` stays."""
        self.current = read(self.path)

    def generation_defaults(self) -> dict[str, Value]:
        """Return the generation parameters that the UI starts with where they differ from the table's defaults.

        Parameters in settings.yaml outrank those of the preset. A preset that cannot be read is logged and skipped.
        """
        return {**self.preset_values(self.current.preset), **self.current.generation}

    def preset_values(self, name: str) -> Mapping[str, Value]:
        """Return the parameters of a preset; none for "" and for one that cannot be read, which is logged."""
        try:
            return self._presets.read(name).values if name else {}
        except WebUIError as error:
            log.warning("%s", error)
            return {}


def read(path: Path, required: bool = False) -> Settings:
    """Read the settings. A missing file means the defaults, unless it is `required`. Raises SettingsError."""
    if required and not path.exists():
        raise SettingsError(str(path), {"en": "file not found", "zh": "文件不存在"})
    return _parse(str(path), YamlFile(path).read())


def save_setting(path: Path, key: str, value: Value) -> Path | None:
    """Write one setting. Return the backup path if the old file was invalid, else None. Raises SettingsError."""
    return YamlFile(path).update(lambda content: content.update({key: to_yaml(value)}))


def _parse(path: str, content: Mapping[str, object]) -> Settings:
    values = parse_known(path, content)
    interface = {key: value for key, value in values.items() if key in INTERFACE}
    generation = {key: value for key, value in values.items() if key in PARAMETERS}
    loaders = {model_format: str(interface.pop(f"loader_{model_format}", AUTO)) for model_format in FORMATS}
    preferred = {model_format: name for model_format, name in loaders.items() if name != AUTO}
    unknown = tuple(key for key in content if key not in OPTIONS and key not in _ORIGINAL)
    fields = {_field(key): value for key, value in interface.items()}
    return Settings(**fields, loaders=preferred, generation=generation, unknown=unknown)  # type: ignore[arg-type]


def parse_known(path: str, content: Mapping[str, object]) -> dict[str, Value]:
    """Return the valid values of all known keys of the file at `path`, by our names. Raises SettingsError."""
    try:
        values = _from_original(content)
        return parse_all(OPTIONS, {key: as_text(key, raw) for key, raw in values.items() if key in OPTIONS})
    except WebUIError as error:
        raise SettingsError(path, {"en": error.say("en"), "zh": error.say("zh")}) from error


def _field(key: str) -> str:
    """Return the field of `Settings` for a key of the file."""
    return key.replace("-", "_")


def _from_original(content: Mapping[str, object]) -> dict[str, object]:
    """Return the content with the original's keys under our names, unless ours are there too. Raises OptionError."""
    values = dict(content)
    for key, option in _ORIGINAL.items():
        if key in values:
            value = option.parse(values.pop(key))
            values.setdefault(ALIASES[key], ("dark" if value else "light") if key == "dark_theme" else value)
    return values
