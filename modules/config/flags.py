"""The command line: what the server itself is told, and any load option, by its original spelling."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.config import legacy_flags
from modules.core.errors import CommandLineError, Words, both
from modules.core.product import PRODUCT
from modules.options.load import OPTIONS
from modules.options.option import FlagParser, Option, Value

_SERVER = (
    Option(
        "model",
        "model",
        "",
        {"en": "Model", "zh": "模型"},
        {
            "en": "Load this model at start: its name in models/ or a path.",
            "zh": "启动时加载此模型：models/ 中的名称或路径。",
        },
    ),
    Option(
        "loader",
        "loader",
        "",
        {"en": "Loader", "zh": "加载器"},
        {"en": "Load it with this loader.", "zh": "用此加载器加载。"},
    ),
    Option(
        "lora",
        "lora",
        "",
        {"en": "LoRAs", "zh": "LoRA"},
        {
            "en": "Apply these LoRAs once the model is loaded: names in loras/, and after a colon the weight of "
            "any that shall not have 1.",
            "zh": "模型加载后应用这些 LoRA：loras/ 中的名称，权重不为 1 时写在冒号后。",
        },
        example="first second:0.5",
        many=True,
        joint="\n",
    ),
    Option(
        "model_menu",
        "model-menu",
        False,
        {"en": "Model menu", "zh": "模型菜单"},
        {
            "en": "List the models in the terminal and ask which one to load, unless --model names one.",
            "zh": "在终端列出模型并询问加载哪一个（已用 --model 指定时不询问）。",
        },
    ),
    Option(
        "trust_changed_code",
        "trust-changed-code",
        False,
        {"en": "Trust changed code", "zh": "信任已更改的代码"},
        {
            "en": "With --trust-remote-code: agree to the Python files that the model of --model has now.",
            "zh": "与 --trust-remote-code 一起使用：同意 --model 所指模型目前附带的 Python 代码。",
        },
    ),
    Option(
        "listen",
        "listen",
        False,
        {"en": "Listen", "zh": "监听局域网"},
        {"en": "Answer other machines of the network, not only this one.", "zh": "允许局域网内其他设备访问。"},
    ),
    Option(
        "listen_host",
        "listen-host",
        "",
        {"en": "Address", "zh": "监听地址"},
        {"en": "The address to answer on.", "zh": "监听的地址。"},
    ),
    Option(
        "listen_port",
        "listen-port",
        7860,
        {"en": "Port", "zh": "端口"},
        {"en": "The port to answer on.", "zh": "监听的端口。"},
        minimum=1,
        maximum=65535,
    ),
    Option(
        "api",
        "api",
        False,
        {"en": "API", "zh": "API"},
        {
            "en": "Offer the OpenAI-compatible API on the same port, under /v1.",
            "zh": "在同一端口的 /v1 下提供兼容 OpenAI 的 API。",
        },
    ),
    Option(
        "api_key",
        "api-key",
        "",
        {"en": "API key", "zh": "API 密钥"},
        {"en": "The key that API requests must carry.", "zh": "API 请求必须携带的密钥。"},
    ),
    Option(
        "gradio_auth",
        "gradio-auth",
        "",
        {"en": "Login", "zh": "登录"},
        {
            "en": "Who may use the page: user:password, several separated by commas.",
            "zh": "页面的用户名:密码，多个用逗号分隔。",
        },
        pattern=r"[^:,]+:[^,]+(,[^:,]+:[^,]+)*",
        example="me:secret,you:other",
    ),
    Option(
        "multi_user",
        "multi-user",
        False,
        {"en": "Multi-user", "zh": "多用户"},
        {
            "en": "Others may chat, only the owner loads models.",
            "zh": "其他人可以聊天，只有机主可以加载模型。",
        },
    ),
    Option(
        "settings",
        "settings",
        "",
        {"en": "Settings file", "zh": "设置文件"},
        {
            "en": "Read the interface's settings from this file instead of settings.yaml.",
            "zh": "从此文件而非 settings.yaml 读取界面设置。",
        },
    ),
    Option(
        "model_dir",
        "model-dir",
        "",
        {"en": "Models folder", "zh": "模型目录"},
        {"en": "Where models lie, if not in models/.", "zh": "存放模型的目录（默认 models/）。"},
    ),
    Option(
        "lora_dir",
        "lora-dir",
        "",
        {"en": "LoRA folder", "zh": "LoRA 目录"},
        {"en": "Where LoRAs lie, if not in loras/.", "zh": "存放 LoRA 的目录（默认 loras/）。"},
    ),
    Option(
        "hf_endpoint",
        "hf-endpoint",
        "",
        {"en": "Download endpoint", "zh": "下载站点"},
        {
            "en": "Download models from here, above HF_ENDPOINT and settings.yaml; of several, separated by commas, "
            "the next takes over when one fails. Without any: hf-mirror.com.",
            "zh": "从此站点下载模型，优先于 HF_ENDPOINT 与 settings.yaml；多个用逗号分隔，一个失败时换下一个。"
            "都未指定时用 hf-mirror.com。",
        },
        example="https://hf-mirror.com",
    ),
    Option(
        "auto_launch",
        "auto-launch",
        False,
        {"en": "Open browser", "zh": "打开浏览器"},
        {"en": "Open the page in the browser when it is ready.", "zh": "就绪后自动在浏览器中打开页面。"},
    ),
    Option(
        "nowebui",
        "nowebui",
        False,
        {"en": "No page", "zh": "不启动页面"},
        {"en": "Serve the API alone, without the page.", "zh": "只提供 API，不启动页面。"},
    ),
    Option(
        "explain",
        "explain",
        False,
        {"en": "Explain", "zh": "说明"},
        {
            "en": "Print, as JSON, each option's value, where it came from and the backend's exact call; load nothing.",
            "zh": "以 JSON 输出每个选项的取值、来源和对后端的确切调用，不加载模型。",
        },
    ),
    Option(
        "install",
        "install",
        "",
        {"en": "Install", "zh": "安装"},
        {
            "en": "Install the packages that this loader has for itself, and end: status 0 if they are there.",
            "zh": "安装此加载器专用的软件包后退出，成功时退出状态为 0。",
        },
        example="AutoGPTQ",
    ),
    Option(
        "prepare",
        "prepare",
        False,
        {"en": "Prepare", "zh": "首次准备"},
        {
            "en": "While the page is up, compile llama.cpp if it is missing, fetch a small demo model if there is "
            "none, and load it. ./start.sh always does so.",
            "zh": "页面启动后在后台编译尚缺的 llama.cpp；没有模型时下载并加载一个小型演示模型。"
            "./start.sh 总是这样启动。",
        },
    ),
    Option(
        "no_demo",
        "no-demo",
        False,
        {"en": "No demo model", "zh": "不下载演示模型"},
        {"en": "With --prepare: fetch no demo model.", "zh": "与 --prepare 一起使用：不下载演示模型。"},
    ),
    Option(
        "verbose",
        "verbose",
        False,
        {"en": "Verbose", "zh": "详细输出"},
        {"en": "Print what the backends say as they say it.", "zh": "在终端显示后端的全部输出。"},
    ),
)

SERVER: Mapping[str, Option] = {option.key: option for option in _SERVER}


@dataclass(frozen=True)
class Flags:
    """`server` is complete, with defaults; `load` holds the load options that were typed, and no others.

    `ignored` has a sentence for each flag of the original that was typed and means nothing here.
    """

    server: Mapping[str, Value]
    load: Mapping[str, Value]
    ignored: tuple[Words, ...] = ()

    def text(self, key: str) -> str:
        return str(self.server[key])

    def on(self, key: str) -> bool:
        return bool(self.server[key])


def with_file(path: Path, words: Iterable[str]) -> list[str]:
    """The words of the file at `path` (CMD_FLAGS.txt), then `words`: of a flag given twice, the later one counts.

    CommandLineError if the file cannot be read; there need not be one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        lines = []
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _refused(f"{path}:{line}", {"en": "not UTF-8", "zh": "不是 UTF-8 编码"}) from error
    except OSError as error:
        words = error.strerror or type(error).__name__
        raise _refused(str(path), {"en": f"cannot be read ({words})", "zh": f"无法读取（{words}）"}) from error
    places = [(f"{path}:{number}", line) for number, line in enumerate(lines, 1)]
    return [*(word for place, line in places for word in _split(place, line)), *words]


def _split(place: str, line: str) -> list[str]:
    """The words of one line, as a shell takes them apart; the original let lines go on with a backslash."""
    line = line.strip().removesuffix("\\")
    if line.startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as error:
        raise _refused(place, _SHLEX.get(str(error)) or both(str(error))) from error


_SHLEX: Mapping[str, Words] = {
    "No closing quotation": {"en": "No closing quotation", "zh": "引号没有闭合"},
    "No escaped character": {"en": "Nothing follows the last backslash", "zh": "末尾的反斜杠之后没有字符"},
}


def _refused(place: str, problem: Words) -> CommandLineError:
    return CommandLineError({"en": f"{place}: {problem['en']}.", "zh": f"{place}：{problem['zh']}。"})


def read(words: Iterable[str]) -> Flags:
    """What was typed. OptionError, UnknownOption or CommandLineError; `--help` prints and exits."""
    parser = FlagParser([*SERVER.values(), *OPTIONS.values()], f"{PRODUCT}: a local web UI for large language models")
    kept, ignored = legacy_flags.sift(words)
    typed = parser.typed(kept)
    server = {key: typed.get(key, option.default) for key, option in SERVER.items()}
    return Flags(server, {key: value for key, value in typed.items() if key in OPTIONS}, ignored)


def logins(flags: Flags) -> list[tuple[str, str]]:
    """The users and passwords of `--gradio-auth`; none means that the page is open."""
    pairs = [pair.partition(":") for pair in flags.text("gradio_auth").split(",") if pair]
    return [(user.strip(), password) for user, _, password in pairs]
