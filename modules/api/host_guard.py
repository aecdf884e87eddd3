"""Keeps other web sites out, and what we serve in: an ASGI layer around everything.

A browser runs whatever page its user visits, and that page can send requests to localhost. What gives it away are the
Host (a name that its owner pointed at us), the Origin and Sec-Fetch-Site headers. Other programs send none but Host.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.config.flags import Flags
from modules.core.errors import Words

T = TypeVar("T")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
RESOLVER_SECONDS = 1.0
"""So long we wait for the network to tell this machine's full name: starting is not worth more."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/\s;,]+)(:[0-9]+)?")

_FOREIGN_HOST: Words = {
    "en": "This server does not go by that name. Open it by its own address; "
    "to admit this machine's network names, start it with --listen.",
    "zh": "本服务器不使用该主机名。请用它自己的地址访问；如需使用本机在网络中的名称，请以 --listen 启动。",
}
_FOREIGN_PAGE: Words = {
    "en": "Requests from pages of other sites are refused.",
    "zh": "拒绝来自其他网站页面的请求。",
}

# {host} is the request's own, checked: not every browser counts web sockets among 'self'.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws://{host} wss://{host}; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'self'; form-action 'self'"
)


class Guard:
    """Hands to `app` what is meant for one of `hosts` and comes from no other site; answers 403 to anything else."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._objection(scope, headers)
        if reason is None:
            await self._app(scope, receive, _with_policy(send, headers["host"]))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the browser sees a 403
        else:
            await _refuse(send, reason)

    def _objection(self, scope: Scope, headers: Headers) -> Words | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self._hosts:
            return _FOREIGN_HOST
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
            return _FOREIGN_PAGE
        foreign = headers.get("sec-fetch-site", "") in ("cross-site", "same-site")
        return _FOREIGN_PAGE if foreign and not _follows_link(scope, headers) else None


def _follows_link(scope: Scope, headers: Headers) -> bool:
    """Whether a tab goes to our page: a link may lead here from anywhere, for whoever set it cannot see the answer."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets; "" if it is none."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]") if match else ""


def _with_policy(send: Send, host: str) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_policy(host)]}
        await send(message)

    return guarded


def _policy(host: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", _POLICY.format(host=host).encode("latin-1")),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
    ]


async def _refuse(send: Send, reason: Words) -> None:
    body = f"{reason['zh']}\n{reason['en']}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# -- the names of this machine ---------------------------------------------------------------------------------------


def hosts_for(flags: Flags) -> frozenset[str]:
    """What this server may be called: loopback, the host it was told to listen on, and for a server that other
    machines can reach every name and address of this one."""
    told = flags.text("listen_host").strip("[]").lower()
    hosts = LOOPBACK | ({told} - {""})
    return hosts | _names() | _addresses() if flags.on("listen") or not _is_loopback(told) else hosts


def _is_loopback(host: str) -> bool:
    try:
        return not host or host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names() -> frozenset[str]:
    name = socket.gethostname().lower()
    full = _within(RESOLVER_SECONDS, socket.getfqdn, name).lower()
    return frozenset({name, full, name.partition(".")[0] + ".local"})


def _addresses() -> frozenset[str]:
    """The addresses of all interfaces on Linux; elsewhere those that the resolver and the routes tell of."""
    found = {*_interfaces(), *_routed(), *_within(RESOLVER_SECONDS, _resolved, list[str]())}
    return frozenset(str(ipaddress.ip_address(each.partition("%")[0])) for each in found)


def _resolved() -> list[str]:
    with contextlib.suppress(OSError):
        return [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    return []


def _routed() -> Iterator[str]:
    """The addresses we would send from. Connecting a datagram socket sends nothing; the targets are documentation's."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            yield str(probe.getsockname()[0])


def _interfaces() -> Iterator[str]:
    """From Linux's tables; nothing on other systems."""
    with contextlib.suppress(OSError):
        table = Path("/proc/net/fib_trie").read_text(encoding="ascii")
        yield from re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table)
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            yield str(ipaddress.IPv6Address(int(line.split()[0], 16)))


def _within(seconds: float, ask: Callable[[], T], default: T) -> T:
    """What `ask` answers, or `default` if it takes longer: a resolver without a network can take a minute."""
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else default
