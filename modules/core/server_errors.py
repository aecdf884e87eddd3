"""Errors of a server that generates for us: it cannot be reached, refuses a request, or breaks off an answer.

`server` is its origin, such as "http://10.0.0.5:8000". `words` is its own message, shortened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import WebUIError, Words

LONGEST_WAIT = 30
"""Seconds after which a request that the server has no room for is given up."""


class ServerError(WebUIError):
    """Base of the errors about such servers."""

    status = 502


@dataclass(eq=False)
class ServerUnreachable(ServerError):
    template = {
        "en": "Cannot connect to {server}: {why}. Check that the server runs and that its address is right.",
        "zh": "无法连接 {server}：{why}。请确认服务器正在运行，且地址正确。",
    }
    server: str
    why: Words


@dataclass(eq=False)
class ServerNotTrusted(ServerError):
    """A TLS certificate that cannot be verified; `words` is OpenSSL's reason."""

    template = {
        "en": "The certificate of {server} could not be verified: {words}. If the server is yours, set server_ca to "
        "the file of the authority that signed it.",
        "zh": "无法验证 {server} 的证书：{words}。如果这是您自己的服务器，请将 server_ca 设为签发该证书的 CA 文件。",
    }
    server: str
    words: str


@dataclass(eq=False)
class ServerRedirects(ServerError):
    """A redirect. It is not followed, as the key and the prompts are for the given address alone."""

    template = {
        "en": "{server} redirects to {location!r}, which is not followed. If that address is right, use it instead.",
        "zh": "{server} 重定向至{location!r}，程序不会跟随。如果该地址正确，请直接填写它。",
    }
    server: str
    location: str


@dataclass(eq=False)
class ServerNotUnderstood(ServerError):
    """A response that is not what the API of such a server sends."""

    template = {
        "en": "The response of {server} to {path} was not understood: {why}. Check the address and the kind of server.",
        "zh": "无法理解 {server} 对 {path} 的响应：{why}。请检查地址和服务器类型。",
    }
    server: str
    path: str
    why: Words


@dataclass(eq=False)
class ServerRefused(ServerError):
    """A request that the server does not accept, by the HTTP status `code` of its response.

    `wait` are the seconds after which it asks to try again, at most LONGEST_WAIT; 0 if it does not.
    """

    status = 400
    template = {
        "en": "{server} refused the request (HTTP {code}): {words}",
        "zh": "{server} 拒绝了请求（HTTP {code}）：{words}",
    }
    server: str
    code: int
    words: str
    wait: float = 0.0


@dataclass(eq=False)
class ServerDenied(ServerRefused):
    """A server that wants a key, or another one."""

    status = 502
    template = {
        "en": "{server} denied access (HTTP {code}): {words} Check the key in server_key_env or models/.keys.yaml.",
        "zh": "{server} 拒绝访问（HTTP {code}）：{words} 请检查 server_key_env 或 models/.keys.yaml 中的密钥。",
    }


class ServerLacks(ServerRefused):
    """A model or an address that the server does not have."""

    status = 502
    template = {
        "en": "{server} does not have what it was asked for (HTTP {code}): {words} Check the address and the name of "
        "the model, then load it again.",
        "zh": "{server} 上没有所请求的内容（HTTP {code}）：{words} 请检查地址和模型名称，然后重新加载。",
    }


@dataclass(eq=False)
class ServerBusy(ServerRefused):
    """A server that had no room for a request for LONGEST_WAIT seconds."""

    status = 503
    retry_after: ClassVar[int] = LONGEST_WAIT
    template = {
        "en": "{server} is busy (HTTP {code}): {words} Try again later.",
        "zh": "{server} 正忙（HTTP {code}）：{words} 请稍后再试。",
    }


@dataclass(eq=False)
class ServerFailed(ServerRefused):
    status = 502
    template = {
        "en": "{server} failed (HTTP {code}): {words} Try again; if that fails as well, its log says why.",
        "zh": "{server} 出错（HTTP {code}）：{words} 请重试；若仍失败，原因见该服务器的日志。",
    }


class ServerIsOurs(ServerRefused):
    """A server that is this program, or one whose own model is on a server that leads back to it."""

    status = 508
    template = {
        "en": "{server} leads back to this program: its model would have to run on itself. Use the address of another "
        "server, or load a model there that runs on that machine.",
        "zh": "{server} 又指回本程序，而模型不能运行在自己之上。请改用其他服务器的地址，"
        "或在那台机器上加载由它自己运行的模型。",
    }


@dataclass(eq=False)
class RequestLoops(WebUIError):
    """A request that has passed this program before, or as many programs as are allowed."""

    status = 508
    template = {
        "en": "The request has come back to this program, or has passed {most} programs: the model's server leads back "
        "here. Load a model that runs on this machine, or on another server.",
        "zh": "请求又回到了本程序，或已经过 {most} 个程序：模型的服务器又指回这里。"
        "请加载在本机或其他服务器上运行的模型。",
    }
    most: int


@dataclass(eq=False)
class ServerChanged(ServerError):
    """A server that runs another model than the one whose template and context are used."""

    template = {
        "en": "{server} now runs {found!r} instead of {model!r}. Load the model again.",
        "zh": "{server} 现在运行的是{found!r}，而不是{model!r}。请重新加载模型。",
    }
    server: str
    model: str
    found: str


@dataclass(eq=False)
class ServerLost(ServerError):
    """A connection that broke, or went silent, before the response was complete."""

    template = {
        "en": "The connection to {server} was lost before the answer was complete: {why}. Continue the answer, or send "
        "it again; if that fails as well, check that the server still runs.",
        "zh": "回复尚未完成，与 {server} 的连接已中断：{why}。请点击“继续生成”或重新发送；若仍失败，请确认服务器"
        "仍在运行。",
    }
    template_elsewhere: ClassVar[Words | None] = {
        "en": "The connection to {server} was lost before the answer was complete: {why}. Send the request again; if "
        "that fails as well, check that the server still runs.",
        "zh": "回复尚未完成，与 {server} 的连接已中断：{why}。请重新发送请求；若仍失败，请确认服务器仍在运行。",
    }
    server: str
    why: Words


class ServerBrokeOff(ServerLost):
    """A server that ended the response itself, with an error or without saying that the answer is complete."""

    template = {
        "en": "{server} broke the answer off: {why} Try again; if that fails as well, its log says why.",
        "zh": "{server} 中断了回复：{why} 请重试；若仍失败，原因见该服务器的日志。",
    }
    template_elsewhere = None


class ServerSilent(ServerLost):
    """A server that sent nothing for too long."""

    template = {
        "en": "{server} stopped answering: {why}. Try again when it is less busy; if it needs longer for the first "
        "token, load the model with a longer server_timeout.",
        "zh": "{server} 没有响应：{why}。请在其空闲时重试；如果首个词符需要更久，请增大 server_timeout 后重新加载。",
    }
    template_elsewhere = None
