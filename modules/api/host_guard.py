"""ASGI middleware that refuses requests from other web sites and adds a content security policy to responses.

A browser runs whatever page its user visits, and that page can send requests to localhost. It is recognized by the
headers Host (a name that its owner pointed at this server: DNS rebinding), Origin and Sec-Fetch-Site. Of these, other
programs send Host alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.api.root_paths import is_api_path
from modules.app import App
from modules.config.flags import Flags
from modules.core.errors import CommandLineError, Words

T = TypeVar("T")

ANY_ORIGIN = "*"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
RESOLVER_SECONDS = 1.0
"""Longest wait for the network to resolve this machine's full name when the server starts."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/\s;,]+)(:[0-9]+)?")

_UNKNOWN_HOST: Words = {
    "en": "Unknown host name. Open this server by its own address; "
    "to allow this machine's network names, start it with --listen.",
    "zh": "主机名未知。请使用本服务器自己的地址访问；如需使用本机在网络中的名称，请以 --listen 启动。",
}
_CROSS_SITE: Words = {
    "en": "Requests from pages of other sites are refused.",
    "zh": "拒绝来自其他网站页面的请求。",
}

# {host} is the request's Host header, already checked: not every browser includes web sockets in 'self'.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws://{host} wss://{host}; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'self'; form-action 'self'"
)


class HostGuard:
    """Pass on requests for one of `hosts` that come from no other site; answer all others 403.

    Pages of `origins` may call the API, as those of all sites may if ANY_ORIGIN is among them.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._refusal_reason(scope, headers)
        if reason is None:
            await self._app(scope, receive, _with_policy(send, headers["host"]))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the browser sees status 403
        else:
            await _refuse(send, reason)

    def _refusal_reason(self, scope: Scope, headers: Headers) -> Words | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self._hosts:
            return _UNKNOWN_HOST
        origin = headers.get("origin")
        if origin is not None and is_api_path(scope["path"]) and self._origins & {origin.lower(), ANY_ORIGIN}:
            return None
        if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
            return _CROSS_SITE
        cross_site = headers.get("sec-fetch-site", "") in ("cross-site", "same-site")
        return _CROSS_SITE if cross_site and not _is_page_navigation(scope, headers) else None


def guard(server: ASGIApp, app: App) -> HostGuard:
    """Return `server` behind a guard as the flags of `app` ask for. Raises what `allowed_origins` raises."""
    origins = allowed_origins(app.flags, bool(app.credentials.keys))
    return HostGuard(server, allowed_hosts(app.flags), origins)


def _is_page_navigation(scope: Scope, headers: Headers) -> bool:
    """Return whether a tab opens a page of this server. Any site may link to it: it cannot read the answer."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets; "" if it is invalid."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]") if match else ""


def _with_policy(send: Send, host: str) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_policy_headers(host)]}
        await send(message)

    return send_with_policy


@lru_cache(maxsize=64)
def _policy_headers(host: str) -> list[tuple[bytes, bytes]]:
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


# -- other sites -----------------------------------------------------------------------------------------------------


def allowed_origins(flags: Flags, has_keys: bool) -> frozenset[str]:
    """Return the origins of `--cors-origins`, in lower case.

    Raises CommandLineError for a text that is no origin, and for ANY_ORIGIN if the API has no keys: a page of any site
    could then use it.
    """
    origins = [origin.strip().lower() for origin in flags.text("cors_origins").split(",") if origin.strip()]
    for origin in origins:
        if origin == ANY_ORIGIN and not has_keys:
            raise CommandLineError(_KEY_MISSING)
        if origin != ANY_ORIGIN and not _ORIGIN.fullmatch(origin):
            raise CommandLineError({language: text.format(origin=origin) for language, text in _NO_ORIGIN.items()})
    return frozenset(origins)


_ORIGIN = re.compile(r"https?://[^/\s,*@?#]+")
_KEY_MISSING: Words = {
    "en": "--cors-origins * needs --api-key: without a key, every web page could use the API.",
    "zh": "--cors-origins * 需要与 --api-key 一起使用：没有密钥时，任何网页都能调用 API。",
}
_NO_ORIGIN: Words = {
    "en": "--cors-origins: {origin} is not an origin. Expected one like https://app.example, without a path.",
    "zh": "--cors-origins：{origin} 不是有效的来源，应形如 https://app.example，不含路径。",
}


# -- the names of this machine ---------------------------------------------------------------------------------------


def allowed_hosts(flags: Flags) -> frozenset[str]:
    """Return the host names this server answers to: loopback, the host it listens on, and those of `--public-host`.

    If other machines can reach it, also every name and address of this machine. Raises CommandLineError.
    """
    listen_host = flags.text("listen_host").strip("[]").lower()
    hosts = LOOPBACK | ({listen_host} - {""}) | _public_hosts(flags)
    return (
        hosts | _machine_names() | _machine_addresses()
        if flags.on("listen") or not _is_loopback(listen_host)
        else hosts
    )


def _public_hosts(flags: Flags) -> frozenset[str]:
    """Return the names of `--public-host`. Raises CommandLineError for a text that is no host name."""
    hosts = [host.strip() for host in flags.text("public_host").split(",") if host.strip()]
    for host in hosts:
        if not host_name(host):
            raise CommandLineError({language: text.format(host=host) for language, text in _NO_HOST.items()})
    return frozenset(map(host_name, hosts))


_NO_HOST: Words = {
    "en": "--public-host: {host} is not a host name. Expected one like llm.example.com, without https:// and path.",
    "zh": "--public-host：{host} 不是有效的主机名，应形如 llm.example.com，不含 https:// 和路径。",
}


def _is_loopback(host: str) -> bool:
    try:
        return not host or host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _machine_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    full = _within(RESOLVER_SECONDS, socket.getfqdn, name).lower()
    return frozenset({name, full, name.partition(".")[0] + ".local"})


def _machine_addresses() -> frozenset[str]:
    """Return the addresses of all interfaces on Linux; elsewhere those that the resolver and the routes report."""
    addresses = {*_interfaces(), *_routed(), *_within(RESOLVER_SECONDS, _resolved, list[str]())}
    return frozenset(str(ipaddress.ip_address(address.partition("%")[0])) for address in addresses)


def _resolved() -> list[str]:
    with contextlib.suppress(OSError):
        return [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    return []


def _routed() -> Iterator[str]:
    """Yield the addresses this machine sends from.

    Connecting a datagram socket sends nothing; the targets are reserved for documentation.
    """
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            yield str(probe.getsockname()[0])


def _interfaces() -> Iterator[str]:
    """Yield the addresses in Linux's tables; nothing on other systems."""
    with contextlib.suppress(OSError):
        table = Path("/proc/net/fib_trie").read_text(encoding="ascii")
        yield from re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table)
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            yield str(ipaddress.IPv6Address(int(line.split()[0], 16)))


def _within(seconds: float, resolve: Callable[[], T], default: T) -> T:
    """Return the result of `resolve`, or `default` if it takes longer: without a network it can take a minute."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(resolve()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else default
