"""Errors that users see. They carry facts; the three edges (UI handler, API handler, worker loop) turn them into words.

WebUIError
├── OptionError           an option's value is not acceptable
├── UnknownOption · UnknownLoader · ModelNotFound · PresetNotFound · GrammarNotFound   a name that does not exist, with
│                         the nearest one
├── InvalidGrammar        a grammar (GBNF) with an error, and its line
├── NameTaken             a new name that another file has already
├── LoaderUnavailable     the loader cannot run on this machine, and what to do about it
├── InstallFailed         a loader's packages could not be installed, and why
├── NothingPicked · NoModelLoaded · ModelLoading · ModelInUse
├── InsufficientMemory · ModelsBusy · ModelAsleep · NotInMemory   a model that is not in memory: see `runtime/errors.py`
├── Unsupported           a valid request that this model or loader cannot fulfill
├── OwnerOnly             guests may chat, and nothing else
├── OwnersKeyNeeded · OwnerMustLoad   an API key for using models only: see `api/errors.py`
├── OpenToNetwork         an action that could harm, on a server that anyone on the network can use
├── SetByFilesOnly        an option that neither the page nor the API may set: see `planning/errors.py`
├── NoSaveToUndo          there is no change that could be undone
├── LogUnreadable         the log cannot be read, and why
├── BinNotEmptied         deleted files that could not be removed for good, and why
├── CannotRestart         the server cannot replace itself by a new process, and why
├── CodeChanged           a model's Python files differ from those that the user has trusted
├── TemplateRefused · TemplateStopped · NoDefaultTemplate   a chat template that cannot be used: see `chat/errors.py`
├── TemplateNotFound · InvalidTemplateFile · ChosenTemplateUnusable · MessageLeftOut   templates of users: see there
├── ImageRefused · ImagesUnsupported · ImageLeftOut   pictures that a model cannot get: see `chat/errors.py`
├── ConversationBusy · NothingToAnswer   an answer that cannot be written now, or at all: see `chat/errors.py`
├── ConversationBegun     a character that cannot be changed any more: see `chat/errors.py`
├── DeletionError         a model that cannot be deleted or restored: see `catalog/errors.py`
├── ModelProblem          a model that cannot be loaded: which file, and what is wrong with it
│   ├── DamagedModel      the file is not what it claims to be
│   ├── IncompleteModel   files are missing, or one ends too early
│   └── UnsupportedModel  an intact model that no loader can load
├── WrongTask             a model that was asked for what it does not do: see `core/embedding_errors.py`
│   └── CannotGenerate · CannotEmbed · CannotRank
├── InputTooLong · ForeignTokens   a text or tokens that an embedding model cannot take: see there
├── PromptTooLong · TextTooLong   a prompt that does not fit the context: see `core/worker_errors.py`
├── ReferenceUnusable · ReferenceNotStored   results of a model for comparison with another's: see there
├── ImageUnreadable · ImageRejected · TooManyPixels   pictures that a model cannot be given: see there
├── LoadFailed · LoadCancelled · GenerationFailed · Unloaded   a load or an answer that ended early: see there
├── WorkerDied            the worker process ended: see there
│   ├── WorkerStuck       one token took too long; the model is loaded again by itself
│   └── NodesLost · NodesSilent   other machines on which it computed do not answer: see `core/rpc_errors.py`
├── NodeError             an RPC node that cannot take part in a load: see there
│   └── NodeUnreachable · NodeInUse · NodeHungUp · NodeIncompatible · NodeTwice · NodeNotStarted
├── PortTaken · SettingsError · CommandLineError       the program cannot start
├── ConversationError     a conversation that does not exist, is damaged or was changed: see `conversations/errors.py`
├── CharacterError        a character, card or persona that does not exist or is damaged: see `characters/errors.py`
├── NotebookError         a text that does not exist, was changed or is being written: see `notebook/errors.py`
├── EvaluationError       a text, result, comparison or price that is not to be had: see `evaluation/errors.py`
├── ServerError           a server that generates for us fails: see `core/server_errors.py`
│   ├── ServerUnreachable · ServerNotTrusted · ServerRedirects · ServerNotUnderstood · ServerChanged
│   ├── ServerRefused     by the status of its response
│   │   └── ServerDenied · ServerLacks · ServerBusy · ServerFailed · ServerIsOurs
│   └── ServerLost · ServerBrokeOff · ServerSilent   the connection ended before the answer was complete
├── RequestLoops          a request that comes back to the program whose model's server it was sent to: see there
├── LoraError             a LoRA that does not exist or does not fit the model: see `core/lora_errors.py`
├── TrainingError         a training run that cannot start, failed or cannot go on: see `core/training_errors.py`
├── DatasetNotFound · FormatNotFound · DatasetError   unusable training data: see `training/dataset/errors.py`
├── BadParameterFile · BadUpload · BaseNotLoaded · MergeBusy   of the Training page: see `training/page_errors.py`
├── DownloadError         a failed download: see `hub/errors.py` and `downloads/errors.py`
└── InternalError         a defect of this program; the log has the traceback
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modules.core.quotes import fill, in_quotes

LANGUAGES = ("zh", "en")

Words = Mapping[str, str]
"""One sentence in each language: {"en": "...", "zh": "..."}."""


def both(text: str) -> Words:
    """Return `text` for every language, such as the message of a library."""
    return dict.fromkeys(LANGUAGES, text)


@dataclass(eq=False)
class WebUIError(Exception):
    """Base of all errors that users see. The fields of a subclass are its facts; `status` is the HTTP status.

    In a template, `{name!r}` stands for the fact in quotation marks, as the language writes them.
    `retry_after` are seconds after which the same request may succeed; 0 if that is not known. `template_elsewhere` is
    for those who do not see the page, where `template` names parts of it.
    """

    status: ClassVar[int] = 500
    retry_after: ClassVar[int] = 0
    template: ClassVar[Words] = both("")
    template_elsewhere: ClassVar[Words | None] = None

    def __str__(self) -> str:
        return self.say("en")

    def say(self, language: str) -> str:
        """Return the message in `language` ("zh" or "en")."""
        return fill(self.template, language, self.shown(language))

    def say_elsewhere(self, language: str) -> str:
        """Return the message for clients of the API, and for the terminal."""
        if self.template_elsewhere is None:
            return self.say(language)
        return fill(self.template_elsewhere, language, self.shown(language))

    def shown(self, language: str) -> dict[str, object]:
        """Return what the placeholders of `template` stand for: the facts, translated where they are Words."""
        return {
            name: fact[language] if isinstance(fact, Mapping) else fact
            for name, fact in vars(self).items()
            if not name.startswith("_")
        }

    def to_json(self) -> dict[str, Any]:
        return {"error": type(self).__name__, "facts": dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> WebUIError:
        """Return the error that `to_json` described. Raises KeyError for an unknown error class."""
        return _family(WebUIError)[data["error"]](**data["facts"])


@dataclass(eq=False)
class OptionError(WebUIError):
    status = 400
    template = {
        "en": "{option}: {value!r} is not acceptable; expected {expected}.",
        "zh": "{option}：无法接受{value}，应为{expected}。",
    }
    option: str
    value: object
    expected: Words

    def shown(self, language: str) -> dict[str, object]:
        facts = super().shown(language)
        if language == "zh":  # where numbers stand without quotation marks, after a space
            facts["value"] = in_quotes(self.value) if isinstance(self.value, str) else f" {self.value!r}"
        return facts


@dataclass(eq=False)
class UnknownName(WebUIError):
    """A name that does not exist. `nearest` is the most similar one that does, or empty."""

    status = 400
    suggestion: ClassVar[Words] = {"en": " Did you mean {nearest!r}?", "zh": "是否想用{nearest!r}？"}
    name: str
    nearest: str = ""

    def say(self, language: str) -> str:
        hint = fill(self.suggestion, language, {"nearest": self.nearest}) if self.nearest else ""
        return super().say(language) + hint


class UnknownOption(UnknownName):
    template = {"en": "There is no option {name!r}.", "zh": "没有名为{name!r}的选项。"}


class UnknownLoader(UnknownName):
    template = {"en": "There is no loader {name!r}.", "zh": "没有名为{name!r}的加载器。"}


class ModelNotFound(UnknownName):
    status = 404
    template = {"en": "There is no model {name!r}.", "zh": "没有名为{name!r}的模型。"}


class PresetNotFound(UnknownName):
    status = 404
    template = {"en": "There is no preset {name!r}.", "zh": "没有名为{name!r}的预设。"}


class GrammarNotFound(UnknownName):
    status = 404
    template = {"en": "There is no grammar {name!r}.", "zh": "没有名为{name!r}的语法。"}


@dataclass(eq=False)
class InvalidGrammar(WebUIError):
    """A grammar (GBNF) with an error in the line of that number."""

    status = 400
    template = {
        "en": "The grammar has an error in line {line}: {problem}.",
        "zh": "语法第 {line} 行有误：{problem}。",
    }
    line: int
    problem: Words


@dataclass(eq=False)
class NameTaken(WebUIError):
    """A new name that another file has already."""

    status = 409
    template = {
        "en": "The name {name!r} is already taken. Choose another one.",
        "zh": "已有名为{name!r}的文件，请换一个名称。",
    }
    name: str


@dataclass(eq=False)
class LoaderUnavailable(WebUIError):
    """A loader that cannot run. `install` is the command that would make it available, or empty."""

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
    """A failed installation of `what`. `words` is the end of pip's output, `cause` its explanation."""

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
    """A button was pressed while no model was selected."""

    status = 400
    template = {"en": "Select a model first.", "zh": "请先选择一个模型。"}


class NoModelLoaded(WebUIError):
    status = 400
    template = {
        "en": "No model is loaded. Select one on the Model page and press Load.",
        "zh": "尚未加载模型。请在“模型”页选择一个并点击“加载”。",
    }
    template_elsewhere: ClassVar[Words | None] = {
        "en": "No model is loaded. Name one that GET /v1/models lists in the request's `model`, load one by "
        "POST /v1/internal/model/load, or start the server with --model.",
        "zh": "尚未加载模型。请在请求的 model 中填写 GET /v1/models 列出的名称，"
        "或用 POST /v1/internal/model/load 加载，或以 --model 启动服务器。",
    }


@dataclass(eq=False)
class ModelLoading(WebUIError):
    status = 503
    template = {
        "en": "{model} is still loading. Try again when it is ready.",
        "zh": "{model} 仍在加载，请稍后再试。",
    }
    model: str


@dataclass(eq=False)
class ModelInUse(WebUIError):
    status = 409
    template = {
        "en": "{model} is in use. Unload it first, or wait until it has been moved.",
        "zh": "{model} 正在使用中。请先卸载，或等待移动完成。",
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
        "en": "Not allowed: this server runs with --multi-user, so only its owner may do that.",
        "zh": "无权操作：服务器以 --multi-user 启动，只有管理者可以这样做。",
    }


class OpenToNetwork(WebUIError):
    status = 403
    template = {
        "en": "Not allowed while anyone on the network can use this server without a password. Set --gradio-auth, "
        "or do not use --listen.",
        "zh": "当前局域网内任何人无需密码即可使用此服务器，因此不允许此操作。请设置 --gradio-auth，或不使用 --listen。",
    }


class NoSaveToUndo(WebUIError):
    status = 409
    template = {
        "en": "There is nothing to undo: no change has been saved since the server was started.",
        "zh": "没有可撤销的更改：服务器启动以来没有保存过。",
    }


@dataclass(eq=False)
class LogUnreadable(WebUIError):
    template = {"en": "The log {file} cannot be read: {problem}.", "zh": "无法读取日志 {file}：{problem}。"}
    file: str
    problem: str


@dataclass(eq=False)
class BinNotEmptied(WebUIError):
    template = {
        "en": "Not everything in the bin could be deleted: {problem}. Check the permissions of {folder}.",
        "zh": "回收站未能全部清空：{problem}。请检查 {folder} 的权限。",
    }
    folder: str
    problem: str


@dataclass(eq=False)
class CannotRestart(WebUIError):
    status = 409
    template = {"en": "The server cannot restart by itself: {problem}", "zh": "服务器无法自行重启：{problem}"}
    problem: Words


@dataclass(eq=False)
class CodeChanged(WebUIError):
    """Python files of a model that the user has not trusted, or not as they are now.

    `changes` maps such files to "changed" or "added"; `code` maps all present files to their SHA-256.
    """

    status = 409
    template = {
        "en": "Python code of {model} differs from what you trusted, and was not run: {files}. "
        "Review it; to trust it, use the button on the Model page, or start with --model and --trust-changed-code.",
        "zh": "{model} 自带的 Python 代码与您信任的版本不同，未运行：{files}。"
        "请先检查代码；如需信任，请点击“模型”页的按钮，或以 --model 和 --trust-changed-code 启动。",
    }
    template_elsewhere = {
        "en": "Python code of {model} differs from what you trusted, and was not run: {files}. "
        "Review it; to trust it, start the server with --model and --trust-changed-code.",
        "zh": "{model} 自带的 Python 代码与您信任的版本不同，未运行：{files}。"
        "请先检查代码；如需信任，请以 --model 和 --trust-changed-code 启动服务器。",
    }
    kinds: ClassVar[Mapping[str, Words]] = {
        "changed": {"en": "changed", "zh": "已更改"},
        "added": {"en": "added", "zh": "新增"},
    }
    model: str
    changes: Mapping[str, str]
    code: Mapping[str, str]

    def shown(self, language: str) -> dict[str, object]:
        files = (
            f"{name} ({self.kinds[kind][language]}, sha256 {self.code[name][:12]})"
            for name, kind in self.changes.items()
        )
        return {"model": self.model, "files": ", ".join(files)}


@dataclass(eq=False)
class ModelProblem(WebUIError):
    """A model that cannot be loaded. `state` is the word for it in a list of models."""

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


@dataclass(eq=False)
class PortTaken(WebUIError):
    template = {
        "en": "Port {port} on {host} is already in use. Stop the other program, or choose another port with "
        "--listen-port.",
        "zh": "{host} 的端口 {port} 已被占用。请关闭占用它的程序，或用 --listen-port 指定其他端口。",
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
    """An invalid command line, such as a flag without its value, or a malformed file of flags."""

    status = 400
    template = {"en": "Command line: {problem}", "zh": "命令行：{problem}"}
    problem: Words


@dataclass(eq=False)
class InternalError(WebUIError):
    template = {
        "en": "Internal error; see the log for details ({log}).",
        "zh": "内部错误，详见日志（{log}）。",
    }
    log: str


def _family(root: type[WebUIError]) -> dict[str, type[WebUIError]]:
    classes = {root.__name__: root}
    for child in root.__subclasses__():
        classes |= _family(child)
    return classes
