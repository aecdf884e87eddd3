"""Every error a user may see. Errors carry facts; the edges (page, API, worker loop) turn them into words.

WebUIError
├── OptionError           an option's value is not acceptable
├── UnknownOption · UnknownLoader · ModelNotFound · PresetNotFound   a name nobody knows, with the nearest that exists
├── LoaderUnavailable     the loader cannot run here, and what to do about it
├── InstallFailed         a loader's own packages did not come, and why
├── NothingPicked · NoModelLoaded · ModelLoading · ModelInUse
├── Unsupported           understood, but this model or loader cannot do it
├── OwnerOnly             guests may chat, and nothing else
├── CodeChanged           a model's Python files are others than those that were agreed to
├── PromptTooLong         the prompt does not fit the context
├── ModelProblem          a model that cannot be loaded as it lies there: which file, and what is wrong with it
│   ├── DamagedModel      the file is not what it claims to be
│   ├── IncompleteModel   something of it is missing, or it ends too early
│   └── UnsupportedModel  as it should be, but nothing here can load it
├── LoadFailed            the backend refused, in its own words
├── LoadCancelled         given up for another wish: a newer load, an unload, the Cancel button
├── GenerationFailed      the backend could not go on, in its own words
├── Unloaded              the model was let go before its answer was complete
├── WorkerDied            the backend's process ended: exit status and its last words
├── PortTaken · SettingsError · CommandLineError       the program cannot start as asked
├── LoraError             a LoRA that is not there, or not for this model: see `lora_errors`
├── DownloadError         between a hub and the disk: see `download_errors`
└── InternalError         a fault of ours; the log has the traceback
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

LANGUAGES = ("zh", "en")

Words = Mapping[str, str]
"""The same sentence by language: {"en": "...", "zh": "..."}."""


def both(text: str) -> Words:
    """The words of something that reads the same in every language, such as a library's own message."""
    return dict.fromkeys(LANGUAGES, text)


@dataclass(eq=False)
class WebUIError(Exception):
    """A fact the user should know. `.status` is its HTTP status; `.say(language)` is what the user reads."""

    status: ClassVar[int] = 500
    template: ClassVar[Words] = both("")

    def __str__(self) -> str:
        return self.say("en")

    def say(self, language: str) -> str:
        """The message in `language` ("zh" or "en")."""
        return self.template[language].format(**self.shown(language))

    def shown(self, language: str) -> dict[str, object]:
        """The facts as they enter the sentence: those that are words, in the language asked for."""
        return {
            name: fact[language] if isinstance(fact, Mapping) else fact
            for name, fact in vars(self).items()
            if not name.startswith("_")
        }

    def to_json(self) -> dict[str, Any]:
        return {"error": type(self).__name__, "facts": dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> WebUIError:
        """The inverse of `to_json`; KeyError if this program has no such error."""
        return _family(WebUIError)[data["error"]](**data["facts"])


@dataclass(eq=False)
class OptionError(WebUIError):
    status = 400
    template = {
        "en": "{option}: {value!r} is not acceptable; expected {expected}.",
        "zh": "{option}：无法接受 {value!r}，应为{expected}。",
    }
    option: str
    value: object
    expected: Words


@dataclass(eq=False)
class UnknownName(WebUIError):
    """A name that nobody knows. `nearest` is the most similar one that exists, or empty."""

    status = 400
    suggestion: ClassVar[Words] = {"en": " Did you mean {nearest!r}?", "zh": "是否想用 {nearest!r}？"}
    name: str
    nearest: str = ""

    def say(self, language: str) -> str:
        hint = self.suggestion[language].format(nearest=self.nearest) if self.nearest else ""
        return super().say(language) + hint


class UnknownOption(UnknownName):
    template = {"en": "There is no option {name!r}.", "zh": "没有名为 {name!r} 的选项。"}


class UnknownLoader(UnknownName):
    template = {"en": "There is no loader {name!r}.", "zh": "没有名为 {name!r} 的加载器。"}


class ModelNotFound(UnknownName):
    status = 404
    template = {"en": "There is no model {name!r}.", "zh": "没有名为 {name!r} 的模型。"}


class PresetNotFound(UnknownName):
    status = 404
    template = {"en": "There is no preset {name!r}.", "zh": "没有名为 {name!r} 的预设。"}


@dataclass(eq=False)
class LoaderUnavailable(WebUIError):
    """`install` is the line that would make it available, or empty if there is none."""

    status = 501
    template = {
        "en": "The loader {loader} is not available here: {reason}",
        "zh": "加载器 {loader} 在此不可用：{reason}",
    }
    loader: str
    reason: Words
    install: str = ""


@dataclass(eq=False)
class InstallFailed(WebUIError):
    """`what` was to be installed; `words` are pip's own, `cause` what they come down to."""

    status = 502
    template = {
        "en": "Could not install {what}: {cause}{tail}",
        "zh": "未能安装 {what}：{cause}{tail}",
    }
    what: Words
    cause: Words
    words: str = ""

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"tail": f"\n{self.words}" if self.words else ""}


class NothingPicked(WebUIError):
    """A button was pressed with no model chosen."""

    status = 400
    template = {"en": "Pick a model.", "zh": "请选择一个模型。"}


class NoModelLoaded(WebUIError):
    status = 400
    template = {
        "en": "No model is loaded. Pick one in the Model tab and press Load.",
        "zh": "尚未加载模型。请在“模型”页选择一个并点击“加载”。",
    }


@dataclass(eq=False)
class ModelLoading(WebUIError):
    status = 503
    template = {
        "en": "{model} is still being loaded; try again when it is ready.",
        "zh": "{model} 仍在加载，请就绪后再试。",
    }
    model: str


@dataclass(eq=False)
class ModelInUse(WebUIError):
    status = 409
    template = {
        "en": "{model} is in use: unload it first, or wait until it has been moved.",
        "zh": "{model} 正在使用中：请先卸载，或等待移动完成。",
    }
    model: str


@dataclass(eq=False)
class Unsupported(WebUIError):
    status = 400
    template = {"en": "{what}", "zh": "{what}"}
    what: Words


class OwnerOnly(WebUIError):
    status = 403
    template = {
        "en": "Only the owner of this server may do that: it was started with --multi-user.",
        "zh": "只有此服务器的管理者可以这样做：它以 --multi-user 启动。",
    }


@dataclass(eq=False)
class CodeChanged(WebUIError):
    """`changes` says of each file whether it was "changed" or "added"; `code` is the SHA-256 of all there are now."""

    status = 409
    template = {
        "en": "{model} comes with Python code that is not what was agreed to, and nothing of it was run: {files}. "
        "Look at it; to agree, use the button on the Model tab, or start with --model and --trust-changed-code.",
        "zh": "{model} 附带的 Python 代码与先前同意的不同，未运行其中任何内容：{files}。"
        "请先查看；若同意，请点击“模型”页的按钮，或以 --model 和 --trust-changed-code 启动。",
    }
    kinds: ClassVar[Mapping[str, Words]] = {
        "changed": {"en": "changed", "zh": "已更改"},
        "added": {"en": "added", "zh": "新增"},
    }
    model: str
    changes: Mapping[str, str]
    code: Mapping[str, str]

    def shown(self, language: str) -> dict[str, object]:
        told = (
            f"{name} ({self.kinds[kind][language]}, sha256 {self.code[name][:12]})"
            for name, kind in self.changes.items()
        )
        return {"model": self.model, "files": ", ".join(told)}


@dataclass(eq=False)
class PromptTooLong(WebUIError):
    """`limit` is how many tokens a prompt may have here, which is less than the context: the answer needs room too."""

    status = 400
    template = {
        "en": "The prompt has {tokens} tokens, but the context has room for {limit}. "
        "Shorten it, or load the model with a larger n_ctx.",
        "zh": "提示词有 {tokens} 个词符，而上下文只能容纳 {limit} 个。请缩短提示词，或以更大的 n_ctx 加载模型。",
    }
    tokens: int
    limit: int


@dataclass(eq=False)
class ModelProblem(WebUIError):
    """`state` is the one word for it, in a list of models."""

    status = 422
    state: ClassVar[str]
    template = {"en": "{file}: {problem}", "zh": "{file}：{problem}"}
    file: str
    problem: Words


class DamagedModel(ModelProblem):
    state = "damaged"


class IncompleteModel(ModelProblem):
    state = "incomplete"


class UnsupportedModel(ModelProblem):
    state = "unsupported"


UNNAMED: Words = {"en": "the backend says why, below.", "zh": "原因见后端的原话："}
"""The cause where there is no telling."""


@dataclass(eq=False)
class LoadFailed(WebUIError):
    """`words` are the backend's own; `cause` is what they come down to, as the end of a sentence."""

    template = {
        "en": "{loader} could not load {model}: {cause}\n{words}",
        "zh": "{loader} 无法加载 {model}：{cause}\n{words}",
    }
    loader: str
    model: str
    words: str
    cause: Words = dataclasses.field(default_factory=lambda: UNNAMED)


@dataclass(eq=False)
class LoadCancelled(WebUIError):
    status = 409
    template = {"en": "Loading {model} was cancelled.", "zh": "已取消加载 {model}。"}
    model: str


@dataclass(eq=False)
class GenerationFailed(WebUIError):
    template = {"en": "{loader} could not go on: {words}", "zh": "{loader} 无法继续生成：{words}"}
    loader: str
    words: str


class Unloaded(WebUIError):
    status = 409
    template = {
        "en": "The model was unloaded before the answer was complete.",
        "zh": "回答尚未完成，模型已被卸载。",
    }


@dataclass(eq=False)
class WorkerDied(WebUIError):
    """`exit_code` as of `subprocess`: negative means killed by that signal. `words` is the tail of its stderr."""

    template = {
        "en": "The model's process ended while it was {doing} ({how}). Load the model again to go on.{tail}",
        "zh": "模型进程在{doing}时意外结束（{how}）。重新加载模型即可继续。{tail}",
    }
    tail: ClassVar[Words] = {"en": " Its last words: {words}", "zh": "它最后的输出：{words}"}
    exit_code: int
    doing: Words
    words: str = ""

    def shown(self, language: str) -> dict[str, object]:
        tail = self.tail[language].format(words=self.words) if self.words else ""
        return super().shown(language) | {"how": _how_it_ended(self.exit_code), "tail": tail}


@dataclass(eq=False)
class PortTaken(WebUIError):
    template = {
        "en": "Port {port} on {host} is already in use. Stop the other program, or choose another with --listen-port.",
        "zh": "{host} 的端口 {port} 已被占用。请关闭占用它的程序，或用 --listen-port 另选一个。",
    }
    host: str
    port: int


@dataclass(eq=False)
class SettingsError(WebUIError):
    template = {"en": "{file}: {problem}", "zh": "{file}：{problem}"}
    file: str
    problem: Words


@dataclass(eq=False)
class CommandLineError(WebUIError):
    """What the command line's grammar refuses, such as a flag without its value, or a file of flags out of order."""

    status = 400
    template = {"en": "Command line: {problem}", "zh": "命令行：{problem}"}
    problem: Words


@dataclass(eq=False)
class InternalError(WebUIError):
    template = {
        "en": "Internal error; the log has the details ({log}).",
        "zh": "内部错误，详情见日志（{log}）。",
    }
    log: str


def _how_it_ended(exit_code: int) -> str:
    """ "SIGSEGV" for -11, "exit status 1" for 1."""
    if exit_code < 0:
        try:
            return signal.Signals(-exit_code).name
        except ValueError:
            return f"signal {-exit_code}"
    return f"exit status {exit_code}"


def _family(root: type[WebUIError]) -> dict[str, type[WebUIError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _family(child)
    return found
