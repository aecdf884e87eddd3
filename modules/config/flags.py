"""The command line of server.py: server flags and all load options, in the spelling of the original web UI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from modules.config import legacy_flags
from modules.core.errors import Words
from modules.core.product import PRODUCT
from modules.options.evaluation import BOS, MAX_LENGTH, METHOD, STRIDE, WINDOWS
from modules.options.load import OPTIONS
from modules.options.load_llamacpp import excess_address
from modules.options.option import FlagParser, Option, Value
from modules.options.price import PAIRS

_SERVER = (
    Option(
        "model",
        "model",
        "",
        {"en": "Model", "zh": "模型"},
        {
            "en": "Load this model at start: a name in models/, or a path.",
            "zh": "启动时加载此模型：models/ 中的名称或路径。",
        },
    ),
    Option(
        "loader",
        "loader",
        "",
        {"en": "Loader", "zh": "加载器"},
        {"en": "Loader to use instead of the recommended one.", "zh": "使用此加载器，而非推荐的加载器。"},
    ),
    Option(
        "lora",
        "lora",
        "",
        {"en": "LoRAs", "zh": "LoRA"},
        {
            "en": "Apply these LoRAs to the loaded model: names in loras/, each optionally followed by a colon and "
            "a weight (default 1).",
            "zh": "模型加载后应用这些 LoRA：loras/ 中的名称，可在冒号后写权重（默认 1）。",
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
            "en": "Choose the model from a list in the terminal. Ignored if --model is given.",
            "zh": "在终端的列表中选择要加载的模型（已用 --model 指定时忽略）。",
        },
    ),
    Option(
        "trust_changed_code",
        "trust-changed-code",
        False,
        {"en": "Trust changed code", "zh": "信任已更改的代码"},
        {
            "en": "With --trust-remote-code: accept the present Python files of the model of --model.",
            "zh": "配合 --trust-remote-code：同意 --model 所指模型目前附带的 Python 代码。",
        },
    ),
    Option(
        "listen",
        "listen",
        False,
        {"en": "Listen", "zh": "监听局域网"},
        {"en": "Accept connections from other machines on the network.", "zh": "允许局域网内其他设备访问。"},
    ),
    Option(
        "listen_host",
        "listen-host",
        "",
        {"en": "Address", "zh": "监听地址"},
        {"en": "IP address to listen on.", "zh": "监听的 IP 地址。"},
    ),
    Option(
        "listen_port",
        "listen-port",
        7860,
        {"en": "Port", "zh": "端口"},
        {"en": "Port to listen on.", "zh": "监听的端口。"},
        minimum=1,
        maximum=65535,
    ),
    Option(
        "api",
        "api",
        False,
        {"en": "API", "zh": "API"},
        {
            "en": "Serve the API on the same port: OpenAI's and Anthropic's under /v1, llama-server's beside it.",
            "zh": "在同一端口提供 API：/v1 下兼容 OpenAI 和 Anthropic，并提供 llama-server 的接口。",
        },
    ),
    Option(
        "api_key",
        "api-key",
        "",
        {"en": "API key", "zh": "API 密钥"},
        {
            "en": "Key that API requests must contain. Without --gradio-auth, the page asks for it too.",
            "zh": "API 请求必须携带的密钥。未设置 --gradio-auth 时，页面登录也用此密钥。",
        },
        needs_value=True,
    ),
    Option(
        "api_key_file",
        "api-key-file",
        "",
        {"en": "File of API keys", "zh": "API 密钥文件"},
        {
            "en": "File with API keys, one per line, instead of --api-key; as KEY, NAME:KEY, or NAME:use:KEY for one "
            "that may not load models. Without either, the environment variable TEXT_STUDIO_API_KEY is used.",
            "zh": "API 密钥文件，每行一个，代替 --api-key；可写成 密钥、名称:密钥，或 名称:use:密钥（不可加载模型）。"
            "两者均未指定时，使用环境变量 TEXT_STUDIO_API_KEY。",
        },
        needs_value=True,
    ),
    Option(
        "public_host",
        "public-host",
        "",
        {"en": "Names behind a proxy", "zh": "反向代理的主机名"},
        {
            "en": "Host names under which a reverse proxy serves this program, separated by commas.",
            "zh": "反向代理对外使用的主机名，多个用逗号分隔。",
        },
        example="llm.example.com",
    ),
    Option(
        "cors_origins",
        "cors-origins",
        "",
        {"en": "Origins for the API", "zh": "API 允许的网页来源"},
        {
            "en": "Web pages that may call the API, by their origins, separated by commas. * allows all, and needs an "
            "API key.",
            "zh": "允许调用 API 的网页来源，多个用逗号分隔。* 表示全部，需同时设置 API 密钥。",
        },
        example="https://app.example",
    ),
    Option(
        "strict_api",
        "strict-api",
        False,
        {"en": "Strict API", "zh": "严格的 API"},
        {
            "en": "Refuse API requests with unknown parameters, instead of answering without them.",
            "zh": "拒绝含未知参数的 API 请求，而不是忽略这些参数后作答。",
        },
    ),
    Option(
        "models_max",
        "models-max",
        3,
        {"en": "Models in memory", "zh": "内存中的模型数"},
        {
            "en": "Keep at most this many models in memory at once, if they fit.",
            "zh": "内存足够时，最多同时保留这么多个模型。",
        },
        minimum=1,
        maximum=100,
    ),
    Option(
        "idle_timeout",
        "idle-timeout",
        0,
        {"en": "Idle timeout", "zh": "闲置时限"},
        {
            "en": "Minutes after its last answer until a model is put to sleep; the next request wakes it. 0: 60 "
            "minutes for models that an API request has loaded, never for others.",
            "zh": "模型最后一次回答后经过多少分钟进入休眠，下一个请求会唤醒它。0 表示由 API 请求加载的模型 60 分钟，"
            "其余从不休眠。",
        },
        minimum=0,
        maximum=525_600,
    ),
    Option(
        "prompt_cache_gb",
        "prompt-cache-gb",
        2.0,
        {"en": "Saved prompts (GB)", "zh": "保存的提示词（GB）"},
        {
            "en": "Space on the disk, in GB, for evaluated prompts, so that a conversation continues at once after its "
            "model was unloaded or the server restarted. 0 saves none, as does --multi-user.",
            "zh": "用于保存已计算提示词的磁盘空间（GB），这样模型卸载或服务器重启后可立即继续对话。"
            "0 表示不保存；使用 --multi-user 时也不保存。",
        },
        minimum=0,
        maximum=10_000,
    ),
    Option(
        "strict_model",
        "strict-model",
        False,
        {"en": "Strict model names", "zh": "严格的模型名"},
        {
            "en": "Refuse API requests for a model that does not exist, instead of answering with the current one.",
            "zh": "API 请求的模型不存在时拒绝请求，而不是用当前模型作答。",
        },
    ),
    Option(
        "gradio_auth",
        "gradio-auth",
        "",
        {"en": "Login", "zh": "登录"},
        {
            "en": "Logins for the page as user:password, separated by commas.",
            "zh": "页面登录，格式为 用户名:密码，多个用逗号分隔。",
        },
        pattern=r"[^:,]+:[^,]+(,[^:,]+:[^,]+)*",
        example="me:secret,you:other",
        needs_value=True,
    ),
    Option(
        "gradio_auth_path",
        "gradio-auth-path",
        "",
        {"en": "File of logins", "zh": "登录文件"},
        {
            "en": "File with logins as user:password, one per line, instead of --gradio-auth. Without either, the "
            "environment variable TEXT_STUDIO_AUTH is used.",
            "zh": "登录文件，每行一个 用户名:密码，代替 --gradio-auth。两者均未指定时，使用环境变量 TEXT_STUDIO_AUTH。",
        },
        needs_value=True,
    ),
    Option(
        "multi_user",
        "multi-user",
        False,
        {"en": "Multi-user", "zh": "多用户"},
        {
            "en": "Other users can chat, but only the owner can load models.",
            "zh": "其他人可以聊天，只有管理者可以加载模型。",
        },
    ),
    Option(
        "settings",
        "settings",
        "",
        {"en": "Settings file", "zh": "设置文件"},
        {
            "en": "Settings file of the interface, instead of settings.yaml.",
            "zh": "界面设置文件，代替 settings.yaml。",
        },
    ),
    Option(
        "model_dir",
        "model-dir",
        "",
        {"en": "Models folder", "zh": "模型文件夹"},
        {"en": "Folder of the models (default: models/).", "zh": "存放模型的文件夹（默认 models/）。"},
    ),
    Option(
        "lora_dir",
        "lora-dir",
        "",
        {"en": "LoRA folder", "zh": "LoRA 文件夹"},
        {"en": "Folder of the LoRAs (default: loras/).", "zh": "存放 LoRA 的文件夹（默认 loras/）。"},
    ),
    Option(
        "logs_dir",
        "logs-dir",
        "",
        {"en": "Conversation folder", "zh": "对话文件夹"},
        {"en": "Folder of the conversations (default: logs/).", "zh": "存放对话的文件夹（默认 logs/）。"},
    ),
    Option(
        "character_dir",
        "character-dir",
        "",
        {"en": "Character folder", "zh": "角色文件夹"},
        {"en": "Folder of the characters (default: characters/).", "zh": "存放角色的文件夹（默认 characters/）。"},
    ),
    Option(
        "persona_dir",
        "persona-dir",
        "",
        {"en": "Persona folder", "zh": "用户身份文件夹"},
        {"en": "Folder of the personas (default: users/).", "zh": "存放用户身份的文件夹（默认 users/）。"},
    ),
    Option(
        "dataset_dir",
        "dataset-dir",
        "",
        {"en": "Dataset folder", "zh": "数据集文件夹"},
        {
            "en": "Folder of texts and training data (default: training/datasets/).",
            "zh": "存放文本与训练数据的文件夹（默认 training/datasets/）。",
        },
    ),
    Option(
        "run_dir",
        "run-dir",
        "",
        {"en": "Folder of training runs", "zh": "训练文件夹"},
        {
            "en": "Folder of training runs and their checkpoints (default: training/runs/).",
            "zh": "存放训练及其检查点的文件夹（默认 training/runs/）。",
        },
    ),
    Option(
        "template_dir",
        "template-dir",
        "",
        {"en": "Template folder", "zh": "指令模板文件夹"},
        {
            "en": "Folder of the instruction templates (default: instruction-templates/).",
            "zh": "存放指令模板的文件夹（默认 instruction-templates/）。",
        },
    ),
    Option(
        "chat_template_file",
        "chat-template-file",
        "",
        {"en": "Template file", "zh": "模板文件"},
        {
            "en": "Instruction template (.jinja or .yaml) for all models; outranks those chosen for single ones.",
            "zh": "用于所有模型的指令模板文件（.jinja 或 .yaml），优先于为单个模型指定的模板。",
        },
    ),
    Option(
        "hf_endpoint",
        "hf-endpoint",
        "",
        {"en": "Download site", "zh": "下载站点"},
        {
            "en": "Site for downloads; takes precedence over HF_ENDPOINT and settings.yaml. If several are given, "
            "separated by commas, the next one is used when one fails. Default: hf-mirror.com, then huggingface.co.",
            "zh": "从此站点下载模型，优先于 HF_ENDPOINT 与 settings.yaml；多个用逗号分隔，一个失败时换下一个。"
            "默认依次为 hf-mirror.com 和 huggingface.co。",
        },
        example="https://hf-mirror.com",
    ),
    Option(
        "auto_launch",
        "auto-launch",
        False,
        {"en": "Open browser", "zh": "打开浏览器"},
        {"en": "Open the page in the browser when the server is ready.", "zh": "就绪后自动在浏览器中打开页面。"},
    ),
    Option(
        "nowebui",
        "nowebui",
        False,
        {"en": "No page", "zh": "不启动页面"},
        {"en": "Serve only the API, without the page.", "zh": "只提供 API，不启动页面。"},
    ),
    Option(
        "explain",
        "explain",
        False,
        {"en": "Explain", "zh": "说明"},
        {
            "en": "Print the value and source of every option and the exact backend calls as JSON, without loading.",
            "zh": "以 JSON 输出每个选项的取值、来源和确切的后端调用，不加载模型。",
        },
    ),
    Option(
        "perplexity",
        "perplexity",
        "",
        {"en": "Perplexity", "zh": "困惑度"},
        {
            "en": "Evaluate the model of --model on this text, a file or a name in training/datasets, and exit.",
            "zh": "用此文本（文件，或 training/datasets 中的名称）评估 --model 所指模型的困惑度，然后退出。",
        },
        example="text.txt",
        needs_value=True,
    ),
    Option(
        "train",
        "train",
        "",
        {"en": "Train", "zh": "训练"},
        {
            "en": "Train a LoRA with the parameters in this YAML file, or go on with the run of that name, and exit.",
            "zh": "用此 YAML 文件中的参数训练 LoRA，或继续该名称的训练，然后退出。",
        },
        example="run.yaml",
        needs_value=True,
    ),
    METHOD,
    STRIDE,
    MAX_LENGTH,
    WINDOWS,
    BOS,
    Option(
        "price",
        "price",
        "",
        {"en": "Price of an option", "zh": "选项代价"},
        {
            "en": "Measure what the second value costs compared with the first, in quality, memory and speed, and "
            "exit. model=A,B compares two models.",
            "zh": "测量某选项的第二个值相对第一个值在质量、内存和速度上的代价，然后退出。model=A,B 用于比较两个模型。",
        },
        example="cache_8bit=false,true",
        needs_value=True,
    ),
    PAIRS,
    Option(
        "json",
        "json",
        False,
        {"en": "JSON", "zh": "JSON"},
        {"en": "Print the result as one JSON object.", "zh": "以一个 JSON 对象输出结果。"},
    ),
    Option(
        "rpc_server",
        "rpc-server",
        "",
        {"en": "Be an RPC node", "zh": "作为 RPC 节点运行"},
        {
            "en": "Compute for another machine's llama.cpp (its --rpc) at this address, without a page. A port alone "
            "accepts connections from this machine only.",
            "zh": "不启动页面，作为 RPC 节点在此地址为另一台机器的 llama.cpp（其 --rpc）计算。"
            "只写端口时，仅接受本机的连接。",
        },
        pattern=r"((localhost|[0-9]{1,3}(\.[0-9]{1,3}){3})?:)?[0-9]{1,5}",
        example="127.0.0.1:50052",
        needs_value=True,
        excess=excess_address,
    ),
    Option(
        "install",
        "install",
        "",
        {"en": "Install", "zh": "安装"},
        {
            "en": "Install the packages of this loader and exit, with status 0 on success; rpc: llama.cpp's RPC "
            "backend.",
            "zh": "安装此加载器专用的软件包后退出，成功时退出状态为 0；rpc 表示 llama.cpp 的 RPC 后端。",
        },
        example="AutoGPTQ",
        needs_value=True,
    ),
    Option(
        "prepare",
        "prepare",
        False,
        {"en": "Prepare", "zh": "首次准备"},
        {
            "en": "In the background, compile llama.cpp if it is missing, and download and load a small demo model "
            "if there is no model. ./start.sh always does this.",
            "zh": "页面启动后在后台编译尚缺的 llama.cpp；没有模型时下载并加载一个小型演示模型。"
            "./start.sh 总是这样启动。",
        },
    ),
    Option(
        "no_demo",
        "no-demo",
        False,
        {"en": "No demo model", "zh": "不下载演示模型"},
        {"en": "With --prepare: do not download the demo model.", "zh": "配合 --prepare：不下载演示模型。"},
    ),
    Option(
        "verbose",
        "verbose",
        False,
        {"en": "Verbose", "zh": "详细输出"},
        {"en": "Print the output of the backends in the terminal.", "zh": "在终端显示后端的全部输出。"},
    ),
)

SERVER: Mapping[str, Option] = {option.key: option for option in _SERVER}


@dataclass(frozen=True)
class Flags:
    """The parsed command line.

    `server` contains every server flag, with defaults; `load` only the load options that were given. `warnings` are
    sentences about ignored flags of the original web UI.
    """

    server: Mapping[str, Value]
    load: Mapping[str, Value]
    warnings: tuple[Words, ...] = ()

    def text(self, key: str) -> str:
        return str(self.server[key])

    def on(self, key: str) -> bool:
        return bool(self.server[key])

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port to listen on."""
        host = self.text("listen_host") or ("0.0.0.0" if self.on("listen") else "127.0.0.1")
        return host, int(self.server["listen_port"])


def parse(arguments: Iterable[str]) -> Flags:
    """Parse the command line; `--help` prints and exits. Raises OptionError, UnknownOption or CommandLineError."""
    kept, warnings = legacy_flags.drop_ignored(legacy_flags.rename(arguments))
    typed = _parser().parse(kept)
    server = {key: typed.get(key, option.default) for key, option in SERVER.items()}
    return Flags(server, {key: value for key, value in typed.items() if key in OPTIONS}, warnings)


@cache
def _parser() -> FlagParser:
    """Return the parser, of hundreds of options, which takes some milliseconds to make."""
    return FlagParser([*SERVER.values(), *OPTIONS.values()], f"{PRODUCT}: a local web UI for large language models")


def logins(text: str) -> list[tuple[str, str]]:
    """Return the users and passwords in a value of `--gradio-auth`; empty if no login is required."""
    pairs = [pair.partition(":") for pair in text.split(",") if pair]
    return [(user.strip(), password) for user, _, password in pairs]
