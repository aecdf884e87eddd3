"""Load options of Remote: which server is used, and how its answers are waited for."""

from __future__ import annotations

from modules.options import load_shared as shared
from modules.options.option import Option

KINDS = ("auto", "vllm", "sglang", "text-studio", "llama-server", "ollama", "lm-studio", "openai")

_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
SERVER_URL = Option(
    "server_url",
    "server-url",
    "",
    {"en": "Server address", "zh": "服务器地址"},
    {
        "en": "Use the model of a server that is running: vLLM, SGLang, llama-server, Ollama, OpenAI-compatible.",
        "zh": "使用已在运行的服务器：vLLM、SGLang、llama-server、Ollama 或兼容 OpenAI。",
    },
    # Without user and password, which would be shown and logged, and without a query.
    pattern=rf"https?://{_HOST}(:[0-9]{{1,5}})?(/[A-Za-z0-9._~%-]+)*/?",
    example="http://127.0.0.1:8080",
    needs_value=True,
    set_by="files",
)
SERVER_MODEL = Option(
    "server_model",
    "server-model",
    "",
    {"en": "Model on the server", "zh": "服务器上的模型"},
    {
        "en": "Name of the model, as the server lists it; empty = its only one.",
        "zh": "服务器所列出的模型名称；只有一个模型时可留空。",
    },
    pattern=r"[^\x00-\x1f\x7f]{1,200}",
    example="Qwen/Qwen3-8B",
)
SERVER_KIND = Option(
    "server_kind",
    "server-kind",
    "auto",
    {"en": "Kind of server", "zh": "服务器类型"},
    {
        "en": "auto asks the server; openai works with any server that has chat completions.",
        "zh": "auto 表示询问服务器；openai 适用于任何提供 chat completions 的服务器。",
    },
    choices=KINDS,
)
SERVER_KEY_ENV = Option(
    "server_key_env",
    "server-key-env",
    "",
    {"en": "Variable with the key", "zh": "密钥环境变量"},
    {
        "en": "Environment variable with the server's API key; empty = models/.keys.yaml, if the key is in it.",
        "zh": "存放服务器 API 密钥的环境变量；留空则读取 models/.keys.yaml 中的密钥（若有）。",
    },
    pattern=r"[A-Za-z_][A-Za-z0-9_]{0,99}",
    example="OPENAI_API_KEY",
    needs_value=True,
    group="advanced",
    set_by="files",
)
SERVER_CA = Option(
    "server_ca",
    "server-ca",
    "",
    {"en": "CA file", "zh": "CA 证书"},
    {
        "en": "File with the certificates (PEM) by which the server is verified; empty = those of the system.",
        "zh": "用于验证服务器的证书文件（PEM）；留空表示使用系统证书。",
    },
    group="advanced",
    set_by="files",
)

REMOTE = (
    SERVER_URL,
    SERVER_MODEL,
    SERVER_KIND,
    Option(
        "server_prompts",
        "server-prompts",
        "auto",
        {"en": "How prompts are sent", "zh": "提示词方式"},
        {
            "en": "text: by our chat template; chat: as messages, for the server's template; auto: text if it can.",
            "zh": "text：套用本程序的聊天模板；chat：以消息发送，由服务器套用模板；auto：尽可能用 text。",
        },
        choices=("auto", "text", "chat"),
    ),
    shared.N_CTX,
    SERVER_KEY_ENV,
    SERVER_CA,
    Option(
        "server_streams",
        "server-streams",
        512,
        {"en": "Requests at once", "zh": "同时请求上限"},
        {
            "en": "Requests that the server gets at once; further ones wait here.",
            "zh": "同时发给服务器的请求数上限，超出的在本机排队。",
        },
        minimum=1,
        maximum=4096,
        group="advanced",
    ),
    Option(
        "server_timeout",
        "server-timeout",
        300,
        {"en": "Longest wait for the first token", "zh": "首词等待上限"},
        {
            "en": "Seconds until an answer must have begun; later, 60 s of silence end it.",
            "zh": "等待回复开始的秒数上限；开始之后，静默 60 秒即中断。",
        },
        minimum=1,
        maximum=86_400,
        group="advanced",
    ),
    Option(
        "resume_stream",
        "resume-stream",
        True,
        {"en": "Resume after a lost connection", "zh": "断线续写"},
        {
            "en": "If the connection breaks within an answer, ask once for the rest, if the server reports token ids.",
            "zh": "回复途中断线时，若服务器返回词符编号，则请求一次其余部分。",
        },
        group="advanced",
    ),
)
